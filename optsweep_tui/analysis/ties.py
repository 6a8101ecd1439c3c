"""Ranks, tie groups and gaps among the cells of one budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optsweep_tui.analysis.cells import CellLoss, Group
from optsweep_tui.analysis.noise import Noise, quantile_squared

# analysis.md: cells closer than this many standard errors of their difference are tied.
TIE_WIDTH = 1.645


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a cell stands among those of its budget."""

    rank: int
    tie_group: int | None
    """None without sigma."""
    winner: bool
    """Alone in the first tie group, and its gap to the next is resolved at 95 %."""


def standings(cells: Sequence[CellLoss], noise: Noise) -> dict[str, Standing]:
    """Standing of each optimizer at one budget.

    A tie group starts at its best cell and holds every next cell whose gap to *that* one is below
    1.645 sigma sqrt(1/n1 + 1/n2); so groups do not depend on the order of the rows and do not chain.

    Args:
        cells: cells of one group and one budget.
        noise: the group's sigma.
    """
    ranked = sorted((cell for cell in cells if cell.has_loss), key=lambda cell: (cell.loss, cell.optimizer))
    sigma = float(noise.at(ranked[0].tokens)) if ranked else math.nan
    groups: list[list[CellLoss]] = []
    for cell in ranked:
        leader = groups[-1][0] if groups else None
        if leader is not None and cell.loss - leader.loss < TIE_WIDTH * sigma * standard_error(leader, cell):
            groups[-1].append(cell)
        else:
            groups.append([cell])
    return {
        cell.optimizer: Standing(
            rank=1 + sum(other.loss < cell.loss for other in ranked),
            tie_group=number if noise.known else None,
            winner=noise.known and number == 1 and len(members) == 1 and len(ranked) > 1 and _resolved(ranked, noise),
        )
        for number, members in enumerate(groups, start=1)
        for cell in members
    }


def _resolved(ranked: Sequence[CellLoss], noise: Noise) -> bool:
    """The best is better than the next by more than the 95 % half-width of their gap, degrees of freedom counted."""
    best, second = ranked[:2]
    return second.loss - best.loss > gap_half_width(second, best, noise)


def standard_error(first: CellLoss, second: CellLoss) -> float:
    """Standard error of a difference of two cells in units of sigma: sqrt(1/n1 + 1/n2)."""
    return math.sqrt(1.0 / first.n + 1.0 / second.n)


def gap_half_width(cell: CellLoss, other: CellLoss, noise: Noise) -> float:
    """Half the 95 % interval of the gap between two cells of one budget, nats; NaN without sigma."""
    return _quantile(cell, noise) * standard_error(cell, other)


def half_width(cell: CellLoss, noise: Noise) -> float:
    """Half the 95 % interval of a cell's own loss, nats; NaN without sigma."""
    return _quantile(cell, noise) / math.sqrt(cell.n)


def _quantile(cell: CellLoss, noise: Noise) -> float:
    """Sigma of one run at the cell's budget times its 95 % quantile, nats; NaN without sigma."""
    if not noise.known:
        return math.nan
    dof = noise.effective_dof(np.array([cell.tokens]), np.array([1.0]))
    return float(math.sqrt(float(quantile_squared(dof))) * noise.at(cell.tokens))


def budgets(group: Group) -> dict[float, list[CellLoss]]:
    """Cells by tokens."""
    found: dict[float, list[CellLoss]] = {}
    for cell in group.cells:
        found.setdefault(cell.tokens, []).append(cell)
    return found
