"""The Adam family against implementations that are not ours: torch, the authors' packages, or the paper's formula.

Each rule is held in float32, as it trains, and in float64, where rounding can hide no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import prodigyopt
import pytest
import pytorch_optimizer
import schedulefree
import torch

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adam_mini
from optsweep_engines.properties.tensors import ALL_SHAPES, Floats, factor, gradient, parameter, start
from optsweep_engines.properties.training import STEPS, Training
from optsweep_engines.spec import Scalar
from tests.numerics.rule_oracles import average, library, ours, paper, worst

# 30 steps in float32 against float64 gradients: the tolerance of the design note on optimizers.
FLOAT32 = 1e-5
# In float64 what is left is the order of additions.
FLOAT64 = 1e-12

ATTENTION = (parameter("k", (3, 12, 12), stacked=True), parameter("v", (3, 12, 12), stacked=True))
ITEMS = (*ALL_SHAPES, *ATTENTION, parameter("bias", (3, 12), stacked=True))
BETAS = {"beta1": 0.9, "beta2": 0.98, "eps": 1e-6}


def held(
    name: str, given: Mapping[str, Scalar], expected: Any, float32: float = FLOAT32, float64: float = FLOAT64
) -> None:
    """Compare in both types, with these tolerances; `expected` makes the oracle's values for a type."""
    for dtype, limit in ((np.float32, float32), (np.float64, float64)):
        found = ours(name, ITEMS, given, dtype)
        assert worst(found, expected(dtype)) < limit, (name, dtype)


def held_to_paper(name: str, given: Mapping[str, Scalar], expected: dict[str, Floats]) -> None:
    held(name, given, lambda dtype: expected)


def adam_direction(history: list[Floats], beta1: float, beta2: float, eps: float) -> Floats:
    """Adam's step for a learning rate of 1, from the history."""
    root = np.sqrt(average([grad**2 for grad in history], beta2))
    direction: Floats = average(history, beta1) / (root + eps)
    return direction


def decayed(item: Parameter, decay: float) -> float:
    return decay if item.decays else 0.0


# ---------------------------------------------------------------- against libraries


def test_adamw_is_torch_adamw() -> None:
    held(
        "adamw",
        BETAS,
        lambda dtype: library(
            lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6),
            ITEMS,
            0.02,
            decay=0.1,
            dtype=dtype,
        ),
    )


def test_adam_is_torch_adam_with_coupled_decay() -> None:
    held(
        "adam",
        {**BETAS, "weight_decay": 0.3},
        lambda dtype: library(
            lambda groups: torch.optim.Adam(groups, betas=(0.9, 0.98), eps=1e-6),
            ITEMS,
            0.02,
            decay=0.3,
            dtype=dtype,
        ),
    )


def test_nadamw_is_torch_nadam_with_a_constant_beta1() -> None:
    held(
        "nadamw",
        BETAS,
        lambda dtype: library(
            lambda groups: torch.optim.NAdam(
                groups,
                betas=(0.9, 0.98),
                eps=1e-6,
                momentum_decay=1e6,  # 0.96 to that power is 0: beta1 stays as it is
                decoupled_weight_decay=True,
            ),
            ITEMS,
            0.02,
            decay=0.1,
            dtype=dtype,
        ),
        float64=1e-7,  # torch keeps the product of its momenta in float32
    )


def test_adafactor_is_torch_adafactor() -> None:
    for lr in (0.02, 0.5):  # the second is bounded by 1 / sqrt(t)
        held(
            "adafactor",
            {"lr": lr, "beta2_decay": -0.7, "eps1": 1e-3, "eps2": 0.1, "clip_threshold": 1.1},
            lambda dtype, lr=lr: library(
                lambda groups: torch.optim.Adafactor(groups, beta2_decay=-0.7, eps=(1e-3, 0.1), d=1.1),
                ITEMS,
                lr,
                decay=0.1,
                dtype=dtype,
            ),
        )


def test_lion_is_the_package_s() -> None:
    held(
        "lion",
        {"beta1": 0.8, "beta2": 0.95},
        lambda dtype: library(
            lambda groups: pytorch_optimizer.Lion(groups, betas=(0.8, 0.95)), ITEMS, 0.02, decay=0.1, dtype=dtype
        ),
    )


def test_signum_is_lion_with_equal_betas_and_the_package_s_sign_sgd() -> None:
    held(
        "signum",
        {"beta1": 0.9},
        lambda dtype: library(
            lambda groups: pytorch_optimizer.Lion(groups, betas=(0.9, 0.9)), ITEMS, 0.02, decay=0.1, dtype=dtype
        ),
    )
    held(
        "signum",
        {"beta1": 0.9},
        lambda dtype: library(
            lambda groups: pytorch_optimizer.SignSGD(groups, momentum=0.9), ITEMS, 0.02, decay=0.1, dtype=dtype
        ),
    )


def test_ademamix_is_the_package_s_with_decoupled_decay() -> None:
    held(
        "ademamix",
        {"beta1": 0.9, "beta2": 0.98, "eps": 1e-6, "beta3": 0.99, "alpha": 5.0},
        lambda dtype: library(
            lambda groups: pytorch_optimizer.AdEMAMix(
                groups,
                betas=(0.9, 0.98, 0.99),
                alpha=5.0,
                eps=1e-6,
                weight_decouple=True,
                t_alpha_beta3=float(STEPS),
            ),
            ITEMS,
            0.02,
            decay=0.1,
            dtype=dtype,
        ),
    )


def test_adopt_without_decay_is_the_package_s_with_its_late_clip_put_right() -> None:
    held(
        "adopt",
        {"beta2": 0.99, "weight_decay": 0.0},
        lambda dtype: library(
            lambda groups: pytorch_optimizer.ADOPT(
                groups, betas=(0.9, 0.99), eps=1e-6, clip_lambda=lambda step: (step - 1) ** 0.25
            ),
            ITEMS,
            0.02,
            dtype=dtype,
        ),
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"use_bias_correction": True},
        {"safeguard_warmup": True, "beta3": 0.9},
        {"growth_rate": 1.3, "d0": 1e-3},
        {"d_coef": 0.5, "d0": 1e-4},
    ],
    ids=str,
)
def test_prodigy_is_the_authors_package(given: dict[str, Any]) -> None:
    options = {"growth_rate": float("inf"), **given}
    held(
        "prodigy",
        {"lr": 1.0, "beta2": 0.99, **given},
        lambda dtype: library(
            lambda groups: prodigyopt.Prodigy(groups, betas=(0.9, 0.99), **options), ITEMS, 1.0, decay=0.1, dtype=dtype
        ),
        float32=5e-5,  # of the design note: d is a quotient of sums over all tensors
    )


@pytest.mark.parametrize(("r", "power"), [(0.0, 2.0), (1.5, 2.0), (0.0, 1.0)])
def test_schedule_free_adamw_is_the_authors_package_where_it_trains_and_where_it_is_evaluated(
    r: float, power: float
) -> None:
    given = {"beta1": 0.85, "beta2": 0.98, "eps": 1e-6, "r": r, "weight_lr_power": power}
    for at_eval in (False, True):
        for dtype, limit in ((np.float32, FLOAT32), (np.float64, FLOAT64)):

            def made(groups: Any) -> Any:
                optimizer = schedulefree.AdamWScheduleFree(
                    groups, betas=(0.85, 0.98), eps=1e-6, r=r, weight_lr_power=power, foreach=False
                )
                optimizer.train()
                return optimizer

            expected = library(
                made,
                ITEMS,
                0.02,
                decay=0.1,
                dtype=dtype,
                before_reading=(lambda optimizer: optimizer.eval()) if at_eval else (lambda optimizer: None),
            )
            assert worst(ours("sf_adamw", ITEMS, given, dtype, at_eval=at_eval), expected) < limit


def test_schedule_free_evaluates_elsewhere_than_it_trains() -> None:
    assert worst(ours("sf_adamw", ITEMS, {}), ours("sf_adamw", ITEMS, {}, at_eval=True)) > 1e-3


def test_adamc_is_torch_adamw_with_a_decay_that_follows_the_learning_rate_but_on_the_head() -> None:
    def decay_at(item: Parameter, step: int) -> dict[str, Any]:
        share = factor(step) if item.role != "head" and step else 1.0
        return {"weight_decay": 0.5 * share if item.decays else 0.0}

    held(
        "adamc",
        {**BETAS, "weight_decay": 0.5},
        lambda dtype: library(
            lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6),
            ITEMS,
            0.02,
            dtype=dtype,
            group=decay_at,
        ),
    )


# ---------------------------------------------------------------- against the papers


def test_cautious_adamw_is_its_formula() -> None:
    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        mask = (average(history, 0.9) * history[-1] > 0).astype(float)
        direction: Floats = adam_direction(history, 0.9, 0.98, 1e-6) * mask / max(mask.mean(), 1e-3)
        return (1 - lr * decayed(item, 0.1)) * value - lr * direction

    held_to_paper("cautious", BETAS, paper(step, ITEMS, 0.02))


def test_cautious_weight_decay_is_its_formula() -> None:
    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        direction = adam_direction(history, 0.9, 0.98, 1e-6)
        agrees = direction * value >= 0
        return value - lr * (direction + decayed(item, 2.0) * np.where(agrees, value, 0.0))

    held_to_paper("adamw", {**BETAS, "weight_decay": 2.0, "cautious_weight_decay": True}, paper(step, ITEMS, 0.02))


def test_adam_mini_is_adam_with_a_second_moment_per_block_of_each_role() -> None:
    def block_of(item: Parameter, square: Floats) -> Floats:
        """Each number replaced by the mean of its block, block by block."""
        spread = np.empty_like(square)
        if item.role == "bias":
            return square
        if item.role == "norm":
            blocks: list[Any] = [slice(None)]
        elif item.role in ("q", "k"):
            size = square.shape[0] // 2  # two heads
            blocks = [slice(0, size), slice(size, 2 * size)]
        else:  # tokens of embedding and head, output rows of the rest: all first axes here
            blocks = list(range(square.shape[0]))
        for block in blocks:
            spread[block] = square[block].mean()
        return spread

    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        root = np.sqrt(average([block_of(item, grad**2) for grad in history], 0.98))
        return (1 - lr * decayed(item, 0.1)) * value - lr * average(history, 0.9) / (root + 1e-6)

    held_to_paper("adam_mini", BETAS, paper(step, ITEMS, 0.02))


def test_adam_mini_finds_its_blocks_by_the_declared_axes() -> None:
    """The same matrix stored the other way round has the same blocks."""
    square = np.arange(12.0 * 8).reshape(12, 8)
    item = parameter("k", (12, 8))
    turned = type(item)(**{**vars(item), "shape": (8, 12), "in_axis": -2, "out_axis": -1})
    upright = adam_mini.spread(np, adam_mini.mean_over_blocks(np, square, item), item)
    lying = adam_mini.spread(np, adam_mini.mean_over_blocks(np, square.T, turned), turned)
    assert np.array_equal(upright, lying.T)
    assert upright.shape == (12, 1)


def test_adopt_with_decay_is_its_formula() -> None:
    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        if len(history) == 1:
            return value
        ratios = []
        second = history[0] ** 2
        for index, grad in enumerate(history[1:], start=1):
            ratios.append(np.clip(grad / np.maximum(np.sqrt(second), 1e-6), -(index**0.25), index**0.25))
            second = 0.99 * second + 0.01 * grad**2
        return (1 - lr * decayed(item, 0.1)) * value - lr * average(ratios, 0.9, correct=False)

    held_to_paper("adopt", {"beta2": 0.99}, paper(step, ITEMS, 0.02))


def test_lamb_is_its_formula_without_a_clip_of_any_norm() -> None:
    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        direction = adam_direction(history, 0.9, 0.98, 1e-6) + decayed(item, 0.1) * value
        return value - lr * np.linalg.norm(value) / np.linalg.norm(direction) * direction

    held_to_paper("lamb", BETAS, paper(step, ITEMS, 0.02))


@pytest.mark.parametrize("gamma", [0.025, 0.1])
def test_mars_starts_from_a_last_gradient_of_zero_and_clips_each_tensor(gamma: float) -> None:
    """No library here: pytorch-optimizer's MARS adds 1e-15 inside the root, and eps before the bias correction."""

    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        if item.role in ("norm", "bias"):
            return value - lr * adam_direction(history, 0.9, 0.95, 1e-6)
        corrected = []
        for last, grad in zip([np.zeros_like(value), *history], history, strict=False):
            c = grad + gamma * 0.95 / 0.05 * (grad - last)
            corrected.append(c / max(1.0, float(np.linalg.norm(c))))
        return (1 - lr * 0.1) * value - lr * adam_direction(corrected, 0.95, 0.99, 1e-6)

    held_to_paper("mars", {"gamma": gamma, "eps": 1e-6}, paper(step, ITEMS, 0.02))


def rank_one(item: Parameter, squares: list[Floats], beta2: float, neuron_only: bool) -> Floats:
    """The study's second moment from the bias-corrected average of the squares: row mean x column mean / mean."""
    square: Floats = average(squares, beta2)
    if square.ndim == 1:
        return np.full_like(square, square.mean())
    outputs: Floats = square.mean(axis=1 if item.role != "embedding" else 0, keepdims=True)
    inputs: Floats = square.mean(axis=0 if item.role != "embedding" else 1, keepdims=True)
    return outputs * np.ones_like(inputs) if neuron_only else outputs * inputs / square.mean()


@pytest.mark.parametrize("neuron_only", [False, True])
def test_adafactorw_is_adam_with_the_outer_product_of_row_and_column_means(neuron_only: bool) -> None:
    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        root = np.sqrt(rank_one(item, [grad**2 for grad in history], 0.98, neuron_only))
        return (1 - lr * decayed(item, 0.1)) * value - lr * average(history, 0.9) / (root + 1e-6)

    held_to_paper("adafactorw", {**BETAS, "neuron_only": neuron_only}, paper(step, ITEMS, 0.02))


def last_rates(update_last: bool, update_norm: bool) -> dict[str, float]:
    """Learning rates of the tensors that lr_last is for."""
    return {
        item.name: 0.01
        for item in ITEMS
        if (item.role == "head" and update_last) or (item.role == "norm" and update_norm)
    }


@pytest.mark.parametrize(("update_last", "update_norm"), [(True, True), (True, False), (False, True)])
def test_the_last_layer_forms_are_adaptive_there_and_averaged_sgd_elsewhere(
    update_last: bool, update_norm: bool
) -> None:
    rates = last_rates(update_last, update_norm)
    given = {**BETAS, "lr": 0.5, "lr_last": 0.01, "update_last": update_last, "update_norm": update_norm}

    def step_of(second: Any) -> Any:
        def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
            direction = average(history, 0.9)
            if item.name in rates:
                direction = direction / (np.sqrt(second(item, [grad**2 for grad in history])) + 1e-6)
            return (1 - lr * decayed(item, 0.1)) * value - lr * direction

        return step

    def per_token_or_tensor(item: Parameter, squares: list[Floats]) -> Floats:
        mean: Floats = average(squares, 0.98).mean(axis=-1, keepdims=True)  # head: per token; norm: all of it
        return mean

    factored = paper(step_of(lambda item, squares: rank_one(item, squares, 0.98, False)), ITEMS, 0.5, rates)
    held_to_paper("adafactorw_last", given, factored)
    held_to_paper("adalayer_last", given, paper(step_of(per_token_or_tensor), ITEMS, 0.5, rates))


def adalayer_blocks(corrections: Mapping[str, bool]) -> Any:
    """(tensor, squares of its gradient) -> the mean over what shares a second moment."""

    def blocks(item: Parameter, square: Floats) -> Any:
        per_token = (item.role == "head" and corrections["last"]) or (item.role == "embedding" and corrections["first"])
        return square.mean(axis=1, keepdims=True) if per_token else square.mean()

    return blocks


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_adalayer_is_adam_with_one_second_moment_per_layer_or_token(first: bool, last: bool) -> None:
    blocks = adalayer_blocks({"first": first, "last": last})

    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        root = np.sqrt(average([blocks(item, grad**2) for grad in history], 0.98))
        return (1 - lr * decayed(item, 0.1)) * value - lr * average(history, 0.9) / (root + 1e-6)

    given = {**BETAS, "first_layer_correction": first, "last_layer_correction": last, "attention_correction": True}
    held_to_paper("adalayer", given, paper(step, ITEMS, 0.02))


@pytest.mark.parametrize("name", ["adalayer", "adalayer_frozen"])
def test_adalayer_takes_q_k_and_v_of_a_layer_as_one_tensor_unless_told_otherwise(name: str) -> None:
    """One (3 width x width) matrix per layer, as the study's model has it, cut into three."""
    items = [parameter(role, (2, 6, 6), stacked=True) for role in ("q", "k", "v")]
    training = Training(name, items, {"lr": 0.02, "weight_decay": 0.0, "eps": 1e-8})
    whole = np.concatenate([start(item) for item in items], axis=1)
    history: list[Floats] = []
    for step in range(1, STEPS + 1):
        grads = [scale * gradient(item, item_value, step) for scale, item, item_value in scaled(items, whole)]
        training.step({item.name: grad for item, grad in zip(items, grads, strict=True)})
        history.append(np.concatenate(grads, axis=1))
        means = [(grad**2).mean(axis=(1, 2), keepdims=True) for grad in history]
        if name == "adalayer":
            second = average(means, 0.95)
        else:  # T = 5 % of 30 steps, rounded: 2
            second = sum(means[:2]) / (min(step, 2) + 1)
        whole = whole - 0.02 * factor(step) * average(history, 0.9) / (np.sqrt(second) + 1e-8)
    found = np.concatenate([training.values()[item.name] for item in items], axis=1)
    assert np.abs(found - whole).max() < FLOAT64 * np.abs(whole).max()


def scaled(items: list[Parameter], whole: Floats) -> list[tuple[float, Parameter, Floats]]:
    """Gradients of q, k and v at different scales, so that a shared second moment shows."""
    return [
        (10.0**index, item, part)
        for index, (item, part) in enumerate(zip(items, np.split(whole, 3, axis=1), strict=True))
    ]


@pytest.mark.parametrize(("update_last", "update_norm", "first"), [(True, True, False), (False, False, True)])
def test_frozen_adalayer_measures_its_scales_then_keeps_them(update_last: bool, update_norm: bool, first: bool) -> None:
    frozen = 6
    rates = last_rates(update_last, update_norm)

    def second_moment(item: Parameter, history: list[Floats]) -> Any:
        per_token = (item.role == "head" and update_last) or (item.role == "embedding" and first)
        means = [(grad**2).mean(axis=1, keepdims=True) if per_token else (grad**2).mean() for grad in history]
        moment = sum(means[:frozen]) / (min(len(history), frozen) + 1)  # one term of zero is in the mean
        if item.name in rates or (item.role == "embedding" and first):
            for mean in means[frozen:]:
                moment = 0.98 * moment + 0.02 * mean
        return moment

    def step(item: Parameter, history: list[Floats], value: Floats, lr: float) -> Floats:
        direction: Floats = average(history, 0.9) / (np.sqrt(second_moment(item, history)) + 1e-6)
        return (1 - lr * decayed(item, 0.1)) * value - lr * direction

    given = {
        **BETAS,
        "t_freeze": frozen,
        "lr_last": 0.01,
        "update_last": update_last,
        "update_norm": update_norm,
        "first_layer_correction": first,
        "attention_correction": True,
    }
    held_to_paper("adalayer_frozen", given, paper(step, ITEMS, 0.02, rates))
