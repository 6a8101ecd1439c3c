"""The faster paths of the torch engine against the rules that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from optsweep_engines.optimizers import muon
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine.fused import FUSED, newton_schulz
from optsweep_engines.torch_engine.optimizer import Optimizer
from tests.numerics.rule_runs import error, factor, gradient, knobs_of, start
from tests.numerics.toy import ALL_SHAPES


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
    assert not trained("adamw", {}, fused=True)[0].singles
    assert not trained("muon", {}, fused=True)[0].singles
    assert len(trained("adamw", {"nesterov": True}, fused=True)[0].singles) == len(ALL_SHAPES)
    assert set(FUSED) <= {"adamw", "muon"}


def test_bf16_newton_schulz_stays_near_the_fp32_one() -> None:
    x = torch.randn(6, 16, 40, generator=torch.Generator().manual_seed(0))
    exact = newton_schulz(x, 5, 1e-7, torch.float32)
    rough = newton_schulz(x, 5, 1e-7, torch.bfloat16).float()
    assert rough.dtype == torch.float32
    # bf16 has 8 bits: any two correct implementations differ by about 4e-3 in the mean.
    assert 0 < float((rough - exact).abs().mean()) < 1e-2
    assert float(torch.linalg.svdvals(rough).max()) < 1.3


def test_the_scale_of_muon_follows_the_declared_axes() -> None:
    scales = {item.role: muon.scale(item) for item in ALL_SHAPES if item.is_hidden_matrix}
    assert scales["mlp_gate"] == pytest.approx((18 / 12) ** 0.5)
    assert scales["mlp_out"] == 1.0
    assert scales["q"] == 1.0
