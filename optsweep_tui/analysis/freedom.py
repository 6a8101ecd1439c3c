"""Degrees of freedom of what is computed from losses whose sigmas were measured: Welch 1947, Satterthwaite 1946."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optsweep_tui.analysis.baselines import Baseline, Baselines
from optsweep_tui.analysis.cells import CellLoss
from optsweep_tui.analysis.gradient import ExponentGradient
from optsweep_tui.analysis.noise import Floats


def freedom(
    found: Baselines,
    exponent: ExponentGradient,
    item: Baseline,
    slopes: Floats,
    by_exponent: float,
    competitor: tuple[CellLoss, float] | None = None,
) -> float:
    """Degrees of freedom of a quantity of one curve, from the sigmas that its variance is made of; infinite when known.

    Args:
        found: the baselines.
        exponent: how their losses move their exponents.
        item: the curve.
        slopes: of the quantity with respect to the losses of this curve, shape (K,) or padded.
        by_exponent: its slope with respect to B, through which the other curves of the family enter.
        competitor: a cell whose loss enters as well, with its slope.
    """
    rows = found.families.members(found.families.of[found.row(item)])[0].tolist()
    others = [found.fitted_items[row] for row in rows if row != item.row]
    if all(math.isinf(each.noise.dof) for each in (item, *others)):
        return math.inf
    tokens, shares = item.tokens, slopes[: len(item.points)] ** 2 / item.counts
    if competitor is not None:
        cell, slope = competitor
        tokens, shares = np.append(tokens, cell.tokens), np.append(shares, slope**2 / cell.n)
    parts = [_part(item, tokens, shares)]
    for other in others:
        own = by_exponent * exponent.points[other.row, : len(other.points)]
        parts.append(_part(other, other.tokens, own**2 / other.counts))
    return combined(parts)


def _part(item: Baseline, tokens: Floats, shares: Floats) -> tuple[float, float]:
    """(variance that a group's sigma brings, its degrees of freedom)."""
    return float(shares @ item.noise.at(tokens) ** 2), float(item.noise.effective_dof(tokens, shares))


def combined(parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances.

    Args:
        parts: (variance, degrees of freedom) of each.
    """
    if len(parts) == 1:
        return parts[0][1]
    spread = sum(variance**2 / dof for variance, dof in parts)
    return sum(variance for variance, _ in parts) ** 2 / spread if spread > 0 else math.inf
