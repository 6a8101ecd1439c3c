"""The line in which a filter is typed: enter and down keep it and leave, esc clears it."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input


class FilterLine(Input):
    """Words that narrow what the screen shows; the screen has the actions."""

    DEFAULT_CSS = """
    FilterLine { height: 1; border: none; padding: 0 1; background: $panel; }
    FilterLine:focus { border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.filter_clear", "clear the filter", id="filter.clear"),
        Binding("down", "screen.filter_done", "to the rows", show=False, id="filter.rows"),
    ]

    def show(self, shown: bool) -> None:
        """There is a filter, or one is being typed."""
        if self.display != shown:
            self.display = shown

    def take_keys(self) -> None:
        """Take the keys from now on: what is typed right behind the slash, or pasted, is already the filter."""
        self.display = True
        self.screen.set_focus(self)
