"""Screen 3: which runs are shown, what the chart shows in words, and its legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import Block, RunRow, best_runs
from optsweep_tui.app.views.chart import AXIS_NAMES, MOST_RAW, SPIKE, ChartModel, Line, unit_of
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

MOST = len(style.RUN_LETTERS)
"""Curves that still have a letter of their own."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The runs of the chart, and why these."""

    rows: tuple[RunRow, ...]
    why: str


def choose(rows: Sequence[RunRow], marked: Sequence[RunRow], blocks: Callable[[], Sequence[Block]]) -> Choice:
    """The marked runs; without any the running ones; without those the best run of each cell.

    Args:
        rows: runs of the study.
        marked: marked runs, of any study.
        blocks: gives the matrix of the study, which is needed in the last case only.
    """
    cut = ""
    if marked:
        chosen, why = list(marked), f"{len(marked)} of {len(rows)} runs marked"
    else:
        running = [row for row in rows if row.line.state == "running"]
        if running:
            chosen, why = running, f"no marks: the {len(running)} running"
        else:
            chosen = best_runs(blocks())
            why = "no marks: best run of each cell"
    if len(chosen) > MOST:
        cut = f", first {MOST} shown"
    return Choice(rows=tuple(chosen[:MOST]), why=why + cut)


def status(lead: ChartModel, model: ChartModel, curves: int, width: int, right: str = "", spikes: int = 0) -> Row:
    """Metric, axes, smoothing, zoom.

    Args:
        lead: the chart whose x axis and smoothing all share.
        model: the chart that the keys are about.
        curves: in it.
        width: columns.
        right: stands at the right end.
        spikes: marked on the curves.
    """
    metric, y_log = model.metric, model.y_log
    model = lead
    marks = f"{SPIKE} {spikes:,} spike{'s' if spikes > 1 else ''}" if spikes else ""
    low, high = model.window
    zoom = f"zoom {1 / (high - low):.3g}x" if high - low < 0.999 else ""
    raw = "" if curves > MOST_RAW else ", raw behind"
    axis = AXIS_NAMES[model.axis] + (" (log)" if model.x_log else "")
    long = [f"x: {axis}", f"smoothing {model.tau:g} steps{raw}" if model.tau else "not smoothed", zoom, marks]
    short = [f"x: {axis}", f"ema {model.tau:g}" if model.tau else "raw", zoom, marks]
    for name, texts in ((unit_of(metric), long), (metric, short)):
        head = Span(f" {name}{' (log)' if y_log else ''}", bold=True)
        row = (head, *(Span(f"   {text}", style.GREY) for text in texts if text))
        if fmt.width_of(row) <= width:
            break
    return fmt.both_ends(row, (Span(right, style.ALIVE),), width)


def names_of(rows: Sequence[RunRow]) -> list[str]:
    """Runs in a legend: what tells one from another."""
    models = len({row.line.model for row in rows}) > 1
    seeds = len({row.line.seed for row in rows}) > 1
    found = []
    for row in rows:
        line = row.line
        parts = [
            line.optimizer,
            *([line.model] if models else []),
            fmt.ratio(line.chinchilla),
            f"lr {fmt.knob(line.lr)}",
        ]
        found.append(" ".join([*parts, f"seed {fmt.knob(line.seed)}"] if seeds else parts))
    return found


def legend(
    model: ChartModel, why: str, drawn: Sequence[tuple[RunRow, Line | None, str, str]], width: int, height: int
) -> list[Row]:
    """Letter, name, state and value of each curve; the value under the crosshair if there is one.

    Args:
        model: the chart.
        why: why these runs.
        drawn: (run, its line or None while it has no data, letter, colour).
        width: columns.
        height: rows; what does not fit is counted in the last one.
    """
    at = model.crosshair_x()
    axis, kind = AXIS_NAMES[model.axis], "smoothed " if model.tau else ""
    values = f"{kind}at {fmt.short(at)} {axis} ┆ " if at is not None else f"last {kind}value "
    rows: list[Row] = [fmt.both_ends((Span(f" {why}", style.GREY),), (Span(values, style.GREY),), width)]
    shown = drawn if len(drawn) < height else drawn[: max(0, height - 2)]
    names = names_of([row for row, *_ in drawn])
    for (row, line, letter, colour), text in zip(shown, names, strict=False):
        value = None
        if line is not None:
            value = model.value_at(line, at) if at is not None else model.last_value(line)
        text_of = _value(value, model.metric)
        if line is None and model.metric == "val_loss" and row.line.state == "done" and row.line.loss is not None:
            text_of = f"({row.line.loss:.3f})"  # no curve, but how it ended is known
        state = row.line.state
        mark = style.GLYPHS.get(state, "?")
        ending = (
            Span(f"{text_of:>8} "),
            Span(f"{mark} ", style.ALIVE if state == "running" else style.GREY),
        )
        name = fmt.fit(text, max(0, width - 4 - fmt.width_of(ending)))
        rows.append((Span(f" {letter} ", colour, bold=True), Span(name + " ", colour), *ending))
    if len(shown) < len(drawn):
        rows.append((Span(f"   and {len(drawn) - len(shown)} more", style.GREY),))
    return [fmt.cut(row, width) for row in rows[:height]]


def _value(value: float | None, metric: str) -> str:
    if value is None:
        return fmt.NOTHING
    return f"{value:.3f}" if metric.endswith("loss") else f"{value:.4g}"
