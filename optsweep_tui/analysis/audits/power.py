"""`power`: how many seeds, or which further baseline budgets, bring each speedup's 95 % interval to a target width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui.analysis.audits.design import Design
from optsweep_tui.analysis.audits.plans import cell_seeds, equal_seeds, further_budgets
from optsweep_tui.analysis.audits.rows import budget, group_key, records
from optsweep_tui.analysis.baselines import Baseline, Baselines, baselines
from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import POWER
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.noise import FRESH_SEEDS_NEEDED, checked_sigma, end_cells
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.speedups import speedup
from optsweep_tui.errors import OptsweepError

COUNTS = ("equal_seeds", "equal_cell_runs", "equal_baseline_runs", "cell_seeds", "cell_runs", "budgets_runs")


def power(
    results: pd.DataFrame,
    target: float,
    *,
    baseline: str = "adamw",
    sigma: float | None = None,
    max_chinchilla: float | None = None,
    knob_info: KnobInfo | None = None,
) -> pd.DataFrame:
    """What every cell needs for a half width of `target` (0.05 = 5 % of the speedup).

    The fitted curve, sigma and the selected configurations are taken as they are. A seed is one run of a best
    configuration; the base-seed run that selected it does not count beside fresh ones, so the first step from a selected
    minimum costs 2 runs for n = 2. Where sigma is the prior, 3 fresh seeds at both ends of the baseline replace it by a
    measured one of so many degrees of freedom, taken to come out equal. A MISFIT does not shrink with seeds: its scale
    grows as sigma / sqrt(n) falls, so equal seeds are out of reach there.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        target: share of the speedup, above 0 and below 1.
        baseline: optimizer whose curve is inverted.
        sigma: run-to-run standard deviation, nats; used as given.
        max_chinchilla: largest ratio of the baseline's fit points.
        knob_info: declared knobs (`edges.KnobInfo`).

    Returns:
        Columns of `columns.POWER`, in the order of `speedup`.

    Raises:
        OptsweepError: for a target that is no share, or a sigma that is no positive finite number.
    """
    if not 0 < target < 1:
        raise OptsweepError(f"--target-ci {target:g}: a half width is a share of the speedup above 0", "Try 5%.")
    options: dict[str, Any] = {"baseline": baseline, "max_chinchilla": max_chinchilla}
    found = baselines(groups(results, knob_info), baseline, checked_sigma(sigma), max_chinchilla)
    items = {item.group.key: item for item in found.items}
    cells = {(item.group.key, cell.optimizer, cell.tokens): cell for item in found.items for cell in item.group.cells}
    rows = []
    for row in records(speedup(results, sigma=sigma, knob_info=knob_info, **options)):
        key = group_key(row)
        cell = cells[key, row["optimizer"], budget(row)]
        rows.append({name: row[name] for name in POWER if name in row} | _row(row, found, items[key], cell, target))
    frame = addressed(pd.DataFrame(rows, columns=list(POWER)), "power", target=target, sigma=sigma, **options)
    return frame.astype(dict.fromkeys(COUNTS, "Int64"))


def _row(row: Mapping[str, Any], found: Baselines, item: Baseline, cell: CellLoss, target: float) -> dict[str, Any]:
    out: dict[str, Any] = {"target": target, "reached": False, "flags": row["flags"]}
    if row["state"] == "REFUSE":
        return out | {"reason": row["reason"]}
    if not item.noise.known:
        needed = " and ".join(f"ratio {end.chinchilla:g}" for end in end_cells(item.group, item.baseline))
        seeds = f"{FRESH_SEEDS_NEEDED} fresh seeds of {item.baseline} at {needed}"
        return out | {"reason": f"NO-SIGMA: run-to-run noise is unknown; measure it first with {seeds}"}
    index = found.row(item)
    design = Design(item=item, cell=cell, points=found.points.take(index), curve=found.curves.take(index))
    counts, own = item.counts[None, :], np.array([float(cell.n)])
    width = (row["high"] - row["low"]) / 2 / row["speedup"]
    out |= {
        "half_width": width,
        "delta_half_width": float(design.half_widths([item.noise], counts, own)[0]),
        "reached": bool(width <= target),
        "reason": "",
    }
    if width <= target:
        return out | _as_it_is(cell, width)
    extrapolates = "; it is extrapolated there" if row["state"] == "EXTRAP" else ""
    return (
        out
        | equal_seeds(design, target)
        | cell_seeds(design, target, extrapolates)
        | further_budgets(design, target, extrapolates)
    )


def _as_it_is(cell: CellLoss, width: float) -> dict[str, Any]:
    """The target is met: every plan is to do nothing."""
    nothing: dict[str, Any] = {"budgets": [], "equal_seeds": cell.n, "cell_seeds": cell.n}
    for name in ("equal", "cell", "budgets"):
        nothing |= {f"{name}_half_width": width, f"{name}_tokens": 0.0, f"{name}_flops": 0.0, f"{name}_reason": ""}
    return nothing | {"equal_cell_runs": 0, "equal_baseline_runs": 0, "cell_runs": 0, "budgets_runs": 0}
