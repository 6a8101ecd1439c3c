"""Ctrl-C that cannot get lost: libraries that load something in the middle of their work may swallow a KeyboardInterrupt."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Within the block Ctrl-C raises KeyboardInterrupt as ever, and is remembered.

    Yields:
        A check to be called now and then: it raises KeyboardInterrupt where one was swallowed. It never does outside the
        main thread, or where the program handles the signal in a way of its own.
    """
    came = threading.Event()

    def handler(number: int, frame: FrameType | None) -> None:
        came.set()
        signal.default_int_handler(number, frame)

    def check() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    check()
