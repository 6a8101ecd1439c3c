"""Work beside the screen: each piece in a thread of its own, so that what waits for a host or the store holds up nothing else.

A pool would: six questions to a store that another program holds, and nothing more can be cancelled, and leaving takes
as long as the last of them waits. What only looks is therefore left behind at the end; what changes something is waited for.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from textual.message import Message

from optsweep_tui.app.actions import outcome
from optsweep_tui.app.terminal_app import TerminalApp
from optsweep_tui.errors import OptsweepError

if TYPE_CHECKING:
    from optsweep_tui.app.screens.base import BaseScreen

LEFT_BEHIND = "optsweep-look"
"""Name of the threads that only look."""
KEPT = "optsweep-act"
"""Name of those that are waited for at the end."""
OPENING_SECONDS = 1.0
"""After the start, at most: until then what only looks waits for the first picture, whose processor it would take."""
TELL_SECONDS = 0.5
"""After so long at the end the user is told what is waited for."""


class WorkingApp(TerminalApp):
    """Threads that hand their results to the screens."""

    class Answered(Message):
        """Work in another thread has ended: text for the user."""

        def __init__(self, text: str, wrong: bool = False) -> None:
            super().__init__()
            self.text, self.wrong = text, wrong

    _waiting: list[tuple[Callable[[], None], str]] | None = None
    """Looks that wait for the first picture; None: it is there, or there is none to wait for."""

    def open_first(self) -> None:
        """Let looks wait, until `picture_is_there` or for a second."""
        self._waiting = []
        self.set_timer(OPENING_SECONDS, self.picture_is_there)

    def picture_is_there(self) -> None:
        """Begin the looks that were waiting."""
        waiting, self._waiting = self._waiting or (), None
        for run, name in waiting:
            _start(run, name)

    def _post(self, message: Message) -> None:
        """Called from threads; nothing is posted once the app is closing."""
        if self.is_running:
            with contextlib.suppress(RuntimeError):  # its loop was closed a moment ago
                self.post_message(message)

    def in_thread(
        self,
        screen: BaseScreen,
        work: Callable[[], Message],
        failed: Callable[[str], Message],
        group: str,
        kept: bool = False,
    ) -> None:
        """Do work that may block in a thread, and hand its message, or that of its failure, to a screen.

        Args:
            group: names the thread.
            kept: it changes something, so the program ends after it only.
        """

        def run() -> None:
            try:
                message = work()
            except (OptsweepError, OSError) as error:
                message = failed(str(error))
            except Exception as error:  # a bug in one answer must not take down the curves of a night
                message = failed(f"{type(error).__name__}: {error} (a bug of optsweep, please report it)")
            if self.is_running and screen.is_mounted:
                with contextlib.suppress(RuntimeError):
                    screen.post_message(message)

        if self._waiting is None or kept:
            _start(run, f"{KEPT if kept else LEFT_BEHIND}-{group}")
        else:
            self._waiting.append((run, f"{LEFT_BEHIND}-{group}"))

    def work(self, act: Callable[[], str]) -> None:
        """Do something to runs in a thread, say how it ended, and look at the runs again."""

        def run() -> None:
            text, wrong = outcome(act)
            self.after_work()
            self._post(self.Answered(text, wrong))

        _start(run, f"{KEPT}-work")

    def after_work(self) -> None:
        """Called from the thread when some work has ended."""


def _start(run: Callable[[], None], name: str) -> None:
    context = contextvars.copy_context()
    threading.Thread(target=lambda: context.run(run), name=name, daemon=True).start()


def finish(status: int) -> None:
    """After the app: wait for what changes something; where something still looks, end the process without it."""
    _wait_for(KEPT)
    if any(thread.name.startswith(LEFT_BEHIND) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # a thread that is deep in a library would be torn out of it while the interpreter goes down


def _wait_for(name: str) -> None:
    began, told = time.monotonic(), False
    while left := [thread for thread in threading.enumerate() if thread.name.startswith(name)]:
        if not told and time.monotonic() - began > TELL_SECONDS:
            told = True
            print("optsweep: finishing what was begun; ctrl+c leaves it", file=sys.stderr)
        left[0].join(0.1)
