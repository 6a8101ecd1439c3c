"""The last lines of a run's log and events, read from the end of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optsweep_tui import rundir

TAIL_BYTES = 1 << 16


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
    return [_printable(line.removesuffix("\r")) for line in whole[-count:]] if data else []


def _printable(line: str) -> str:
    """Tabs as blanks, other control characters visible: a log must not drive the terminal."""
    text = line.rpartition("\r")[2].expandtabs(4)
    return "".join(character if character.isprintable() else "·" for character in text)


def log_tail(run_folder: Path, count: int = 200) -> list[str]:
    """Last lines of the newest attempt's log that has any."""
    for _, attempt_folder in reversed(rundir.attempts(run_folder)):
        lines = last_lines(attempt_folder / rundir.LOG, count)
        if lines:
            return lines
    return []


def events(run_folder: Path, count: int = 200) -> list[dict[str, Any]]:
    """Last events of all attempts, oldest first, each with its attempt; lines that are no events are left out."""
    found: list[dict[str, Any]] = []
    for attempt, attempt_folder in rundir.attempts(run_folder):
        for line in last_lines(attempt_folder / rundir.EVENTS, count):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "kind" in event:
                found.append({"attempt": attempt} | event)
    return found[-count:]
