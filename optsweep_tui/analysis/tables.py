"""`table`: every cell with its loss, gap to the baseline, rank, tie group, and what is wrong with it."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import TABLE
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.fairness import comparison_flags
from optsweep_tui.analysis.noise import Noise, checked_sigma, noise_of
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.ties import Standing, budgets, gap_half_width, standings


def table(
    results: pd.DataFrame,
    *,
    baseline: str = "adamw",
    sigma: float | None = None,
    knob_info: KnobInfo | None = None,
) -> pd.DataFrame:
    """One row per cell, by group, rising budget and rank.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer that gaps and fairness refer to.
        sigma: run-to-run standard deviation, nats; used exactly as given. Default: measured, else the prior, else none.
        knob_info: declared knobs with their ranges (`edges.KnobInfo`); a best value at a declared bound is no edge.

    Returns:
        Columns of `columns.TABLE`.

    Raises:
        OptsweepError: for a sigma that is no positive finite number.
    """
    checked_sigma(sigma)
    rows = []
    for group in groups(results, knob_info):
        noise = noise_of(group, baseline, sigma)
        for cells in budgets(group).values():
            places = standings(cells, noise)
            reference = next((cell for cell in cells if cell.optimizer == baseline and cell.has_loss), None)
            cells = sorted(cells, key=lambda cell: (not cell.has_loss, cell.loss, cell.optimizer))
            rows += [{**group.columns, **_row(cell, reference, noise, places.get(cell.optimizer))} for cell in cells]
    frame = addressed(pd.DataFrame(rows, columns=list(TABLE)), "table", baseline=baseline, sigma=sigma)
    return frame.astype({"rank": "Int64", "tie_group": "Int64", "winner": bool})


def _row(cell: CellLoss, reference: CellLoss | None, noise: Noise, place: Standing | None) -> dict[str, Any]:
    gap = cell.loss - reference.loss if reference and cell.has_loss else math.nan
    own = reference is not None and reference.optimizer == cell.optimizer
    half = gap_half_width(cell, reference, noise) if reference and cell.has_loss and not own else math.nan
    marks = set(cell.flags) | comparison_flags(cell, reference)
    if not noise.known:
        marks.add(F.NO_SIGMA)
    best = cell.best
    return {
        "optimizer": cell.optimizer,
        "chinchilla": cell.chinchilla,
        "tokens": cell.tokens if cell.tokens > 0 else math.nan,
        "params": cell.params,
        "loss": cell.loss,
        "n": cell.n,
        "gap": gap,
        "gap_low": gap - half,
        "gap_high": gap + half,
        "rank": place.rank if place else None,
        "tie_group": place.tie_group if place else None,
        "winner": place.winner if place else False,
        "flags": F.ordered(marks),
        "edges": [str(edge) for edge in cell.edges],
        "sigma": float(noise.at(cell.tokens)),
        "sigma_source": noise.source,
        "sigma_dof": float(noise.effective_dof([cell.tokens], [1.0])) if noise.known else 0.0,
        "tuning_runs": cell.tuning_runs,
        "tuning_tokens": cell.tuning_tokens,
        "states": dict(cell.states),
        "hyperparameters": dict(best.knobs) if best and best.knobs is not None else None,
        "batch_size": best.batch_size if best else math.nan,
        "schedule": best.schedule if best else None,
        "dtype": best.dtype if best else None,
        "run_ids": list(cell.run_ids),
    }
