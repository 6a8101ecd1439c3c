"""The panel of speedups: what is known of each cell, one line each with its interval, refused ones with their reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optsweep_tui.app import format as fmt
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span


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
        foot.append("runs ended since: x on screen 1 collects")
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
