"""What every box over a screen has in common: it is answered once, however many keys and messages are under way to it."""

from __future__ import annotations

from textual.await_complete import AwaitComplete
from textual.screen import ModalScreen, ScreenResultType

from optsweep_tui.app.screens.uncovered import Uncovered


class Dialog(Uncovered[ScreenResultType], ModalScreen[ScreenResultType]):
    """A modal screen that a second answer does not close again: it would take the screen below with it."""

    _answered = False

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Close with an answer; nothing where it has one already, or where something lies over it."""
        if self._answered or self.app.screen is not self:
            return AwaitComplete()
        self._answered = True
        return super().dismiss(result)
