"""A layer with a list to choose from: typing narrows it, enter takes a line, esc leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Click, Key

from optsweep_tui.app import format as fmt
from optsweep_tui.app.screens.dialog import Dialog
from optsweep_tui.app.widgets.spans import SpanView
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the list."""

    value: str
    """What the caller gets."""
    label: str
    note: str = ""
    """Explains the label."""

    def fits(self, words: Sequence[str]) -> bool:
        """Every word occurs."""
        text = f"{self.label} {self.note}".lower()
        return all(word in text for word in words)


def shown(entries: Sequence[Entry], typed: str) -> list[Entry]:
    """The entries in which every typed word occurs."""
    words = typed.lower().split()
    return [entry for entry in entries if entry.fits(words)]


class Pick(Dialog[str | None]):
    """The list; gives the value of the line taken, None for none."""

    DEFAULT_CSS = """
    Pick { align: center middle; }
    Pick #list { width: 90%; max-width: 96; height: auto; max-height: 80%; border: round $foreground 40%; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "close", id="pick.leave"),
        Binding("enter", "take", "take this line", id="pick.take"),
        Binding("up", "move(-1)", "up", id="pick.up"),
        Binding("down,tab", "move(1)", "down", id="pick.down"),
        Binding("pageup", "move(-10)", "page up", id="pick.page_up"),
        Binding("pagedown", "move(10)", "page down", id="pick.page_down"),
        Binding("backspace", "erase", "erase a letter", id="pick.erase"),
    ]

    def __init__(self, title: str, entries: Sequence[Entry], chosen: str = "") -> None:
        super().__init__()
        self._title, self._entries = title, list(entries)
        self.typed = ""
        self.cursor = next((place for place, entry in enumerate(self._entries) if entry.value == chosen), 0)
        self._top = 0

    def compose(self) -> ComposeResult:
        """One box."""
        view = SpanView(id="list")
        view.border_title = self._title
        view.border_subtitle = "type to narrow, enter takes, esc leaves"
        yield view

    def on_mount(self) -> None:
        """Fill it."""
        self._draw()

    def on_resize(self) -> None:
        """Fit the new size."""
        self.call_after_refresh(self._draw)

    @property
    def entries(self) -> list[Entry]:
        """What is left of the list."""
        return shown(self._entries, self.typed)

    def _room(self) -> int:
        return max(3, min(len(self._entries), self.app.size.height * 4 // 5 - 4))

    def _draw(self) -> None:
        view, entries = self.query_one("#list", SpanView), self.entries
        width = max(20, min(96, self.app.size.width * 9 // 10) - 4)
        self.cursor = max(0, min(self.cursor, len(entries) - 1))
        room = self._room()
        self._top = max(min(self._top, self.cursor), self.cursor - room + 1)
        wide = min(max((len(entry.label) for entry in self._entries), default=0), max(12, width * 3 // 5))
        rows: list[Row] = [(Span("/ ", style.GREY), Span(self.typed), Span("▏", style.ALIVE))]
        for place, entry in list(enumerate(entries))[self._top : self._top + room]:
            row: Row = (Span(fmt.fit(entry.label, wide) + "  "), Span(entry.note, style.GREY))
            if place == self.cursor:
                text = fmt.fit("".join(span.text for span in row), width)
                row = (Span(text, bold=True, reverse=True),)
            rows.append(fmt.shortened(row, width))
        if not entries:
            rows.append((Span("nothing fits", style.GREY),))
        view.set_height(room + 3)
        view.show(rows)

    def on_key(self, event: Key) -> None:
        """Letters narrow the list."""
        if event.is_printable and event.character:
            self.typed += event.character
            self.cursor = 0
            event.stop()
            event.prevent_default()
            self._draw()

    def on_click(self, event: Click) -> None:
        """A click takes a line; one outside leaves."""
        view = self.query_one("#list", SpanView)
        if event.widget is not view:
            self.dismiss(None)
            return
        place = self._top + event.y - 2
        if event.y >= 2 and place < len(self.entries):
            self.cursor = place
            self.action_take()

    def action_erase(self) -> None:
        """The last letter away."""
        self.typed = self.typed[:-1]
        self._draw()

    def action_move(self, lines: int) -> None:
        """Up or down."""
        self.cursor += lines
        self._draw()

    def action_take(self) -> None:
        """Close with the line under the cursor."""
        entries = self.entries
        if entries:
            self.dismiss(entries[max(0, min(self.cursor, len(entries) - 1))].value)

    def action_leave(self) -> None:
        """Close with nothing."""
        self.dismiss(None)
