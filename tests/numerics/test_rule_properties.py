"""One list, many properties: what every optimizer of the catalogue must do."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from array_api_compat import numpy as numpy_namespace
from array_api_compat import torch as torch_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Knob, at_step, hyper
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine.optimizer import Optimizer
from tests.numerics.rule_runs import Floats, error, gradient, knobs_of, run, start
from tests.numerics.toy import ALL_SHAPES

NAMES = sorted(ENTRIES)

# Knobs under which another one shows: no decay, no coupling of it; no momentum, no dampening.
SHOWING: dict[str, dict[str, Scalar]] = {"sgd": {"momentum": 0.8}}


def other_value(knob: Knob) -> Scalar:
    """Another value that the knob allows."""
    if knob.kind == "bool":
        return not knob.default
    if knob.kind == "choice":
        return next(choice for choice in knob.choices if choice != knob.default)
    assert knob.low is not None and knob.high is not None
    default = float(knob.default or 0.0)
    if knob.kind == "int":
        return int(default) + 1 if default < knob.high else int(default) - 1
    if knob.name.endswith("eps"):
        return 1e-3
    candidate = default * 0.5 if default else knob.low + 0.25 * min(knob.high - knob.low, 1.0)
    return candidate if candidate >= knob.low else default * 2


@pytest.mark.parametrize("name", NAMES)
def test_changing_any_declared_knob_changes_the_trajectory(name: str) -> None:
    reference = run(name, ALL_SHAPES, SHOWING.get(name))
    for knob in ENTRIES[name].knobs:
        given = dict(SHOWING.get(name, {}))
        current = given.get(knob.name, {"lr": 0.02, "weight_decay": 0.1}.get(knob.name, knob.default))
        value = other_value(dataclasses.replace(knob, default=current))
        changed = run(name, ALL_SHAPES, {**given, knob.name: value})
        difference = max(error(changed[item.name], reference[item.name]) for item in ALL_SHAPES)
        assert difference > 1e-9, f"{name}: {knob.name} = {value} changes nothing"


@pytest.mark.parametrize("name", NAMES)
def test_a_stacked_bank_is_its_slices(name: str) -> None:
    for item in (entry for entry in ALL_SHAPES if entry.stacked):
        bank = run(name, [item])[item.name]
        for layer in range(item.shape[0]):
            alone = dataclasses.replace(item, shape=item.tensor_shape, stacked=False)

            def own_start(_: Parameter, item: Parameter = item, layer: int = layer) -> Floats:
                part: Floats = start(item)[layer]
                return part

            def slice_gradient(
                _: Parameter, value: Floats, step: int, item: Parameter = item, layer: int = layer
            ) -> Floats:
                whole = np.zeros(item.shape)
                whole[layer] = value
                part: Floats = gradient(item, whole, step)[layer]
                return part

            found = run(name, [alone], gradients=slice_gradient, starts=own_start)[alone.name]
            assert error(found, bank[layer]) < 1e-6, (item.name, layer)


@pytest.mark.parametrize("name", NAMES)
def test_state_bytes_equal_the_formula(name: str) -> None:
    params = {item.name: torch.from_numpy(start(item).astype(np.float32)) for item in ALL_SHAPES}
    for given in ({}, {"momentum": 0.0} if name == "sgd" else {}):
        knobs = knobs_of(name, given)
        optimizer = Optimizer(ENTRIES[name], knobs, ALL_SHAPES, params, total_steps=10, tokens_per_step=64)
        optimizer.step({key: torch.ones_like(value) for key, value in params.items()}, 1, 0.01)
        assert optimizer.state_bytes() == 4 * ENTRIES[name].state_floats(ALL_SHAPES, knobs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_parameters_and_state_keep_their_dtype(name: str, dtype: torch.dtype) -> None:
    for item in ALL_SHAPES:
        rule, hp = hyper(ENTRIES[name], item, knobs_of(name), lr=0.01)
        param = torch.from_numpy(start(item)).to(dtype)
        state = rule.init(torch_namespace, param, hp)
        for step in (1, 2):
            hp = at_step(rule, hp, step)
            param, state = rule.update(torch_namespace, param, torch.ones_like(param), state, step, hp)
        assert param.dtype == dtype
        assert {value.dtype for value in state.values()} <= {dtype}


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_does_not_write_into_its_arguments(name: str) -> None:
    for item in ALL_SHAPES:
        rule, hp = hyper(ENTRIES[name], item, knobs_of(name), lr=0.01)
        param = start(item)
        state = rule.init(numpy_namespace, param, hp)
        grad = gradient(item, param, 1)
        before = [array.copy() for array in (param, grad, *state.values())]
        rule.update(numpy_namespace, param, grad, state, 1, at_step(rule, hp, 1))
        after = [param, grad, *state.values()]
        assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_nan_gradient_shows_in_the_parameters(name: str) -> None:
    for item in ALL_SHAPES:
        rule, hp = hyper(ENTRIES[name], item, knobs_of(name), lr=0.01)
        param = start(item)
        state = rule.init(numpy_namespace, param, hp)
        grad = gradient(item, param, 1)
        grad.flat[0] = math.nan
        with np.errstate(invalid="ignore"):
            param, _ = rule.update(numpy_namespace, param, grad, state, 1, at_step(rule, hp, 1))
        assert np.isnan(param).any()


@pytest.mark.parametrize("name", NAMES)
def test_it_converges_on_a_quadratic_and_on_a_logistic_regression(name: str) -> None:
    lr = {"adam": 0.05, "sgd": 0.3, "matrix": 0.2}[ENTRIES[name].family]
    item = next(entry for entry in ALL_SHAPES if entry.role == "mlp_gate")
    target = np.random.Generator(np.random.PCG64(5)).standard_normal(item.shape)
    features = np.random.Generator(np.random.PCG64(6)).standard_normal((3, 50, 12))
    labels = np.einsum("loi,lni->lno", target, features) > 0

    def quadratic(_: Parameter, value: Floats, step: int) -> Floats:
        return value - target

    def logistic(_: Parameter, value: Floats, step: int) -> Floats:
        logits = np.clip(np.einsum("loi,lni->lno", value, features), -30, 30)
        slope: Floats = np.einsum("lno,lni->loi", 1 / (1 + np.exp(-logits)) - labels, features) / 50
        return slope

    def loss(value: Floats) -> float:
        logits = np.einsum("loi,lni->lno", value, features)
        return float(np.logaddexp(0, np.where(labels, -logits, logits)).mean())

    given: dict[str, Scalar] = {"lr": lr, **({"weight_decay": 0.0} if ENTRIES[name].knob("weight_decay") else {})}
    steps = 40
    near = run(name, [item], given, steps=steps, gradients=quadratic)[item.name]
    assert np.abs(near - target).mean() < 0.5 * np.abs(start(item) - target).mean()
    fitted = run(name, [item], given, steps=steps, gradients=logistic)[item.name]
    assert loss(fitted) < 0.6 * loss(start(item))


@pytest.mark.parametrize("name", NAMES)
def test_flops_count_every_element_and_grow_with_the_newton_schulz_steps(name: str) -> None:
    knobs = knobs_of(name)
    entry = ENTRIES[name]
    assert entry.flops_per_step(ALL_SHAPES, knobs) >= 4 * sum(item.count for item in ALL_SHAPES)
    if name == "muon":
        square = next(item for item in ALL_SHAPES if item.role == "attention_out")
        more = entry.flops_per_step([square], {**knobs, "ns_steps": 6}) - entry.flops_per_step([square], knobs)
        assert more == 6 * 12**3  # X X^T, A A and (..) X: 2 n^3 each
