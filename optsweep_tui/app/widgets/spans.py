"""A widget that shows rows of spans and, when they change, redraws only the columns that differ."""

from __future__ import annotations

from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from optsweep_tui.charts.chart import Row, Span


@lru_cache(maxsize=1024)
def style_of(colour: str | None, dim: bool, bold: bool, reverse: bool) -> Style:
    """The terminal style of a span; never None, which Textual's NO_COLOR filter cannot take."""
    return Style(color=colour, dim=dim or None, bold=bold or None, reverse=reverse or None)


def strip_of(row: Row, width: int) -> Strip:
    """One row as a strip of exactly `width` columns."""
    segments = [Segment(span.text, style_of(*span[1:])) for span in row]
    return Strip(segments).adjust_cell_length(width, Style())


class SpanView(Widget):
    """Rows in, lines out. The rows may be more or fewer than the widget is high."""

    DEFAULT_CSS = """
    SpanView { height: 1fr; width: 1fr; }
    """

    class Resized(Message):
        """The widget has another size: whoever fills it should do so anew."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._rows: list[Row] = []

    @property
    def rows(self) -> list[Row]:
        """What is shown."""
        return self._rows

    def show(self, rows: list[Row]) -> None:
        """Show these rows; what did not change is not sent to the terminal again."""
        before, self._rows = self._rows, rows
        width, height = self.size
        regions = []
        for y in range(min(height, max(len(before), len(rows)))):
            old = before[y] if y < len(before) else ()
            new = rows[y] if y < len(rows) else ()
            changed = changed_columns(old, new, width)
            if changed is not None:
                regions.append(Region(changed[0], y, changed[1] - changed[0], 1))
        if regions:
            self.refresh(*regions)

    def on_resize(self) -> None:
        """Ask for rows of the new size."""
        self.post_message(self.Resized())

    def render_line(self, y: int) -> Strip:
        """One line for Textual's compositor."""
        row = self._rows[y] if y < len(self._rows) else ()
        return strip_of(row, self.size.width).apply_style(self.rich_style)


def changed_columns(old: Row, new: Row, width: int) -> tuple[int, int] | None:
    """First and end column that differ between two rows, in text or style; None when none does."""
    if old == new:
        return None
    before, after = _cells(old, width), _cells(new, width)
    different = [column for column in range(width) if before[column] != after[column]]
    return (different[0], different[-1] + 1) if different else None


def _cells(row: Row, width: int) -> list[Span]:
    cells = [span._replace(text=character) for span in row for character in span.text]
    return (cells + [Span(" ")] * (width - len(cells)))[:width]
