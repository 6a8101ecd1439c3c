"""95 % limits of D_eff by profile likelihood, in closed form for each exponent.

Observations: the K baseline points with variances sigma_i^2 / n_i and the competitor's loss L with variance s. The
profile of D_eff at u* is the chi-square of all K + 1 observations under the curves with f(u*) = mu. For a fixed B
everything is linear in (amplitude, beta, mu), so with (a, b) the line through the baseline points and V its covariance

    chi2(u*, B) = chi2(B) + (L - a x - b)^2 / (s + V11 x^2 + 2 V12 x + V22),     x = exp(-B u*)

and {u*: chi2(u*, B) - min <= q} is the solution of a quadratic in x (Fieller 1954). The limits are the extremes over B.
Where the extreme of a B has beta < 0 it moves onto beta = 0 (the level sets of u* are half-spaces, the admissible
region is convex), where the same quadratic holds with one parameter less. Where curves share B, the chi-square of the
others at that B is spent before: the same quadratic holds with what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.intervals import FINE, GRID, Allowance, Limits, Span, exponent_limits
from optsweep_tui.analysis.law import Curves, Points, Projection, chunks, project
from optsweep_tui.analysis.noise import Floats, Rows


def budget_limits(
    points: Points,
    best: Curves,
    owner: Rows,
    loss: Floats,
    loss_variance: Floats,
    rise: Floats,
    families: Families | None = None,
) -> Limits:
    """Profile limits of u* = log(D_eff / D_min); -inf or inf where they are open.

    Args:
        points: R baseline curves.
        best: their fits.
        owner: which curve each of M competitor losses is held against, shape (M,).
        loss: the losses, nats, shape (M,).
        loss_variance: their variances, shape (M,).
        rise: what chi-square may rise by, shape (M,).
        families: which curves share an exponent; None = none.
    """
    families = families or Families.apart(len(points))
    # Competitors of one curve share its exponents' limits, and the lines through its points over them.
    pairs, pair_of = np.unique(np.stack([owner.astype(float), rise], axis=1), axis=0, return_inverse=True)
    curve, pair_rise = pairs[:, 0].astype(np.intp), pairs[:, 1]
    exponents = exponent_limits(points, best, pair_rise, families, families.of[curve])
    low, high = np.full(len(owner), np.nan), np.full(len(owner), np.nan)
    widest = int(families.counts.max(initial=1)) * points.u.shape[1]
    # Per loss: the fields of its line over the exponents, its points in the search, and its part of the lines' making.
    numbers = max(FINE * FIELDS, widest, FINE * widest * len(pairs) // max(1, len(owner)))
    for part in chunks(len(owner), numbers):
        used, place = np.unique(pair_of[part], return_inverse=True)
        mine = _Entries(
            points=points.take(owner[part]),
            loss=loss[part],
            variance=loss_variance[part],
            allowance=Allowance.of(points, best, families, owner[part], rise[part]),
        )
        lines = _Lines.over(points, best, families, curve[used], pair_rise[used], exponents.take(used))
        found = _extremes(mine, lines, place, best.take(owner[part]).invert(loss[part]))
        low[part], high[part] = found.low, found.high
    return Limits(low=low, high=high)


FIELDS = 8
"""Arrays of a line's projection that the quadratic needs."""


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """Lines through P curves over the exponents of their intervals."""

    exponents: Limits
    b: Floats
    """Shape (P, FINE)."""
    line: Projection
    allowed: Floats
    """Chi-square that each line may have, shape (P, FINE)."""

    @classmethod
    def over(
        cls, points: Points, best: Curves, families: Families, curve: Rows, rise: Floats, exponents: Limits
    ) -> _Lines:
        span, rows = Span.of(exponents), np.arange(len(curve))
        b = span.b(np.broadcast_to(GRID, (len(rows), FINE)), rows)
        allowed = Allowance.of(points, best, families, curve, rise).at(b, rows)
        return cls(exponents=exponents, b=b, line=project(points.take(curve), b), allowed=allowed)


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """M competitors' losses, each with the points of its curve."""

    points: Points
    loss: Floats
    variance: Floats
    allowance: Allowance

    def ends(self, b: Floats, row: Rows) -> tuple[Floats, Floats]:
        """(lowest, highest) u* of some entries at one exponent each."""
        line = project(self.points.take(row), b)
        return _ends(line, b, self.loss[row], self.variance[row], self.allowance.at(b, row))


def _extremes(entries: _Entries, lines: _Lines, place: Rows, at: Floats) -> Limits:
    """Extremes of u* over the exponents.

    Args:
        entries: M losses.
        lines: of their curves.
        place: which of the lines belong to each loss, shape (M,).
        at: where the best curve reaches each loss, shape (M,).
    """
    line, wide = lines.line.take(place), np.broadcast_shapes((len(place), FINE))
    loss, variance = (np.broadcast_to(column[:, None], wide) for column in (entries.loss, entries.variance))
    low, high = _ends(line, lines.b[place], loss, variance, lines.allowed[place])
    span = Span.of(lines.exponents.take(place))
    low = -span.largest(lambda b, row: -entries.ends(b, row)[0], -low)
    high = span.largest(lambda b, row: entries.ends(b, row)[1], high)
    return Limits(low=np.fmin(low, at), high=np.fmax(high, at))


def _ends(line: Projection, b: Floats, loss: Floats, variance: Floats, allowed: Floats) -> tuple[Floats, Floats]:
    """(lowest, highest) u* for given exponents with a chi-square of at most `allowed`; NaN where there is none."""
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
