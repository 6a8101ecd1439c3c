"""Imported runs into run folders: importing twice equals importing once, and mends what a crash tore."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_tui import rundir
from optsweep_tui.imported import ImportedRun


@dataclass(kw_only=True)
class Planted:
    """What came of planting."""

    new: int = 0
    changed: int = 0
    """Runs that were here already, with another outcome."""
    unchanged: int = 0


def plant(runs_root: Path, runs: Iterable[ImportedRun]) -> Planted:
    """Write a run folder for each run that is not there yet, and the outcome of each that has changed.

    No fsync: after a crash of the machine the import is simply made again.

    Raises:
        OptsweepError: the folder cannot be written, or the disk is full; what was written stays and is sound.
    """
    planted = Planted()
    present = set(rundir.run_ids(runs_root))
    try:
        for run in runs:
            files = _files(run)
            if run.run_id not in present:
                _write_folder(f"{runs_root}/{run.run_id}", files)
                rundir.remember_import(f"{runs_root}/{run.run_id}", run)
                present.add(run.run_id)
                planted.new += 1
            elif _update(f"{runs_root}/{run.run_id}", files):
                planted.changed += 1
            else:
                planted.unchanged += 1
    except OSError as error:
        raise rundir.unwritable(runs_root, error) from None
    return planted


def _files(run: ImportedRun) -> dict[str, bytes]:
    """Name inside the run folder -> content."""
    files = {rundir.ORIGIN: _document(run.to_dict())}
    if run.metrics:
        files[f"{_ATTEMPT}/{rundir.METRICS}"] = b"".join(_document(row) for row in run.metrics)
    return files


_ATTEMPT = "a1"


def _document(data: Any) -> bytes:
    return (json.dumps(data, sort_keys=True, allow_nan=False) + "\n").encode()


def _write_folder(target: str, files: dict[str, bytes]) -> None:
    """A new folder, the origin last: without it the folder counts as still being written.

    Not under another name first: two thousand renames are half a second, and the next import mends what a crash tore.
    """
    os.mkdir(target, 0o700)
    if len(files) > 1:
        os.mkdir(f"{target}/{_ATTEMPT}", 0o700)
    for file in sorted(files, key=rundir.ORIGIN.__eq__):
        handle = os.open(f"{target}/{file}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(handle, files[file])
        finally:
            os.close(handle)


def _write_all(handle: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


def _update(target: str, files: dict[str, bytes]) -> bool:
    """Bring a folder that is there up to date; False when it was."""
    changed = False
    for file, content in files.items():
        before = None
        with contextlib.suppress(FileNotFoundError), open(f"{target}/{file}", "rb") as handle:
            before = handle.read()
        if before != content:
            if file != rundir.ORIGIN:
                os.makedirs(f"{target}/{_ATTEMPT}", mode=0o700, exist_ok=True)
            part = f"{target}/{file}.{os.getpid()}.import"
            with open(part, "wb") as handle:
                handle.write(content)
            os.replace(part, f"{target}/{file}")
            changed = True
    return changed
