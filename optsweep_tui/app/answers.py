"""Answers that take a while: asked for when a screen draws, worked out in a thread, kept until the question changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from textual.message import Message

from optsweep_tui.app.screens.base import BaseScreen

RETRY_SECONDS = 5.0
"""After a question that failed: another program may just have held the store."""
STORE_SECONDS = 2.0
"""How long a question waits for another program that holds the store, before it says so and is asked again later."""


class Arrived(Message):
    """A thread has an answer."""

    def __init__(self, name: str, key: Hashable, value: Any, wrong: str = "") -> None:
        super().__init__()
        self.name, self.key, self.value, self.wrong = name, key, value, wrong


@dataclass
class Slot:
    """What is known of one question."""

    key: Hashable
    value: Any = None
    """The answer; while a new one of the same family is worked out, or cannot be, the one before."""
    wrong: str = ""
    """Why there is none, or no newer one."""
    busy: bool = False
    retry_at: float | None = None


class Answers:
    """The questions of one screen by their names; the screen gives each `Arrived` to `take`."""

    def __init__(self, screen: BaseScreen) -> None:
        self._screen = screen
        self._slots: dict[str, Slot] = {}

    def ask(self, name: str, family: Hashable, version: Hashable, work: Callable[[], Any]) -> Slot:
        """The newest answer; a new question is given to a thread.

        Args:
            name: of the question; one of each name is worked out at a time.
            family: what an older answer must share to be shown until the new one is there.
            version: changes when the answer may have.
        """
        key = (family, version)
        before = self._slots.get(name)
        if before is not None and before.key == key:
            due = before.retry_at is not None and time.monotonic() > before.retry_at and not before.busy
            if not due:
                return before
            before.retry_at, before.busy = None, not before.wrong  # a second try happens behind the message
            self._start(name, key, work)
            return before
        same = before is not None and before.key[0] == family  # type: ignore[index]
        slot = Slot(key=key, value=before.value if before and same else None, busy=True)
        self._slots[name] = slot
        self._start(name, key, work)
        return slot

    def _start(self, name: str, key: Hashable, work: Callable[[], Any]) -> None:
        here = f"{self._screen.bench.workspace.root}/"  # everything that is asked lies there: the line has better use
        self._screen.bench.in_thread(
            self._screen,
            lambda: Arrived(name, key, work()),
            lambda text: Arrived(name, key, None, wrong=text.replace(here, "")),
            group=name,
        )

    def take(self, message: Arrived) -> bool:
        """Keep an answer; False when nobody wants it any more."""
        slot = self._slots.get(message.name)
        if slot is None or slot.key != message.key:
            return False
        again = message.wrong == slot.wrong
        slot.busy, slot.wrong = False, message.wrong
        if not message.wrong:
            slot.value, slot.retry_at = message.value, None
            return True
        slot.retry_at = time.monotonic() + RETRY_SECONDS
        self._screen.set_timer(RETRY_SECONDS + 0.1, self._ask_again)
        if slot.value is not None and not again:  # without an older answer it stands where the answer would
            self._screen.bench.notify(f"not up to date: {message.wrong}", severity="warning", timeout=8)
        return True

    def _ask_again(self) -> None:
        """Drawing asks; a screen that is not shown does when it is."""
        if self._screen.is_current:
            self._screen.refresh_all()

    @property
    def busy(self) -> bool:
        """A thread is at work."""
        return any(slot.busy for slot in self._slots.values())
