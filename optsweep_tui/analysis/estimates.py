"""Where the baseline's curve reaches each competitor's loss, the interval around it, and the baseline's own noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from optsweep_tui.analysis.baselines import Baseline, Baselines
from optsweep_tui.analysis.bootstrap import drawn
from optsweep_tui.analysis.budget_limits import budget_limits
from optsweep_tui.analysis.cells import CellLoss
from optsweep_tui.analysis.freedom import freedom
from optsweep_tui.analysis.gradient import budget_gradient, exponent_gradient
from optsweep_tui.analysis.noise import LEVEL, Floats, Rows, quantile_squared
from optsweep_tui.analysis.ties import Standing, budgets, standings

Ci: TypeAlias = Literal["profile", "bootstrap"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One competitor cell against one baseline."""

    item: Baseline
    cell: CellLoss
    standing: Standing | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What was computed for one case, in u = log(D / smallest budget); NaN where there is nothing."""

    u: float
    low: float
    high: float
    dof: float
    own: tuple[float, float]
    """Token speedups of the baseline's own noise."""


def estimated(found: Baselines, cases: list[Case], ci: Ci, draws: int, rng_seed: int) -> list[Estimate]:
    """One estimate per case, all computed together.

    Args:
        found: the baselines.
        cases: competitor cells.
        ci: profile likelihood or parametric bootstrap.
        draws: bootstrap draws.
        rng_seed: seed of the bootstrap.
    """
    u = _inverted(found, cases)
    limits = _profile(found, cases, u) if ci == "profile" else _bootstrap(found, cases, u, draws, rng_seed)
    own = _own_noise(found, cases)
    columns = (u, limits.low, limits.high, limits.dof, *own)
    return [
        Estimate(u=at, low=low, high=high, dof=dof, own=(own_low, own_high))
        for at, low, high, dof, own_low, own_high in zip(*(column.tolist() for column in columns), strict=True)
    ]


def cases_of(found: Baselines, baseline: str) -> list[Case]:
    cases = []
    for item in found.items:
        places = {tokens: standings(cells, item.raw_noise) for tokens, cells in budgets(item.group).items()}
        for cell in sorted(item.group.cells, key=lambda cell: (cell.optimizer, cell.tokens)):
            if cell.optimizer != baseline:
                cases.append(Case(item=item, cell=cell, standing=places[cell.tokens].get(cell.optimizer)))
    return cases


def _inverted(found: Baselines, cases: list[Case]) -> Floats:
    """u = log(D_eff / smallest budget) of each case; NaN without a curve or a loss, infinite at or below the floor."""
    u = np.full(len(cases), np.nan)
    some = np.array([place for place, case in enumerate(cases) if _has_number(case)], dtype=np.intp)
    if len(some):
        rows = np.array([cases[place].item.row for place in some], dtype=np.intp)
        u[some] = found.curves.take(rows).invert(np.array([cases[place].cell.loss for place in some]))
    return u


def _has_number(case: Case) -> bool:
    return not case.item.refusal and case.cell.has_loss and case.cell.tokens > 0


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """Ends of u and the degrees of freedom behind them, one per case; NaN without an interval."""

    low: Floats
    high: Floats
    dof: Floats


def _profile(found: Baselines, cases: list[Case], u: Floats) -> _Limits:
    low, high, dof = (np.full(len(cases), np.nan) for _ in range(3))
    some = np.array(
        [place for place, case in enumerate(cases) if np.isfinite(u[place]) and case.item.noise.known], dtype=np.intp
    )
    if not len(some):
        return _Limits(low=low, high=high, dof=dof)
    chosen = [cases[place] for place in some]
    rows = np.array([case.item.row for case in chosen], dtype=np.intp)
    loss = np.array([case.cell.loss for case in chosen])
    variance = np.array([_variance(case) for case in chosen])
    dof[some] = _effective_dof(found, chosen, rows, loss)
    ends = budget_limits(found.points, found.curves, rows, loss, variance, quantile_squared(dof[some]), found.families)
    low[some], high[some] = ends.low, ends.high
    return _Limits(low=low, high=high, dof=dof)


def _effective_dof(found: Baselines, cases: list[Case], rows: Rows, loss: Floats) -> Floats:
    """Degrees of freedom of each log D_eff's variance, from the ends' sigmas that it is made of."""
    dof = np.full(len(cases), math.inf)
    if all(math.isinf(item.noise.dof) for item in found.fitted_items):
        return dof
    measured = (
        list(range(len(cases)))
        if found.shared
        else [place for place, case in enumerate(cases) if not math.isinf(case.item.noise.dof)]
    )
    if not measured:
        return dof
    exponent = exponent_gradient(found.points, found.curves, found.families)
    gradient = budget_gradient(found.points, found.curves, exponent, rows[measured], loss[measured])
    for row, place in enumerate(measured):
        case = cases[place]
        dof[place] = freedom(
            found,
            exponent,
            case.item,
            gradient.points[row],
            float(gradient.exponent[row]),
            (case.cell, float(gradient.loss[row])),
        )
    return dof


def _bootstrap(found: Baselines, cases: list[Case], u: Floats, draws: int, rng_seed: int) -> _Limits:
    """Percentiles of D_eff over draws that renew the baseline's points, the competitors' losses and a measured sigma.

    "lower" and "higher" pick drawn values: interpolating between infinite ones gives NaN.
    """
    low, high, dof = (np.full(len(cases), np.nan) for _ in range(3))
    by_row: dict[int, list[int]] = {}
    for place, case in enumerate(cases):
        if np.isfinite(u[place]) and case.item.noise.known:
            by_row.setdefault(case.item.row, []).append(place)
    tail, items = (1 - LEVEL) / 2, found.fitted_items
    wanted = np.unique(found.families.of[sorted(by_row)]) if by_row else np.empty(0, dtype=np.intp)
    for family in wanted:
        rows = found.families.members(np.array([family]))[0]
        curves = drawn(found, [items[row] for row in rows], draws, rng_seed)
        for row, curve in zip(rows.tolist(), curves, strict=True):
            places = by_row.get(row, [])
            if not places:
                continue
            loss = np.array([cases[place].cell.loss for place in places])
            sd = np.sqrt([_variance(cases[place]) for place in places])
            renewed = curve.budgets(loss, sd)
            filled = np.where(np.isnan(renewed), np.inf, renewed)
            low[places] = np.quantile(filled, tail, axis=1, method="lower")
            high[places] = np.quantile(filled, 1 - tail, axis=1, method="higher")
            dof[places] = items[row].noise.dof
    return _Limits(low=low, high=high, dof=dof)


def _variance(case: Case) -> float:
    return float(case.item.noise.at(case.cell.tokens)) ** 2 / case.cell.n


def _own_noise(found: Baselines, cases: list[Case]) -> tuple[Floats, Floats]:
    """Token speedup of the baseline against itself at each budget: loss f(c) +- quantile x sigma / sqrt n, inverted."""
    low, high = np.full(len(cases), np.nan), np.full(len(cases), np.nan)
    some = [place for place, case in enumerate(cases) if _has_number(case) and case.item.noise.known]
    if some:
        chosen = [cases[place] for place in some]
        curves = found.curves.take(np.array([case.item.row for case in chosen], dtype=np.intp))
        at = np.log([case.cell.tokens / float(case.item.points[0].tokens) for case in chosen])
        noises = [(case.item.noise, case.cell.tokens) for case in chosen]
        dof = np.array([float(noise.effective_dof([tokens], [1.0])) for noise, tokens in noises])
        half = np.sqrt(quantile_squared(dof) * np.array([_variance(case) for case in chosen]))
        with np.errstate(over="ignore"):
            low[some] = np.exp(curves.invert(curves.loss(at) + half) - at)
            high[some] = np.exp(curves.invert(curves.loss(at) - half) - at)
    return low, high
