"""What the static charts show: loss curves of runs, final losses against budget with the baseline's fit."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any

from optsweep_tui import settings
from optsweep_tui.cli import options
from optsweep_tui.errors import OptsweepError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optsweep_tui.charts.chart import Curve
    from optsweep_tui.core import Filter
    from optsweep_tui.settings import Workspace

MOST_CURVES = 12
"""More lines than this cannot be told apart on a terminal."""


def loss_curves(workspace: Workspace, runs: list[str] | None, chosen: Filter) -> list[Curve]:
    """Training loss against tokens, of the runs named, else of the best run of each optimizer at its largest budget."""
    from optsweep_tui import flow, grid

    if runs:
        return flow.loss_curves(workspace, options.chosen_runs(workspace, runs)[:MOST_CURVES])
    lines = flow.run_lines(workspace)
    if chosen.study is not None:
        known = set(flow.runs_of_study(workspace, chosen.study))
        lines = [line for line in lines if line.run_id in known]
    best: dict[tuple[str, str], Any] = {}
    for line in lines:
        asked = chosen.optimizers
        wanted = (not asked or any(grid.same_optimizer(line.optimizer, name) for name in asked)) and (
            not chosen.models or line.model.lower() in {name.lower() for name in chosen.models}
        )
        if wanted and line.loss is not None and (not chosen.chinchillas or line.chinchilla in chosen.chinchillas):
            rank = (-line.chinchilla, line.state != "done", line.loss, line.run_id)
            if (line.model, line.optimizer) not in best or rank < best[(line.model, line.optimizer)][0]:
                best[(line.model, line.optimizer)] = (rank, line.run_id)
    if not best:
        raise OptsweepError("no run here has a loss yet", "optsweep run or optsweep quickstart makes some")
    return flow.loss_curves(workspace, [run_id for _, run_id in best.values()][:MOST_CURVES])


def ratio_curves(workspace: Workspace, chosen: Filter) -> list[Curve]:
    """Final losses of every optimizer against the Chinchilla ratio, and the baseline's fitted curve."""
    from optsweep_tui import ask
    from optsweep_tui.cli import present

    frame = present.answers(workspace, chosen)
    return ask.ratio_curves(frame, present.baseline_name(workspace, frame, None))


def draw(curves: Sequence[Curve], kind: str, *, width: int | None, height: int, log_x: bool) -> str:
    """The chart as text for this terminal, with a legend; without colour where it is not wanted."""
    from optsweep_tui.charts import static

    columns = width or min(110, shutil.get_terminal_size((100, 24)).columns)
    colour = sys.stdout.isatty() and not settings.colour_off()
    unit = "tokens" if kind == "loss" else "Chinchilla ratio"
    return static.picture(curves, width=columns, height=height, x_log=log_x, unit=unit, colour=colour)


def as_points(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """The data of a chart."""
    return [{"label": curve.label, "x": curve.x.tolist(), "y": curve.y.tolist()} for curve in curves]
