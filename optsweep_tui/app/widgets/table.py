"""A virtual table: it formats only the lines on the screen, so 100,000 rows open as fast as ten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Offset, Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from optsweep_tui.app import format as fmt
from optsweep_tui.app.widgets.column import Column
from optsweep_tui.app.widgets.spans import changed_columns, strip_of
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
        Binding("right", "column(1)", "column to the right", show=False, id="table.right"),
        Binding("left", "column(-1)", "column to the left", show=False, id="table.left"),
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

    class Titled(Message):
        """The title of a column was clicked."""

        def __init__(self, table: VirtualTable, key: str) -> None:
            super().__init__()
            self.table, self.key = table, key

        @property
        def control(self) -> VirtualTable:
            """The table that sent it."""
            return self.table

    def __init__(self, *, id: str | None = None, empty: str = "", choose_columns: bool = False) -> None:
        """
        Args:
            id: of the widget.
            empty: what it says without rows.
            choose_columns: left and right move from column to column, which is then shown; else they scroll.
        """
        super().__init__(id=id)
        self.column = ""
        """Key of the column that is chosen; empty where none can be."""
        self._choose = choose_columns
        self._order: tuple[str, bool] | None = None
        self._columns: tuple[Column, ...] = ()
        self._count = 0
        self._cells: Callable[[int], Sequence[Span]] = lambda index: ()
        self._empty = empty
        self._base: Style | None = None
        self._lines: dict[int, Row] = {}
        """What stands on the screen, by line of the widget."""
        self._where: tuple[Offset, Size] | None = None
        """Scroll offset and size for which that is so."""

    @property
    def row_count(self) -> int:
        """Rows in the table."""
        return self._count

    def show(
        self, columns: Sequence[Column], count: int, cells: Callable[[int], Sequence[Span]], cursor: int | None = None
    ) -> None:
        """Show `count` rows; `cells(index)` gives one span per column, asked for only when the row is visible."""
        self._columns, self._count, self._cells = tuple(columns), count, cells
        if self._choose and self.column not in (entry.key for entry in self._columns):
            self.column = next((entry.key for entry in self._columns if entry.title.strip()), "")
        width = sum(column.width + 1 for column in self._columns) + 1
        size = Size(width, count + 1)
        if size != self.virtual_size:
            self.virtual_size = size
        wanted = self.cursor if cursor is None else cursor
        self.cursor = max(0, min(wanted, count - 1))
        self._repaint()

    def show_order(self, key: str, descending: bool) -> None:
        """Mark the column that the rows are sorted by."""
        self._order = (key, descending)

    def show_empty(self, text: str) -> None:
        """What an empty table says."""
        if text != self._empty:
            self._empty = text
            self._lines.clear()
            self.refresh()  # the rows may be about to change: they are asked for when it is drawn

    def visible_rows(self) -> range:
        """Indices of the rows on the screen."""
        top = self.scroll_offset.y
        return range(min(top, self._count), min(self._count, top + max(0, self.size.height - 1)))

    def render_line(self, y: int) -> Strip:
        """One line for Textual's compositor: the header, or a row."""
        width, left = self.size.width, self.scroll_offset.x
        self._settle()
        row = self._lines.get(y)
        if row is None:
            self._lines[y] = row = self._content(y)
        return strip_of(row, left + width).crop(left, left + width).apply_style(self._base_style())

    def _settle(self) -> bool:
        """Forget the lines of another place or size; True where there were any others."""
        where = (self.scroll_offset, self.size)
        if where == self._where:
            return False
        self._where = where
        self._lines.clear()
        return True

    def _repaint(self) -> None:
        """Redraw what has changed: mostly one column of a few lines, where all would be 10 kB on the line."""
        if self._settle():
            self.refresh()
            return
        width, left = self.size.width, self.scroll_offset.x
        regions = []
        for y in range(self.size.height):
            before, after = self._lines.get(y), self._content(y)
            self._lines[y] = after
            changed = (left, left + width) if before is None else changed_columns(before, after, left + width)
            if changed is not None and changed[1] > left:
                start = max(left, changed[0])
                regions.append(Region(start - left, y, changed[1] - start, 1))
        if regions:
            self.refresh(*regions)

    def _content(self, y: int) -> Row:
        index = y - 1 + self.scroll_offset.y
        if y == 0:
            return self._titles()
        if index < self._count:
            return self._row(index)
        return (Span("  " + self._empty, style.GREY),) if self._count == 0 and y == 2 else ()

    def _titles(self) -> Row:
        """The header: the chosen column reversed, the one that decides the order with an arrow."""
        spans: list[Span] = [Span(" ")]
        for column in self._columns:
            title = fmt.fit(column.title, column.width, column.right)
            here = bool(self.column) and column.key == self.column and self.has_focus
            after = " "
            if self._order is not None and column.key == self._order[0]:  # the blank beside the title has room
                arrow = "▼" if self._order[1] else "▲"
                if column.right:
                    spans[-1] = Span(arrow, style.GREY)
                else:
                    after = arrow
            spans += [Span(title, style.GREY, bold=here, reverse=here), Span(after, style.GREY)]
        return tuple(spans)

    def _base_style(self) -> Style:
        """Colours of the table; kept, for finding them walks up the tree."""
        if self._base is None:
            self._base = self.rich_style
        return self._base

    def notify_style_update(self) -> None:
        """The colours around may have changed."""
        super().notify_style_update()
        self._base = None
        self._where = None

    def _row(self, index: int) -> Row:
        spans = [Span(" ")]
        for column, span in zip(self._columns, self._cells(index), strict=True):
            spans.append(span._replace(text=fmt.fit(span.text, column.width, column.right) + " "))
        if index != self.cursor:
            return tuple(spans)
        spans.append(Span(" " * (self.size.width + self.scroll_offset.x)))
        colour = None if self.has_focus else style.GREY
        return tuple(Span(span.text, colour, bold=self.has_focus, reverse=True) for span in spans)

    def validate_cursor(self, cursor: int) -> int:
        """Stay inside the table."""
        return max(0, min(cursor, self._count - 1))

    def watch_cursor(self, before: int, after: int) -> None:
        """Scroll to the cursor, redraw the two lines, tell the screen."""
        top, height = self.scroll_offset.y, max(1, self.size.height - 1)
        if not top <= after < top + height:  # being scrolled costs a redraw of all, even to where it is
            self.scroll_to_region(Region(self.scroll_offset.x, after, 1, 2), animate=False, force=True, immediate=True)
        self._repaint()
        if before != after:
            self.post_message(self.Moved(self, after))

    def on_focus(self) -> None:
        """The cursor line looks different with the focus."""
        self._repaint()

    def on_blur(self) -> None:
        """The cursor line looks different without the focus."""
        self._repaint()

    def on_click(self, event: Click) -> None:
        """Put the cursor where the mouse is; a click on a title says so."""
        index = event.y - 1 + self.scroll_offset.y
        if event.y > 0 and index < self._count:
            self.cursor = index
        elif event.y == 0:
            place = self._column_at(event.x + self.scroll_offset.x)
            if place is not None:
                if self._choose:
                    self.column = self._columns[place].key
                self.post_message(self.Titled(self, self._columns[place].key))
                self._repaint()

    def _column_at(self, x: int) -> int | None:
        start = 1
        for place, column in enumerate(self._columns):
            if start <= x < start + column.width:
                return place
            start += column.width + 1
        return None

    def action_move(self, rows: int) -> None:
        """Move the cursor by rows."""
        self.cursor += rows

    def action_page(self, pages: int) -> None:
        """Move the cursor by screens."""
        self.cursor += pages * max(1, self.size.height - 2)

    def action_column(self, step: int) -> None:
        """To the next column, or a part of the width further where none is chosen."""
        if not self._choose:
            self.scroll_relative(x=step * 4, animate=False)
            return
        keys = [column.key for column in self._columns if column.title.strip()]
        if keys:
            place = keys.index(self.column) + step if self.column in keys else 0
            self.column = keys[max(0, min(place, len(keys) - 1))]
            left = 1 + sum(column.width + 1 for column in self._columns[: self._place(self.column)])
            width = self._columns[self._place(self.column)].width
            self.scroll_to_region(Region(left, self.cursor, width, 2), animate=False, force=True, immediate=True)
            self._repaint()

    def _place(self, key: str) -> int:
        return next(place for place, column in enumerate(self._columns) if column.key == key)

    def action_first(self) -> None:
        """To the first row."""
        self.cursor = 0

    def action_last(self) -> None:
        """To the last row."""
        self.cursor = self._count - 1
