"""An app whose terminal has gone ends: told by SIGHUP or SIGTERM, or by the terminal itself, however stuck the app is.

A closed window sends SIGHUP, but a killed multiplexer or a broken line may send nothing, and a program that writes to a
terminal that nobody reads waits for ever. A thread of its own therefore asks the app to end, and ends the process when
that does not happen in time.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

GRACE_SECONDS = 4.0
"""For the app to end by itself: it keeps its view and stops its threads."""
LOOK_SECONDS = 1.0
"""Between two questions whether the terminal is there; the answer itself comes at once."""


class Watch(threading.Thread):
    """Waits for a signal or for the end of the terminal, then sees to it that the process ends."""

    def __init__(self, handle: int, leave: Callable[[int], None], grace: float = GRACE_SECONDS) -> None:
        """
        Args:
            handle: descriptor of the terminal.
            leave: asks the app to end with a status; called from this thread.
            grace: seconds that it may take.
        """
        super().__init__(name="optsweep-hangup", daemon=True)
        self._handle, self._leave, self._grace = handle, leave, grace
        self._told = threading.Event()
        self._number = signal.SIGHUP
        self.over = threading.Event()
        """The app has ended."""

    def tell(self, number: int, _frame: FrameType | None = None) -> None:
        """A signal has come: for `signal.signal`."""
        self._number = signal.Signals(number)
        self._told.set()

    def end(self) -> None:
        """The app has ended: nothing to wait for any more, unless the process was told to end and its threads hold it up."""
        if not self._told.is_set():
            self.over.set()

    def run(self) -> None:
        """The loop of the thread."""
        while not self._told.wait(LOOK_SECONDS):
            if self.over.is_set():
                return
            if gone(self._handle):
                self._told.set()
        with contextlib.suppress(Exception):  # whatever state the app is in, the process ends
            self._leave(128 + self._number)
        if not self.over.wait(self._grace):
            os._exit(128 + self._number)


def gone(handle: int) -> bool:
    """The other side of the terminal is closed."""
    poll = select.poll()
    poll.register(handle, 0)  # an end is told unasked
    return any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))


@contextlib.contextmanager
def watched(handle: int, leave: Callable[[int], None]) -> Iterator[None]:
    """While the app runs, SIGHUP, SIGTERM and the end of the terminal end it; for the main thread."""
    watch = Watch(handle, leave)
    before = {number: signal.signal(number, watch.tell) for number in (signal.SIGHUP, signal.SIGTERM)}
    watch.start()
    try:
        yield
    finally:
        watch.end()
        for number, handler in before.items():
            signal.signal(number, handler)
