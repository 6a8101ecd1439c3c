"""The figures of the Compare screen that rest on finished runs: one short read of the store, then the analysis, in a thread."""

from __future__ import annotations

from collections.abc import Sequence

from optsweep_tui import ask
from optsweep_tui.app import answers
from optsweep_tui.app.speedups import stamp
from optsweep_tui.charts.figure import Figure
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

VIEWS = {
    "curves": "curves",
    "ratio": "loss vs ratio",
    "lr": "loss vs lr",
    "deff": "D_eff vs D",
    "speedup": "speedup vs size",
}
"""What the screen can show, in the order of its key; all but the first are kinds of `optsweep plot`."""


def load(workspace: Workspace, study: str | None, kind: str, baseline: str, optimizers: Sequence[str]) -> Figure:
    """One figure of a study.

    Args:
        kind: one of VIEWS but the first.
        baseline: optimizer whose curve is fitted.
        optimizers: draw these (and the baseline) alone; empty = all.

    Raises:
        OptsweepError: nothing collected yet, the store is locked or damaged, or the study has no result.
    """
    from optsweep_tui.drawings import Choice  # with it come pandas and scipy, which the first frame must not wait for

    if stamp(workspace) is None:
        raise OptsweepError("no results collected yet", "optsweep collect")
    frame = ask.results(workspace, Filter(study=study), wait_seconds=answers.STORE_SECONDS)
    if frame.empty:
        raise OptsweepError(f"the store has no run of study {study}", "optsweep collect")
    return ask.figure(workspace, frame, Choice(kind=kind, baseline=baseline, optimizers=tuple(optimizers)))
