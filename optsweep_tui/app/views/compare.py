"""Screen 3: what the chart shows in words, its legend, and the speedups beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import Block, RunRow, best_runs
from optsweep_tui.app.views.chart import AXIS_NAMES, MOST_RAW, SPIKE, ChartModel, Line
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


def unit_of(metric: str) -> str:
    """The metric with its unit, where it has one."""
    return f"{metric}, nats/token" if metric.endswith("_loss") else metric


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
    untuned: bool = False
    """Flagged UNTUNED by the analysis."""
    selected: bool = False
    """Its loss is the smallest of several single runs, not a mean over fresh seeds."""

    @property
    def has_interval(self) -> bool:
        """There is a sigma, so there is an interval (an open end counts)."""
        return math.isfinite(self.low)

    @property
    def resolved(self) -> bool:
        """The interval is known and does not contain 1."""
        return self.has_interval and not self.low <= 1 <= self.high


@dataclass(frozen=True, kw_only=True)
class Speedups:
    """What the panel knows."""

    baseline: str = "adamw"
    study: str | None = None
    rows: tuple[SpeedupRow, ...] = ()
    message: str = ""
    """Instead of rows."""
    busy: bool = False
    collected: int = 0
    """Runs of the study that the store has as done."""
    stale: bool = False
    """More runs than those are done by now."""


def speedup_rows(speedups: Speedups, width: int, height: int, skip: int = 0) -> list[Row]:
    """Speedups with intervals and states, refused ones with their reason, marks explained in the last line.

    Args:
        speedups: what is known.
        width: columns.
        height: rows.
        skip: cells that are scrolled away.
    """
    title = f" speedup over {speedups.baseline}, tokens"
    right = "95 % " if speedups.rows else ""
    rows: list[Row] = [fmt.both_ends((Span(title, bold=True),), (Span(right, style.GREY),), width)]
    if speedups.message:
        rows += [(Span(f" {text}", style.GREY),) for text in fmt.wrapped(speedups.message, width - 2)]
        return [fmt.cut(row, width) for row in rows[:height]]
    if speedups.busy:
        rows.append((Span(" working it out ...", style.GREY),))
    given = [row for row in speedups.rows if row.state != "REFUSE"]
    foot = _footnotes(speedups, given, width)
    room = height - 1 - len(foot) - (1 if foot else 0)
    body: list[Row] = []
    blocks = _blocks(speedups.rows, width)
    before: Row = ()
    skip = max(0, min(skip, len(blocks) - 1))
    left = len(blocks) - skip
    for head, block in blocks[skip:]:
        lines = [*([head] if head and (not body or head is not before) else []), *block]
        if len(body) + len(lines) > room - (left > 1):
            break
        body += lines
        before = head
        left -= 1
    if left:
        body = [*body[: max(0, room - 1)], (Span(f" {left} more below: PgDn", style.GREY),)]
    rows += body
    if foot:
        rows += [(), *((Span(f" {note}", style.GREY),) for note in foot)]
    return [fmt.cut(row, width) for row in rows[:height]]


def _footnotes(speedups: Speedups, given: Sequence[SpeedupRow], width: int) -> list[str]:
    """What the marks mean that occur, on lines of their own."""
    notes = {
        "? not resolved: the interval contains 1": any(row.has_interval and not row.resolved for row in given),
        "no sigma: no interval, no winner": any(not row.has_interval for row in given),
        "EXTRAP: beyond the baseline's budgets": any(row.state == "EXTRAP" for row in given),
        "1: one seed: its loss, smallest of several, is low": any(row.selected for row in given),
        "u: an edge of the sweep is unresolved, or numbers of runs differ by more than 1.25x": any(
            row.untuned for row in given
        ),
        "= tied with those named; =2: with two others": any(row.tied_with for row in speedups.rows),
    }
    foot = [note for note, wanted in notes.items() if wanted]
    if speedups.stale:
        foot.append("runs ended since: optsweep collect")
    return [line for note in foot for line in fmt.wrapped(note, width - 2)]


def _blocks(rows: Sequence[SpeedupRow], width: int) -> list[tuple[Row, list[Row]]]:
    """(heading, lines) of each cell: with several models by model and budget, the fastest first."""
    if len({row.model for row in rows}) <= 1:
        return [((), _speedup(row, f"{row.optimizer:<7} {fmt.ratio(row.chinchilla):>5}", width)) for row in rows]
    models = list(dict.fromkeys(row.model for row in rows))

    def place(row: SpeedupRow) -> tuple[int, float, bool, float]:
        return models.index(row.model), row.chinchilla, row.state == "REFUSE", -row.speedup

    wide = min(15, max(len(row.optimizer) for row in rows))
    heads: dict[tuple[str, float], Row] = {}
    found = []
    for row in sorted(rows, key=place):
        text = f" {row.model}, ratio {fmt.ratio(row.chinchilla)}"
        head = heads.setdefault((row.model, row.chinchilla), (Span(text, style.GREY, bold=True),))
        found.append((head, _speedup(row, fmt.fit(row.optimizer, wide), width)))
    return found


def _speedup(row: SpeedupRow, name: str, width: int) -> list[Row]:
    if row.state == "REFUSE":
        value, interval = (row.bound or fmt.NOTHING).replace("> ", ">"), ""
    else:
        value = f"{row.speedup:.2f}x"
        interval = _interval(row.low, row.high)
    mark = "?" if row.state != "REFUSE" and row.has_interval and not row.resolved else ""
    dim = row.state == "REFUSE"
    spans = [
        Span(f" {name} ", style.colour_of(row.optimizer)),
        Span(f"{value:>6}{mark or ' '}", style.GREY if dim else None, bold=row.resolved),
        Span(f" {interval:<11} ", style.GREY if dim else None),
        Span(row.state, {"EXTRAP": "#e0b050", "REFUSE": style.GREY}.get(row.state)),
    ]
    marks = ("1" if row.selected else "") + ("u" if row.untuned else "")
    if marks and not dim:
        spans.append(Span(f" {marks}", style.GREY))
    if row.tied_with:
        names = f" = {row.tied_with}"
        if fmt.width_of(tuple(spans)) + len(names) > width:
            names = f" ={row.tied_with.count(',') + 1}"
        spans.append(Span(names, style.GREY))
    rows = [fmt.cut(tuple(spans), width)]
    if row.state == "REFUSE" and row.reason:
        rows += [(Span(f"   {text}", style.GREY),) for text in fmt.wrapped(row.reason, width - 4)[:2]]
    return rows


def _interval(low: float, high: float) -> str:
    if not math.isfinite(low):
        return "no sigma"
    left = f"{low:.2f}" if math.isfinite(low) and low > 0 else "0"
    right = f"{high:.2f}" if math.isfinite(high) else "open"
    return f"{left} - {right}"
