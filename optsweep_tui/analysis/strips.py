"""The values of one knob in every cell, point by point: what each gave, which was best, and at which end the best lies."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import STRIP
from optsweep_tui.analysis.edges import KnobInfo, Ranges, declared_ranges, edges_of
from optsweep_tui.analysis.lines import NEAR_BEST, Line, lines, value_text

OTHER_LINE = "other line"
"""State of a value that was only tried with other settings than the line's."""


def strips(
    results: pd.DataFrame, knob: str, *, knob_info: KnobInfo | None = None, threshold: float = NEAR_BEST
) -> pd.DataFrame:
    """Every value of one knob that was tried, per cell in which it was swept.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        knob: name of the hyperparameter; `batch_size` counts as one.
        knob_info: declared knobs with their ranges (`edges.KnobInfo`); a best value at a declared bound is no edge.
        threshold: what counts as near the best, nats.

    Returns:
        Columns of `columns.STRIP`, by group, rising budget, optimizer and value.
    """
    rows: list[dict[str, Any]] = []
    for group in groups(results, knob_info):
        for cell in group.cells:
            line = lines(cell.swept).get(knob)
            if line is not None and line.best is not None:
                ranges = declared_ranges(knob_info, cell.optimizer)
                rows += [{**group.columns, **row} for row in _rows(cell, line, ranges, threshold)]
    return pd.DataFrame(rows, columns=list(STRIP))


def _rows(cell: CellLoss, line: Line, ranges: Ranges, threshold: float) -> list[dict[str, Any]]:
    smallest = min(line.losses.values())
    sides = {edge.side for edge in edges_of(line, ranges.get(line.knob, (None, None)))}
    rows = []
    for value in line.tried:
        loss = line.losses.get(value, math.nan)
        best = value == line.best and isinstance(value, bool) == isinstance(line.best, bool)
        rows.append(
            {
                "optimizer": cell.optimizer,
                "chinchilla": cell.chinchilla,
                "tokens": cell.tokens,
                "params": cell.params,
                "knob": line.knob,
                "value": value if isinstance(value, float) else math.nan,
                "text": value_text(value),
                "loss": loss,
                "excess": loss - smallest,
                "best": best,
                "near_best": bool(loss - smallest < threshold),
                "edge": " and ".join(sorted(sides)) if best else "",
                "state": "done" if value in line.losses else line.states.get(value, OTHER_LINE),
                "run_id": line.run_ids.get(value),
            }
        )
    return rows
