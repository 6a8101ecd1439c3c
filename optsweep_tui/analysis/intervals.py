"""95 % limits of D_eff, B and beta by profile likelihood, in closed form for each exponent; bootstrap beside it.

Observations: the K baseline points with variances sigma_i^2 / n_i and the competitor's loss L with variance s. The
profile of D_eff at u* is the chi-square of all K + 1 observations under the curves with f(u*) = mu. For a fixed B
everything is linear in (amplitude, beta, mu), so with (a, b) the line through the baseline points and V its covariance

    chi2(u*, B) = chi2(B) + (L - a x - b)^2 / (s + V11 x^2 + 2 V12 x + V22),     x = exp(-B u*)

and {u*: chi2(u*, B) - min <= q} is the solution of a quadratic in x (Fieller 1954). The limits are the extremes over B.
Where the extreme of a B has beta < 0 it moves onto beta = 0 (the level sets of u* are half-spaces, the admissible
region is convex), where the same quadratic holds with one parameter less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import elementwise

from optsweep_tui.analysis.law import (
    B_GRID,
    B_MAX,
    B_MIN,
    CHUNK,
    Curves,
    Points,
    RowFunction,
    Rows,
    fitted,
    minimised,
    project,
)
from optsweep_tui.analysis.noise import Floats

# Exponents per interval. The extremes are refined between them, so the count decides the time, not the result.
FINE = 65


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Lower and upper ends, each of shape (R,)."""

    low: Floats
    high: Floats


def exponent_limits(points: Points, best: Curves, rise: Floats) -> Limits:
    """Profile limits of B: where chi-square, minimised over amplitude and beta, has risen by `rise`.

    Args:
        points: R curves.
        best: their fits.
        rise: what chi-square may rise by, shape (R,).
    """
    log_grid = np.log(B_GRID)
    rows = np.arange(len(points))
    inside = np.zeros((len(points), len(B_GRID)), dtype=bool)
    for start in range(0, len(points), CHUNK):
        part = rows[start : start + CHUNK]
        chi2 = project(points.take(part), np.broadcast_to(B_GRID, (len(part), len(B_GRID)))).admissible_chi2
        inside[part] = chi2 - best.chi2[part, None] <= rise[part, None]
    at = np.log(best.b)
    some = inside.any(1)
    first = np.where(some, inside.argmax(1), len(B_GRID))
    last = np.where(some, len(B_GRID) - 1 - inside[:, ::-1].argmax(1), -1)
    # The best exponent is inside by definition, also where the region is narrower than the grid.
    first = np.minimum(first, np.searchsorted(log_grid, at - 1e-12))
    last = np.maximum(last, np.searchsorted(log_grid, at + 1e-12, side="right") - 1)

    find: Any = elementwise.find_root

    def excess(t: Floats, rows_as_floats: Floats) -> Floats:
        row = rows_as_floats.astype(np.intp)
        return np.asarray(project(points.take(row), np.exp(t)).admissible_chi2 - best.chi2[row] - rise[row])

    def crossing(outer: Floats, inner: Floats, open_end: npt.NDArray[np.bool_], bound: float) -> Floats:
        ends = np.full(len(points), np.log(bound))
        closed = np.flatnonzero(~open_end)
        if len(closed):
            found = find(excess, (outer[closed], inner[closed]), args=(closed.astype(float),))
            ends[closed] = np.where(found.success, found.x, outer[closed])
        return np.asarray(np.exp(ends))

    inner_low = np.minimum(log_grid[np.minimum(first, len(B_GRID) - 1)], at)
    inner_high = np.maximum(log_grid[np.maximum(last, 0)], at)
    low = crossing(log_grid[np.maximum(first - 1, 0)], inner_low, first == 0, B_MIN)
    high = crossing(log_grid[np.minimum(last + 1, len(B_GRID) - 1)], inner_high, last == len(B_GRID) - 1, B_MAX)
    return Limits(low=np.minimum(low, best.b), high=np.maximum(high, best.b))


def floor_limits(points: Points, best: Curves, rise: Floats, exponents: Limits) -> Limits:
    """Profile limits of beta, clipped at 0: beta +- sqrt((rise - excess(B)) V22), extremes over B.

    Args:
        points: R curves.
        best: their fits.
        rise: what chi-square may rise by, shape (R,).
        exponents: profile limits of B at the same rise.
    """

    def end(b: Floats, row: Rows, side: float) -> Floats:
        """side * beta at the end of the interval that belongs to each exponent."""
        line = project(points.take(row), b)
        spare = _wide((rise + best.chi2)[row], b) - line.chi2
        return np.asarray(side * line.beta + np.sqrt(np.where(spare >= 0, spare, np.nan) * line.v_bb))

    low = -_largest(exponents, lambda b, row: end(b, row, -1.0))
    high = _largest(exponents, lambda b, row: end(b, row, 1.0))
    least = -_largest(exponents, lambda b, row: -project(points.take(row), b).chi2_0)
    low = np.where(least - best.chi2 <= rise, 0.0, np.clip(np.fmin(low, best.beta), 0.0, None))
    return Limits(low=low, high=np.fmax(high, best.beta))


def budget_limits(
    points: Points, best: Curves, owner: Rows, loss: Floats, loss_variance: Floats, rise: Floats
) -> Limits:
    """Profile limits of u* = log(D_eff / D_min); -inf or inf where they are open.

    Args:
        points: R baseline curves.
        best: their fits.
        owner: which curve each of M competitor losses is held against, shape (M,).
        loss: the losses, nats, shape (M,).
        loss_variance: their variances, shape (M,).
        rise: what chi-square may rise by, shape (M,).
    """
    # Competitors of one curve share its exponents' limits.
    pairs, pair_of = np.unique(np.stack([owner.astype(float), rise], axis=1), axis=0, return_inverse=True)
    curve = pairs[:, 0].astype(np.intp)
    exponents = exponent_limits(points.take(curve), best.take(curve), pairs[:, 1])
    low, high = np.full(len(owner), np.nan), np.full(len(owner), np.nan)
    for start in range(0, len(owner), CHUNK):
        part = np.arange(start, min(start + CHUNK, len(owner)))
        mine, span = owner[part], Limits(low=exponents.low[pair_of[part]], high=exponents.high[pair_of[part]])
        found = _extremes(points.take(mine), best.take(mine), span, loss[part], loss_variance[part], rise[part])
        low[part], high[part] = found.low, found.high
    return Limits(low=low, high=high)


def _extremes(
    points: Points, best: Curves, exponents: Limits, loss: Floats, loss_variance: Floats, rise: Floats
) -> Limits:
    """Extremes of u* over the exponents; one loss per curve here."""

    def ends(b: Floats, row: Rows) -> tuple[Floats, Floats]:
        allowed = _wide((rise + best.chi2)[row], b)
        return _ends(points.take(row), b, _wide(loss[row], b), _wide(loss_variance[row], b), allowed)

    at = best.invert(loss)
    high = _largest(exponents, lambda b, row: ends(b, row)[1])
    low = -_largest(exponents, lambda b, row: -ends(b, row)[0])
    return Limits(low=np.fmin(low, at), high=np.fmax(high, at))


def _wide(values: Floats, b: Floats) -> Floats:
    """Values of shape (R,) beside exponents of shape (R,) or (R, G)."""
    return values[:, None] if b.ndim == 2 else values


def _ends(points: Points, b: Floats, loss: Floats, variance: Floats, allowed: Floats) -> tuple[Floats, Floats]:
    """(lowest, highest) u* for given exponents with a chi-square of at most `allowed`; NaN where there is none."""
    line = project(points, b)
    # The quadratic A x^2 - 2 H x + C <= 0 of the module's docstring, for the free line.
    m = loss - line.beta
    spare = np.where(allowed >= line.chi2, allowed - line.chi2, np.nan)
    with np.errstate(all="ignore"):
        a2 = line.amplitude**2 - spare * line.v_aa
        h = line.amplitude * m + spare * line.v_ab
        c = m**2 - spare * (variance + line.v_bb)
        x_small, x_large = _roots(a2, h, c)
        # An amplitude that may be 0, or less, leaves u* open on both sides.
        unknown = (a2 <= 0) | line.flat
        x_small, x_large = np.where(unknown, -np.inf, x_small), np.where(unknown, np.inf, x_large)
        spare0 = np.where(allowed >= line.chi2_0, allowed - line.chi2_0, np.nan)
        x0_small, x0_large = _roots(
            line.amplitude0**2 - spare0 * line.v_aa0, line.amplitude0 * loss, loss**2 - spare0 * variance
        )

        def moved(x: Floats, x0: Floats) -> Floats:
            """The floor that goes with an extreme; where it is negative the extreme on beta = 0 counts."""
            place = np.clip(np.where(np.isfinite(x), x, 0.0), 0.0, None)
            gain = (line.v_ab * place + line.v_bb) / (
                variance + line.v_bb + 2 * line.v_ab * place + line.v_aa * place**2
            )
            floor = line.beta + gain * (m - line.amplitude * place)
            return np.where(np.isfinite(x) & (floor < 0), x0, x)

        x_small, x_large = moved(x_small, x0_small), moved(x_large, x0_large)
        high = np.where(x_small > 0, -np.log(np.where(x_small > 0, x_small, 1.0)) / b, np.inf)
        low = np.where(x_large > 0, -np.log(np.where(x_large > 0, x_large, 1.0)) / b, np.inf)
        empty = np.isnan(x_small) | np.isnan(x_large)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def _roots(a2: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats]:
    """Roots of a2 x^2 - 2 h x + c, the smaller first, without cancellation; NaN where there are none."""
    with np.errstate(all="ignore"):
        root = np.sqrt(np.maximum(h * h - a2 * c, 0.0))
        q = h + np.where(h >= 0, root, -root)
        first, second = q / a2, c / q
        second = np.where(q == 0, first, second)
    return np.minimum(first, second), np.maximum(first, second)


def _largest(exponents: Limits, function: RowFunction) -> Floats:
    """Largest value of function(B, row) over each row's interval of exponents; NaN where it has none.

    The exponents are spread as log B = middle - half cos(pi s). Where an end of the interval is one of the profile, the
    spare chi-square vanishes there linearly and the function has a square root of it: in s that is smooth, and its
    largest value lies inside, where a grid and scipy's minimiser find it.
    """
    middle = 0.5 * (np.log(exponents.low) + np.log(exponents.high))
    half = 0.5 * (np.log(exponents.high) - np.log(exponents.low))

    def at(s: Floats, row: Rows) -> Floats:
        b = np.exp(_wide(middle[row], s) - _wide(half[row], s) * np.cos(np.pi * s))
        return function(b, row)

    rows = np.arange(len(middle))
    grid = np.broadcast_to(np.linspace(0.0, 1.0, FINE), (len(rows), FINE))
    values = at(grid, rows)
    values = np.where(np.isnan(values), -np.inf, values)
    place = values.argmax(1)
    top = values[rows, place]
    inner = np.flatnonzero((place > 0) & (place < FINE - 1) & np.isfinite(top) & (half > 0))
    sides = np.stack([values[inner, place[inner] + step] for step in (-1, 1)], axis=1)
    inner = inner[np.isfinite(sides).all(1)]
    if len(inner):
        low, centre, high = (grid[inner, place[inner] + step] for step in (-1, 0, 1))
        s = minimised(lambda s, row: -np.nan_to_num(at(s, row), nan=-1e300), low, centre, high, inner)
        top[inner] = np.fmax(top[inner], at(s, inner))
    return np.where(np.isneginf(top), np.nan, top)


def bootstrap_budgets(
    points: Points, best: Curves, loss: Floats, loss_sd: Floats, dof: float, draws: int, rng: np.random.Generator
) -> Floats:
    """Parametric bootstrap of u* for M losses against one curve; shape (M, draws), infinite below a drawn floor.

    Each draw renews the baseline points around the fitted curve and the M losses around their own values; where sigma
    is measured, each draw also renews sigma: sigma sqrt(dof / chi2_dof).

    Args:
        points: the one curve's points, R = 1.
        best: its fit.
        loss: M losses, nats.
        loss_sd: their standard deviations.
        dof: degrees of freedom of sigma, infinite when known.
        draws: number of draws.
        rng: numpy generator.
    """
    keep = points.w[0] > 0
    u, w = points.u[0, keep], points.w[0, keep]
    centre = best.loss(points.u)[0, keep]
    stretch = np.ones(draws) if np.isinf(dof) else np.sqrt(dof / rng.chisquare(dof, draws))
    y = centre + stretch[:, None] * rng.standard_normal((draws, len(u))) / np.sqrt(w)
    curves = fitted(Points(u=np.broadcast_to(u, y.shape), y=y, w=np.broadcast_to(w, y.shape)))
    drawn = loss[:, None] + stretch * loss_sd[:, None] * rng.standard_normal((len(loss), draws))
    return np.stack([curves.invert(row) for row in drawn]) if len(loss) else np.empty((0, draws))
