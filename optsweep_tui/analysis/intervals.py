"""95 % limits of B and beta by profile likelihood, and the search over exponents behind every limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import elementwise

from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.law import (
    B_GRID,
    B_MAX,
    B_MIN,
    Curves,
    Points,
    RowFunction,
    chunks,
    family_chi2,
    minimised,
    project,
)
from optsweep_tui.analysis.noise import Floats, Rows

# Exponents per interval. The extremes are refined between them, so the count decides the time, not the result.
FINE = 65
# How near to an extreme the search ends, as a share of the interval. Extremes are flat: the limit is off by its square.
NEAR = 1e-5


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Lower and upper ends, each of shape (R,)."""

    low: Floats
    high: Floats

    def take(self, rows: Rows) -> Limits:
        """Some of the rows, in that order."""
        return Limits(low=self.low[rows], high=self.high[rows])


def exponent_limits(
    points: Points, best: Curves, rise: Floats, families: Families | None = None, which: Rows | None = None
) -> Limits:
    """Profile limits of B: where chi-square, minimised over amplitudes and floors, has risen by `rise`.

    Args:
        points: R curves.
        best: their fits.
        rise: what chi-square may rise by, shape (M,).
        families: which curves share an exponent; None = none.
        which: families, shape (M,); None = all.
    """
    families = families or Families.apart(len(points))
    which = np.arange(len(families)) if which is None else which
    least = families.total(best.chi2)[which]
    b = best.b[families.first[which]]
    log_grid = np.log(B_GRID)
    inside = np.zeros((len(which), len(B_GRID)), dtype=bool)
    widest = int(families.counts.max(initial=1)) * points.u.shape[1]
    for part in chunks(len(which), widest * len(B_GRID)):
        grid = np.broadcast_to(B_GRID, (len(part), len(B_GRID)))
        inside[part] = family_chi2(points, families, grid, which[part]) - least[part, None] <= rise[part, None]
    at = np.log(b)
    some = inside.any(1)
    first = np.where(some, inside.argmax(1), len(B_GRID))
    last = np.where(some, len(B_GRID) - 1 - inside[:, ::-1].argmax(1), -1)
    # The best exponent is inside by definition, also where the region is narrower than the grid.
    first = np.minimum(first, np.searchsorted(log_grid, at - 1e-12))
    last = np.maximum(last, np.searchsorted(log_grid, at + 1e-12, side="right") - 1)

    find: Any = elementwise.find_root

    def excess(t: Floats, rows_as_floats: Floats) -> Floats:
        row = rows_as_floats.astype(np.intp)
        return np.asarray(family_chi2(points, families, np.exp(t), which[row]) - least[row] - rise[row])

    def crossing(outer: Floats, inner: Floats, open_end: npt.NDArray[np.bool_], bound: float) -> Floats:
        ends = np.full(len(which), np.log(bound))
        closed = np.flatnonzero(~open_end)
        if len(closed):
            found = find(excess, (outer[closed], inner[closed]), args=(closed.astype(float),))
            ends[closed] = np.where(found.success, found.x, outer[closed])
        return np.asarray(np.exp(ends))

    inner_low = np.minimum(log_grid[np.minimum(first, len(B_GRID) - 1)], at)
    inner_high = np.maximum(log_grid[np.maximum(last, 0)], at)
    low = crossing(log_grid[np.maximum(first - 1, 0)], inner_low, first == 0, B_MIN)
    high = crossing(log_grid[np.minimum(last + 1, len(B_GRID) - 1)], inner_high, last == len(B_GRID) - 1, B_MAX)
    return Limits(low=np.minimum(low, b), high=np.maximum(high, b))


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What chi-square a curve may have at an exponent when that of its family may rise by so much."""

    points: Points
    families: Families
    owner: Rows
    """The curve of each entry, shape (M,)."""
    most: Floats
    """The family's smallest chi-square plus the rise, shape (M,)."""

    @classmethod
    def of(cls, points: Points, best: Curves, families: Families, owner: Rows, rise: Floats) -> Allowance:
        """Args: R curves, their fits, their families; the curve of each entry and what its family may rise by."""
        least = families.total(best.chi2)[families.of[owner]]
        return cls(points=points, families=families, owner=owner, most=rise + least)

    def at(self, b: Floats, entry: Rows) -> Floats:
        """What is left when the other curves of the family have had theirs; shape of b."""
        most = _wide(self.most[entry], b)
        if self.families.single:
            return most
        own = self.owner[entry]
        total = family_chi2(self.points, self.families, b, self.families.of[own])
        return np.asarray(most - (total - project(self.points.take(own), b).admissible_chi2))


def floor_limits(
    points: Points, best: Curves, rise: Floats, exponents: Limits, families: Families | None = None
) -> Limits:
    """Profile limits of beta, clipped at 0: beta +- sqrt((rise - excess(B)) V22), extremes over B.

    Args:
        points: R curves.
        best: their fits.
        rise: what chi-square may rise by, shape (R,).
        exponents: profile limits of B at the same rise, shape (R,).
        families: which curves share an exponent; None = none.
    """
    families = families or Families.apart(len(points))
    allowance = Allowance.of(points, best, families, np.arange(len(points)), rise)
    span = Span.of(exponents)

    def end(b: Floats, row: Rows, side: float) -> Floats:
        """side * beta at the end of the interval that belongs to each exponent."""
        line = project(points.take(row), b)
        spare = allowance.at(b, row) - line.chi2
        return np.asarray(side * line.beta + np.sqrt(np.where(spare >= 0, spare, np.nan) * line.v_bb))

    low = -span.largest(lambda b, row: end(b, row, -1.0))
    high = span.largest(lambda b, row: end(b, row, 1.0))
    spare = span.largest(lambda b, row: allowance.at(b, row) - project(points.take(row), b).chi2_0)
    low = np.where(spare >= 0, 0.0, np.clip(np.fmin(low, best.beta), 0.0, None))
    return Limits(low=low, high=np.fmax(high, best.beta))


GRID: Floats = np.linspace(0.0, 1.0, FINE)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Intervals of exponents, spread as log B = middle - half cos(pi s) with s from 0 to 1.

    Where an end of the interval is one of the profile, the spare chi-square vanishes there linearly and the limits have
    a square root of it: in s that is smooth, and the extreme lies inside, where a grid and scipy's minimiser find it.
    """

    middle: Floats
    half: Floats

    @classmethod
    def of(cls, exponents: Limits) -> Span:
        low, high = np.log(exponents.low), np.log(exponents.high)
        return cls(middle=0.5 * (low + high), half=0.5 * (high - low))

    def b(self, s: Floats, row: Rows) -> Floats:
        """Exponents at s of some rows."""
        return np.asarray(np.exp(_wide(self.middle[row], s) - _wide(self.half[row], s) * np.cos(np.pi * s)))

    def largest(self, function: RowFunction, values: Floats | None = None) -> Floats:
        """Largest value of function(B, row) over each row's interval; NaN where it has none.

        Args:
            function: of exponents and rows.
            values: the function on `GRID`, shape (R, FINE), where it is known already.
        """
        rows = np.arange(len(self.middle))
        if values is None:
            values = function(self.b(np.broadcast_to(GRID, (len(rows), FINE)), rows), rows)
        values = np.where(np.isnan(values), -np.inf, values)
        place = values.argmax(1)
        top = values[rows, place]
        inner = np.flatnonzero((place > 0) & (place < FINE - 1) & np.isfinite(top) & (self.half > 0))
        sides = np.stack([values[inner, place[inner] + step] for step in (-1, 1)], axis=1)
        inner = inner[np.isfinite(sides).all(1)]
        if len(inner):

            def at(s: Floats, row: Rows) -> Floats:
                return function(self.b(s, row), row)

            low, centre, high = (GRID[place[inner] + step] for step in (-1, 0, 1))
            s = minimised(lambda s, row: -np.nan_to_num(at(s, row), nan=-1e300), low, centre, high, inner, NEAR)
            top[inner] = np.fmax(top[inner], at(s, inner))
        return np.where(np.isneginf(top), np.nan, top)


def _wide(values: Floats, b: Floats) -> Floats:
    """Values of shape (R,) beside exponents of shape (R,) or (R, G)."""
    return np.broadcast_to(values[:, None], b.shape) if b.ndim == 2 else values
