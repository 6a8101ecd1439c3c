"""The questions to finished runs: `results` reads the store into a frame, every other function turns frames into an answer.

Each is the whole of one verb of the command line, of one panel of the app and of one part of the report.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from optsweep_tui import studies as study_files
from optsweep_tui.core import Filter
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.charts.chart import Curve


def results(workspace: Workspace, chosen: Filter) -> pd.DataFrame:
    """One row per run of the filter, with the columns of `analysis.columns.RESULTS`."""
    from optsweep_tui.store import queries

    study = chosen.study or queries.default_study(workspace.store)
    return queries.results(workspace.store, dataclasses.replace(chosen, study=study))


def baseline_of(workspace: Workspace, study: str | None) -> str:
    """The baseline optimizer that a study declares; adamw without one."""
    for entry in study_files.listed(workspace.studies):
        if entry["name"] == study:
            return str(entry.get("baseline", "adamw"))
    return "adamw"


def knob_info() -> dict[str, Any]:
    """Optimizer -> knob -> its declaration: type, range and scale, which audits of sweeps need."""
    from optsweep_engines.optimizers import catalogue

    return {
        entry.name: {knob.name: knob for knob in catalogue.all_knobs(entry)} for entry in catalogue.known().values()
    }


def table(frame: pd.DataFrame, *, baseline: str = "adamw", sigma: float | None = None) -> pd.DataFrame:
    """Final losses per cell with n, gap, rank and tie group."""
    from optsweep_tui import analysis

    return analysis.table(frame, baseline=baseline, sigma=sigma, knob_info=knob_info())


def fit(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Baseline curves."""
    from optsweep_tui import analysis

    return analysis.fit(frame, **options)


def speedup(frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Speedups over the baseline, with intervals and states."""
    from optsweep_tui import analysis

    return analysis.speedup(frame, knob_info=knob_info(), **options)


def noise(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Where the run-to-run sigma comes from."""
    from optsweep_tui import analysis

    return analysis.noise_ledger(frame, baseline)


def report(
    workspace: Workspace, frame: pd.DataFrame, *, baseline: str, sigma: float | None, kind: str, command: str
) -> str:
    """The report of one study as one text: the answers of the other verbs, in words, tables and figures.

    Args:
        frame: `results` of one study.
        baseline: optimizer that speedups refer to.
        sigma: run-to-run standard deviation given by the user, nats.
        kind: "html" or "md".
        command: how to make it again, printed at its end.
    """
    import datetime

    from optsweep_tui import __version__, report
    from optsweep_tui.analysis import flags
    from optsweep_tui.store import queries

    study = str(frame["study"].iloc[0])
    cells = table(frame, baseline=baseline, sigma=sigma)
    speedups = {unit: speedup(frame, baseline=baseline, sigma=sigma, unit=unit) for unit in ("tokens", "flops", "time")}
    occurring = {flag for rows in (cells, *speedups.values()) for marks in rows["flags"] for flag in marks}
    parts = report.Parts(
        study=study,
        baseline=baseline,
        version=__version__,
        date=datetime.date.today().isoformat(),
        command=command,
        runs=frame,
        cells=cells,
        curves=fit(frame, baseline=baseline, sigma=sigma),
        speedups=speedups,
        noise=noise(frame, baseline),
        provenance=queries.provenance(workspace.store, study),
        flags={flag: flags.MEANINGS[flag] for flag in flags.ordered(occurring)},
    )
    return report.rendered(parts, kind)


def ratio_curves(frame: pd.DataFrame, baseline: str) -> list[Curve]:
    """Final loss per cell against the ratio, and the baseline's fitted curve between its own budgets."""
    from optsweep_tui.charts import figures

    return figures.ratio_curves(table(frame, baseline=baseline), fit(frame, baseline=baseline), baseline)
