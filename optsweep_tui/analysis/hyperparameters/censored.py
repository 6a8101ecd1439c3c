"""Interval-censored normal regression: a grid says between which values each optimum lies, not where; maximum likelihood.

z_i = x_i theta + sigma e_i with standard normal e_i is only known to lie in (low_i, high_i), open where the best value was
an end of its list. log L = sum log(Phi((high - x theta)/sigma) - Phi((low - x theta)/sigma)). In (theta/sigma, 1/sigma) it is
concave (Prekopa: the normal measure of an interval is log-concave in its ends, which are linear in those), so Newton's
method finds the one maximum there is, for many weightings (left-out cells) at once.

Sigma has a floor, grid step / sqrt(12): the spread of an optimum that may lie anywhere within one step. Without it the maximum
mostly does not exist: on grids of factor 2, some rule runs through or along the ends of all intervals, sigma runs to 0, and any
rule that does is as good as any other, with a standard error of 0.

Why not a library. `lifelines` 0.30.3 (MIT, March 2026, active; LogNormalAFTFitter.fit_interval_censoring) was held against
this in November 2026. Where the maximum lies above the floor the two agree to 5 digits: coefficients, standard errors,
log-likelihood (its figures are the oracle of tests/unit/test_hyperparameters_censored.py). Below, it returns whichever point its
optimizer stopped at, without a warning: for twelve equal optima an exponent of -.013 with a standard error of 189; for twelve of
a true exponent -.25 and sigma .1, -.18 with a standard error of 5.2, and one of 3,700 for log sigma. Best values all at one end
raise a ConvergenceError. A fit takes 1.5 to 3 s where leave-one-out on the reference study needs about 1,500 of them. And it
requires pandas below 3, one major version behind this program's. statsmodels has no interval-censored normal. So: this, on
scipy.special.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

Floats: TypeAlias = npt.NDArray[np.float64]

MOST_ITERATIONS = 200
MOST_HALVINGS = 40
# Newton decrement, in log-likelihood, below which the maximum is reached.
REACHED = 1e-12
# Relative: 1/sigma this near to an end of its range is at it.
END = 1e-9
# Times the grid step: intervals that contradict each other drive sigma here, and then nothing is known.
WIDEST = 1e3
# Stands for "not known at all": finite, so that sums with it are numbers.
LARGEST_VARIANCE = 1e12
SQRT_12 = math.sqrt(12.0)
_LOG_ROOT_TAU = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Maximum-likelihood fits of one design under K weightings of its cells."""

    theta: Floats
    """Coefficients, shape (K, P)."""
    sigma: Floats
    """Spread of the optima, at least the floor, shape (K,)."""
    covariance: Floats
    """Of theta, shape (K, P, P): inverse observed information with sigma among its unknowns; with sigma held where it is
    the floor. LARGEST_VARIANCE where the information is singular."""
    at_floor: npt.NDArray[np.bool_]
    """Sigma is held there: the likelihood asks for less, or the intervals do not tell it. Shape (K,)."""
    log_likelihood: Floats
    """At the maximum, shape (K,)."""
    unbounded: npt.NDArray[np.bool_]
    """Sigma ran to infinity: the intervals contradict each other so that nothing can be said. Shape (K,)."""


def fit(design: Floats, low: Floats, high: Floats, weights: Floats, step: float) -> Fits:
    """Maximum-likelihood theta and sigma of every weighting.

    Args:
        design: x, shape (n, P); identified under every weighting (`identified`), of order 1 for the sake of rounding.
        low: lower ends on the scale of the rule, shape (n,); -inf = open.
        high: upper ends; inf = open.
        weights: 0 or 1 per weighting and cell, shape (K, n).
        step: usual distance of neighbouring grid values on that scale.
    """
    found = _maximum(design, low, high, weights, step)
    most = SQRT_12 / step
    at_floor = found.h >= most * (1 - END)
    covariance = [
        _inverse(-found.hessian[k][:-1, :-1]) / found.h[k] ** 2 if at_floor[k] else _covariance(found, k)
        for k in range(len(weights))
    ]
    return Fits(
        theta=found.gamma / found.h[:, None],
        sigma=1.0 / found.h,
        covariance=np.stack(covariance),
        at_floor=at_floor,
        log_likelihood=found.value,
        unbounded=found.h <= (1 + END) / (WIDEST * step),
    )


def identified(design: Floats, low: Floats, high: Floats) -> bool:
    """Whether the intervals pin every coefficient down: no direction in which the likelihood rises for ever.

    Cells that are closed on both sides do it where they span the design. Else such a direction leaves the rule of those
    cells alone and moves no other one towards its closed end: a cone. With full rank it holds no line, so if it holds
    anything it has an extreme ray, which lies on P - 1 of its boundaries.

    Args:
        design: shape (n, P), P up to 3.
        low: shape (n,).
        high: shape (n,); with `low`, at least one end of each cell is closed.
    """
    size = design.shape[1]
    if np.linalg.matrix_rank(design) < size:
        return False
    closed = np.isfinite(low) & np.isfinite(high)
    if closed.any() and np.linalg.matrix_rank(design[closed]) == size:
        return True
    away = np.where(np.isfinite(low), 1.0, -1.0)[:, None] * design
    walls = np.concatenate([away[~closed], design[closed], -design[closed]])
    walls = walls / np.linalg.norm(walls, axis=1, keepdims=True)
    if size == 1:
        rays = np.ones((1, 1))
    elif size == 2:
        rays = walls[:, ::-1] * np.array([1.0, -1.0])
    else:
        first, second = np.triu_indices(len(walls), 1)
        rays = np.cross(walls[first], walls[second])
    lengths = np.linalg.norm(rays, axis=1)
    rays = rays[lengths > 1e-9] / lengths[lengths > 1e-9, None]
    moves = np.concatenate([rays, -rays]) @ walls.T
    return not bool(np.any(np.all(moves >= -1e-9, axis=1)))


@dataclass(frozen=True, kw_only=True)
class _Maximum:
    gamma: Floats
    """theta / sigma, shape (K, P)."""
    h: Floats
    """1 / sigma, shape (K,)."""
    value: Floats
    hessian: Floats
    """Of the log-likelihood in (gamma, h), shape (K, P+1, P+1)."""


def _start(design: Floats, low: Floats, high: Floats, weights: Floats, step: float) -> Floats:
    """Least squares through the middles, half a step inside where an end is open; shape (K, P)."""
    with np.errstate(invalid="ignore"):
        middle = np.where(
            np.isfinite(low) & np.isfinite(high),
            (low + high) / 2,
            np.where(np.isfinite(low), low + step / 2, high - step / 2),
        )
    return np.stack([np.linalg.lstsq(design * w[:, None], middle * w, rcond=None)[0] for w in weights])


def _maximum(design: Floats, low: Floats, high: Floats, weights: Floats, step: float) -> _Maximum:
    """Damped Newton ascent of every weighting at once, 1/sigma kept between its ends."""
    least, most = 1.0 / (WIDEST * step), SQRT_12 / step
    size = design.shape[1] + 1
    last = np.arange(size) == size - 1
    theta = _start(design, low, high, weights, step)
    known = np.array([_spread_shows(design, low, high, w) for w in weights])
    h = np.where(known, 1.0 / step, most)[:, None]
    point = np.concatenate([theta * h, h], axis=1)
    value, gradient, hessian = _likelihood(design, low, high, weights, point)
    active = np.ones(len(point), dtype=bool)
    for _ in range(MOST_ITERATIONS):
        # 1/sigma at an end of its range and pushed outwards, by its slope or by the step of all, stays there.
        high_end, low_end = point[:, -1] >= most * (1 - END), point[:, -1] <= least * (1 + END)
        held = np.where(gradient[:, -1] > 0, high_end, low_end) | ~known
        move = _step(gradient, hessian, held)
        held |= np.where(move[:, -1] > 0, high_end, low_end) & (move[:, -1] != 0)
        move = _step(gradient, hessian, held)
        decrement = np.sum(np.where(held[:, None] & last, 0.0, gradient) * move, axis=1)
        active &= decrement > REACHED
        if not active.any():
            break
        # At most to the end of the range of 1/sigma, then half of that until the likelihood rises as it should.
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(move[:, -1] > 0, most - point[:, -1], least - point[:, -1]) / move[:, -1]
        scale = np.where(active, np.where(move[:, -1] == 0, 1.0, np.minimum(1.0, reach)), 0.0)
        for _ in range(MOST_HALVINGS):
            trial = point + scale[:, None] * move
            trial[:, -1] = np.clip(trial[:, -1], least, most)
            risen = _likelihood(design, low, high, weights, trial)
            worse = active & ~(risen[0] >= value + 1e-4 * scale * decrement)
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        active &= ~worse
        point = np.where(active[:, None], trial, point)
        value = np.where(active, risen[0], value)
        gradient = np.where(active[:, None], risen[1], gradient)
        hessian = np.where(active[:, None, None], risen[2], hessian)
    return _Maximum(gamma=point[:, :-1], h=point[:, -1], value=value, hessian=hessian)


def _spread_shows(design: Floats, low: Floats, high: Floats, weights: Floats) -> bool:
    """Whether sigma is identified: not where one rule runs through every closed end, as with one list of two values."""
    kept = weights > 0
    ends = np.concatenate([_edge(design, low)[kept & np.isfinite(low)], _edge(design, high)[kept & np.isfinite(high)]])
    if not len(ends):
        return False
    # The distance of the ends from their nearest rule, against their own size.
    nearest = np.linalg.lstsq(ends[:, :-1], ends[:, -1], rcond=None)[0]
    return bool(np.max(np.abs(ends[:, -1] - ends[:, :-1] @ nearest)) > 1e-9 * (1.0 + np.max(np.abs(ends[:, -1]))))


def _step(gradient: Floats, hessian: Floats, held: npt.NDArray[np.bool_]) -> Floats:
    """Newton's step of each weighting, that of 1/sigma left out where it is held; shape (K, P+1)."""
    size = gradient.shape[1]
    last = np.arange(size) == size - 1
    slope = np.where(held[:, None] & last, 0.0, gradient)
    curvature = np.where(held[:, None, None] & (last[:, None] | last), 0.0, -hessian)
    curvature[:, -1, -1] += held
    # Flat to rounding where every interval is met: a little of the identity keeps it solvable.
    ridge = 1e-12 * (1.0 + np.trace(curvature, axis1=1, axis2=2))
    solved = np.linalg.solve(curvature + ridge[:, None, None] * np.eye(size), slope[:, :, None])
    return np.asarray(solved[:, :, 0])


def _likelihood(
    design: Floats, low: Floats, high: Floats, weights: Floats, point: Floats
) -> tuple[Floats, Floats, Floats]:
    """Log-likelihood, gradient and Hessian in (gamma, h); shapes (K,), (K, P+1), (K, P+1, P+1)."""
    h = point[:, -1:]
    center = point[:, :-1] @ design.T
    a = np.where(np.isfinite(low), h * np.where(np.isfinite(low), low, 0.0) - center, -np.inf)
    b = np.where(np.isfinite(high), h * np.where(np.isfinite(high), high, 0.0) - center, np.inf)
    log_mass = log_normal_mass(a, b)
    at_a, at_b = _hazard(a, log_mass), _hazard(b, log_mass)
    a_edge, b_edge = _edge(design, low), _edge(design, high)
    value = np.sum(weights * log_mass, axis=1)
    gradient = (weights * at_b) @ b_edge - (weights * at_a) @ a_edge
    finite_a, finite_b = np.where(np.isfinite(a), a, 0.0), np.where(np.isfinite(b), b, 0.0)
    aa = weights * (finite_a * at_a - at_a**2)
    bb = weights * (-finite_b * at_b - at_b**2)
    ab = weights * at_a * at_b
    hessian = (
        np.einsum("kn,np,nq->kpq", aa, a_edge, a_edge)
        + np.einsum("kn,np,nq->kpq", bb, b_edge, b_edge)
        + np.einsum("kn,np,nq->kpq", ab, a_edge, b_edge)
        + np.einsum("kn,np,nq->kpq", ab, b_edge, a_edge)
    )
    return value, gradient, hessian


def _edge(design: Floats, end: Floats) -> Floats:
    """Derivative of h end - x gamma by (gamma, h), shape (n, P+1); 0 where the end is open."""
    finite = np.isfinite(end)
    return np.concatenate([-design, np.where(finite, end, 0.0)[:, None]], axis=1) * finite[:, None]


def log_normal_mass(a: Floats, b: Floats) -> Floats:
    """log(Phi(b) - Phi(a)) for a < b, without cancellation in either tail."""
    swap = a > 0
    lower, upper = np.where(swap, -b, a), np.where(swap, -a, b)
    top, bottom = special.log_ndtr(upper), special.log_ndtr(lower)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.where(np.isneginf(bottom), -np.inf, bottom - top)
        return np.asarray(top + np.log(-np.expm1(difference)))


def _hazard(x: Floats, log_mass: Floats) -> Floats:
    """phi(x) / mass; 0 at an open end."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.where(np.isfinite(x), np.exp(-0.5 * x**2 - _LOG_ROOT_TAU - log_mass), 0.0))


def _covariance(found: _Maximum, k: int) -> Floats:
    """Of theta = gamma / h, from the information in (gamma, h)."""
    gamma, h = found.gamma[k], found.h[k]
    jacobian = np.concatenate([np.eye(len(gamma)) / h, -gamma[:, None] / h**2], axis=1)
    return np.asarray(jacobian @ _inverse(-found.hessian[k]) @ jacobian.T)


def _inverse(information: Floats) -> Floats:
    """The inverse; LARGEST_VARIANCE where the information is not positive definite."""
    scale = np.sqrt(np.abs(np.diag(information)))
    scale = np.where(scale > 0, scale, 1.0)
    scaled = information / np.outer(scale, scale)
    if not np.all(np.isfinite(scaled)) or np.linalg.eigvalsh(scaled)[0] < 1e-12:
        return np.diag(np.full(len(information), LARGEST_VARIANCE))
    return np.asarray(np.linalg.inv(scaled) / np.outer(scale, scale))
