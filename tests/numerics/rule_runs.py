"""Runs a catalogue optimizer's rules for some steps against gradients computed in float64, in numpy or torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import numpy as numpy_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import OptimizerEntry, hyper
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
    """Resolved knobs; a learning rate and a decay that show in thirty steps unless given."""
    return resolve_knobs(name, {"lr": 0.02, "weight_decay": 0.1, **(given or {})})


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
) -> dict[str, Floats]:
    """Final values by name."""
    entry: OptimizerEntry = optimizer(name)
    knobs = knobs_of(name, given)
    final: dict[str, Floats] = {}
    for item in items:
        rule, hp = hyper(entry, item, knobs, lr=float(knobs["lr"] or 0.0))
        param = to_xp(start(item).astype(dtype))
        state = rule.init(xp, param, hp)
        for step in range(1, steps + 1):
            grad = gradients(item, np.asarray(param, dtype=np.float64), step)
            _, hp = hyper(entry, item, knobs, lr=float(knobs["lr"] or 0.0) * factor(step))
            param, state = rule.update(xp, param, to_xp(grad.astype(dtype)), state, step, hp)
        final[item.name] = np.asarray(param, dtype=np.float64)
    return final


def error(found: Floats, expected: Floats) -> float:
    """Largest deviation over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
