"""Screen 2: the columns of the run table and the preview of one run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span
from optsweep_tui.live.runstore import Series

BARS = "▁▂▃▄▅▆▇█"


def columns(width: int, several_models: bool, several_seeds: bool) -> list[Column]:
    """What fits: state and loss first, then the rest from left to right."""
    found = [
        Column(title=" ", width=2, key="mark"),
        Column(title="optimizer", width=9, key="optimizer"),
        Column(title="model", width=12, key="model"),
        Column(title="ratio", width=6, right=True, key="ratio"),
        Column(title="lr", width=7, right=True, key="lr"),
        Column(title="seed", width=4, right=True, key="seed"),
        Column(title="state", width=11, key="state"),
        Column(title="loss, nats", width=10, right=True, key="loss"),
        Column(title="step", width=13, right=True, key="step"),
        Column(title="tok/s", width=6, right=True, key="rate"),
        Column(title="ETA", width=7, right=True, key="eta"),
        Column(title="try", width=3, right=True, key="attempt"),
        Column(title="run", width=8, key="id"),
    ]
    droppable = [
        "id",
        "attempt",
        "seed" if not several_seeds else "",
        "model" if not several_models else "",
        "rate",
        "seed",
    ]
    for key in droppable:
        if sum(column.width + 1 for column in found) + 1 <= width:
            break
        found = [column for column in found if column.key != key]
    return found


def cells(row: RunRow, shown: Sequence[Column], marked: bool) -> list[Span]:
    """One line of the table."""
    line = row.line
    colour = {"running": style.ALIVE}.get(line.state)
    glyph = style.GLYPHS.get(line.state, "?")
    bad = style.BAD if glyph in "✗?" else None
    live = line.state == "running"
    texts: dict[str, Span] = {
        "mark": Span("+" if marked else "", style.ALIVE, bold=True),
        "optimizer": Span(line.optimizer, style.colour_of(line.optimizer)),
        "model": Span(line.model),
        "ratio": Span(fmt.ratio(line.chinchilla)),
        "lr": Span(fmt.knob(line.lr)),
        "seed": Span(fmt.knob(line.seed), style.GREY),
        "state": Span(f"{glyph} {line.state}", colour or bad or style.GREY),
        "loss": Span(fmt.loss(line.loss) + (" " if line.state == "done" else "*" if line.loss is not None else " ")),
        "step": Span(f"{line.step:,}/{line.steps:,}", None if live else style.GREY),
        "rate": Span(fmt.short(line.tokens_per_second), None if live else style.GREY),
        "eta": Span(fmt.duration(line.eta_seconds) if live else "", colour),
        "attempt": Span(str(line.attempt or ""), style.GREY),
        "id": Span(line.run_id[:8], style.GREY),
    }
    return [texts[column.key] for column in shown]


def sparkline(series: Series | None, width: int) -> str:
    """The curve in one line of bars: the mean of each part, low to high; blanks where there is nothing."""
    if series is None or width < 1:
        return " " * max(0, width)
    y = np.where(np.isfinite(series.y), series.y, np.nan)
    late = y[len(y) // 20 :] if len(y) >= 20 else y  # the first fall would flatten all the rest
    parts = np.array_split(late, min(width, len(late)))
    means = [float(np.nanmean(part)) if np.isfinite(part).any() else np.nan for part in parts]
    finite = [value for value in means if np.isfinite(value)]
    if not finite:
        return " " * width
    low, high = min(finite), max(finite)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if not np.isfinite(value) else BARS[round((value - low) * scale)] for value in means).ljust(
        width
    )


def preview(row: RunRow | None, series: Series | None, width: int) -> list[Row]:
    """Four lines on the run under the cursor."""
    if row is None:
        return []
    line = row.line
    head = [Span(f" {line.optimizer} ", style.colour_of(line.optimizer), bold=True)]
    head.append(
        Span(
            f"{line.model} {fmt.ratio(line.chinchilla)}  lr {fmt.knob(line.lr)}  seed {fmt.knob(line.seed)}", bold=True
        )
    )
    right = (Span(f"{line.run_id} ", style.GREY),)
    last = "" if series is None else f"{float(series.x[-1]):,.0f} steps"
    where = f"{line.engine} on {line.host}, attempt {line.attempt}" if line.host else "imported"
    facts = f" {where}   study {', '.join(row.studies) or 'none'}"
    rows: list[Row] = [fmt.both_ends(tuple(head), right, width)]
    if line.error:
        rows.append((Span(f" {line.error}"[:width], style.BAD),))
    else:
        rows.append(fmt.cut((Span(facts, style.GREY),), width))
    room = max(10, width - 40)
    spark = (Span(" train_loss ", style.GREY), Span(sparkline(series, room), style.colour_of(line.optimizer)))
    value = fmt.loss(float(series.y[-1])) if series is not None else "no metrics yet"
    rows.append(fmt.cut((*spark, Span(f" {value}"), Span(f"  {last}", style.GREY)), width))
    return rows
