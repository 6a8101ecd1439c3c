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
from optsweep_tui.store import archive, interrupt, moving, views
from optsweep_tui.store.connect import WAIT_SECONDS, open_store, require, transaction
from optsweep_tui.store.explain import translated
from optsweep_tui.store.look import look
from optsweep_tui.store.publish import publish
from optsweep_tui.store.report import CollectReport, Skip

__all__ = ["CollectReport", "Skip", "archive_finished", "collector_lock", "ingest", "rebuild", "snapshot"]

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
        report = _one_pass(store, runs_root, archive.folder_of(store), progress, wait_seconds)
        moving.sweep(store, wait_seconds)
        return report


def _one_pass(
    store: Path, runs_root: Path, archive_folder: str, progress: Progress | None, wait_seconds: float
) -> CollectReport:
    with interrupt.remembered() as check:
        seen = look(store, runs_root, archive_folder, wait_seconds)
        if seen.news:
            # Only now: reading and writing need libraries that take longer to load than a look at a thousand folders.
            from optsweep_tui.store.collector import Collector

            Collector(seen, progress=progress, check=check).collect()
        return seen.finished()


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
            report = _one_pass(fresh, runs_root, archive.folder_of(store), progress, wait_seconds)
            report.kept = publish(fresh, store, set(rundir.run_ids(runs_root)), wait_seconds)
        finally:
            _sweep(store)
        moving.sweep(store, wait_seconds)
        return report


def archive_finished(store: Path, *, dry_run: bool = False, wait_seconds: float = WAIT_SECONDS) -> int:
    """Move, or only count, the points of finished runs that are not in Parquet files beside the store yet, however few.

    Raises:
        StoreLocked, OptsweepError: as `ingest`; what was moved before stays so.
    """
    require(store)
    if dry_run:
        with open_store(store, wait_seconds=wait_seconds) as connection:
            return sum(part.points for part in archive.finished_parts(connection))
    with collector_lock(store, wait_seconds):
        moved = moving.archive_finished(store, archive.folder_of(store), wait_seconds)
        moving.sweep(store, wait_seconds)
        return moved


def snapshot(store: Path, target: Path, *, overwrite: bool = False, wait_seconds: float = WAIT_SECONDS) -> Path:
    """Copy the store, its archive included, to one file of its own for programs that keep a file open; returns the file.

    Raises:
        OptsweepError: there is no store, the file exists, or it cannot be written.
        StoreLocked: another program held the store for too long.
    """
    require(store)
    target = target.resolve()
    if target == store.resolve():
        raise OptsweepError(f"{target} is the store itself", "name another file")
    if not target.parent.is_dir():
        raise OptsweepError(f"the folder {target.parent} is not there", "make it, or name another file")
    if target.exists() and not overwrite:
        raise OptsweepError(f"{target} exists", "name another file, or remove that one first")
    log = target.with_name(f"{target.name}.wal")
    if log.exists():
        raise OptsweepError(
            f"{target} is open in another program, or was left by one ({log.name})", "name another file"
        )
    part = target.with_name(f".part.{target.name}")
    folder = archive.folder_of(store)
    with contextlib.ExitStack() as cleaning:
        cleaning.callback(part.with_name(f"{part.name}.wal").unlink, missing_ok=True)
        cleaning.callback(part.unlink, missing_ok=True)
        if os.path.isdir(folder):  # nobody may sweep its files away before they are read
            cleaning.enter_context(collector_lock(store, wait_seconds))
        with open_store(store, read_only=False, wait_seconds=wait_seconds) as connection:
            connection.execute("CHECKPOINT")
            with translated(target):
                shutil.copyfile(store, part)
        with translated(target):
            with open_store(part, read_only=False, archive_folder=folder) as connection:
                with transaction(connection):
                    archive.fold_in(connection)
                    views.settle(connection, folder, files_changed=True)
                connection.execute("CHECKPOINT")
            with open(part, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(part, target)
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
