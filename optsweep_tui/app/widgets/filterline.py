"""The line in which a filter is typed: enter and down keep it and leave, esc clears it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

LONGEST_SECONDS = 1.0
"""That a key waits for the letters before it."""


class FilterLine(Input):
    """Words that narrow what the screen shows; the screen has the actions."""

    DEFAULT_CSS = """
    FilterLine { height: 1; border: none; padding: 0 1; background: $panel; }
    FilterLine:focus { border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        # Both at once, not after a way through queues: the next key is for the rows already.
        Binding("escape", "screen.filter_clear", "clear and leave", id="filter.clear", priority=True),
        Binding("enter,down", "screen.filter_done", "to the rows", show=False, id="filter.rows", priority=True),
    ]

    def show(self, shown: bool) -> None:
        """There is a filter, or one is being typed."""
        if self.display != shown:
            self.display = shown

    async def typed(self) -> None:
        """Wait for the letters that are on their way to this line."""
        done = asyncio.Event()
        self.call_later(done.set)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), LONGEST_SECONDS)

    def take_keys(self) -> None:
        """Take the keys from now on: what is typed right behind the slash, or pasted, is already the filter."""
        self.display = True
        self.screen.set_focus(self)
