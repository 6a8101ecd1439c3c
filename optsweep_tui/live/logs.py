"""The last lines of a run's log, read from the end of the file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from optsweep_tui import rundir

TAIL_BYTES = 1 << 16
"""Read from the end of a file where a few lines are wanted."""
SEARCHED_BYTES = 1 << 22
"""Read from the end of a log that is searched: some 50,000 lines, in 40 ms."""


def last_lines(path: Path, count: int, tail_bytes: int = TAIL_BYTES) -> list[str]:
    """At most `count` last lines of a text file, without control characters; empty when it cannot be read."""
    try:
        with open(path, "rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - tail_bytes))
            data = handle.read()
    except OSError:
        return []
    lines = data.decode("utf-8", "replace").removesuffix("\n").split("\n")
    whole = lines[1:] if size > tail_bytes else lines
    return [printable(line.removesuffix("\r")) for line in whole[-count:]] if data else []


def printable(line: str) -> str:
    """Tabs as blanks, other control characters visible: a log must not drive the terminal."""
    text = line.rpartition("\r")[2].expandtabs(4)
    return "".join(character if character.isprintable() else "·" for character in text)


@dataclass(frozen=True, kw_only=True)
class Log:
    """The newest log of a run."""

    attempt: int
    """0 where there is none."""
    lines: tuple[str, ...] = ()
    left_out_bytes: int = 0
    """At its start, before the lines."""
    stamp: tuple[str, int, int] = ("", 0, 0)
    """Path, size and time of the file: the same stamp, the same lines."""


def newest_log(run_folder: Path, before: Log | None = None, tail_bytes: int = SEARCHED_BYTES) -> Log:
    """The newest attempt's log that has any line, read again only when the file has changed since `before`."""
    for attempt, attempt_folder in reversed(rundir.attempts(run_folder)):
        path = attempt_folder / rundir.LOG
        try:
            found = os.stat(path)
        except OSError:
            continue
        if not found.st_size:
            continue
        stamp = (str(path), found.st_size, found.st_mtime_ns)
        if before is not None and before.stamp == stamp:
            return before
        lines = tuple(last_lines(path, tail_bytes, tail_bytes))
        return Log(attempt=attempt, lines=lines, left_out_bytes=max(0, found.st_size - tail_bytes), stamp=stamp)
    return Log(attempt=0)
