"""Screen 1: the matrix of a study, and the runs of the selected cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import Block, CellView, RunRow
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

LABEL = 15
"""Columns of the optimizers' names."""
CELL = 12
"""Columns of a cell."""
GLYPHS = {"running": "◐", "bad": "✗", "waiting": "○", "none": "~", "done": "●"}


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The selected cell: block, optimizer and ratio by place."""

    block: int = 0
    line: int = 0
    column: int = 0


def cell_at(blocks: Sequence[Block], cursor: Cursor) -> tuple[Block, str, float, CellView | None] | None:
    """What the cursor stands on; None in an empty matrix."""
    if not blocks:
        return None
    block = blocks[cursor.block]
    optimizer, ratio = block.optimizers[cursor.line], block.ratios[cursor.column]
    return block, optimizer, ratio, block.cells.get((optimizer, ratio))


def clamped(blocks: Sequence[Block], cursor: Cursor) -> Cursor:
    """The cursor, inside the matrix."""
    if not blocks:
        return Cursor()
    place = min(max(0, cursor.block), len(blocks) - 1)
    block = blocks[place]
    line = min(max(0, cursor.line), len(block.optimizers) - 1)
    return Cursor(block=place, line=line, column=min(max(0, cursor.column), len(block.ratios) - 1))


def moved(blocks: Sequence[Block], cursor: Cursor, lines: int, columns: int) -> Cursor:
    """One cell up, down, left or right; up and down cross into the neighbouring model."""
    here = clamped(blocks, cursor)
    if not blocks:
        return here
    block, line = here.block, here.line + lines
    if line < 0 and block > 0:
        block, line = block - 1, len(blocks[block - 1].optimizers) - 1
    elif line >= len(blocks[block].optimizers) and block + 1 < len(blocks):
        block, line = block + 1, 0
    return clamped(blocks, Cursor(block=block, line=line, column=here.column + columns))


def _layout(blocks: Sequence[Block], cursor: Cursor, width: int, height: int) -> tuple[list[tuple[int, int]], int, int]:
    """Lines of the whole matrix as (block, optimizer line; -1 = its header, -2 = blank), first line and ratio shown."""
    lines = []
    for place, block in enumerate(blocks):
        lines += [(place, -2)] * bool(place) + [(place, line) for line in range(-1, len(block.optimizers))]
    here = lines.index((cursor.block, cursor.line))
    top = max(0, min(lines.index((cursor.block, -1)), len(lines) - height))
    shown = max(1, (width - LABEL - 1) // CELL)
    return lines, max(top, here - height + 1), max(0, cursor.column - shown + 1)


def matrix_rows(blocks: Sequence[Block], cursor: Cursor, marked: frozenset[str], width: int, height: int) -> list[Row]:
    """The part of the matrix around the cursor that fits."""
    lines, top, first = _layout(blocks, cursor, width, height)
    shown = max(1, (width - LABEL - 1) // CELL)
    rows: list[Row] = []
    for place, line in lines[top : top + height]:
        block = blocks[place]
        ratios = block.ratios[first : first + shown]
        if line == -2:
            rows.append(())
        elif line == -1:
            more = "›" if len(block.ratios) > first + shown else ""
            header = "".join(fmt.ratio(ratio).rjust(CELL - 3) + "   " for ratio in ratios) + more
            title = ("‹ " if first else "") + block.title
            rows.append((Span(" " + fmt.fit(title, LABEL), bold=True), Span(header, style.GREY)))
        else:
            optimizer = block.optimizers[line]
            spans = [Span("   " + fmt.fit(optimizer, LABEL - 2), style.colour_of(optimizer))]
            for column, ratio in enumerate(ratios, first):
                here = (place, line, column) == (cursor.block, cursor.line, cursor.column)
                spans += _cell(block.cells.get((optimizer, ratio)), here, block.best.get(ratio) == optimizer, marked)
            rows.append(tuple(spans))
    return [fmt.cut(row, width) for row in rows]


def cell_under(blocks: Sequence[Block], cursor: Cursor, width: int, height: int, x: int, y: int) -> Cursor | None:
    """The cell at a place of the rows that `matrix_rows` gives; None beside the cells."""
    if not blocks:
        return None
    lines, top, first = _layout(blocks, cursor, width, height)
    column = first + (x - LABEL - 1) // CELL
    if x <= LABEL or not 0 <= y < height or top + y >= len(lines):
        return None
    block, line = lines[top + y]
    return Cursor(block=block, line=line, column=column) if line >= 0 and column < len(blocks[block].ratios) else None


def _cell(cell: CellView | None, here: bool, best: bool, marked: frozenset[str]) -> list[Span]:
    """Glyph, number of runs, loss, marks; reversed under the cursor."""
    if cell is None:
        return [Span(" "), Span(fmt.fit("   ·", CELL - 2), style.FAINT, reverse=here), Span(" ")]
    chosen = any(row.run_id in marked for row in cell.rows)
    glyph = GLYPHS[cell.state] + str(len(cell.rows))
    marks = ("*" if cell.unfinished else "") + ("e" if cell.lr_edge and not cell.unfinished else "")
    text = f"{glyph:<3}{fmt.loss(cell.loss, 2):>5}{marks:<2}"
    colour = {"running": style.ALIVE, "bad": style.BAD, "waiting": style.GREY, "none": style.GREY}.get(cell.state)
    return [
        Span("+" if chosen else " ", style.ALIVE),
        Span(text, colour, bold=best, reverse=here),
        Span(" "),
    ]


def cell_lines(blocks: Sequence[Block], cursor: Cursor, baseline: str, width: int) -> list[Row]:
    """Two lines on the selected cell: its runs by lr, and what is best."""
    spot = cell_at(blocks, cursor)
    if spot is None:
        return [(), ()]
    block, optimizer, ratio, cell = spot
    name = [Span(f" {optimizer} ", style.colour_of(optimizer), bold=True), Span(f"{fmt.ratio(ratio)}  ", bold=True)]
    if cell is None:
        return [(*name, Span("no runs planned here", style.GREY)), ()]
    count = len(cell.rows)
    runs: list[Span] = [*name, Span(f"{count} run{'s' if count != 1 else ''}: lr ", style.GREY)]
    by_lr: dict[float | None, list[RunRow]] = {}
    for row in cell.rows:
        by_lr.setdefault(row.line.lr, []).append(row)
    for rows in by_lr.values():
        runs += _runs(rows, cell.best)
    return [fmt.cut(tuple(runs), width), fmt.cut(_verdict(block, optimizer, ratio, cell, baseline), width)]


def _runs(rows: Sequence[RunRow], best: RunRow | None) -> list[Span]:
    """The runs of one lr: its best one, and how many seeds there are."""
    row = min(rows, key=lambda row: (row.line.state != "done", row.line.loss is None, row.line.loss or 0.0))
    if best in rows:
        row = best or row
    line = row.line
    glyph = style.GLYPHS.get(line.state, "?")
    colour = {"running": style.ALIVE}.get(line.state, style.BAD if glyph in "✗?" else None)
    value = f" {fmt.loss(line.loss)}" if line.loss is not None else ""
    live = f" {100 * line.step // max(1, line.steps)}%" if line.state == "running" else ""
    seeds = f" x{len(rows)}" if len(rows) > 1 else ""
    return [
        Span(f"{fmt.knob(line.lr)} ", style.GREY),
        Span(f"{glyph}{value}{live}", colour, bold=row is best),
        Span(f"{seeds}   ", style.GREY),
    ]


def _verdict(block: Block, optimizer: str, ratio: float, cell: CellView, baseline: str) -> Row:
    best = cell.best
    if best is None:
        states = sorted({row.line.state for row in cell.rows})
        return (Span(f" no loss yet: {', '.join(states)}", style.GREY),)
    kind = "best training loss so far"
    if cell.final:
        kind = (
            f"final loss, mean of {cell.seeds} fresh seeds" if cell.fresh else f"final loss, smallest of {cell.tried}"
        )
    spans = [Span(f" {kind} ", style.GREY), Span(fmt.loss(cell.loss, 4), bold=True)]
    spans.append(Span(f" at lr {fmt.knob(best.line.lr)}", style.GREY))
    if cell.lr_edge:
        spans.append(Span(", at the edge of the lr's tried", style.GREY))
    other = block.cells.get((baseline, ratio))
    if optimizer != baseline and other is not None and other.final and cell.final:
        gap = (cell.loss or 0.0) - (other.loss or 0.0)
        spans += [
            Span(f"   {gap:+.3f}", bold=True),
            Span(f" to {baseline} (intervals: screen 3)", style.GREY),
        ]
    return tuple(spans)


def legend(width: int) -> list[Row]:
    """What the marks mean."""
    marks = (
        ("●", "done", None),
        ("◐", "running", style.ALIVE),
        ("○", "waiting", style.GREY),
        ("✗", "failed", style.BAD),
        ("~", "no loss", style.GREY),
        ("*", "unfinished", style.GREY),
        ("e", "lr at edge", style.GREY),
    )
    spans: list[Span] = [Span(" ")]
    for mark, meaning, colour in marks:
        spans += [Span(mark, colour, bold=True), Span(f" {meaning}  ", style.GREY)]
    line = " runs, final loss in nats/token; bold = smallest of its column; + marked"
    return [fmt.cut((Span(line, style.GREY),), width), fmt.cut(tuple(spans), width)]
