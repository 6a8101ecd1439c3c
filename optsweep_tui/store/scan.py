"""What lies in a run folder, by file names and stat alone: enough to know that nothing is new without opening a file."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

from optsweep_tui import rundir

# A marker of a study is put in place by a rename, which changes the time of its folder: the folder is enough.
_OF_RUN = frozenset({rundir.SPEC, rundir.ORIGIN, rundir.CANCEL, rundir.STUDIES})
_OF_ATTEMPT = frozenset({rundir.INTENT, rundir.CLAIM, rundir.RECORD, rundir.EXIT})
_ATTEMPT = re.compile(r"a([1-9][0-9]{0,8})")
_STREAMS = (rundir.METRICS, rundir.EVENTS)
MAX_DOCUMENT_BYTES = 16 << 20
"""No small file of a run is larger; one that is was damaged, and would fill the memory."""


class Source(NamedTuple):
    """One append-only file of an attempt."""

    path: str
    """Relative to the folder of all runs."""
    name: str
    """File name: METRICS or EVENTS of rundir."""
    attempt: int
    inode: int
    size: int
    """Bytes."""
    mtime_ns: int

    @property
    def stamp(self) -> tuple[int, int, int]:
        """What changes when the file does."""
        return self.inode, self.size, self.mtime_ns


class RunFiles(NamedTuple):
    """A run folder as seen in one look."""

    run_id: str
    signature: str
    """Changes when any small file of the run appears, goes or is replaced."""
    attempts: tuple[int, ...]
    sources: tuple[Source, ...]
    has_spec: bool
    """Its spec, or the origin of an imported run, is there."""
    oversized: str | None
    """A small file that is too large to be read."""


def scan(runs_root: str, run_id: str) -> RunFiles | None:
    """Look at one run folder; None when it has gone. A part that goes while being looked at counts as absent.

    Raises:
        OSError: it may not be looked at.
    """
    seen: list[str] = []
    large: list[str] = []
    sources: list[Source] = []
    folders: list[tuple[int, str]] = []
    has_spec = False
    try:
        with os.scandir(f"{runs_root}/{run_id}") as entries:
            for entry in entries:
                name = entry.name
                if name in _OF_RUN:
                    seen.append(_stamp(name, entry, large))
                    has_spec = has_spec or name in (rundir.SPEC, rundir.ORIGIN)
                elif match := _ATTEMPT.fullmatch(name):
                    folders.append((int(match[1]), entry.path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    folders.sort()
    for number, where in folders:
        seen.append(f"a{number}")
        _look_at_attempt(where, run_id, number, seen, sources, large)
    seen.sort()
    return RunFiles(
        run_id=run_id,
        signature=hashlib.blake2b("\n".join(seen).encode(errors="surrogateescape"), digest_size=16).hexdigest(),
        attempts=tuple(number for number, _ in folders),
        sources=tuple(sources),
        has_spec=has_spec,
        oversized=min(large, default=None),
    )


def _look_at_attempt(
    where: str, run_id: str, number: int, seen: list[str], sources: list[Source], large: list[str]
) -> None:
    """Add an attempt's small files to `seen` and its streams to `sources`."""
    try:
        with os.scandir(where) as entries:
            for entry in entries:
                name = entry.name
                if name in _OF_ATTEMPT:
                    seen.append(_stamp(f"a{number}/{name}", entry, large))
                elif name in _STREAMS:
                    stat = entry.stat()
                    path = f"{run_id}/a{number}/{name}"
                    sources.append(Source(path, name, number, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        pass


def _stamp(label: str, entry: os.DirEntry[str], large: list[str]) -> str:
    try:
        stat = entry.stat()
    except FileNotFoundError:
        return f"{label} gone"
    if stat.st_size > MAX_DOCUMENT_BYTES and not entry.is_dir():
        large.append(label)
    return f"{label} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def age_seconds(path: Path, now: float) -> float:
    """Since the folder last changed; infinite when it has gone."""
    try:
        return now - path.stat().st_mtime
    except OSError:
        return float("inf")
