"""A virtual table: it formats only the lines on the screen, so 100,000 rows open as fast as ten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from optsweep_tui.app import format as fmt
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.app.widgets.spans import strip_of
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span


class VirtualTable(ScrollView, can_focus=True):
    """Rows by index from a function; a cursor line; a header that stays."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "down", show=False, id="table.down"),
        Binding("up,k", "move(-1)", "up", show=False, id="table.up"),
        Binding("pagedown", "page(1)", "page down", show=False, id="table.pagedown"),
        Binding("pageup", "page(-1)", "page up", show=False, id="table.pageup"),
        Binding("g,home", "first", "first row", show=False, id="table.first"),
        Binding("G,end", "last", "last row", show=False, id="table.last"),
        Binding("right", "scroll_right", "scroll right", show=False, id="table.right"),
        Binding("left", "scroll_left", "scroll left", show=False, id="table.left"),
    ]

    DEFAULT_CSS = """
    VirtualTable { height: 1fr; width: 1fr; scrollbar-size-horizontal: 0; }
    """

    cursor: reactive[int] = reactive(0)

    class Moved(Message):
        """The cursor stands on another row."""

        def __init__(self, table: VirtualTable, row: int) -> None:
            super().__init__()
            self.table, self.row = table, row

        @property
        def control(self) -> VirtualTable:
            """The table that sent it."""
            return self.table

    def __init__(self, *, id: str | None = None, empty: str = "") -> None:
        super().__init__(id=id)
        self._columns: tuple[Column, ...] = ()
        self._count = 0
        self._cells: Callable[[int], Sequence[Span]] = lambda index: ()
        self._empty = empty
        self._base: Style | None = None

    @property
    def row_count(self) -> int:
        """Rows in the table."""
        return self._count

    def show(
        self, columns: Sequence[Column], count: int, cells: Callable[[int], Sequence[Span]], cursor: int | None = None
    ) -> None:
        """Show `count` rows; `cells(index)` gives one span per column, asked for only when the row is visible."""
        self._columns, self._count, self._cells = tuple(columns), count, cells
        width = sum(column.width + 1 for column in self._columns) + 1
        size = Size(width, count + 1)
        if size != self.virtual_size:
            self.virtual_size = size
        wanted = self.cursor if cursor is None else cursor
        self.cursor = max(0, min(wanted, count - 1))
        self.refresh()

    def show_empty(self, text: str) -> None:
        """What an empty table says."""
        if text != self._empty:
            self._empty = text
            self.refresh()

    def visible_rows(self) -> range:
        """Indices of the rows on the screen."""
        top = self.scroll_offset.y
        return range(min(top, self._count), min(self._count, top + max(0, self.size.height - 1)))

    def render_line(self, y: int) -> Strip:
        """One line for Textual's compositor: the header, or a row."""
        width, left = self.size.width, self.scroll_offset.x
        index = y - 1 + self.scroll_offset.y
        row: Row = ()
        if y == 0:
            titles = (fmt.fit(column.title, column.width, column.right) for column in self._columns)
            row = (Span(" " + " ".join(titles), style.GREY),)
        elif index < self._count:
            row = self._row(index)
        elif self._count == 0 and y == 2:
            row = (Span("  " + self._empty, style.GREY),)
        return strip_of(row, left + width).crop(left, left + width).apply_style(self._base_style())

    def _base_style(self) -> Style:
        """Colours of the table; kept, for finding them walks up the tree."""
        if self._base is None:
            self._base = self.rich_style
        return self._base

    def notify_style_update(self) -> None:
        """The colours around may have changed."""
        super().notify_style_update()
        self._base = None

    def _row(self, index: int) -> Row:
        spans = [Span(" ")]
        for column, span in zip(self._columns, self._cells(index), strict=True):
            spans.append(span._replace(text=fmt.fit(span.text, column.width, column.right) + " "))
        if index != self.cursor:
            return tuple(spans)
        spans.append(Span(" " * self.size.width))
        colour = None if self.has_focus else style.GREY
        return tuple(Span(span.text, colour, bold=self.has_focus, reverse=True) for span in spans)

    def validate_cursor(self, cursor: int) -> int:
        """Stay inside the table."""
        return max(0, min(cursor, self._count - 1))

    def watch_cursor(self, before: int, after: int) -> None:
        """Scroll to the cursor, redraw the two lines, tell the screen."""
        self.scroll_to_region(Region(self.scroll_offset.x, after, 1, 2), animate=False, force=True, immediate=True)
        self.refresh()
        if before != after:
            self.post_message(self.Moved(self, after))

    def on_focus(self) -> None:
        """The cursor line looks different with the focus."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor line looks different without the focus."""
        self.refresh()

    def on_click(self, event: Click) -> None:
        """Put the cursor where the mouse is."""
        index = event.y - 1 + self.scroll_offset.y
        if event.y > 0 and index < self._count:
            self.cursor = index

    def action_move(self, rows: int) -> None:
        """Move the cursor by rows."""
        self.cursor += rows

    def action_page(self, pages: int) -> None:
        """Move the cursor by screens."""
        self.cursor += pages * max(1, self.size.height - 2)

    def action_first(self) -> None:
        """To the first row."""
        self.cursor = 0

    def action_last(self) -> None:
        """To the last row."""
        self.cursor = self._count - 1
