"""Screen 1: the matrix of a study, the runs of a cell, what the analysis says of it, and the selection."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from optsweep_tui.app import format as fmt
from optsweep_tui.app.model import Block, CellView, RunRow
from optsweep_tui.app.verdicts import CellVerdict, Verdicts, key_of
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

LABELS = (15, 26)
"""Columns of the optimizers' names: at least, and at most where there is room."""
CELLS = (12, 13)
"""Columns of a cell: losses have two decimals, or three where there is room for a column more."""
GLYPHS = {"running": "◐", "bad": "✗", "waiting": "○", "none": "~", "done": "●", "new": "·"}
BETTER = style.colour_of("soap")
"""Green: a gap to the baseline that is resolved, and better; `<` says so without colour. A worse one is grey."""
AHEAD = "<"
"""Before a loss or gap: below the baseline's, beyond noise."""
NAME_OF_COLUMNS = "Chinchilla ratio"

Spot = tuple[str, str, float]
"""A cell by (title of its block, optimizer, ratio): stays what it is when the matrix grows."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """The selected cell: block, optimizer and ratio by place."""

    block: int = 0
    line: int = 0
    column: int = 0


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the matrix shows beside states and counts."""

    marked: frozenset[str] = frozenset()
    """Run ids."""
    selected: frozenset[Spot] = frozenset()
    verdicts: Verdicts = field(default_factory=Verdicts)
    gaps: bool = False
    """Gaps to the baseline in the place of losses."""


def cell_at(blocks: Sequence[Block], cursor: Cursor) -> tuple[Block, str, float, CellView | None] | None:
    """What the cursor stands on; None in an empty matrix."""
    if not blocks:
        return None
    block = blocks[cursor.block]
    optimizer, ratio = block.optimizers[cursor.line], block.ratios[cursor.column]
    return block, optimizer, ratio, block.cells.get((optimizer, ratio))


def spot_at(blocks: Sequence[Block], cursor: Cursor) -> Spot | None:
    """The cell under the cursor by its names."""
    found = cell_at(blocks, cursor)
    return None if found is None else (found[0].title, found[1], found[2])


def spots(blocks: Iterable[Block]) -> list[Spot]:
    """Every cell that has runs, in the order of the matrix."""
    return [
        (block.title, optimizer, ratio)
        for block in blocks
        for optimizer in block.optimizers
        for ratio in block.ratios
        if (optimizer, ratio) in block.cells
    ]


def between(blocks: Sequence[Block], first: Cursor, last: Cursor) -> set[Spot]:
    """The rectangle of cells between two places of one block; across blocks the whole columns between them."""
    columns = range(min(first.column, last.column), max(first.column, last.column) + 1)
    low, high = sorted([(first.block, first.line), (last.block, last.line)])
    found = set()
    for place, block in enumerate(blocks):
        for line, optimizer in enumerate(block.optimizers):
            if low <= (place, line) <= high:
                for column in columns:
                    if column < len(block.ratios):
                        found.add((block.title, optimizer, block.ratios[column]))
    return found


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


def filtered(blocks: Sequence[Block], test: Callable[[RunRow], bool]) -> list[Block]:
    """The cells in which some run passes, each with all its runs: a filter must not change what a cell's loss is."""
    found = []
    for block in blocks:
        cells = {spot: cell for spot, cell in block.cells.items() if any(map(test, cell.rows))}
        if cells:
            ratios = tuple(ratio for ratio in block.ratios if any(at == ratio for _, at in cells))
            names = tuple(name for name in block.optimizers if any(of == name for of, _ in cells))
            found.append(replace(block, cells=cells, ratios=ratios, optimizers=names))
    return found


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the columns of a terminal are shared out."""

    label: int
    """Columns of the names."""
    cell: int
    """Columns of a cell."""
    shown: int
    """Cells beside each other."""

    @property
    def decimals(self) -> int:
        """Of a loss."""
        return 2 if self.cell == CELLS[0] else 3

    @classmethod
    def of(cls, blocks: Iterable[Block], width: int) -> Shape:
        """For a matrix on so many columns: whole cells first, then a decimal more, then longer names."""
        blocks = list(blocks)
        ratios = max((len(block.ratios) for block in blocks), default=1)
        cell = next((cell for cell in CELLS[::-1] if LABELS[0] + 1 + cell * ratios <= width), CELLS[0])
        names = [len(name) + 2 for block in blocks for name in block.optimizers] + [
            len(block.title) for block in blocks
        ]
        wanted = min(max([LABELS[0], *(length + 1 for length in names)]), LABELS[1])
        label = max(LABELS[0], min(wanted, width - 1 - cell * ratios))
        return cls(label=label, cell=cell, shown=max(1, (width - label - 1) // cell))


def _layout(
    blocks: Sequence[Block], cursor: Cursor, shape: Shape, height: int
) -> tuple[list[tuple[int, int]], int, int]:
    """Lines of the whole matrix as (block, optimizer line; -1 = its header, -2 = blank), first line and ratio shown."""
    lines = []
    for place, block in enumerate(blocks):
        lines += [(place, -2)] * bool(place) + [(place, line) for line in range(-1, len(block.optimizers))]
    here = lines.index((cursor.block, cursor.line))
    top = max(0, min(lines.index((cursor.block, -1)), len(lines) - height))
    return lines, max(top, here - height + 1), max(0, cursor.column - shape.shown + 1)


def matrix_rows(
    blocks: Sequence[Block], cursor: Cursor, marked: frozenset[str], width: int, height: int, look: Look | None = None
) -> list[Row]:
    """The part of the matrix around the cursor that fits."""
    look = replace(look or Look(), marked=marked)
    shape = Shape.of(blocks, width)
    lines, top, first = _layout(blocks, cursor, shape, height)
    rows: list[Row] = []
    for place, line in lines[top : top + height]:
        block = blocks[place]
        ratios = block.ratios[first : first + shape.shown]
        if line == -2:
            rows.append(())
        elif line == -1:
            more = "›" if len(block.ratios) > first + shape.shown else ""
            header = "".join(fmt.ratio(ratio).rjust(shape.cell - 3) + "   " for ratio in ratios) + more
            title = ("‹ " if first else "") + block.title
            row: Row = (Span(" " + fmt.fit(title, shape.label), bold=True), Span(header, style.GREY))
            named = fmt.width_of(row) + len(NAME_OF_COLUMNS) < width and not rows
            rows.append((*row, Span(f" {NAME_OF_COLUMNS}", style.GREY)) if named else row)
        else:
            optimizer = block.optimizers[line]
            spans = [Span("   " + fmt.fit(optimizer, shape.label - 2), style.colour_of(optimizer))]
            for column, ratio in enumerate(ratios, first):
                here = (place, line, column) == (cursor.block, cursor.line, cursor.column)
                spans += _cell(block, optimizer, ratio, here, look, shape)
            rows.append(tuple(spans))
    return [fmt.cut(row, width) for row in rows]


def cell_under(blocks: Sequence[Block], cursor: Cursor, width: int, height: int, x: int, y: int) -> Cursor | None:
    """The cell at a place of the rows that `matrix_rows` gives; None beside the cells."""
    if not blocks:
        return None
    shape = Shape.of(blocks, width)
    lines, top, first = _layout(blocks, cursor, shape, height)
    column = first + (x - shape.label - 1) // shape.cell
    if x <= shape.label or not 0 <= y < height or top + y >= len(lines):
        return None
    block, line = lines[top + y]
    return Cursor(block=block, line=line, column=column) if line >= 0 and column < len(blocks[block].ratios) else None


def verdict_of(cell: CellView, ratio: float, verdicts: Verdicts) -> CellVerdict | None:
    """What the analysis says of a cell, as long as no run of it has ended since: an older answer would be a wrong one."""
    found = verdicts.cells.get(key_of(cell.rows[0].cell, ratio))
    done = sum(row.line.state == "done" for row in cell.rows)
    return found if found is not None and found.done == done else None


def _cell(block: Block, optimizer: str, ratio: float, here: bool, look: Look, shape: Shape) -> list[Span]:
    """Glyph, number of runs, loss or gap, marks; reversed under the cursor, in brackets when selected, + when marked."""
    cell = block.cells.get((optimizer, ratio))
    picked = (block.title, optimizer, ratio) in look.selected
    left, right = (Span("[", bold=True), Span("]", bold=True)) if picked else (Span(" "), Span(" "))
    if cell is None:
        return [left, Span(fmt.fit("   ·", shape.cell - 2), style.FAINT, reverse=here), right]
    if any(row.run_id in look.marked for row in cell.rows):
        left = Span("+", style.ALIVE)
    found = verdict_of(cell, ratio, look.verdicts)
    marks = "*" if cell.unfinished else "=" if found is not None and found.tied else ""
    marks += "e" if cell.lr_edge and not cell.unfinished else ""
    best = found.rank == 1 if found is not None else block.best.get(ratio) == optimizer
    if look.gaps:  # three decimals need the room of the count
        head = GLYPHS[cell.state]
        gap = f"{found.gap:+.3f}" if found is not None and not math.isnan(found.gap) else fmt.NOTHING
        value = "base " if optimizer == look.verdicts.baseline else gap
    else:
        head = GLYPHS[cell.state] + str(len(cell.rows))
        loss = found.loss if found is not None and not math.isnan(found.loss) else cell.loss
        value = fmt.loss(loss, shape.decimals)
    value = (AHEAD if _better(cell, found) else " ") + value
    text = fmt.fit(f"{head}{value:>{shape.cell - 4 - len(head)}}{marks}", shape.cell - 2)
    return [left, Span(text, _colour(cell, found), bold=best, reverse=here), right]


def _better(cell: CellView, found: CellVerdict | None) -> bool:
    """Below the baseline, beyond noise."""
    return cell.state == "done" and found is not None and found.high < 0  # a NaN is not


def _colour(cell: CellView, found: CellVerdict | None) -> str | None:
    """States that need a look first, else the gap: green better, grey worse, where noise is told apart."""
    known = {"running": style.ALIVE, "bad": style.BAD, "waiting": style.GREY, "none": style.GREY, "new": style.GREY}
    if cell.state != "done" or found is None or math.isnan(found.low):
        return known.get(cell.state)
    return BETTER if _better(cell, found) else style.GREY if found.low > 0 else None
