"""The factors of PSGD Kron's preconditioner: how they act on a gradient, and how one (gradient, noise) pair moves them.

A factor is triangular, [..., n, n], or its diagonal alone, [..., n, 1]. P = (Ql^T Ql) x (Qr^T Qr).
"""

from __future__ import annotations

import functools
import math
from typing import Any

from optsweep_engines.optimizers import linear
from optsweep_engines.optimizers.base import Array


class Calendar:
    """Which steps update the preconditioner: the probability p falls, and a step updates once 1 / p have gone by."""

    def __init__(self, lowest: float, flat_start: int, decay: float) -> None:
        self.lowest, self.flat_start, self.decay = lowest, flat_start, decay
        self.numbers = [0]
        """Per step, the number of the update, from 1; 0 = none."""
        self.waited = self.done = 0

    def number(self, step: int) -> int:
        while len(self.numbers) <= step:
            fallen = math.exp(min(0.0, -self.decay * (len(self.numbers) - 1 - self.flat_start)))
            self.waited += 1
            due = self.waited >= 1 / max(self.lowest, fallen)
            self.done += due
            self.numbers.append(self.done if due else 0)
            self.waited *= not due
        return self.numbers[step]


calendar = functools.cache(Calendar)


def times(factor: Array, x: Array) -> Array:
    """Q x."""
    return factor * x if factor.shape[-1] == 1 else factor @ x


def times_transposed(xp: Any, factor: Array, x: Array) -> Array:
    """Q^T x."""
    return factor * x if factor.shape[-1] == 1 else xp.matrix_transpose(factor) @ x


def divided(xp: Any, factor: Array, x: Array) -> Array:
    """Q^-T x."""
    return x / factor if factor.shape[-1] == 1 else xp.linalg.solve(xp.matrix_transpose(factor), x)


def moved(xp: Any, factor: Array, a: Array, b: Array, rate: float) -> Array:
    """The factor that acts on the rows of a and b after one descent step of relative length `rate`."""
    tiny = float(xp.finfo(a.dtype).smallest_normal)
    if factor.shape[-1] == 1:
        squares_a, squares_b = (xp.sum(x * x, axis=-1, keepdims=True) for x in (a, b))
        largest = xp.max(squares_a + squares_b, axis=-2, keepdims=True)
        return factor - rate * (squares_a - squares_b) * factor / (largest + tiny)
    gram_a, gram_b = (x @ xp.matrix_transpose(x) for x in (a, b))
    length = linear.norm_lower_bound(xp, gram_a + gram_b)
    return factor - rate / (length + tiny) * (xp.triu(gram_a - gram_b) @ factor)


def balanced(xp: Any, left: Array, right: Array) -> tuple[Array, Array]:
    """Both factors with the same largest entry; their product stays."""
    sizes = [xp.max(xp.abs(factor), axis=(-2, -1), keepdims=True) for factor in (left, right)]
    ratio = xp.sqrt(sizes[1] / sizes[0])
    return left * ratio, right / ratio


def refined(xp: Any, factors: list[Array], grad: Array, noise: Array, rate: float, balance: bool) -> list[Array]:
    """The factors of the blocks of one shape after an update from a (gradient, noise) pair.

    Args:
        factors: [left, right], or [right] for vectors.
        rate: relative length of the descent step.
        balance: make the factors' norms equal first.
    """
    if balance and len(factors) == 2:
        factors = list(balanced(xp, *factors))
    if len(factors) == 2:
        grad, noise = times(factors[0], grad), divided(xp, factors[0], noise)
    a_t = times(factors[-1], xp.matrix_transpose(grad))
    b_t = divided(xp, factors[-1], xp.matrix_transpose(noise))
    new = [moved(xp, factors[-1], a_t, b_t, rate)]
    if len(factors) == 2:
        new.insert(0, moved(xp, factors[0], xp.matrix_transpose(a_t), xp.matrix_transpose(b_t), rate))
    return new


def preconditioned(xp: Any, factors: list[Array], grad: Array) -> Array:
    """Ql^T Ql G Qr^T Qr."""
    for factor in reversed(factors):
        grad = xp.matrix_transpose(grad)
        grad = times_transposed(xp, factor, times(factor, grad))
    return grad if len(factors) == 2 else xp.matrix_transpose(grad)
