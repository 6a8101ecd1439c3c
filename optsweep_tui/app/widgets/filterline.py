"""The line in which a filter is typed: enter and down keep it and leave, esc clears it."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input


class FilterLine(Input):
    """Words that narrow what the screen shows; the screen has the actions."""

    DEFAULT_CSS = """
    FilterLine { height: 1; border: none; padding: 0 1; background: $panel; display: none; }
    FilterLine:focus { border: none; }
    FilterLine.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "screen.filter_clear", "clear the filter", id="filter.clear"),
        Binding("down", "screen.filter_done", "to the rows", show=False, id="filter.rows"),
    ]
