"""What lies in a run folder, by file names and stat alone: enough to know that nothing is new without opening a file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from optsweep_tui import rundir

_OF_RUN = frozenset({rundir.SPEC, rundir.CANCEL})
_OF_ATTEMPT = frozenset({rundir.INTENT, rundir.CLAIM, rundir.RECORD, rundir.EXIT})
_STREAMS = (rundir.METRICS, rundir.EVENTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    """A run folder as seen in one look."""

    run_id: str
    signature: str
    """Changes when any small file of the run appears, goes or is replaced."""
    attempts: tuple[int, ...]
    sources: tuple[Source, ...]
    has_spec: bool


def scan(runs_root: str, run_id: str) -> RunFiles | None:
    """Look at one run folder; None when it has gone. A part that goes while being looked at counts as absent."""
    seen: list[str] = []
    sources: list[Source] = []
    folders: list[tuple[int, str]] = []
    has_spec = False
    where = f"{runs_root}/{run_id}"
    try:
        with os.scandir(where) as entries:
            for entry in entries:
                name = entry.name
                if name in _OF_RUN:
                    seen.append(_stamp(name, entry))
                    has_spec = has_spec or name == rundir.SPEC
                elif name == rundir.STUDIES:
                    seen += _small_files(entry.path, name, None)
                elif name.startswith("a") and name[1:].isdigit():
                    folders.append((int(name[1:]), name))
    except (FileNotFoundError, NotADirectoryError):
        return None
    folders.sort()
    for number, name in folders:
        seen += _small_files(f"{where}/{name}", name, (f"{run_id}/{name}", number, sources))
        seen.append(name)
    seen.sort()
    return RunFiles(
        run_id=run_id,
        signature=hashlib.blake2b("\n".join(seen).encode(errors="surrogateescape"), digest_size=16).hexdigest(),
        attempts=tuple(number for number, _ in folders),
        sources=tuple(sources),
        has_spec=has_spec,
    )


def _small_files(where: str, label: str, attempt: tuple[str, int, list[Source]] | None) -> list[str]:
    """Stamps of the small files of a folder; the streams of an attempt are appended to its list of sources."""
    seen = []
    try:
        with os.scandir(where) as entries:
            for entry in entries:
                if attempt is None:
                    if entry.name.endswith(".json"):
                        seen.append(_stamp(f"{label}/{entry.name}", entry))
                elif entry.name in _OF_ATTEMPT:
                    seen.append(_stamp(f"{label}/{entry.name}", entry))
                elif entry.name in _STREAMS:
                    stat = entry.stat()
                    path, number, sources = attempt
                    sources.append(
                        Source(
                            path=f"{path}/{entry.name}",
                            name=entry.name,
                            attempt=number,
                            inode=stat.st_ino,
                            size=stat.st_size,
                            mtime_ns=stat.st_mtime_ns,
                        )
                    )
    except (FileNotFoundError, NotADirectoryError):
        pass
    return seen


def _stamp(label: str, entry: os.DirEntry[str]) -> str:
    try:
        stat = entry.stat()
    except FileNotFoundError:
        return f"{label} gone"
    return f"{label} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def age_seconds(path: Path, now: float) -> float:
    """Since the folder last changed; infinite when it has gone."""
    try:
        return now - path.stat().st_mtime
    except OSError:
        return float("inf")
