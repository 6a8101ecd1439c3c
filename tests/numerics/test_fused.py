"""The faster paths of the torch engine against the rules that they stand for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from optsweep_engines.optimizers import muon
from optsweep_engines.optimizers.base import Group, Hyper, Rule, State
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.properties.tensors import ALL_SHAPES, error, factor, gradient, parameter, start
from optsweep_engines.properties.training import knobs_of
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine import fused
from optsweep_engines.torch_engine.fused import FUSED, newton_schulz
from optsweep_engines.torch_engine.optimizer import Optimizer


def trained(name: str, given: dict[str, Scalar], *, fused: bool) -> tuple[Optimizer, dict[str, torch.Tensor]]:
    """Thirty steps on every shape at once, in float32."""
    params = {item.name: torch.from_numpy(start(item).astype(np.float32)) for item in ALL_SHAPES}
    knobs = knobs_of(name, given)
    optimizer = Optimizer(ENTRIES[name], knobs, ALL_SHAPES, params, total_steps=30, tokens_per_step=64, fused=fused)
    for step in range(1, 31):
        grads = {
            item.name: torch.from_numpy(gradient(item, params[item.name].double().numpy(), step).astype(np.float32))
            for item in ALL_SHAPES
        }
        optimizer.step(grads, step, 0.02 * factor(step))
    return optimizer, params


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("adamw", {}),
        ("adamw", {"eps": 1e-20, "beta1": 0.0}),
        ("adamw", {"nesterov": True}),
        ("adam", {}),
        ("adam", {"weight_decay": 0.0, "eps": 1e-4}),
        ("muon", {}),
        ("muon", {"nesterov": False, "ns_steps": 3, "muon_eps": 1e-3}),
        ("sgd", {"dampening": 0.2}),
    ],
)
def test_every_optimizer_trains_alike_with_and_without_its_faster_path(name: str, given: dict[str, Scalar]) -> None:
    fast, fast_params = trained(name, given, fused=True)
    plain, plain_params = trained(name, given, fused=False)
    for item in ALL_SHAPES:
        # 1e-5 after 30 float32 steps: the tolerance of the design note on optimizers.
        assert error(fast_params[item.name].double().numpy(), plain_params[item.name].double().numpy()) < 1e-5
    assert fast.tensors().keys() == plain.tensors().keys()
    for key, value in plain.tensors().items():
        # entries of v near eps = 1e-20 follow the parameters' own differences: compared to the largest
        assert error(fast.tensors()[key].double().numpy(), value.double().numpy()) < 1e-4, key


def test_the_faster_paths_are_taken_where_they_apply_and_only_there() -> None:
    assert not trained("adamw", {}, fused=True)[0].plain
    assert not trained("muon", {}, fused=True)[0].plain
    assert not trained("adam", {}, fused=True)[0].plain
    [names] = trained("adamw", {"nesterov": True}, fused=True)[0].plain.values()
    assert len(names) == len(ALL_SHAPES)
    assert {rule.name for rule in FUSED} <= {"adamw", "adam", "muon"}


def test_bf16_newton_schulz_stays_near_the_fp32_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "multiplying", lambda dtype, device: dtype)
    x = torch.randn(6, 16, 40, generator=torch.Generator().manual_seed(0))
    exact = newton_schulz(x, 5, 1e-7, torch.float32)
    rough = newton_schulz(x, 5, 1e-7, torch.bfloat16)
    assert rough.dtype == torch.bfloat16
    rough = rough.float()
    # bf16 has 8 bits: any two correct implementations differ by about 4e-3 in the mean.
    assert 0 < float((rough - exact).abs().mean()) < 1e-2
    assert float(torch.linalg.svdvals(rough).max()) < 1.3


def test_bf16_products_are_asked_of_processors_that_have_them() -> None:
    has = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert fused.multiplying(torch.bfloat16, "cpu") == (torch.bfloat16 if has else torch.float32)
    assert fused.multiplying(torch.bfloat16, "cuda") == torch.bfloat16
    assert fused.multiplying(torch.float64, "cpu") == torch.float64


def test_the_scale_of_muon_follows_the_declared_axes() -> None:
    scales = {item.role: muon.scale(item) for item in ALL_SHAPES if item.is_hidden_matrix}
    assert scales["mlp_gate"] == pytest.approx((18 / 12) ** 0.5)
    assert scales["mlp_out"] == 1.0
    assert scales["q"] == 1.0


def test_rules_get_their_events_services_sums_and_evaluation_values() -> None:
    """A rule that uses every service of the interface, with values that can be followed by hand."""

    def update(xp: Any, param: Any, grad: Any, state: State, step: Any, hp: Hyper) -> tuple[Any, State]:
        change = grad / hp.extra["total"]
        if hp.happens("noise"):
            change = change + hp.extra["noise"]
        return param - hp.lr * change, {"slow": state["slow"] + 1}

    rule = Rule(
        name="made for this test",
        init=lambda xp, param, hp: {"slow": xp.zeros_like(param)},
        update=update,
        state_floats=lambda item, knobs: float(item.count),
        flops=lambda item, knobs: 0.0,
        events=lambda step, knobs: frozenset({"noise"} if step % 2 == 0 else ()),
        prepare=lambda xp, params, grads, states, step, hps: {"total": sum(xp.sum(grad) for grad in grads)},
        eval_params=lambda xp, param, state, hp: param + state["slow"],
    )
    entry = dataclasses.replace(
        ENTRIES["sgd"], name="made", route=lambda item, knobs: Group(rule=rule, lr_ratio=2.0, weight_decay=0.0)
    )
    items = [parameter("norm", (2,)), parameter("norm", (3,))]
    params = {item.name: torch.zeros(item.shape) for item in items}
    optimizer = Optimizer(entry, {}, items, params, total_steps=2, tokens_per_step=1)
    ones = {item.name: torch.ones(item.shape) for item in items}
    optimizer.step(ones, 1, 0.5)
    assert [value.tolist() for value in params.values()] == [pytest.approx([-0.2] * 2), pytest.approx([-0.2] * 3)]
    with pytest.raises(ValueError, match="needs noise at step 2"):
        optimizer.step(ones, 2, 0.5)
    optimizer.step(ones, 2, 0.5, {"noise": lambda item, step: torch.full(item.shape, float(step))})
    assert params[items[0].name].tolist() == pytest.approx([-0.2 - 0.2 - 2.0] * 2)
    with optimizer.evaluated():
        assert params[items[0].name].tolist() == pytest.approx([-2.4 + 2.0] * 2)
    assert params[items[0].name].tolist() == pytest.approx([-2.4] * 2)
