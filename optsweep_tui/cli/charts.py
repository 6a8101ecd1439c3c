"""What `plot` and `quickstart` share: figures from what was asked for, on the terminal or in files."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optsweep_tui import settings
from optsweep_tui.cli import options, output
from optsweep_tui.errors import OptsweepError

if TYPE_CHECKING:
    from optsweep_tui.charts.figure import Figure
    from optsweep_tui.core import Filter
    from optsweep_tui.dispatch.lines import RunLine
    from optsweep_tui.settings import Workspace

MOST_CURVES = 12
"""More lines than this cannot be told apart."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of one figure, as they were typed."""

    kind: str
    baseline: str | None = None
    sigma: float | None = None
    max_chinchilla: float | None = None
    unit: str = "tokens"
    x: str | None = None
    knob: str | None = None


def figure(workspace: Workspace, chosen: Filter, asked: Asked) -> Figure:
    """A figure of results. The baseline's runs are read whatever -o and -c say: fits need them.

    Raises:
        OptsweepError: the selection is empty, or names something that is not there.
    """
    from optsweep_tui import ask, drawings
    from optsweep_tui.cli import present

    frame = present.answers(workspace, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    choice = drawings.Choice(
        kind=asked.kind,
        baseline=present.baseline_name(workspace, frame, asked.baseline),
        sigma=asked.sigma,
        max_chinchilla=asked.max_chinchilla,
        unit=asked.unit,
        x=asked.x,
        knob=ask.swept_knob(frame, asked.knob) if asked.knob is not None else None,
        optimizers=chosen.optimizers,
        chinchillas=chosen.chinchillas,
    )
    return ask.figure(workspace, frame, choice)


def one_knob(words: Sequence[str] | None) -> str | None:
    """The knob of `plot strip KNOB`; None where it is missing.

    Raises:
        OptsweepError: there are several.
    """
    if words and len(words) > 1:
        raise OptsweepError(f"plot strip draws one knob, not {', '.join(words)}", "draw them one by one")
    return words[0] if words else None


def loss_figure(
    workspace: Workspace,
    runs: list[str] | None,
    chosen: Filter,
    *,
    x: str | None,
    log_x: bool,
    smooth: float | None,
) -> Figure:
    """Losses inside the runs named, else inside the best run of each optimizer and model at its largest budget."""
    from optsweep_tui import loss_curves

    ids = options.chosen_runs(workspace, runs) if runs else _best_runs(workspace, chosen)
    if len(ids) > MOST_CURVES:
        output.say(f"note: the first {MOST_CURVES} of {len(ids)} runs; name others, or narrow with -m, -o, -c")
    return loss_curves.loss_figure(workspace, ids[:MOST_CURVES], x=x, log_x=log_x, smooth=smooth)


def _best_runs(workspace: Workspace, chosen: Filter) -> list[str]:
    """The best run with a curve of each optimizer and model, straight from the run folders."""
    from optsweep_tui import flow, loss_curves

    lines = flow.run_lines(workspace)
    if chosen.study is not None:
        known = set(flow.runs_of_study(workspace, chosen.study))
        lines = [line for line in lines if line.run_id in known]
    groups: dict[tuple[str, str], list[tuple[Any, str]]] = {}
    for line in lines:
        if line.loss is not None and _wanted(line, chosen):
            rank = (-line.chinchilla, line.state != "done", line.loss, line.run_id)
            groups.setdefault((line.model, line.optimizer), []).append((rank, line.run_id))
    ranked = [[run_id for _, run_id in sorted(members)] for members in groups.values()]
    found = [next((run_id for run_id in ids if loss_curves.has_curve(workspace, run_id)), None) for ids in ranked]
    if not any(found):
        what = "run has a loss yet" if not lines else "run of this selection has a loss curve"
        raise OptsweepError(f"no {what}", "optsweep run or optsweep quickstart makes some; optsweep ls lists the runs")
    return [run_id for run_id in found if run_id is not None]


def _wanted(line: RunLine, chosen: Filter) -> bool:
    from optsweep_tui import grid

    asked = chosen.optimizers
    return (
        (not asked or any(grid.same_optimizer(line.optimizer, name) for name in asked))
        and (not chosen.models or line.model.lower() in {name.lower() for name in chosen.models})
        and (not chosen.chinchillas or any(grid.same_ratio(line.chinchilla, want) for want in chosen.chinchillas))
        and (not chosen.engines or line.engine in chosen.engines)
    )


def check_files(paths: Sequence[Path], *, overwrite: bool) -> None:
    """Complain about files that cannot be written before anything is computed."""
    from optsweep_tui.charts import files

    for path in paths:
        files.check(path, overwrite=overwrite)


def write(drawn: Figure, paths: Sequence[Path], *, overwrite: bool) -> list[str]:
    """Draw a figure into files; returns their paths."""
    from optsweep_tui.charts import files

    return [str(files.write(drawn, path, overwrite=overwrite)) for path in paths]


def draw(drawn: Figure, *, width: int | None, height: int) -> str:
    """The figure as text for this terminal; without colour where it is not wanted."""
    from optsweep_tui.charts import static

    columns = width or min(110, shutil.get_terminal_size((100, 24)).columns)
    colour = sys.stdout.isatty() and not settings.colour_off()
    return static.text(drawn, width=columns, height=height, colour=colour)
