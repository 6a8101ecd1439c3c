"""Runs a catalogue optimizer's rules for some steps against gradients computed in float64, in numpy or torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import numpy as numpy_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import OptimizerEntry, Rule, Service, State, advance, at_step, hyper
from optsweep_engines.optimizers.catalogue import optimizer, resolve_knobs
from optsweep_engines.spec import Scalar

Floats = npt.NDArray[np.float64]
STEPS = 30


def start(item: Parameter) -> Floats:
    """Where a tensor starts."""
    return np.random.Generator(np.random.PCG64([1, *item.shape])).standard_normal(item.shape) * 0.5


def gradient(item: Parameter, value: Floats, step: int) -> Floats:
    """Gradient of a badly conditioned quadratic plus noise that depends on the step only; the same for a bank's slices."""
    count = int(np.prod(item.shape))
    curvature = np.logspace(-2, 0, count).reshape(item.shape)
    noise = np.random.Generator(np.random.PCG64([2, step, *item.shape])).standard_normal(item.shape)
    return curvature * (value - 0.3) + 0.1 * noise


def knobs_of(name: str, given: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
    """Resolved knobs; a learning rate and a decay (where there is one) that show in thirty steps unless given."""
    showing: dict[str, Scalar] = {"lr": 0.02, "weight_decay": 0.1}
    return resolve_knobs(name, {**{key: showing[key] for key in showing if optimizer(name).knob(key)}, **(given or {})})


def factor(step: int) -> float:
    """A learning rate that changes, so that decay and update are seen to use the same one."""
    return 1.0 - 0.02 * step


def run(
    name: str,
    items: Sequence[Parameter],
    given: Mapping[str, Scalar] | None = None,
    *,
    steps: int = STEPS,
    dtype: Any = np.float64,
    xp: Any = numpy_namespace,
    to_xp: Callable[[npt.NDArray[Any]], Any] = np.asarray,
    gradients: Callable[[Parameter, Floats, int], Floats] = gradient,
    services: Mapping[str, Service] | None = None,
    starts: Callable[[Parameter], Floats] = start,
) -> dict[str, Floats]:
    """Final values by name; the tensors are trained together, as an engine does."""
    entry: OptimizerEntry = optimizer(name)
    knobs = knobs_of(name, given)
    params = {item.name: to_xp(starts(item).astype(dtype)) for item in items}
    groups: dict[Rule, list[Parameter]] = {}
    states: dict[str, State] = {}
    for item in items:
        rule, hp = hyper(entry, item, knobs, lr=float(knobs["lr"] or 0.0), total_steps=steps, tokens_per_step=64)
        groups.setdefault(rule, []).append(item)
        states[item.name] = rule.init(xp, params[item.name], hp)
    for step in range(1, steps + 1):
        lr = float(knobs["lr"] or 0.0) * factor(step)
        for rule, members in groups.items():
            values = [params[item.name] for item in members]
            grads = [
                to_xp(gradients(item, np.asarray(value, dtype=np.float64), step).astype(dtype))
                for item, value in zip(members, values, strict=True)
            ]
            hps = [
                at_step(
                    rule, hyper(entry, item, knobs, lr=lr, total_steps=steps, tokens_per_step=64)[1], step, services
                )
                for item in members
            ]
            new = advance(xp, rule, values, grads, [states[item.name] for item in members], step, hps)
            for item, (param, state) in zip(members, new, strict=True):
                params[item.name], states[item.name] = param, state
    return {item.name: np.asarray(params[item.name], dtype=np.float64) for item in items}


def error(found: Floats, expected: Floats) -> float:
    """Largest deviation over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
