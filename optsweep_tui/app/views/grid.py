"""Several charts in one area: where each stands, its title with the values under the crosshair, and the rows put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optsweep_tui.app import format as fmt
from optsweep_tui.app.views.chart import ChartModel, Line
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span

COUNTS = (1, 2, 4)
"""How many charts there can be."""
LEAST_WIDTH, LEAST_HEIGHT = 33, 7
"""Of one chart; where there is no room for all, fewer are shown."""
GAP = 1
"""Columns between two charts."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one chart stands, in columns and rows of the area."""

    x: int
    y: int
    width: int
    height: int

    def holds(self, x: int, y: int) -> bool:
        """The cell is part of it."""
        return self.x <= x < self.x + self.width and self.y <= y < self.y + self.height


def places(count: int, width: int, height: int) -> list[Place]:
    """One chart fills the area, two stand one above the other, four in two rows; fewer where they would be too small."""
    if count >= 4 and (width - GAP) // 2 >= LEAST_WIDTH and height // 2 >= LEAST_HEIGHT:
        left, upper = (width - GAP) // 2, height // 2
        right = width - GAP - left
        return [
            Place(x=x, y=y, width=wide, height=high)
            for y, high in ((0, upper), (upper, height - upper))
            for x, wide in ((0, left), (left + GAP, right))
        ]
    if count >= 2 and height // 2 >= LEAST_HEIGHT:
        upper = height // 2
        return [
            Place(x=0, y=0, width=width, height=upper),
            Place(x=0, y=upper, width=width, height=height - upper),
        ]
    return [Place(x=0, y=0, width=max(1, width), height=max(1, height))]


def joined(parts: Sequence[tuple[Place, Sequence[Row]]]) -> list[Row]:
    """The rows of the whole area."""
    if len(parts) == 1:
        return list(parts[0][1])
    height = max(place.y + place.height for place, _ in parts)
    found: list[Row] = []
    for y in range(height):
        spans: list[Span] = []
        column = 0
        for place, rows in parts:
            if not place.y <= y < place.y + place.height:
                continue
            row = rows[y - place.y] if y - place.y < len(rows) else ()
            row = fmt.cut(row, place.width)
            spans.append(Span(" " * (place.x - column)))
            spans += row
            column = place.x + fmt.width_of(row)
        found.append(tuple(span for span in spans if span.text))
    return found


def title(
    model: ChartModel, name: str, lines: Sequence[Line], width: int, *, focused: bool, value: str = "{:.3f}"
) -> Row:
    """The metric, and each curve's value under the crosshair, else its last one, as many as fit."""
    at = model.crosshair_x()
    head = f" {name}{' (log)' if model.y_log else ''}"
    spans = [Span(head, style.ALIVE if focused else None, bold=True), Span("  ")]
    left = width - len(head) - 2
    for line in lines:
        known = model.value_at(line, at) if at is not None else model.last_value(line)
        text = fmt.NOTHING if known is None else value.format(known)
        left -= len(text) + 4
        if left < 0:
            break
        spans += [
            Span(f"{line.letter} ", line.colour, bold=True),
            Span(f"{text}  ", None if at is not None else style.GREY),
        ]
    return fmt.cut(tuple(spans), width)
