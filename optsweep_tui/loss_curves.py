"""Losses inside runs as a figure, straight from their run folders: also while they go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from optsweep_tui import flow, rundir
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    from optsweep_tui.charts.figure import Figure


def loss_figure(
    workspace: Workspace,
    run_ids: Iterable[str],
    *,
    x: str | None = None,
    log_x: bool = False,
    smooth: float | None = None,
) -> Figure:
    """Losses inside runs, straight from the run folders: works while the runs go on, and for imported ones with a curve.

    Args:
        run_ids: the first is drawn on top.
        x: "step", "tokens" or "minutes"; None = tokens.
        log_x: logarithmic x axis.
        smooth: time constant in steps; 0 = raw; None = 2 % of a run with a noisy training loss.
    """
    import pandas as pd

    from optsweep_tui import drawings

    lines = [flow.run_line(workspace, run_id) for run_id in run_ids]
    runs = pd.DataFrame([dataclasses.asdict(line) for line in lines])
    runs["study"] = [", ".join(sorted(rundir.studies_of(workspace.runs / line.run_id))) or "none" for line in lines]
    points = [
        {
            "run_id": line.run_id,
            "metric": metric,
            "step": row["step"],
            "tokens": row.get("tokens"),
            "seconds": row.get("train_seconds"),
            "value": row.get(metric),
        }
        for line in lines
        for metric, rows in [_curve(rundir.metric_rows(workspace.runs / line.run_id))]
        for row in rows
    ]
    columns = ["run_id", "metric", "step", "tokens", "seconds", "value"]
    return drawings.loss_drawing(runs, pd.DataFrame(points, columns=columns), x=x, log_x=log_x, smooth=smooth)


def has_curve(workspace: Workspace, run_id: str) -> bool:
    """The run logged a loss at two points or more."""
    return len(_curve(rundir.metric_rows(workspace.runs / run_id))[1]) > 1


def _curve(rows: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The loss that a run logged all along, and the lines that hold it: in training, else in validation."""
    for metric in ("train_loss", "val_loss"):
        found = [row for row in rows if metric in row]
        if len(found) > 1:
            return metric, found
    return "train_loss", [row for row in rows if "train_loss" in row]
