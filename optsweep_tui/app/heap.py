"""Memory that the C library keeps for itself: bounded, and given back once a minute.

Curves grow by being copied into larger arrays, in several threads. glibc keeps a heap per thread and what was freed in
the middle of each: over a day of live runs that came to more than all the data (benchmarks/live_day.md). Without glibc
nothing is done.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from functools import lru_cache

TRIM_SECONDS = 60.0
"""Between two times that memory is given back; it takes some milliseconds."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
"""Parameters of mallopt, as malloc.h of glibc 2.10 and later numbers them."""
_ARENAS = 2
_LARGE_BYTES = 1 << 17
"""Of an array that is mapped by itself, and so is given back when it is freed; said once, it no longer grows by itself."""


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def bound() -> None:
    """At the start, before there are threads."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """What is free, to the system; in a thread, so that no key waits for it."""
    libc = _glibc()
    if libc is not None:
        threading.Thread(target=libc.malloc_trim, args=(0,), name="optsweep-heap", daemon=True).start()
