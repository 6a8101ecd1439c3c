"""Each rule against an implementation that is not ours: torch.optim, or a derivation of its own in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import muon
from optsweep_engines.properties.tensors import ALL_SHAPES, Floats, error, factor, gradient, start
from optsweep_engines.properties.training import STEPS, knobs_of, run
from optsweep_engines.spec import Scalar

# 30 steps in float32 against float64 gradients: the tolerance of the design note on optimizers.
TOLERANCE = 1e-5


def torch_optim(
    make: Any, items: tuple[Parameter, ...], lr: float, *, decay: float = 0.0, shrink: bool = False
) -> dict[str, Floats]:
    """Final values under a torch.optim class in float32.

    Args:
        make: (params, weight_decay) -> optimizer.
        shrink: apply a decoupled decay by hand, for a class that has none.
    """
    final = {}
    for item in items:
        param = torch.nn.Parameter(torch.from_numpy(start(item).astype(np.float32)))
        own_decay = decay if item.decays else 0.0
        optimizer = make([param], 0.0 if shrink else own_decay)
        for step in range(1, STEPS + 1):
            optimizer.param_groups[0]["lr"] = lr * factor(step)
            param.grad = torch.from_numpy(gradient(item, param.detach().double().numpy(), step).astype(np.float32))
            if shrink:
                param.data.mul_(1 - lr * factor(step) * own_decay)
            optimizer.step()
        final[item.name] = param.detach().double().numpy()
    return final


def in_torch(name: str, items: tuple[Parameter, ...], given: Mapping[str, Scalar]) -> dict[str, Floats]:
    return run(name, items, given, dtype=np.float32, xp=torch_namespace, to_xp=torch.from_numpy)


def assert_equal(found: dict[str, Floats], expected: dict[str, Floats]) -> None:
    for name in expected:
        assert error(found[name], expected[name]) < TOLERANCE, name


def test_adamw_is_torch_adamw() -> None:
    expected = torch_optim(
        lambda params, decay: torch.optim.AdamW(params, betas=(0.9, 0.98), eps=1e-6, weight_decay=decay),
        ALL_SHAPES,
        lr=0.02,
        decay=0.1,
    )
    assert_equal(in_torch("adamw", ALL_SHAPES, {"beta2": 0.98, "eps": 1e-6}), expected)


def test_nesterov_adamw_is_torch_nadam_with_a_constant_beta1() -> None:
    expected = torch_optim(
        lambda params, decay: torch.optim.NAdam(
            params,
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=decay,
            momentum_decay=1e6,  # 0.96 to that power is 0: beta1 stays as it is
            decoupled_weight_decay=True,
        ),
        ALL_SHAPES,
        lr=0.02,
        decay=0.1,
    )
    assert_equal(in_torch("adamw", ALL_SHAPES, {"nesterov": True}), expected)


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.3, False), (0.9, 0.0, True)]
)
@pytest.mark.parametrize("coupled", [True, False])
def test_sgd_is_torch_sgd(momentum: float, dampening: float, nesterov: bool, coupled: bool) -> None:
    expected = torch_optim(
        lambda params, decay: torch.optim.SGD(
            params, momentum=momentum, dampening=dampening, nesterov=nesterov, weight_decay=decay
        ),
        ALL_SHAPES,
        lr=0.05,
        decay=0.1,
        shrink=not coupled,
    )
    given: dict[str, Scalar] = {
        "lr": 0.05,
        "momentum": momentum,
        "dampening": dampening,
        "nesterov": nesterov,
        "coupled_decay": coupled,
    }
    assert_equal(in_torch("sgd", ALL_SHAPES, given), expected)


def orthogonalised_by_svd(matrix: Floats, steps: int, eps: float) -> Floats:
    """The iteration as what it does to singular values: s -> a s + b s^3 + c s^5, vectors unchanged."""
    a, b, c = 3.4445, -4.7750, 2.0315
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.sqrt((matrix**2).sum()) + eps)
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    product: Floats = (left * values) @ right
    return product


@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_the_singular_value_iteration_on_each_hidden_matrix(nesterov: bool) -> None:
    hidden = tuple(item for item in ALL_SHAPES if item.is_hidden_matrix)
    given: dict[str, Scalar] = {"nesterov": nesterov, "momentum": 0.9, "muon_eps": 1e-3, "ns_steps": 4}
    expected = {}
    for item in hidden:
        value, average = start(item), np.zeros(item.shape)
        for step in range(1, STEPS + 1):
            lr = 0.02 * factor(step)
            grad = gradient(item, value, step)
            average = 0.9 * average + 0.1 * grad
            direction = 0.9 * average + 0.1 * grad if nesterov else average
            matrices = direction.reshape(-1, *item.tensor_shape)
            update = np.stack([orthogonalised_by_svd(matrix, 4, 1e-3) for matrix in matrices]).reshape(item.shape)
            rows, columns = item.tensor_shape  # [out, in]
            value = value * (1 - lr * 0.1) - lr * np.sqrt(max(1.0, rows / columns)) * update
        expected[item.name] = value
    assert_equal(run("muon", hidden, given), expected)
    assert_equal(in_torch("muon", hidden, given), expected)


def test_muon_trains_the_rest_with_adamw_at_its_own_learning_rate() -> None:
    rest = tuple(item for item in ALL_SHAPES if not item.is_hidden_matrix)
    assert {item.role for item in rest} == {"norm", "embedding", "head"}
    expected = torch_optim(
        lambda params, decay: torch.optim.AdamW(params, betas=(0.8, 0.98), eps=1e-6, weight_decay=decay),
        rest,
        lr=0.02 * 0.3,
        decay=0.1,
    )
    given = {"beta1": 0.8, "beta2": 0.98, "eps": 1e-6, "muon_to_adam_lr": 0.3, "nesterov": True}
    assert_equal(in_torch("muon", rest, given), expected)


def test_newton_schulz_brings_singular_values_near_one() -> None:
    stream = np.random.Generator(np.random.PCG64(3))
    for rows, columns in ((12, 12), (30, 8), (8, 30)):
        matrix = stream.standard_normal((4, rows, columns))
        result = muon.newton_schulz(torch_namespace, torch.from_numpy(matrix), 5, 1e-7).numpy()
        values = np.linalg.svd(result, compute_uv=False)
        assert values.max() < 1.3
        assert np.median(values) > 0.6


def test_the_rules_give_the_same_in_numpy_and_torch() -> None:
    for name in ("adamw", "sgd", "muon"):
        in_numpy = run(name, ALL_SHAPES)
        in_double = run(name, ALL_SHAPES, xp=torch_namespace, to_xp=torch.from_numpy)
        for item in ALL_SHAPES:
            assert error(in_double[item.name], in_numpy[item.name]) < 1e-12, (name, item.name)


def test_published_incumbents_resolve_to_knobs_of_the_rule() -> None:
    muon_incumbent: dict[str, Scalar] = {
        "beta1": 0.8,
        "beta2": 0.98,
        "decay": 0.8,
        "epsilon": 1e-15,
        "learning_rate": 0.016,
        "max_grad_norm": 1,
        "min_lr_ratio": 0,
        "momentum": 0.95,
        "muon_epsilon": 1e-05,
        "muon_to_adam_lr": 0.2,
        "warmup": 0,
        "weight_decay": 0.1,
    }
    from optsweep_engines.optimizers.catalogue import resolve_knobs

    knobs = resolve_knobs("muon", muon_incumbent, "linear")
    assert knobs["lr"] == 0.016
    assert knobs["eps"] == 1e-15
    assert knobs["muon_eps"] == 1e-5
    assert knobs_of("muon")["decay"] == 1.0
