"""Small array operations that many update rules share: norms and means per tensor of a bank, bounds that let NaN through."""

from __future__ import annotations

from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Array


def tensor_axes(tensor: Parameter) -> tuple[int, ...]:
    """Axes of one tensor of a bank, counted from the end: (-2, -1) for matrices, (-1,) for vectors."""
    return tuple(range(-len(tensor.tensor_shape), 0))


def tensor_norm(xp: Any, array: Array, tensor: Parameter) -> Array:
    """Root of the sum of squares of each tensor of the bank, axes kept."""
    return xp.sqrt(xp.sum(array * array, axis=tensor_axes(tensor), keepdims=True))


def averaged(xp: Any, average: Array, new: Array, beta: float) -> Array:
    """beta average + (1 - beta) new; in one pass over memory where the library has that (torch)."""
    if hasattr(xp, "lerp"):
        return xp.lerp(average, new, 1 - beta)
    return beta * average + (1 - beta) * new


def averaged_square(xp: Any, average: Array, new: Array, beta: float) -> Array:
    """beta average + (1 - beta) new^2; in two passes instead of four where the library has that."""
    if hasattr(xp, "addcmul"):
        return xp.addcmul(beta * average, new, new, value=1 - beta)
    return beta * average + (1 - beta) * new * new


def at_least(xp: Any, array: Array, floor: Any) -> Array:
    """The array, raised to the floor (a number or an array, traced or not) where it is lower; NaN stays NaN."""
    if hasattr(xp, "clamp") and isinstance(floor, int | float):  # torch: one pass instead of two with a mask between
        return xp.clamp(array, min=floor)
    return xp.where(array < floor, floor, array)


def at_most(xp: Any, array: Array, ceiling: Any) -> Array:
    """The array, lowered to the ceiling where it is higher; NaN stays NaN."""
    if hasattr(xp, "clamp") and isinstance(ceiling, int | float):
        return xp.clamp(array, max=ceiling)
    return xp.where(array > ceiling, ceiling, array)


def mean_square(xp: Any, array: Array, tensor: Parameter) -> Array:
    """Mean of the squares of each tensor of the bank, axes kept."""
    return xp.mean(array * array, axis=tensor_axes(tensor), keepdims=True)


def sign(xp: Any, array: Array) -> Array:
    """-1, 0 or 1; NaN stays NaN, which torch's own sign turns into 0."""
    return xp.sign(array) + 0 * array


def one_number(xp: Any, param: Array, value: float) -> Array:
    """An array of shape (1,) that holds the value, of the type and on the device of the parameter."""
    return xp.zeros_like(xp.reshape(param, (-1,))[:1]) + value
