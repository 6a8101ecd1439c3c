"""Follow the metrics file of a run, over torn lines, new attempts, replaced files and vanished folders.

tail = RunTail(workspace.runs / run_id)
for batch in tail.read(): store.apply(run_id, batch)
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optsweep_tui import rundir

CHUNK_BYTES = 1 << 18
"""Read at a time, so that one long file does not hold up the others."""
LONGEST_LINE = 1 << 24
"""A line longer than this is no line of ours: skipped, and counted as garbage."""


class Tailer:
    """Whole new lines of one file that grows; never raises for what the file does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        """Counts how often the file was replaced or cut: everything read before is void then."""
        self.more = False
        """The last read stopped at its chunk, not at the end of the file."""
        self.garbage = 0
        """Bytes without end that were skipped, as lines."""
        self._inode: int | None = None
        self._offset = 0

    def read(self) -> list[bytes]:
        """Complete lines since the last call, without their newlines; a torn last line waits for its end."""
        self.more = False
        try:
            found = os.stat(self.path)
            if found.st_size == self._offset and found.st_ino == self._inode:
                return []
            with open(self.path, "rb") as handle:
                opened = os.fstat(handle.fileno())
                if self._inode is not None and (opened.st_ino != self._inode or opened.st_size < self._offset):
                    self.generation += 1
                    self._offset = 0
                self._inode = opened.st_ino
                handle.seek(self._offset)
                return self._lines(handle)
        except OSError:
            return []

    def _lines(self, handle: Any) -> list[bytes]:
        size = CHUNK_BYTES
        data: bytes = handle.read(size)
        while b"\n" not in data and len(data) == size:
            if size >= LONGEST_LINE:
                self._offset += len(data)
                self.garbage += 1
                self.more = True
                return []
            data += handle.read(size)
            size *= 2
        self.more = len(data) == size
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return whole.split(b"\n") if newline else []


def parse_rows(lines: list[bytes]) -> tuple[list[dict[str, Any]], int]:
    """Metric rows of some lines, and how many of the lines are none."""
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")
        if len(rows) != len(lines):
            raise ValueError("a line holds several values")
    except (ValueError, RecursionError):
        rows = [_parse(line) for line in lines]
    good = [row for row in rows if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 2**53]
    return good, len(lines) - len(good)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What was new in one look at a run."""

    attempt: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    reset: bool = False
    """Forget everything known of the run first: a file of it was replaced."""


class RunTail:
    """All attempts of one run, oldest first; of the finished ones each line once, of the newest whatever comes."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder
        self.garbage = 0
        """Lines that were no metric rows."""
        self.more = False
        """There is more to read at once."""
        self._files: dict[int, Tailer] = {}
        self._generations: dict[int, int] = {}
        self._changed_at: int | None = None

    def read(self) -> list[Batch]:
        """New rows by attempt, at most one chunk each; a replaced file starts the run anew."""
        if self._find_attempts():
            return [self._restart()]
        newest = max(self._files, default=0)
        batches, self.more = [], False
        for attempt, tailer in sorted(self._files.items()):
            skipped = tailer.garbage
            lines = tailer.read()
            self.garbage += tailer.garbage - skipped
            if tailer.generation != self._generations[attempt]:
                return [self._restart()]
            rows, bad = parse_rows(lines) if lines else ([], 0)
            self.garbage += bad
            if rows:
                batches.append(Batch(attempt=attempt, rows=rows))
            if tailer.more:
                self.more = True
                if attempt < newest:
                    break  # older attempts first: later ones overwrite their steps
        return batches

    def _restart(self) -> Batch:
        self._files, self._generations, self._changed_at, self.garbage = {}, {}, None, 0
        self.more = True
        return Batch(attempt=0, reset=True)

    def _find_attempts(self) -> bool:
        """Notice new attempt folders; True when one that was followed is gone."""
        try:
            changed_at = os.stat(self.run_folder).st_mtime_ns
        except OSError:
            return bool(self._files)
        if changed_at == self._changed_at:
            return False
        try:
            found = dict(rundir.attempts(self.run_folder))
        except OSError:
            return False
        self._changed_at = changed_at
        for attempt in found.keys() - self._files.keys():
            self._files[attempt] = Tailer(found[attempt] / rundir.METRICS)
            self._generations[attempt] = 0
        return bool(self._files.keys() - found.keys())
