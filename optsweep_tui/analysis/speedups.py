"""`speedup`: how much more the baseline needs for the same loss, in tokens, FLOPs or seconds, with its uncertainty."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.baselines import Baseline, Baselines, baselines
from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import SPEEDUP
from optsweep_tui.analysis.costs import Costs, costs
from optsweep_tui.analysis.curve import in_family, uneven_supports
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.fairness import comparison_flags
from optsweep_tui.analysis.intervals import bootstrap_budgets, budget_limits
from optsweep_tui.analysis.noise import LEVEL, Floats, checked_sigma, quantile_squared
from optsweep_tui.analysis.sensitivity import budget_gradient
from optsweep_tui.analysis.ties import Standing, budgets, standings
from optsweep_tui.errors import OptsweepError

Unit: TypeAlias = Literal["tokens", "flops", "time"]
Ci: TypeAlias = Literal["profile", "bootstrap"]

# analysis.md: a D_eff further outside the baseline's budgets than this is refused.
REACH = 1.5
# D_eff and the budgets are compared as floats; a cell that meets an end exactly is inside.
ENDS = 1e-9


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One competitor cell against one baseline."""

    item: Baseline
    cell: CellLoss
    standing: Standing | None


def speedup(
    results: pd.DataFrame,
    *,
    baseline: str = "adamw",
    unit: Unit = "tokens",
    ci: Ci = "profile",
    sigma: float | None = None,
    max_chinchilla: float | None = None,
    draws: int = 2000,
    rng_seed: int = 0,
    knob_info: KnobInfo | None = None,
) -> pd.DataFrame:
    """Speedup of every cell of every other optimizer over the baseline's curve of its group.

    D_eff = f^-1(loss), S_tokens = D_eff / D, S_flop = S_tokens F_base / F_opt, S_time = S_tokens t_base / t_opt.
    The baseline has no row of its own: what it would show against itself by noise alone is in the columns
    `own_noise_low` and `own_noise_high` of every row.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer whose curve is inverted.
        unit: "tokens", "flops" or "time"; the last is refused unless both were timed on one device at one batch.
        ci: "profile" (profile likelihood) or "bootstrap" (parametric, both sides resampled).
        sigma: run-to-run standard deviation, nats; used exactly as given. Default: measured, else the prior, else none.
        max_chinchilla: largest ratio of the baseline's fit points; competitors are not cut.
        draws: bootstrap draws.
        rng_seed: seed of the bootstrap; the same rows give the same numbers in any order.
        knob_info: declared range per optimizer and knob (`edges.KnobInfo`).

    Returns:
        Columns of `columns.SPEEDUP`, by group, optimizer and rising budget.

    Raises:
        OptsweepError: for an unknown unit or ci, or a sigma that is no positive finite number.
    """
    if unit not in ("tokens", "flops", "time"):
        raise OptsweepError(f'--unit "{unit}" is not known', "Use tokens, flops or time.")
    if ci not in ("profile", "bootstrap"):
        raise OptsweepError(f'--ci "{ci}" is not known', "Use profile or bootstrap.")
    found = baselines(groups(results, knob_info), baseline, checked_sigma(sigma), max_chinchilla)
    cases = _cases(found, baseline)
    inverted = _inverted(found, cases)
    limits = (
        _profile(found, cases, inverted) if ci == "profile" else _bootstrap(found, cases, inverted, draws, rng_seed)
    )
    uneven = uneven_supports(found)
    rows = []
    for place, case in enumerate(cases):
        marks = {F.SUPPORT} if in_family(case.item, uneven) else set()
        rows.append(
            {
                **case.item.group.columns,
                "unit": unit,
                "baseline": baseline,
                **_row(
                    case, found, unit, inverted[place], limits.low[place], limits.high[place], limits.dof[place], marks
                ),
            }
        )
    frame = pd.DataFrame(rows, columns=list(SPEEDUP))
    return frame.astype({"tie_group": "Int64"})


def _cases(found: Baselines, baseline: str) -> list[_Case]:
    cases = []
    for item in found.items:
        places = {tokens: standings(cells, item.raw_noise) for tokens, cells in budgets(item.group).items()}
        for cell in sorted(item.group.cells, key=lambda cell: (cell.optimizer, cell.tokens)):
            if cell.optimizer != baseline:
                cases.append(_Case(item=item, cell=cell, standing=places[cell.tokens].get(cell.optimizer)))
    return cases


def _inverted(found: Baselines, cases: list[_Case]) -> Floats:
    """u = log(D_eff / smallest budget) of each case; NaN without a curve or a loss, infinite at or below the floor."""
    u = np.full(len(cases), np.nan)
    some = np.array([place for place, case in enumerate(cases) if _has_number(case)], dtype=np.intp)
    if len(some):
        rows = np.array([cases[place].item.row for place in some], dtype=np.intp)
        u[some] = found.curves.take(rows).invert(np.array([cases[place].cell.loss for place in some]))
    return u


def _has_number(case: _Case) -> bool:
    return not case.item.refusal and case.cell.has_loss and case.cell.tokens > 0


@dataclass(frozen=True, kw_only=True)
class _Limits:
    """Ends of u and the degrees of freedom behind them, one per case; NaN without an interval."""

    low: Floats
    high: Floats
    dof: Floats


def _profile(found: Baselines, cases: list[_Case], u: Floats) -> _Limits:
    low, high, dof = (np.full(len(cases), np.nan) for _ in range(3))
    some = np.array(
        [place for place, case in enumerate(cases) if np.isfinite(u[place]) and case.item.noise.known], dtype=np.intp
    )
    if not len(some):
        return _Limits(low=low, high=high, dof=dof)
    rows = np.array([cases[place].item.row for place in some], dtype=np.intp)
    points, curves = found.points.take(rows), found.curves.take(rows)
    loss = np.array([cases[place].cell.loss for place in some])
    variance = np.array([_variance(cases[place]) for place in some])
    gradient = budget_gradient(points, curves, loss)
    for row, place in enumerate(some):
        item, cell = cases[place].item, cases[place].cell
        k = len(item.points)
        tokens = np.append(item.tokens, cell.tokens)
        shares = np.append(gradient.points[row, :k] ** 2 / item.counts, gradient.loss[row] ** 2 / cell.n)
        dof[place] = float(item.noise.effective_dof(tokens, shares))
    ends = budget_limits(points, curves, loss, variance, quantile_squared(dof[some]))
    low[some], high[some] = ends.low, ends.high
    return _Limits(low=low, high=high, dof=dof)


def _bootstrap(found: Baselines, cases: list[_Case], u: Floats, draws: int, rng_seed: int) -> _Limits:
    low, high, dof = (np.full(len(cases), np.nan) for _ in range(3))
    by_row: dict[int, list[int]] = {}
    for place, case in enumerate(cases):
        if np.isfinite(u[place]) and case.item.noise.known:
            by_row.setdefault(case.item.row, []).append(place)
    tail = (1 - LEVEL) / 2
    for places in by_row.values():
        item = cases[places[0]].item
        # Seeded by the group's name and not by its place, so that neither row order nor other groups matter.
        rng = np.random.default_rng([rng_seed, zlib.crc32(item.group.name.encode())])
        index = found.row(item)
        drawn = bootstrap_budgets(
            found.points.take(index),
            found.curves.take(index),
            np.array([cases[place].cell.loss for place in places]),
            np.sqrt([_variance(cases[place]) for place in places]),
            item.noise.dof,
            draws,
            rng,
        )
        # "lower" and "higher" pick drawn values: interpolating between infinite ones gives NaN.
        filled = np.where(np.isnan(drawn), np.inf, drawn)
        low[places] = np.quantile(filled, tail, axis=1, method="lower")
        high[places] = np.quantile(filled, 1 - tail, axis=1, method="higher")
        dof[places] = item.noise.dof
    return _Limits(low=low, high=high, dof=dof)


def _variance(case: _Case) -> float:
    return float(case.item.noise.at(case.cell.tokens)) ** 2 / case.cell.n


def _row(
    case: _Case, found: Baselines, unit: Unit, u: float, u_low: float, u_high: float, dof: float, marks: set[str]
) -> dict[str, Any]:
    item, cell = case.item, case.cell
    reference = item.nearest(cell.tokens)
    cost = costs(cell, reference, item.group, item.points[0].optimizer if item.points else "")
    factor = cost.factor(unit)
    state, reason, bound = _state(case, unit, u, cost)
    marks = marks | set(cell.flags) | comparison_flags(cell, reference)
    marks |= {F.MISFIT} if item.misfit else set()
    marks |= set() if item.raw_noise.known else {F.NO_SIGMA}
    at_bound = item.row >= 0 and not item.refusal and bool(found.curves.at_bound[item.row])
    marks |= {F.AT_BOUND} if at_bound else set()
    row: dict[str, Any] = {
        "optimizer": cell.optimizer,
        "chinchilla": cell.chinchilla,
        "tokens": cell.tokens if cell.tokens > 0 else math.nan,
        "params": cell.params,
        "loss": cell.loss,
        "state": state,
        "reason": reason,
        "bound": bound,
        "d_eff": math.nan,
        "speedup": math.nan,
        "low": math.nan,
        "high": math.nan,
        "interpolated": interpolated_speedup(item, cell) * factor,
        "tie_group": case.standing.tie_group if case.standing else None,
        "n_seeds": cell.n,
        "sigma": float(item.noise.at(cell.tokens)) if cell.tokens > 0 else math.nan,
        "sigma_source": item.raw_noise.source,
        "sigma_dof": dof,
        "step_overhead": cost.step_overhead,
        "flops_overhead": cost.flops_overhead,
        "state_bytes_per_param": cost.state_bytes_per_param,
        "run_ids": list(cell.run_ids),
    }
    if state != "REFUSE":
        first = float(item.tokens[0])
        row["d_eff"] = first * math.exp(u)
        scale = factor * first / cell.tokens
        row["speedup"] = scale * math.exp(u)
        row["low"], row["high"] = (scale * float(np.exp(end)) for end in (u_low, u_high))
        row["own_noise_low"], row["own_noise_high"] = (end * factor for end in _own_noise(case, found))
        if row["low"] == 0 or math.isinf(row["high"]):
            marks.add(F.OPEN)
        if row["low"] <= 1 <= row["high"]:
            marks.add(F.NOT_RESOLVED)
    return row | {"flags": F.ordered(marks)}


def _state(case: _Case, unit: Unit, u: float, cost: Costs) -> tuple[str, str, str]:
    """(state, reason, bound)."""
    item, cell = case.item, case.cell
    if not cell.has_loss:
        return "REFUSE", f"no final loss: {cell.account}", ""
    if not cell.tokens > 0:
        return "REFUSE", "its token budget is not known", ""
    if item.refusal:
        return "REFUSE", item.refusal, ""
    withheld = cost.withheld(unit)
    if withheld:
        return "REFUSE", withheld, ""
    smallest, largest = float(item.tokens[0]), float(item.tokens[-1])
    low, high = item.support
    # In logs: with an exponent near 0 D_eff itself may overflow.
    top = math.log(largest / smallest)
    if u > top + math.log(REACH) + ENDS:
        bound = f"> {REACH * largest / cell.tokens * cost.factor(unit):.3g}x"
        where = (
            "the loss is at or below the fitted floor" if math.isinf(u) else "the loss is below the baseline's reach"
        )
        return "REFUSE", f"{where}: D_eff lies beyond {REACH:g}x the baseline's largest ratio {high:g}; {bound}", bound
    if u < -math.log(REACH) - ENDS:
        bound = f"< {smallest / REACH / cell.tokens * cost.factor(unit):.3g}x"
        reason = (
            f"the loss is above the baseline's reach: D_eff lies below its smallest ratio {low:g} / {REACH:g}; {bound}"
        )
        return "REFUSE", reason, bound
    if u > top + ENDS:
        return "EXTRAP", f"D_eff lies above the baseline's largest ratio {high:g}", ""
    if u < -ENDS:
        return "EXTRAP", f"D_eff lies below the baseline's smallest ratio {low:g}", ""
    return "INTERP", "", ""


def interpolated_speedup(item: Baseline, cell: CellLoss) -> float:
    """Token speedup with straight lines between the baseline's points in (log tokens, loss).

    NaN outside the points, without a loss, and where the baseline's losses do not fall all along.
    """
    losses = item.losses
    if not (cell.has_loss and cell.tokens > 0 and len(losses) > 1 and bool(np.all(np.diff(losses) < 0))):
        return math.nan
    log_tokens = np.interp(cell.loss, losses[::-1], np.log(item.tokens)[::-1], left=math.nan, right=math.nan)
    return float(np.exp(log_tokens - math.log(cell.tokens)))


def _own_noise(case: _Case, found: Baselines) -> tuple[float, float]:
    """Token speedup of a run of the baseline itself at this budget: loss f(c) -+ quantile x sigma, inverted."""
    item, cell = case.item, case.cell
    if not item.noise.known:
        return math.nan, math.nan
    curve = found.curves.take(found.row(item))
    at = math.log(cell.tokens / float(item.tokens[0]))
    own = float(curve.loss(np.array([at]))[0])
    dof = item.noise.effective_dof([cell.tokens], [1.0])
    half = math.sqrt(float(quantile_squared(dof))) * float(item.noise.at(cell.tokens)) / math.sqrt(cell.n)
    low, high = (float(np.exp(curve.invert(np.array([own + side * half]))[0] - at)) for side in (1, -1))
    return low, high
