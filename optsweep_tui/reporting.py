"""Every answer about one study, gathered for its report: `report(workspace, frame)` is the page that `optsweep report` writes."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from optsweep_tui import __version__, ask, drawings
from optsweep_tui import report as page
from optsweep_tui.analysis import flags
from optsweep_tui.charts import files, static
from optsweep_tui.charts.figure import Figure
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from optsweep_tui.store import queries

FIGURES = ("speedup", "deff", "ratio", "lr", "overhead", "best-after-k")
TEXT_WIDTH, TEXT_HEIGHT = 100, 18
"""Columns and rows of a chart in Markdown."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the report is about."""

    baseline: str
    sigma: float | None = None
    """Given by the user, nats; None = measured, else the prior, else none."""
    max_chinchilla: float | None = None
    """Largest ratio that enters the baseline's fits."""
    kind: str = "html"
    """html or md."""
    command: str = "optsweep report"
    """How to make it again, printed at its end."""


def report(
    workspace: Workspace, frame: pd.DataFrame, choice: Choice, *, progress: Callable[[str], None] | None = None
) -> str:
    """The report of one study as one text: the answers of the other verbs, in words, tables and figures.

    Args:
        frame: `ask.results` of one study.
        choice: baseline, sigma, format.
        progress: told what is being computed.
    """
    study = str(frame["study"].iloc[0])
    say = progress or (lambda _: None)
    say("tables and speedups")
    fits = {"sigma": choice.sigma, "max_chinchilla": choice.max_chinchilla}
    cells = ask.table(frame, baseline=choice.baseline, sigma=choice.sigma)
    speedups = {
        unit: ask.speedup(frame, baseline=choice.baseline, unit=unit, **fits) for unit in ("tokens", "flops", "time")
    }
    curves = ask.fit(frame, baseline=choice.baseline, **fits)
    occurring = {flag for rows in (cells, curves, *speedups.values()) for marks in rows["flags"] for flag in marks}
    parts = page.Parts(
        study=study,
        baseline=choice.baseline,
        version=__version__,
        date=datetime.date.today().isoformat(),
        command=choice.command,
        runs=frame,
        cells=cells,
        curves=curves,
        speedups=speedups,
        noise=ask.noise(frame, choice.baseline),
        audits=_audits(workspace, frame, study, choice, say),
        provenance=queries.provenance(workspace.store, study),
        flags={flag: flags.MEANINGS[flag] for flag in flags.ordered(occurring) if flag in flags.MEANINGS},
        pictures=tuple(_pictures(workspace, frame, choice, say)),
    )
    return page.rendered(parts, choice.kind)


def _audits(
    workspace: Workspace, frame: pd.DataFrame, study: str, choice: Choice, say: Callable[[str], None]
) -> dict[str, pd.DataFrame]:
    say("audits")
    base = choice.baseline
    return {
        "fairness": ask.fairness(frame, ask.run_facts(workspace, study), baseline=base),
        "edges": ask.edges(frame),
        "stable": ask.stable(frame),
        "hp": ask.scaling_rules(frame),
        "flips": ask.flips(workspace, frame, baseline=base),
        "profile": ask.profile(frame, baseline=base),
        "power": ask.power(frame, 0.05, baseline=base),
        "stop-audit": ask.stop_audit(workspace, frame)[0],
    }


def _pictures(
    workspace: Workspace, frame: pd.DataFrame, choice: Choice, say: Callable[[str], None]
) -> Iterator[page.Picture]:
    """Every figure that has something to show."""
    for kind in FIGURES:
        say(f"figure {kind}")
        wanted = drawings.Choice(
            kind=kind, baseline=choice.baseline, sigma=choice.sigma, max_chinchilla=choice.max_chinchilla
        )
        try:
            figure = ask.figure(workspace, frame, wanted)
        except OptsweepError:  # nothing of this kind here, which `optsweep plot` would say
            continue
        if figure.empty:
            continue
        yield page.Picture(name=kind, caption=figure.title, **_drawn(figure, choice.kind))


def _drawn(figure: Figure, kind: str) -> dict[str, str]:
    """The drawing for a page; a terminal chart for Markdown, and where matplotlib is not installed."""
    if kind == "html":
        with contextlib.suppress(OptsweepError):
            return {"svg": files.svg_text(figure)}
    return {"text": static.text(figure, width=TEXT_WIDTH, height=TEXT_HEIGHT, colour=False)}
