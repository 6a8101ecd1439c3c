"""Tensors of every role and shape, where they start, and the gradients that they are given."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from optsweep_engines.models import Parameter

Floats = npt.NDArray[np.float64]


def parameter(role: Any, dims: tuple[int, ...], *, stacked: bool = False) -> Parameter:
    """A parameter of a role, with the axes that the catalogue's models give it."""
    matrix = role not in ("norm", "bias")
    in_axis, out_axis = (-2, -1) if role == "embedding" else (-1, -2)
    return Parameter(
        name=f"{role}{dims}",
        shape=dims,
        role=role,
        stacked=stacked,
        in_axis=in_axis if matrix else None,
        out_axis=out_axis if matrix else None,
        heads=2 if role in ("q", "k", "v") else None,
        init_std=0.1 if matrix else None,
    )


ALL_SHAPES: tuple[Parameter, ...] = (
    parameter("norm", (12,)),
    parameter("norm", (3, 12), stacked=True),
    parameter("embedding", (20, 12)),
    parameter("head", (20, 12)),
    parameter("q", (3, 12, 12), stacked=True),
    parameter("mlp_gate", (3, 18, 12), stacked=True),
    parameter("mlp_out", (3, 12, 18), stacked=True),
    parameter("attention_out", (12, 12)),
)
"""1-D, 2-D, stacked, square, tall and wide."""

ITEMS: tuple[Parameter, ...] = (
    *ALL_SHAPES,
    parameter("k", (3, 12, 12), stacked=True),
    parameter("v", (3, 12, 12), stacked=True),
    parameter("bias", (3, 12), stacked=True),
    parameter("mlp_up", (18, 12)),
)
"""Every role; 1-D, 2-D, stacked, square, tall and wide."""

ONE_EACH = tuple(item for item in ITEMS if item.shape not in ((3, 12), (12, 12)) and item.role != "mlp_up")
"""One tensor per role, for what is tried many times."""


def start(item: Parameter) -> Floats:
    """Where a tensor starts."""
    return np.random.Generator(np.random.PCG64([1, *item.shape])).standard_normal(item.shape) * 0.5


def gradient(item: Parameter, value: Floats, step: int) -> Floats:
    """Gradient of a badly conditioned quadratic plus noise that depends on the step only; the same for a bank's slices."""
    return curvature(item.shape) * (value - 0.3) + noise(item.shape, step)


@functools.cache
def curvature(shape: tuple[int, ...]) -> Floats:
    """Second derivatives of the quadratic, over two orders of magnitude."""
    return np.logspace(-2, 0, int(np.prod(shape))).reshape(shape)


@functools.cache
def noise(shape: tuple[int, ...], step: int) -> Floats:
    """What a step adds to the gradient."""
    return 0.1 * np.random.Generator(np.random.PCG64([2, step, *shape])).standard_normal(shape)


def factor(step: int) -> float:
    """A learning rate that rises, then falls, so that decay and update are seen to use the same one."""
    return min(1.0, step / 4) * (1.0 - 0.02 * step)


def error(found: Floats, expected: Floats) -> float:
    """Largest deviation over the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def pull(item: Parameter, value: Floats, step: int) -> Floats:
    """The gradient, of another size on k and v than on q: tensors of one shape are otherwise alike."""
    return {"k": 3.0, "v": 5.0}.get(item.role, 1.0) * gradient(item, value, step)
