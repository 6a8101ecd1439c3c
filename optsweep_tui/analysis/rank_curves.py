"""Ranks inside runs: the order of optimizers at every step that all of their runs were evaluated at. Never the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui.analysis.cells import CellLoss, Group, groups
from optsweep_tui.analysis.columns import IN_RUN
from optsweep_tui.analysis.ties import budgets


def contenders(results: pd.DataFrame) -> list[str]:
    """Ids of the best run of every cell that has a loss: those whose curves `rank_curves` needs."""
    cells = (cell for group in groups(results) for cell in group.cells)
    return [cell.best.run_id for cell in cells if cell.best is not None and cell.best.run_id]


def rank_curves(results: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Ranks over training among the best runs of the cells of one model and budget.

    Per group the budget is taken at which most optimizers have a curve; of equal ones the largest. Only steps at which
    every one of them has a finite value count, so a run whose curve ends early ends the comparison.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        curves: one loss over the steps of runs (run_id, step, tokens, value), comparable between the runs.

    Returns:
        Columns of `columns.IN_RUN`, by group, optimizer and step; groups with fewer than two curves have no rows.
    """
    values: dict[str, dict[int, tuple[float, float]]] = {}
    for run_id, step, tokens, value in zip(
        curves["run_id"], curves["step"], curves["tokens"].astype(float), curves["value"].astype(float), strict=True
    ):
        if math.isfinite(value):
            values.setdefault(str(run_id), {})[int(step)] = (float(tokens), float(value))
    rows: list[dict[str, Any]] = []
    for group in groups(results):
        rows += [{**group.columns, **row} for row in _rows(_chosen(group, values), values)]
    return pd.DataFrame(rows, columns=list(IN_RUN))


def _chosen(group: Group, values: Mapping[str, Any]) -> list[CellLoss]:
    """The cells of the one budget that is compared."""
    best: list[CellLoss] = []
    for _, cells in sorted(budgets(group).items()):
        # Steps of different batches are not the same point of training.
        by_batch: dict[float, list[CellLoss]] = {}
        for cell in cells:
            if cell.best is not None and cell.best.run_id in values:
                by_batch.setdefault(cell.best.tokens_per_step, []).append(cell)
        most = max(by_batch.values(), key=len, default=[])
        best = most if len(most) >= max(2, len(best)) else best
    return best


def _rows(cells: Sequence[CellLoss], values: Mapping[str, Mapping[int, tuple[float, float]]]) -> list[dict[str, Any]]:
    runs = [(cell, cell.best.run_id) for cell in cells if cell.best is not None]
    shared = sorted(set.intersection(*(set(values[run_id]) for _, run_id in runs))) if runs else []
    losses = np.array([[values[run_id][step][1] for step in shared] for _, run_id in runs])
    rows = []
    for place, (cell, run_id) in enumerate(runs):
        for column, step in enumerate(shared):
            rows.append(
                {
                    "optimizer": cell.optimizer,
                    "chinchilla": cell.chinchilla,
                    "run_id": run_id,
                    "step": step,
                    "tokens": values[run_id][step][0],
                    "value": losses[place, column],
                    "rank": 1 + int((losses[:, column] < losses[place, column]).sum()),
                }
            )
    return rows
