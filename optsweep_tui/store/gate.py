"""Taking turns before opening the store, so that readers who come again and again cannot keep a writer out for ever.

DuckDB's own lock is first come, first served by luck: three readers in a loop starved a writer for 30 s (measured).
Everybody here passes one narrow gate while connecting. A writer stays in it while the readers that are inside finish,
so no new one gets ahead of him. The gate is an flock on the store's folder, needs no file, and is a courtesy only:
whoever cannot have it (another filesystem, another program) connects without.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

WRITER_SECONDS = 1.0
"""How long a writer stays in the gate before he lets others pass: a reader may hold the store for a minute."""
_POLL_SECONDS = 0.01


@contextlib.contextmanager
def passing(folder: Path, deadline: float) -> Iterator[None]:
    """Be the only one that connects to the stores of a folder, or go on without when the time (monotonic) is over."""
    handle = None
    try:
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        while handle is not None and time.monotonic() < deadline:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_POLL_SECONDS * random.uniform(0.5, 1.5))
            except OSError:
                break
        yield
    finally:
        if handle is not None:
            os.close(handle)
