"""`noise_ledger`: every replicate group with its sigma, and which of them the intervals rest on."""

from __future__ import annotations

import math

import pandas as pd

from optsweep_tui.analysis import tails
from optsweep_tui.analysis.baselines import Baseline, baselines
from optsweep_tui.analysis.cells import CellLoss, Group, groups
from optsweep_tui.analysis.columns import GROUP, NOISE
from optsweep_tui.analysis.noise import FRESH_SEEDS_NEEDED, LEVEL, checked_sigma, end_cells, spread
from optsweep_tui.analysis.number_ids import addressed


def noise_ledger(
    results: pd.DataFrame,
    baseline: str = "adamw",
    *,
    sigma: float | None = None,
    max_chinchilla: float | None = None,
) -> pd.DataFrame:
    """Every replicate group with its sigma, and which of them the intervals use.

    One row per cell whose best configuration ended under two seeds or more, and one row for the prior or a given sigma
    where that is what the group uses; a group with nothing has one row of source "none".

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer whose seeds count, and whose curve decides about a MISFIT.
        sigma: given by the user, nats; used exactly as given.
        max_chinchilla: largest ratio of the baseline's fit points.

    Returns:
        Columns of `columns.NOISE`.

    Raises:
        OptsweepError: for a sigma that is no positive finite number.
    """
    rows: list[dict[str, object]] = []
    for item in baselines(groups(results), baseline, checked_sigma(sigma), max_chinchilla).items:
        group, noise, first = item.group, item.raw_noise, len(rows)
        ends = {
            cell.tokens: end for cell, end in zip(end_cells(group, baseline), ("smallest", "largest"), strict=False)
        }
        for cell in group.cells:
            if len(cell.replicates) < 2:
                continue
            end = ends.get(cell.tokens, "") if cell.optimizer == baseline else ""
            used = noise.source == "measured" and bool(end)
            rows.append(_ledger_row(group, cell, end, used, _why(cell, end, noise.source)))
        if noise.source != "measured":
            rows.append(
                {
                    **group.columns,
                    "sigma": noise.pooled,
                    "dof": noise.dof if noise.known else 0.0,
                    "source": noise.source,
                    "used": noise.known,
                    "reason": _reason_of(noise.source, group, baseline),
                }
            )
        for row in rows[first:]:
            row |= _in_intervals(item)
    options = {"baseline": baseline, "sigma": sigma, "max_chinchilla": max_chinchilla}
    frame = addressed(pd.DataFrame(rows, columns=list(NOISE)), "noise", **options)
    return frame.astype({"used": bool}) if len(frame) else frame


def _in_intervals(item: Baseline) -> dict[str, object]:
    """The sigma of a group's intervals at both ends of its baseline; NaN without sigma or baseline."""
    small, large = item.noise.at(item.tokens[[0, -1]]).tolist() if item.points else (math.nan, math.nan)
    return {
        "interval_sigma_small": small,
        "interval_sigma_large": large,
        "misfit_scale": item.noise.scale if item.noise.known else math.nan,
    }


def _reason_of(source: str, group: Group, baseline: str) -> str:
    return {"prior": _PRIOR_REASON, "given": _GIVEN_REASON}.get(source) or _no_sigma_reason(group, baseline)


_GIVEN_REASON = "given with --sigma; counts as known"
_PRIOR_REASON = "prior: median of 722 public replicates of a 124M model; counts as known"


def _no_sigma_reason(group: Group, baseline: str) -> str:
    ends = end_cells(group, baseline)
    if not ends:
        return f"{baseline} has no final loss here"
    lacking = [cell for cell in ends if cell.n_fresh < FRESH_SEEDS_NEEDED]
    if not lacking:
        return "the replicates are equal to the last digit, which no noise explains"
    counts = ", ".join(f"{cell.n_fresh} at ratio {cell.chinchilla:g}" for cell in lacking)
    return f"needs {FRESH_SEEDS_NEEDED} fresh seeds of {baseline} at its smallest and largest budget; has {counts}"


def _ledger_row(group: Group, cell: CellLoss, end: str, used: bool, reason: str) -> dict[str, object]:
    sigma, dof = spread(cell.replicates), len(cell.replicates) - 1
    low, high = sigma_interval(sigma, dof)
    return {
        **{name: group.columns[name] for name in GROUP},
        "optimizer": cell.optimizer,
        "chinchilla": cell.chinchilla,
        "tokens": cell.tokens,
        "end": end or None,
        "sigma": sigma,
        "sigma_low": low,
        "sigma_high": high,
        "dof": float(dof),
        "n_seeds": len(cell.replicates),
        "source": "measured",
        "used": used,
        "reason": reason,
    }


def _why(cell: CellLoss, end: str, source: str) -> str:
    if not end:
        return "shown only: not an end of the baseline"
    if source == "measured":
        return f"{end} budget of the baseline"
    if source == "given":
        return "not used: sigma was given"
    return f"not used: {cell.n_fresh} fresh seeds here, {FRESH_SEEDS_NEEDED} at both ends are needed"


def sigma_interval(sigma: float, dof: float) -> tuple[float, float]:
    """95 % interval of a measured sigma: sigma sqrt(dof / chi2 quantile). From 2 degrees of freedom .52-6.3x."""
    if not (sigma > 0 and dof > 0):
        return math.nan, math.nan
    low, high = (sigma * math.sqrt(dof / tails.chi_square_quantile(p, dof)) for p in (0.5 + LEVEL / 2, 0.5 - LEVEL / 2))
    return float(low), float(high)
