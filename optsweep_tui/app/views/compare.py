"""Screen 3: what the chart shows in words, its legend, and the speedups beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import RunRow, best_runs
from optsweep_tui.app.views.chart import AXIS_NAMES, ChartModel, Line
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

MOST = len(style.RUN_LETTERS)
"""Curves that still have a letter of their own."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The runs of the chart, and why these."""

    rows: tuple[RunRow, ...]
    why: str


def choose(rows: Sequence[RunRow], marked: Sequence[RunRow]) -> Choice:
    """The marked runs; without any the running ones; without those the best run of each cell at its largest budgets."""
    cut = ""
    if marked:
        chosen, why = list(marked), f"{len(marked)} of {len(rows)} runs marked"
    else:
        running = [row for row in rows if row.line.state == "running"]
        if running:
            chosen, why = running, f"nothing marked: the {len(running)} running"
        else:
            chosen = best_runs(rows)
            why = f"nothing marked: the best run of each of {len(chosen)} cells"
    if len(chosen) > MOST:
        cut = f", first {MOST} shown"
    return Choice(rows=tuple(chosen[:MOST]), why=why + cut)


def unit_of(metric: str) -> str:
    """The metric with its unit, where it has one."""
    return f"{metric}, nats/token" if metric.endswith("_loss") else metric


def status(model: ChartModel, why: str, width: int) -> Row:
    """Metric, axes, smoothing, and whose curves these are."""
    spans = [Span(f" {unit_of(model.metric)}", bold=True), Span(" (log)" if model.y_log else "", style.GREY)]
    axis = AXIS_NAMES[model.axis] + (" (log)" if model.x_log else "")
    spans.append(Span(f"   x: {axis}", style.GREY))
    spans.append(Span(f"   smoothing {model.tau:g} steps" if model.tau else "   not smoothed", style.GREY))
    low, high = model.window
    if high - low < 0.999:
        spans.append(Span(f"   zoom {1 / (high - low):.3g}x", style.GREY))
    return fmt.both_ends(tuple(spans), (Span(f"{why} ", style.GREY),), width)


def name_of(row: RunRow) -> str:
    """A run in a legend: what tells it from its neighbours."""
    line = row.line
    return f"{line.optimizer} {line.model} {fmt.ratio(line.chinchilla)} lr {fmt.knob(line.lr)} s{line.seed}"


def legend(
    model: ChartModel, drawn: Sequence[tuple[RunRow, Line | None, str, str]], width: int, height: int
) -> list[Row]:
    """Letter, name, state and value of each curve; the value under the crosshair if there is one.

    Args:
        model: the chart.
        drawn: (run, its line or None while it has no data, letter, colour).
        width: columns.
        height: rows; what does not fit is counted in the last one.
    """
    at = model.crosshair_x()
    axis = AXIS_NAMES[model.axis]
    head = f" at {fmt.short(at)} {axis}" if at is not None else " last value"
    rows: list[Row] = [
        fmt.both_ends((Span(head, style.GREY),), (Span(unit_of(model.metric) + " ", style.GREY),), width)
    ]
    shown = drawn if len(drawn) < height else drawn[: max(0, height - 2)]
    for row, line, letter, colour in shown:
        value = None
        if line is not None:
            value = model.value_at(line, at) if at is not None else model.last_value(line)
        state = row.line.state
        mark = style.GLYPHS.get(state, "?")
        ending = (
            Span(f"{_value(value, model.metric):>8} "),
            Span(f"{mark} ", style.ALIVE if state == "running" else style.GREY),
        )
        name = fmt.fit(name_of(row), max(0, width - 4 - fmt.width_of(ending)))
        rows.append((Span(f" {letter} ", colour, bold=True), Span(name + " ", colour), *ending))
    if len(shown) < len(drawn):
        rows.append((Span(f"   and {len(drawn) - len(shown)} more", style.GREY),))
    return rows[:height]


def _value(value: float | None, metric: str) -> str:
    if value is None:
        return fmt.NOTHING
    return f"{value:.3f}" if metric.endswith("loss") else f"{value:.4g}"


# ---------------------------------------------------------------- speedups


@dataclass(frozen=True, kw_only=True)
class SpeedupRow:
    """One line of the speedup panel."""

    optimizer: str
    model: str
    chinchilla: float
    speedup: float
    low: float
    high: float
    state: str
    """INTERP, EXTRAP or REFUSE."""
    reason: str
    bound: str
    tied_with: str
    """Another optimizer of its tie group, or empty."""
    resolved: bool
    """The interval is known and does not contain 1."""


@dataclass(frozen=True, kw_only=True)
class Speedups:
    """What the panel knows."""

    baseline: str = "adamw"
    study: str | None = None
    rows: tuple[SpeedupRow, ...] = ()
    message: str = ""
    """Instead of rows."""
    busy: bool = False
    stale: bool = False
    """Runs have ended since the store was collected."""


def speedup_rows(speedups: Speedups, width: int, height: int) -> list[Row]:
    """Speedups with intervals and states, refused ones with their reason, marks explained in the last line."""
    title = f" speedup over {speedups.baseline}, tokens"
    right = "95 % " if speedups.rows else ""
    rows: list[Row] = [fmt.both_ends((Span(title, bold=True),), (Span(right, style.GREY),), width)]
    if speedups.message:
        rows += [(Span(f" {text}", style.GREY),) for text in _wrapped(speedups.message, width - 2)]
        return rows[:height]
    if speedups.busy:
        rows.append((Span(" working it out ...", style.GREY),))
    models = len({row.model for row in speedups.rows}) > 1
    notes = ["~ not resolved: the interval contains 1", "EXTRAP: beyond the baseline's budgets"]
    used = [any(not row.resolved and row.state != "REFUSE" for row in speedups.rows)]
    used.append(any(row.state == "EXTRAP" for row in speedups.rows))
    foot = [note for note, wanted in zip(notes, used, strict=True) if wanted]
    if speedups.stale:
        foot.append("runs ended since: optsweep collect")
    foot = [line for note in foot for line in _wrapped(note, width - 2)]
    room = height - 1 - len(foot) - (1 if foot else 0)
    body: list[Row] = []
    for row in speedups.rows:
        body += _speedup(row, models, width)
    if len(body) > room:
        body = [*body[: max(0, room - 1)], (Span(" ...", style.GREY),)]
    rows += body
    if foot:
        rows += [(), *((Span(f" {note}", style.GREY),) for note in foot)]
    return rows[:height]


def _speedup(row: SpeedupRow, models: bool, width: int) -> list[Row]:
    name = f" {row.optimizer:<7}" + (f" {row.model}" if models else "") + f" {fmt.ratio(row.chinchilla):>5} "
    if row.state == "REFUSE":
        value, interval = (row.bound or fmt.NOTHING).replace("> ", ">"), ""
    else:
        value = f"{row.speedup:.2f}x"
        interval = _interval(row.low, row.high)
    mark = "" if row.resolved or row.state == "REFUSE" else "~"
    dim = row.state == "REFUSE"
    spans = [
        Span(name, style.colour_of(row.optimizer)),
        Span(f"{value:>7}{mark or ' '}", style.GREY if dim else None, bold=row.resolved),
        Span(f" {interval:<11} ", style.GREY if dim else None),
        Span(row.state, {"EXTRAP": "#e0b050", "REFUSE": style.GREY}.get(row.state)),
    ]
    if row.tied_with:
        spans.append(Span(f" = {row.tied_with}", style.GREY))
    rows = [fmt.cut(tuple(spans), width)]
    if row.state == "REFUSE" and row.reason:
        rows += [(Span(f"   {text}", style.GREY),) for text in _wrapped(row.reason, width - 4)[:2]]
    return rows


def _interval(low: float, high: float) -> str:
    if not math.isfinite(low) and not math.isfinite(high):
        return "no sigma"
    left = f"{low:.2f}" if math.isfinite(low) and low > 0 else "0"
    right = f"{high:.2f}" if math.isfinite(high) else "open"
    return f"{left} - {right}"


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
