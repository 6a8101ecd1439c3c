"""Puts a rebuilt store in the place of the old one, under the old one's lock; what only the old one holds is kept."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb

from optsweep_tui.errors import OptsweepError, StoreLocked
from optsweep_tui.store import archive, views
from optsweep_tui.store.connect import open_store
from optsweep_tui.store.explain import translated
from optsweep_tui.store.whole import require_whole


def publish(fresh: Path, store: Path, run_ids: set[str], wait_seconds: float) -> str | None:
    """Replace `store` by `fresh`; returns where the old one was kept, if it was.

    DuckDB finds a write-ahead log by the file's name, so a rename is safe only while nobody has the old file open for
    writing and no log of it is left: an old log beside a new file makes the new one unopenable.

    Args:
        run_ids: runs that have a folder. An old store with others is kept.

    Raises:
        StoreLocked: another program held the old store for too long; it is still in place.
    """
    if not store.exists():
        with translated(store):
            _log_of(store).unlink(missing_ok=True)
            os.rename(fresh, store)
        return None
    try:
        with open_store(store, read_only=False, wait_seconds=wait_seconds) as connection:
            require_whole(store, connection)
            known = {run_id for (run_id,) in connection.execute("SELECT run_id FROM run").fetchall()}
        keep = bool(known - run_ids)
    except StoreLocked:
        raise
    except (OptsweepError, duckdb.Error):
        keep = True
    with translated(store), _exclusive(store, wait_seconds):
        kept = _put_aside(store) if keep else None
        _log_of(store).unlink(missing_ok=True)
        os.replace(fresh, store)
    if kept is None:
        return None
    if not os.path.isdir(archive.folder_of(kept)):
        return str(kept)
    with contextlib.suppress(OptsweepError):  # damaged: then there is no view to mend
        with open_store(kept, read_only=False, wait_seconds=wait_seconds) as connection:
            views.settle(connection, archive.folder_of(kept), files_changed=True)
    return str(kept)


def _put_aside(store: Path) -> Path:
    """Give the old file, and its log if it has one, a second name that is free."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        kept = store.with_name(f"{store.name}.kept-{stamp}" + (f"-{number}" if number > 1 else ""))
        try:
            os.link(store, kept)
        except FileExistsError:
            continue
        with contextlib.suppress(FileNotFoundError):
            os.link(_log_of(store), _log_of(kept))
        # All files: which ones count is known to the old store, and that may be damaged.
        archive.link(archive.folder_of(store), archive.folder_of(kept))
        return kept
    raise OptsweepError(f"{store.parent} holds a thousand kept stores of this second", "remove some")


def _log_of(store: Path) -> Path:
    return store.with_name(f"{store.name}.wal")


@contextlib.contextmanager
def _exclusive(store: Path, wait_seconds: float) -> Iterator[None]:
    """Hold the lock that DuckDB itself takes on a file, so that nobody opens it during the exchange."""
    handle = os.open(store, os.O_RDWR | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise StoreLocked(f"{store} is held by another process", "close it and try again") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)
