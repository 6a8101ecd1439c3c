"""The app's side of the terminal: keys in the order in which they come, frames as what differs, an end that always comes."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping
from functools import partial
from typing import Any

from textual._compositor import CompositorUpdate
from textual.actions import ActionParseResult
from textual.app import App
from textual.dom import DOMNode
from textual.events import Event, Key
from textual.screen import Screen

from optsweep_tui.app import heap, modes
from optsweep_tui.app.screens.base import BaseScreen
from optsweep_tui.app.widgets.filterline import FilterLine
from optsweep_tui.app.widgets.table import VirtualTable
from optsweep_tui.app.wire import Wire, Written, erases_in_colour
from optsweep_tui.errors import OptsweepError

HOLD_SECONDS = 0.4
"""The first frame is sent when the first runs are known, or after so long without any."""


class TerminalApp(App[None]):
    """What is sent and what is typed; what is shown is the business of the classes after it."""

    def __init__(self, in_terminal: bool) -> None:
        """
        Args:
            in_terminal: nothing is sent before the first frame is complete.
        """
        super().__init__()
        self.wire = Wire(erases=in_terminal and erases_in_colour())
        self._held = in_terminal
        """Nothing is sent before the first frame."""
        self._running_loop: asyncio.AbstractEventLoop | None = None
        self._leaving: int | None = None
        """Status with which somebody wants the process to end."""

    def on_mount(self) -> None:
        """From now on the app can be told to end."""
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw())
        self.set_timer(HOLD_SECONDS, self._show)
        self._running_loop = asyncio.get_running_loop()
        if self._leaving is not None:
            self.exit(return_code=self._leaving)

    def leave(self, status: int) -> None:
        """End the app, from another thread: the terminal has gone, or somebody wants the process to end."""
        self._leaving = status
        if self._running_loop is not None:
            self._running_loop.call_soon_threadsafe(partial(self.exit, return_code=status))

    async def on_event(self, event: Event) -> None:
        """Keys that are bound act at once, in the order in which they come.

        Textual sends a key to the widget with the focus first and back, through three queues: of keys that are read
        together with a slash, the filter line would miss those that are on their way already.
        """
        if isinstance(event, Key) and isinstance(self.focused, FilterLine) and event.key in ("enter", "escape", "down"):
            await self.focused.typed()
        if isinstance(event, Key) and not event.is_forwarded and self._answers_at_once():
            for priority in (True, False):
                if await self._check_bindings(event.key, priority=priority):
                    return
        await super().on_event(event)

    async def run_action(
        self,
        action: str | ActionParseResult,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """Do what a key means; what a user can mend (a file that is no TOML, a full disk) is said and ends nothing."""
        try:
            return await super().run_action(action, default_namespace, namespaces)
        except (OptsweepError, OSError) as error:
            self.notify(str(error), severity="error", timeout=8, markup=False)
            return True

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        """Send what differs from what the terminal shows; nothing where nothing does."""
        if self._held:
            return
        written = self._running and not self._closed and not self.is_headless and not self._batch_count
        if written and self._driver is not None and isinstance(renderable, CompositorUpdate):
            found = self.wire.difference(renderable, self.size.width, self.console)
            if found is not None:
                renderable = Written(found) if found or self._moved_cursor() else None
        super()._display(screen, renderable)

    def _moved_cursor(self) -> bool:
        """The cursor of the terminal stands elsewhere now, where an input method may look for it."""
        return self.screen.outer_size.clamp_offset(self.cursor_position) != self._previous_cursor_position

    def _show(self) -> None:
        """Send the first frame: complete, where an empty one and its parts would each cost a frame on the line."""
        if self._held:
            self._held = False
            self.action_redraw()
            gc.enable()
            gc.freeze()  # what the app is made of stays: nothing to look through at each collection
            modes.load_all()
            self.set_interval(heap.TRIM_SECONDS, heap.give_back)

    def on_resize(self) -> None:
        """A terminal of another size has moved its lines about."""
        self.wire.forget()

    def action_redraw(self) -> None:
        """Send the whole screen anew: another program has written over it."""
        self.wire.forget()
        shown = self.screen
        self._display(shown, shown._compositor.render_update(full=True, screen_stack=self._background_screens))

    def _answers_at_once(self) -> bool:
        """The keys are those of one of our screens, which is there, and no text is being typed."""
        shown = self.screen if self.screen_stack else None
        plain = self.focused is None or isinstance(self.focused, VirtualTable)
        return isinstance(shown, BaseScreen) and shown.is_mounted and plain
