"""A layer that chooses the columns of the run table: space shows or hides one, J and K move it, enter takes the choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Click

from optsweep_tui.app import format as fmt
from optsweep_tui.app.screens.dialog import Dialog
from optsweep_tui.app.views import runs
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span


class ColumnsScreen(Dialog[list[str] | None]):
    """All columns, the shown ones first; gives the keys of those chosen, an empty list for the usual ones."""

    DEFAULT_CSS = """
    ColumnsScreen { align: center middle; }
    ColumnsScreen #list { width: 72; max-width: 96%; height: auto; max-height: 90%; border: round $foreground 40%; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "leave them as they were", id="columns.leave"),
        Binding("enter", "take", "take this choice", id="columns.take"),
        Binding("space", "show", "show or hide", id="columns.toggle"),
        Binding("down,j", "move(1)", "down", id="columns.down"),
        Binding("up,k", "move(-1)", "up", id="columns.up"),
        Binding("J,shift+down", "carry(1)", "move the column right", id="columns.carry_down"),
        Binding("K,shift+up", "carry(-1)", "move the column left", id="columns.carry_up"),
        Binding("0", "usual", "the usual columns", id="columns.usual"),
    ]

    def __init__(self, chosen: Sequence[str], knobs: Sequence[str]) -> None:
        super().__init__()
        self.on = list(chosen or runs.USUAL)
        others = [*runs.COLUMNS, *(f"{runs.KNOB}{name}" for name in knobs if name != "lr")]
        self.keys = [*self.on, *(key for key in others if key not in self.on)]
        self.cursor = 0
        self._top = 0

    def compose(self) -> ComposeResult:
        """One box."""
        view = SpanView(id="list")
        view.border_title = "columns"
        view.border_subtitle = "space shows, J K move, 0 usual, enter takes, esc leaves"
        yield view

    def on_mount(self) -> None:
        """Fill it."""
        self._draw()

    def on_resize(self) -> None:
        """Fit the new size."""
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        view = self.query_one("#list", SpanView)
        room = max(3, min(len(self.keys), self.app.size.height * 9 // 10 - 3))
        self._top = max(min(self._top, self.cursor), self.cursor - room + 1)
        rows: list[Row] = []
        for place, key in list(enumerate(self.keys))[self._top : self._top + room]:
            shown = runs.column_of(key)
            name = key.removeprefix(runs.KNOB)
            text = f"[{'x' if key in self.on else ' '}] {fmt.fit(name, 22)} {shown.meaning if shown else ''}"
            here = place == self.cursor
            rows.append((Span(fmt.fit(text, 66), None if key in self.on else style.GREY, bold=here, reverse=here),))
        view.set_height(room + 2)
        view.show(rows)

    def on_click(self, event: Click) -> None:
        """A click shows or hides a line."""
        place = self._top + event.y - 1
        if event.widget is self.query_one("#list", SpanView) and event.y >= 1 and place < len(self.keys):
            self.cursor = place
            self.action_show()

    def action_move(self, step: int) -> None:
        """Up or down."""
        self.cursor = max(0, min(self.cursor + step, len(self.keys) - 1))
        self._draw()

    def action_show(self) -> None:
        """Show or hide the column."""
        key = self.keys[self.cursor]
        if key in self.on:
            self.on.remove(key)
        else:
            self.on = [each for each in self.keys if each in self.on or each == key]
        self._draw()

    def action_carry(self, step: int) -> None:
        """Move the column."""
        other = self.cursor + step
        if 0 <= other < len(self.keys):
            self.keys[self.cursor], self.keys[other] = self.keys[other], self.keys[self.cursor]
            self.cursor = other
            self.on = [key for key in self.keys if key in self.on]
            self._draw()

    def action_usual(self) -> None:
        """The usual columns, as many as fit."""
        self.dismiss([])

    def action_take(self) -> None:
        """Close with the choice."""
        self.dismiss([] if self.on == list(runs.USUAL) else self.on)

    def action_leave(self) -> None:
        """Close without a change."""
        self.dismiss(None)
