"""Run folders to results.duckdb: `ingest` brings it up to date, `rebuild` makes it anew, `snapshot` copies it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from optsweep_tui import rundir
from optsweep_tui.errors import OptsweepError, StoreLocked
from optsweep_tui.store.collector import Collector
from optsweep_tui.store.connect import WAIT_SECONDS, open_store, require, translated
from optsweep_tui.store.publish import publish
from optsweep_tui.store.report import CollectReport, Skip

__all__ = ["CollectReport", "Skip", "collector_lock", "ingest", "rebuild", "snapshot"]

Progress = Callable[[int, int], None]
"""(runs looked at, runs in all)"""


def ingest(
    store: Path, runs_root: Path, *, progress: Progress | None = None, wait_seconds: float = WAIT_SECONDS
) -> CollectReport:
    """Bring the store up to date with the run folders; doing it twice equals doing it once.

    Args:
        wait_seconds: how long to wait for another collector, and for another program that holds the store.

    Raises:
        StoreLocked: they took longer. What was written before stays, the next collect goes on from there.
        OptsweepError: the store is damaged, newer, or cannot be written.
    """
    with collector_lock(store, wait_seconds):
        return Collector(store, runs_root, progress=progress, wait_seconds=wait_seconds).collect()


def rebuild(
    store: Path, runs_root: Path, *, progress: Progress | None = None, wait_seconds: float = WAIT_SECONDS
) -> CollectReport:
    """Make the store anew from the run folders and put it in place of the old one, which stays until then.

    An old store that cannot be read, or that knows runs whose folders have gone, is not thrown away: it is left beside
    the new one, and `CollectReport.kept` names it.

    Raises:
        StoreLocked, OptsweepError: as `ingest`; the old store is then still in place.
    """
    with collector_lock(store, wait_seconds):
        fresh = store.with_name(f".{store.name}.rebuild")
        try:
            report = Collector(fresh, runs_root, progress=progress, wait_seconds=wait_seconds).collect()
            report.kept = publish(fresh, store, set(rundir.run_ids(runs_root)), wait_seconds)
        finally:
            _sweep(store)
        return report


def snapshot(store: Path, target: Path, *, overwrite: bool = False, wait_seconds: float = WAIT_SECONDS) -> Path:
    """Copy the store to a file of its own, for notebooks and other programs that keep a file open; returns the file.

    Raises:
        OptsweepError: there is no store, the file exists, or it cannot be written.
        StoreLocked: another program held the store for too long.
    """
    require(store)
    target = target.resolve()
    if target == store.resolve():
        raise OptsweepError(f"{target} is the store itself", "name another file")
    if target.exists() and not overwrite:
        raise OptsweepError(f"{target} exists", "name another file, or remove that one first")
    log = target.with_name(f"{target.name}.wal")
    if log.exists():
        raise OptsweepError(
            f"{target} is open in another program, or was left by one ({log.name})", "name another file"
        )
    with open_store(store, read_only=False, wait_seconds=wait_seconds) as connection:
        connection.execute("CHECKPOINT")
        part = target.with_name(f".{target.name}.part")
        with translated(target):
            try:
                shutil.copyfile(store, part)
                with open(part, "rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
    return target


@contextlib.contextmanager
def collector_lock(store: Path, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Be the only collector of a store. The lock is the kernel's, so a killed collector leaves none behind."""
    path = store.with_name(f"{store.name}.lock")
    with translated(store):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    pid = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
                    raise StoreLocked(
                        f"{store} is being collected by another optsweep (pid {pid}) for more than {wait_seconds:g} s",
                        "wait for it and run the same command again; nothing is lost",
                    ) from None
                time.sleep(random.uniform(0.02, 0.1))
        with contextlib.suppress(OSError):  # a full disk must not keep the collector from working
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        _sweep(store)
        yield
    finally:
        os.close(handle)


def _sweep(store: Path) -> None:
    """Remove what a killed collector was making."""
    for path in store.parent.glob(f".{store.name}.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
