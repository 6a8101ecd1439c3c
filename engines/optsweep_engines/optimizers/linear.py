"""Batched linear algebra that the matrix rules share, over the last two axes and in float32 at least.

A matrix with NaN or infinity in it comes out as NaN, where a library would raise or loop: a diverged run is to be seen
in its losses.
"""

from __future__ import annotations

from typing import Any

from array_api_compat import device

from optsweep_engines.optimizers.base import Array


def widened(xp: Any, array: Array) -> Array:
    """The array in float32 where its own type is narrower: decompositions exist from there on."""
    return xp.astype(array, xp.float32) if xp.finfo(array.dtype).bits < 32 else array


def narrowed(xp: Any, array: Array, like: Array) -> Array:
    """The array in the type of `like`."""
    return xp.astype(array, like.dtype, copy=False)


def averaged(xp: Any, average: Array, left: Array, right: Array, beta: float) -> Array:
    """beta average + (1 - beta) left @ right, over the last two axes; in one operation where the library has that (torch)."""
    if not hasattr(xp, "baddbmm"):
        return beta * average + (1 - beta) * (left @ right)
    flat = [xp.reshape(x, (-1, *x.shape[-2:])) for x in (average, left, right)]
    return xp.reshape(xp.baddbmm(*flat, beta=beta, alpha=1 - beta), average.shape)


def identity(xp: Any, size: int, lead: tuple[int, ...], like: Array) -> Array:
    """Unit matrices [*lead, size, size] of the type and on the device of `like`."""
    whole = xp.zeros((*lead, size, size), dtype=like.dtype, device=device(like))
    return whole + xp.eye(size, dtype=like.dtype, device=device(like))


def ones(xp: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Ones of the type and on the device of `like`."""
    return xp.ones(shape, dtype=like.dtype, device=device(like))


def zeros(xp: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Zeros of the type and on the device of `like`."""
    return xp.zeros(shape, dtype=like.dtype, device=device(like))


def taken(xp: Any, array: Array, places: Array, axis: int) -> Array:
    """take_along_axis for places from 0 up; torch's own spends two passes on making negative ones positive."""
    return xp.gather(array, axis, places) if hasattr(xp, "gather") else xp.take_along_axis(array, places, axis=axis)


def eigh(xp: Any, matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues [..., n], largest first, and their vectors as columns [..., n, n] of symmetric matrices."""
    finite = xp.all(xp.isfinite(matrix), axis=(-2, -1), keepdims=True)
    values, vectors = xp.linalg.eigh(xp.where(finite, matrix, xp.zeros_like(matrix)))
    spoiled = xp.zeros_like(matrix) + float("nan")
    vectors = xp.where(finite, vectors, spoiled)
    values = xp.where(finite[..., 0], values, spoiled[..., 0])
    return xp.flip(values, axis=-1), xp.flip(vectors, axis=-1)


def inverse_root(xp: Any, matrix: Array, eps: float, root: int) -> Array:
    """(M + eps)^(-1/root) of positive semi-definite matrices, eigenvalues below 0 by rounding moved up first."""
    values, vectors = eigh(xp, matrix)
    lowest = xp.min(values, axis=-1, keepdims=True)
    values = values - xp.where(lowest < 0, lowest, xp.zeros_like(lowest)) + eps
    return (vectors * (values ** (-1.0 / root))[..., None, :]) @ xp.matrix_transpose(vectors)


def norm_lower_bound(xp: Any, matrix: Array) -> Array:
    """A lower bound of the largest eigenvalue of positive semi-definite matrices, [..., 1, 1]: two products with a vector.

    The true value is at most about sqrt(2) larger. Li, https://github.com/lixilinx/psgd_torch.
    """
    largest = xp.max(xp.abs(matrix), axis=(-2, -1), keepdims=True)
    safe = xp.where(largest > 0, largest, xp.ones_like(largest))
    scaled = matrix / safe
    longest = xp.argmax(xp.sum(scaled * scaled, axis=-2), axis=-1)
    place = xp.broadcast_to(longest[..., None, None], (*matrix.shape[:-1], 1))
    row = xp.matrix_transpose(taken(xp, scaled, place, -1)) @ scaled
    length = xp.sqrt(xp.sum(row * row, axis=-1, keepdims=True))
    row = (row / xp.where(length > 0, length, xp.ones_like(length))) @ xp.matrix_transpose(scaled)
    return largest * xp.sqrt(xp.sum(row * row, axis=-1, keepdims=True))
