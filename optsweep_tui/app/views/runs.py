"""Screen 2: every column that the run table can show and be sorted by, and the preview of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import RunRow, model_order
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span
from optsweep_tui.live.runstore import Series

BARS = "▁▂▃▄▅▆▇█"
KNOB = "knob:"
"""In front of a hyperparameter's name in the key of its column."""
_RANKS = {"running": 0, "orphan": 1, "lost": 1, "queued": 2, "submitting": 2, "planned": 3}
"""States by how much they want a look; the others follow by name."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One column: how it looks, what a cell holds, what the rows are sorted by."""

    column: Column
    span: Callable[[RunRow], Span]
    order: Callable[[RunRow], float | str | None]
    """None stands at the end in both directions."""
    meaning: str


def _model_key(row: RunRow) -> str:
    """Models by size, then by name, as one text."""
    size, name = model_order(row.line.model)
    return f"{size:022.1f} {name}"


def _column(
    key: str, title: str, width: int, right: bool, span: Callable[[RunRow], Span],
    order: Callable[[RunRow], float | str | None], meaning: str,
) -> Shown:  # fmt: skip
    return Shown(column=Column(title=title, width=width, right=right, key=key), span=span, order=order, meaning=meaning)


def _state(row: RunRow) -> Span:
    glyph = style.GLYPHS.get(row.line.state, "?")
    bad = style.BAD if glyph in "✗?" else None
    return Span(f"{glyph} {row.line.state}", {"running": style.ALIVE}.get(row.line.state) or bad or style.GREY)


def _loss(row: RunRow) -> Span:
    """A final loss, or with a star the newest training loss."""
    line = row.line
    return Span(fmt.loss(line.loss) + (" " if line.state == "done" else "*" if line.loss is not None else " "))


def _live(row: RunRow) -> str | None:
    return None if row.line.state == "running" else style.GREY


def _eta(row: RunRow) -> float | None:
    return row.line.eta_seconds if row.line.state == "running" else None


def steps_text(row: RunRow) -> str:
    """Steps done of those planned; of an imported run without a curve only those planned are known."""
    line = row.line
    if line.step or line.host:
        return f"{line.step:,}/{line.steps:,}"
    return f"{line.steps:,}" if line.steps else fmt.NOTHING


_ALL = (
    _column("optimizer", "optimizer", 9, False, lambda row: Span(row.line.optimizer, style.colour_of(row.line.optimizer)),
            lambda row: row.line.optimizer, "optimizer"),
    _column("model", "model", 12, False, lambda row: Span(row.line.model), _model_key, "model"),
    _column("ratio", "ratio", 6, True, lambda row: Span(fmt.ratio(row.line.chinchilla)),
            lambda row: row.line.chinchilla, "Chinchilla ratio, D / (20 N)"),
    _column("lr", "lr", 7, True, lambda row: Span(fmt.knob(row.line.lr)), lambda row: row.line.lr, "peak learning rate"),
    _column("seed", "seed", 4, True, lambda row: Span(fmt.knob(row.line.seed), style.GREY), lambda row: row.line.seed,
            "seed"),
    _column("state", "state", 11, False, _state,
            lambda row: f"{_RANKS.get(row.line.state, 4)}{row.line.state}", "state; running ones first"),
    _column("loss", "loss, nats", 10, True, _loss, lambda row: row.line.loss,
            "final validation loss; with * the newest training loss"),
    _column("step", "step", 13, True, lambda row: Span(steps_text(row), _live(row)),
            lambda row: row.line.step, "steps done of those planned"),
    _column("rate", "tok/s", 6, True, lambda row: Span(fmt.short(row.line.tokens_per_second), _live(row)),
            lambda row: row.line.tokens_per_second, "tokens per second"),
    _column("eta", "ETA", 7, True, lambda row: Span(fmt.duration(_eta(row)) if _eta(row) else "", style.ALIVE), _eta,
            "time to go, h:mm:ss"),
    _column("attempt", "try", 3, True, lambda row: Span(str(row.line.attempt or ""), style.GREY),
            lambda row: row.line.attempt, "number of the attempt"),
    _column("id", "run", 8, False, lambda row: Span(row.run_id[:8], style.GREY), lambda row: row.run_id,
            "first digits of the run id"),
    _column("tokens", "tokens", 7, True, lambda row: Span(fmt.short(row.cell.tokens)), lambda row: row.cell.tokens,
            "training tokens planned"),
    _column("engine", "engine", 6, False, lambda row: Span(row.line.engine or fmt.NOTHING, style.GREY),
            lambda row: row.line.engine, "engine"),
    _column("host", "host", 8, False, lambda row: Span(row.line.host or "imported", style.GREY),
            lambda row: row.line.host, "where it runs"),
    _column("dataset", "dataset", 10, False, lambda row: Span(row.cell.dataset or fmt.NOTHING, style.GREY),
            lambda row: row.cell.dataset, "dataset"),
    _column("seq", "seq", 5, True, lambda row: Span(fmt.knob(row.cell.seq_len), style.GREY),
            lambda row: row.cell.seq_len, "sequence length, tokens"),
    _column("study", "study", 14, False, lambda row: Span(", ".join(row.studies), style.GREY),
            lambda row: ", ".join(row.studies), "studies that it belongs to"),
    _column("error", "error", 40, False, lambda row: Span(row.line.error or "", style.BAD),
            lambda row: row.line.error, "what went wrong"),
)  # fmt: skip
COLUMNS = {shown.column.key: shown for shown in _ALL}
USUAL = ("optimizer", "model", "ratio", "lr", "seed", "state", "loss", "step", "rate", "eta", "attempt", "id")
MARK = Column(title=" ", width=2, key="mark")


def column_of(key: str) -> Shown | None:
    """A column by its key, `knob:NAME` for a hyperparameter; None for a key that is none (from an older state file)."""
    if key in COLUMNS:
        return COLUMNS[key]
    if not key.startswith(KNOB) or len(key) == len(KNOB):
        return None
    name = key.removeprefix(KNOB)

    def order(row: RunRow) -> float | str | None:
        value = row.knobs.get(name)
        return float(value) if isinstance(value, int | float) else None if value is None else str(value)

    return _column(
        key,
        name,
        min(14, max(7, len(name))),
        True,
        lambda row: Span(fmt.knob(row.knobs.get(name))),
        order,
        "hyperparameter",
    )


def columns(width: int, several_models: bool, several_seeds: bool, chosen: Sequence[str] = ()) -> list[Column]:
    """The chosen columns; without a choice what fits: state and loss first, then the rest from left to right."""
    if chosen:
        return [MARK, *(shown.column for key in chosen if (shown := column_of(key)) is not None)]
    found = [MARK, *(COLUMNS[key].column for key in USUAL)]
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
    spans = []
    for column in shown:
        if column.key == MARK.key:
            spans.append(Span("+" if marked else "", style.ALIVE, bold=True))
        else:
            found = column_of(column.key)
            spans.append(found.span(row) if found is not None else Span(""))
    return spans


def ordered(rows: Sequence[RunRow], key: str, descending: bool) -> list[RunRow]:
    """Rows by a column, equal ones in the order in which they came; those without a value at the end."""
    shown = column_of(key)
    if shown is None:
        return list(rows)
    values = list(map(shown.order, rows))  # places are sorted, not pairs: 100,000 tuples cost more than the sorting
    present = [place for place, value in enumerate(values) if value is not None and value == value and value != ""]
    if str in set(map(type, values)):
        values = [str(value) for value in values]
    if len(present) < len(values):
        there = set(present)
        absent = [place for place in range(len(values)) if place not in there]
    else:
        absent = []
    present.sort(key=values.__getitem__, reverse=descending)  # type: ignore[arg-type]
    return [rows[place] for place in (*present, *absent)]


def sparkline(series: Series | None, width: int) -> str:
    """The curve in one line of bars: the mean of each part, low to high; blanks where there is nothing."""
    if series is None or width < 1:
        return " " * max(0, width)
    y = np.asarray(series.y, np.float64)
    late = y[len(y) // 20 :] if len(y) >= 20 else y  # the first fall would flatten all the rest
    if not len(late):
        return " " * width
    parts = min(width, len(late))
    starts = np.arange(parts) * len(late) // parts
    good = np.isfinite(late)
    sums, counts = np.add.reduceat(np.where(good, late, 0.0), starts), np.add.reduceat(good.astype(np.int64), starts)
    with np.errstate(invalid="ignore"):
        means = sums / counts
    if not counts.any():
        return " " * width
    low, high = float(np.nanmin(means)), float(np.nanmax(means))
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if value != value else BARS[round((value - low) * scale)] for value in means.tolist()).ljust(
        width
    )


def preview(row: RunRow | None, series: Series | None, width: int) -> list[Row]:
    """Three lines on the run under the cursor."""
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
    rows: list[Row] = [fmt.both_ends(tuple(head), right, width)]
    if line.error:
        rows.append((Span(f" {line.error}"[:width], style.BAD),))
    else:
        rows.append(fmt.cut((Span(f" {_where(row)}", style.GREY),), width))
    kind = "final val_loss" if line.state == "done" else "newest train_loss"
    value = f"{kind} {fmt.loss(line.loss, 4)} nats" if line.loss is not None else "no loss yet"
    end = (
        f"  to go {fmt.duration(line.eta_seconds)}" if line.state == "running" and line.eta_seconds is not None else ""
    )
    words = (Span(f" {value}", bold=True), Span(end, style.ALIVE))
    spark: tuple[Span, ...] = (Span("  no curve of it here", style.GREY),)
    room = width - fmt.width_of(words) - 14
    if series is not None and room >= 10:
        spark = (Span("  train_loss ", style.GREY), Span(sparkline(series, room), style.colour_of(line.optimizer)))
    rows.append(fmt.cut((*words, *spark), width))
    return rows


def _where(row: RunRow) -> str:
    line = row.line
    where = f"{line.engine} on {line.host}, attempt {line.attempt}" if line.host else "imported"
    said = f"step {line.step:,} of {line.steps:,}" if line.step or line.host else f"{steps_text(row)} steps"
    rate = f"   {fmt.short(line.tokens_per_second)} tok/s" if line.tokens_per_second else ""
    return f"{where}   {said}{rate}   study {', '.join(row.studies) or 'none'}"
