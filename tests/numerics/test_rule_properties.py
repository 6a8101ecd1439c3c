"""One list, many properties: what every optimizer of the catalogue must do, whoever wrote it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from array_api_compat import torch as torch_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import CAUTIOUS, NEEDS, SERVICES, Knob, advance, at_step
from optsweep_engines.optimizers.catalogue import all_knobs, optimizers, resolve_knobs
from optsweep_engines.properties.listing import PROPERTIES, STEPS, Property, farthest, other_values
from optsweep_engines.properties.services import services
from optsweep_engines.properties.subject import Subject, of_rule
from optsweep_engines.properties.tensors import ITEMS, ONE_EACH, Floats, factor, pull
from optsweep_engines.properties.training import Training
from optsweep_engines.spec import Scalar

NAMES = sorted(optimizers())

CUT: dict[str, Scalar] = {"partition_grads_into_blocks": True, "block_size": 8}
RARE: dict[str, Scalar] = {
    "preconditioner_update_probability": 0.3,
    "update_prob_flat_start": 2,
    "update_prob_decay": 0.5,
}
SITUATIONS: dict[tuple[str, str], dict[str, Scalar]] = {
    ("sgd", "dampening"): {"momentum": 0.8},
    **{("prodigy", knob): {"lr": 1.0} for knob in ("beta3", "d_coef", "growth_rate", "safeguard_warmup")},
    **{("kron", knob): RARE for knob in RARE},
    **{(name, knob): CUT for name in ("kron", "soap") for knob in CUT},
    ("kron", "max_size_triangular"): {"max_size_triangular": 11},
    ("soap", "max_precond_dim"): {"max_precond_dim": 11},
    ("shampoo", "max_preconditioner_dim"): {"max_preconditioner_dim": 11},
}
"""(optimizer, knob) -> knobs under which this one shows: matrices that are cut, updates that are rare, ..."""

VALUES: dict[tuple[str, str], Scalar] = {
    ("prodigy", "growth_rate"): 1.01,  # below 1 is refused
}
"""(optimizer, knob) -> the value to try, where half of the default says nothing."""

DEFINED: dict[str, dict[str, Scalar]] = {
    "soap": {"max_precond_dim": 12},  # the first Gram matrix of a longer side has no basis of its own
}
"""Knobs under which two array libraries must agree."""


def trained(
    name: str,
    given: dict[str, Scalar] | None = None,
    *,
    items: tuple[Parameter, ...] = ITEMS,
    steps: int = STEPS,
    dtype: Any = np.float64,
    torch_dtype: torch.dtype | None = None,
) -> Training:
    """Some steps in torch."""

    def to_torch(array: npt.NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.array(array))
        return tensor if torch_dtype is None else tensor.to(torch_dtype)

    training = Training(
        name, items, given, dtype=dtype, xp=torch_namespace, to_xp=to_torch, services=services(to_torch, dtype)
    )
    go(training, steps)
    return training


def go(training: Training, steps: int) -> None:
    """Further steps."""
    for _ in range(steps):
        values = numbers(training)
        training.step({name: pull(item, values[name], training.done + 1) for name, item in training.items.items()})


def numbers(training: Training) -> dict[str, Floats]:
    """Parameters by name; bfloat16 has no numpy type."""
    return {name: value.double().numpy() for name, value in training.params.items()}


# ---------------------------------------------------------------- the one list


def showing(name: str, of: Callable[..., Subject] = of_rule) -> Subject:
    """An optimizer of the catalogue under test, with what shows its rarer knobs."""
    return of(
        name,
        dtypes=(torch.float32, torch.float64, torch.bfloat16),
        situations={knob: given for (each, knob), given in SITUATIONS.items() if each == name},
        values={knob: value for (each, knob), value in VALUES.items() if each == name},
    )


@functools.cache
def subject(name: str) -> Subject:
    """In torch."""
    return showing(name)


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.name)
@pytest.mark.parametrize("name", NAMES)
def test_it_holds_for(name: str, item: Property) -> None:
    item.check(subject(name))


# ---------------------------------------------------------------- what only the catalogue promises


@pytest.mark.parametrize("name", [name for name in NAMES if optimizers()[name].knob(CAUTIOUS)])
def test_cautious_weight_decay_decays_where_the_update_does_not_push_away_from_zero(name: str) -> None:
    """The third step, so that all rules move: with the mask each number is the one with the decay or the one without."""
    steps: dict[str, dict[str, Floats]] = {}
    variants: dict[str, dict[str, Scalar]] = {"none": {"weight_decay": 0.0}, "all": {}, "cautious": {CAUTIOUS: True}}
    for which, change in variants.items():
        training = trained(name, {"weight_decay": 0.5}, steps=2)
        before = training.values()
        training.knobs = resolve_knobs(name, {"lr": training.knobs["lr"], "weight_decay": 0.5, **change})
        training.groups = {}
        for item in ITEMS:
            training.groups.setdefault(training.hyper(item)[0], []).append(item.name)
        go(training, 1)
        steps[which] = training.values()
    masked = 0
    for key, old in before.items():
        plain, decayed, cautious = (steps[which][key] for which in variants)
        keeps = (old - plain) * old >= 0
        assert np.abs(cautious - np.where(keeps, decayed, plain)).max() < 1e-12
        masked += int((~keeps & (plain != decayed)).sum())
    assert masked > 100


def test_every_rule_with_decoupled_decay_offers_the_cautious_one() -> None:
    for name in NAMES:
        entry = optimizers()[name]
        if entry.knob("weight_decay") and entry.decay_convention == "lr_wd":
            decoupled = all(rule.decay_rate is not None for rule in trained(name, steps=0).groups)
            assert (entry.knob(CAUTIOUS) is not None) == decoupled, name


@pytest.mark.parametrize(
    ("name", "knob"), [(name, knob) for name in NAMES for knob in optimizers()[name].knobs if knob.only_with]
)
def test_a_knob_said_to_act_only_with_others_does_nothing_without_them(name: str, knob: Knob) -> None:
    off: dict[str, Scalar] = {other: 0 if other == "weight_decay" else False for other in knob.only_with}
    assert all(optimizers()[name].knob(other) for other in off)
    before = trained(name, off, items=ONE_EACH, steps=3)
    changed = other_values(knob, before.knobs[knob.name])[0]
    after = trained(name, {**off, knob.name: changed}, items=ONE_EACH, steps=3)
    assert farthest(after.values(), before.values()) == 0


# ---------------------------------------------------------------- what it keeps


@pytest.mark.parametrize("name", NAMES)
def test_an_update_costs_operations(name: str) -> None:
    training = trained(name, steps=0)
    assert training.entry.flops_per_step(ITEMS, training.knobs) >= 4 * sum(item.count for item in ITEMS)


@pytest.mark.parametrize("name", NAMES)
def test_numpy_is_the_reference_and_keeps_float32(name: str) -> None:
    """float64 numpy equals float64 torch; in numpy float32 a stray float64 scalar would raise the type of an array."""
    given = DEFINED.get(name, {})
    exact = Training(name, ITEMS, given, services=services())
    single = Training(name, ITEMS, given, dtype=np.float32, services=services(dtype=np.float32))
    for step in range(1, STEPS + 1):
        values = exact.values()
        exact.step({item.name: pull(item, values[item.name], step) for item in ITEMS})
        if step <= 3:
            single.step({item.name: pull(item, values[item.name], step) for item in ITEMS})
    assert farthest(trained(name, given).values(), exact.values()) < 1e-10
    for item in ITEMS:
        assert single.params[item.name].dtype == np.float32
        assert {np.asarray(array).dtype for array in single.states[item.name].values()} <= {np.dtype(np.float32)}


# ---------------------------------------------------------------- what it is given


@pytest.mark.parametrize("name", NAMES)
def test_step_and_learning_rate_may_be_arrays(name: str) -> None:
    """As a compiling engine traces them."""
    training = trained(name, steps=0, items=ONE_EACH)
    for step in range(1, STEPS + 1):
        values = training.values()
        lr = torch.tensor(float(training.knobs["lr"] or 0.0) * factor(step), dtype=torch.float64)
        grads = {item.name: pull(item, values[item.name], step) for item in ONE_EACH}
        training.step(grads, lr, torch.tensor(float(step), dtype=torch.float64))
    assert farthest(training.values(), trained(name, items=ONE_EACH).values()) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_no_rule_looks_at_a_value(name: str) -> None:
    """On tensors without values, a branch on one raises; so does an array made on another device."""
    training = trained(name, steps=0, items=ONE_EACH)
    void = services(lambda array: torch.from_numpy(np.array(array)).to("meta"))
    lr, number = torch.empty((), device="meta"), torch.empty((), device="meta")
    for rule, names in training.groups.items():
        params = [training.params[key].to("meta") for key in names]
        hps = [training.hyper(training.items[key], lr)[1] for key in names]
        states = [rule.init(torch_namespace, param, hp) for param, hp in zip(params, hps, strict=True)]
        for step in (1, 2, 10, 11):
            ready = [at_step(rule, hp, step, void) for hp in hps]
            new = advance(torch_namespace, rule, params, params, states, number, ready)
            assert all(param.device.type == "meta" for param, _ in new)
            assert all(array.device.type == "meta" for _, state in new for array in state.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_the_engine_for_what_it_uses_and_nothing_else(name: str) -> None:
    training = trained(name, steps=0)
    entry = training.entry
    assert entry.needs <= set(NEEDS)
    assert ("prepare" in entry.needs) == any(rule.prepare is not None for rule in training.groups)
    assert ("eval_params" in entry.needs) == any(rule.eval_params is not None for rule in training.groups)
    asked = {event for rule in training.groups for step in range(1, 200) for event in rule.events(step, training.knobs)}
    assert entry.needs & set(SERVICES) == asked & set(SERVICES)


@pytest.mark.parametrize("name", NAMES)
def test_it_uses_total_steps_and_tokens_per_step_exactly_where_it_says_so(name: str) -> None:
    entry = optimizers()[name]
    plain = trained(name, items=ONE_EACH).values()
    for field, need in (("total_steps", "total_steps"), ("tokens_per_step", "tokens_per_step")):
        training = trained(name, steps=0, items=ONE_EACH)
        original = training.hyper

        def changed(item: Parameter, lr: Any = 0.0, original: Any = original, field: str = field) -> Any:
            rule, hp = original(item, lr)
            return rule, dataclasses.replace(hp, **{field: 5 * getattr(hp, field)})

        training.hyper = changed  # type: ignore[method-assign]
        go(training, STEPS)
        assert (farthest(training.values(), plain) > 1e-9) == (need in entry.needs), field


@pytest.mark.parametrize("name", NAMES)
def test_defaults_of_the_run_s_knobs_are_those_that_a_run_gets(name: str) -> None:
    entry = optimizers()[name]
    resolved = resolve_knobs(name, {})
    for knob in all_knobs(entry):
        assert knob.name == "decay" or resolved[knob.name] == knob.default
