"""`speedup`: how much more the baseline needs for the same loss, in tokens, FLOPs or seconds, with its uncertainty."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.baselines import Baseline, Baselines, baselines, budget_text, family_of
from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import SPEEDUP
from optsweep_tui.analysis.costs import LOADED_SD, Costs, Timing, costs, timing
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.estimates import Case, Ci, Estimate, cases_of, estimated
from optsweep_tui.analysis.fairness import comparison_flags
from optsweep_tui.analysis.noise import checked_sigma
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.shared import SHARED_P, shared_exponents, uneven_supports
from optsweep_tui.errors import OptsweepError

Unit: TypeAlias = Literal["tokens", "flops", "time"]

# analysis.md: a D_eff further outside the baseline's budgets than this is refused.
REACH = 1.5
MIN_DRAWS = 100
# D_eff and the budgets are compared as floats; a cell that meets an end exactly is inside.
ENDS = 1e-9


def speedup(
    results: pd.DataFrame,
    *,
    baseline: str = "adamw",
    unit: Unit = "tokens",
    ci: Ci = "profile",
    sigma: float | None = None,
    max_chinchilla: float | None = None,
    shared_exponent: bool = False,
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
        shared_exponent: the baseline's curves of all models share one exponent in place of one each.
        draws: bootstrap draws.
        rng_seed: seed of the bootstrap; the same rows give the same numbers in any order.
        knob_info: declared knobs with their ranges (`edges.KnobInfo`); a best value at a declared bound is no edge.

    Returns:
        Columns of `columns.SPEEDUP`, by group, optimizer and rising budget.

    Raises:
        OptsweepError: for an unknown unit or ci, too few draws, or a sigma that is no positive finite number.
    """
    if unit not in ("tokens", "flops", "time"):
        raise OptsweepError(f'--unit "{unit}" is not known', "Use tokens, flops or time.")
    if ci not in ("profile", "bootstrap"):
        raise OptsweepError(f'--ci "{ci}" is not known', "Use profile or bootstrap.")
    if draws < MIN_DRAWS:
        raise OptsweepError(f"{draws} bootstrap draws have no 2.5 % tail", f"Use {MIN_DRAWS} or more.")
    found = baselines(groups(results, knob_info), baseline, checked_sigma(sigma), max_chinchilla, shared_exponent)
    cases = cases_of(found, baseline)
    uneven = uneven_supports(found)
    shared = shared_exponents(found) if shared_exponent else {}
    rows = []
    for case, estimate in zip(cases, estimated(found, cases, ci, draws, rng_seed), strict=True):
        family = family_of(case.item.group)
        marks = {F.SUPPORT} if family in uneven else set()
        head = {**case.item.group.columns, "unit": unit, "baseline": baseline, "exponent": "own"}
        if shared_exponent:
            p = shared[family].p if family in shared else math.nan
            head |= {"exponent": "shared", "shared_b_p": p}
            marks |= {F.EXPONENTS} if p < SHARED_P else set()
        rows.append(head | _row(case, found, unit, estimate, marks))
    options = {"baseline": baseline, "unit": unit, "ci": ci, "sigma": sigma, "max_chinchilla": max_chinchilla}
    options |= {"shared_exponent": shared_exponent, "draws": draws, "rng_seed": rng_seed}
    frame = addressed(pd.DataFrame(rows, columns=list(SPEEDUP)), "speedup", **options)
    return frame.astype({"tie_group": "Int64"})


def _row(case: Case, found: Baselines, unit: Unit, estimate: Estimate, marks: set[str]) -> dict[str, Any]:
    item, cell = case.item, case.cell
    reference = item.nearest(cell.tokens)
    cost = costs(cell, reference, item.group, item.baseline)
    factor = cost.factor(unit)
    state, reason, bound = _state(case, unit, estimate.u, cost)
    marks = marks | set(cell.flags) | comparison_flags(cell, reference)
    marks |= {F.BRANCH} if any(F.BRANCH in point.flags for point in item.points) else set()
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
        "sigma_dof": estimate.dof,
        "step_overhead": cost.step_overhead,
        "flops_overhead": cost.flops_overhead,
        "state_bytes_per_param": cost.state_bytes_per_param,
        "run_ids": list(cell.run_ids),
    }
    if state != "REFUSE":
        first = float(item.tokens[0])
        row["d_eff"] = first * math.exp(estimate.u)
        scale = factor * first / cell.tokens
        row["speedup"] = scale * math.exp(estimate.u)
        low, high = estimate.low, estimate.high
        if unit == "time":
            timed = timing(cell, item.group, item.baseline)
            low, high = _with_timing(estimate, timed)
            marks |= {F.TIMED_ONCE} if math.isnan(timed.sd) else set()
            marks |= {F.LOADED} if timed.worst > LOADED_SD else set()
        row["low"], row["high"] = (scale * float(np.exp(end)) for end in (low, high))
        row["own_noise_low"], row["own_noise_high"] = estimate.own
        if row["low"] == 0 or math.isinf(row["high"]):
            marks.add(F.OPEN)
        if row["low"] <= 1 <= row["high"]:
            marks.add(F.NOT_RESOLVED)
    return row | {"flags": F.ordered(marks)}


def _with_timing(estimate: Estimate, timed: Timing) -> tuple[float, float]:
    """The ends of log D_eff moved out by the noise of the timings, in quadrature; unmoved where it is not known."""
    if math.isnan(timed.sd):
        return estimate.low, estimate.high
    half = timed.half_width
    low = estimate.u - math.hypot(estimate.u - estimate.low, half)
    return low, estimate.u + math.hypot(estimate.high - estimate.u, half)


def _state(case: Case, unit: Unit, u: float, cost: Costs) -> tuple[str, str, str]:
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
    low, high = budget_text(item.points[0]), budget_text(item.points[-1])
    # In logs: with an exponent near 0 D_eff itself may overflow.
    top = math.log(largest / smallest)
    if u > top + math.log(REACH) + ENDS:
        bound = f"> {REACH * largest / cell.tokens * cost.factor(unit):.3g}x"
        where = (
            "the loss is at or below the fitted floor" if math.isinf(u) else "the loss is below the baseline's reach"
        )
        return "REFUSE", f"{where}: D_eff lies beyond {REACH:g}x the baseline's largest budget {high}; {bound}", bound
    if u < -math.log(REACH) - ENDS:
        bound = f"< {smallest / REACH / cell.tokens * cost.factor(unit):.3g}x"
        reason = (
            f"the loss is above the baseline's reach: D_eff lies below its smallest budget {low} / {REACH:g}; {bound}"
        )
        return "REFUSE", reason, bound
    if u > top + ENDS:
        return "EXTRAP", f"D_eff lies above the baseline's largest budget {high}", ""
    if u < -ENDS:
        return "EXTRAP", f"D_eff lies below the baseline's smallest budget {low}", ""
    return "INTERP", "", ""


def interpolated_speedup(item: Baseline, cell: CellLoss) -> float:
    """Token speedup with straight lines between the baseline's points in (log tokens, loss).

    NaN outside the points, without a loss, and where the baseline's losses do not fall all along.
    """
    if not (cell.has_loss and cell.tokens > 0 and item.falls):
        return math.nan
    log_tokens = np.interp(cell.loss, item.losses[::-1], np.log(item.tokens)[::-1], left=math.nan, right=math.nan)
    return math.exp(float(log_tokens) - math.log(cell.tokens))
