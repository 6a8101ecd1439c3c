"""Short-lived connections to results.duckdb: wait for the lock, name its holder, one clear line for a bad file.

While one process has the file open for writing nobody else can open it, and while a reader has it open no writer can
(measured on DuckDB 2.0), so every connection is opened for one statement or one transaction and closed again.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import duckdb

from optsweep_tui.errors import OptsweepError, StoreLocked
from optsweep_tui.store import archive
from optsweep_tui.store.explain import REBUILD, translated
from optsweep_tui.store.gate import WRITER_SECONDS, passing
from optsweep_tui.store.migrate import migrate, newest_version, version_of
from optsweep_tui.store.whole import require_whole

T = TypeVar("T")

WAIT_SECONDS = 30.0
"""How long to wait for another process before its pid is named."""
MEMORY_LIMIT = "1GB"
"""Per connection. A query that needs more spills to a folder beside the store."""
READABLE_FROM = "v1.4.0"
"""Oldest DuckDB that can read what this program writes; without being told so, 2.0 writes what only 2.0 reads."""

_FIRST_RETRY_SECONDS = 0.02
_LONGEST_RETRY_SECONDS = 2.0
_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")
_GUARDING = threading.Lock()
"""Connections of one process to one file share their settings: they are made one at a time."""


@contextlib.contextmanager
def open_store(
    path: Path,
    *,
    read_only: bool = True,
    wait_seconds: float = WAIT_SECONDS,
    archive_folder: str | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the store, closed at the end of the block.

    A writer creates the file and migrates it forward; a reader of a store with an older schema has it migrated first.
    What DuckDB raises inside the block (a full disk, a damaged block) leaves it as an OptsweepError.

    Args:
        wait_seconds: how long to wait while another process holds the file.
        archive_folder: where its archive lies, when that is not beside it.

    Raises:
        StoreLocked: it was held for longer than that; names the holder.
        OptsweepError: no store yet, not a store, written by a newer optsweep, unwritable, disk full.
    """
    if read_only:
        require(path)
    elif not path.exists():
        create(path)
    folder = archive.folder_of(path) if archive_folder is None else archive_folder
    with translated(path):
        connection = _connected(path, read_only, wait_seconds)
        try:
            version = _checked_version(path, connection)
            if version < newest_version():
                require_whole(path, connection)
                if read_only:
                    connection.close()
                    with open_store(path, read_only=False, wait_seconds=wait_seconds, archive_folder=folder):
                        pass
                    connection = _connected(path, True, wait_seconds)
                else:
                    migrate(connection)
            _guard(connection, folder)
            archive.point_at(connection, folder)
            yield connection
        finally:
            connection.close()


def _guard(connection: duckdb.DuckDBPyConnection, archive_folder: str) -> None:
    """Whatever a query says, it sees this file and its archive and nothing else, and cannot ask for more."""
    with _GUARDING:
        if connection.execute("SELECT current_setting('lock_configuration')").fetchall() == [(False,)]:
            connection.execute(f"SET allowed_directories = [{archive.literal(archive_folder)}]")
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")


def _checked_version(path: Path, connection: duckdb.DuckDBPyConnection) -> int:
    version = version_of(connection)
    if version is None:
        raise OptsweepError(f"{path} is a DuckDB file of another program", "move it away and run: optsweep collect")
    if version > newest_version():
        raise OptsweepError(
            f"{path} was written by a newer optsweep (schema {version}, this one knows {newest_version()})",
            f"update optsweep; or {REBUILD}",
        )
    return version


def require(path: Path) -> None:
    """Raise one clear line where there is no store yet."""
    if not path.exists():
        raise OptsweepError(f"{path}: nothing has been collected yet", "run: optsweep collect")


def create(path: Path) -> None:
    """Make an empty store of the newest schema; a crash leaves no half-made file under its name.

    Raises:
        OptsweepError: the folder cannot be written, or the disk is full.
    """
    with translated(path):
        with tempfile.TemporaryDirectory(prefix=f".{path.name.lstrip('.')}.", dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            connection = duckdb.connect(str(fresh), config=_config())
            try:
                migrate(connection)
            finally:
                connection.close()
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)


@contextlib.contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Everything in the block, or nothing."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # a COMMIT that failed has rolled back already
            connection.execute("ROLLBACK")
        raise


def interruptible(connection: duckdb.DuckDBPyConnection, work: Callable[[], T]) -> T:
    """Do a query that may take long so that Ctrl-C ends it at once: DuckDB looks for signals too seldom (34 s, measured)."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    with ThreadPoolExecutor(max_workers=1) as pool:
        answer = pool.submit(work)
        try:
            return answer.result()
        except BaseException:
            if not answer.done():
                connection.interrupt()
            raise


def _config() -> dict[str, str | bool | int | float | list[str]]:
    threads = max(1, min(4, len(os.sched_getaffinity(0))))
    return {
        "memory_limit": MEMORY_LIMIT,
        "threads": threads,
        "storage_compatibility_version": READABLE_FROM,
        # A file that is not a store must never make DuckDB fetch an extension over the network.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }


def _connected(path: Path, read_only: bool, wait_seconds: float) -> duckdb.DuckDBPyConnection:
    """Connect, retrying from 20 ms to 2 s with jitter while the file is held."""
    deadline = time.monotonic() + wait_seconds
    pause = _FIRST_RETRY_SECONDS
    while True:
        with passing(path.parent, deadline):
            leave = time.monotonic() + (0.0 if read_only else WRITER_SECONDS)
            while True:
                connection, holder = _attempt(path, read_only)
                if connection is not None:
                    return connection
                if time.monotonic() >= min(leave, deadline):
                    break
                time.sleep(_FIRST_RETRY_SECONDS * random.uniform(0.5, 1.0))
        left = deadline - time.monotonic()
        if left <= 0:
            raise StoreLocked(
                f"{path} is held by {holder} for more than {wait_seconds:g} s",
                "close that program, or wait and run the same command again; nothing is lost",
            )
        time.sleep(min(left, pause * random.uniform(0.5, 1.0)))
        pause = min(_LONGEST_RETRY_SECONDS, pause * 1.3)


def _attempt(path: Path, read_only: bool) -> tuple[duckdb.DuckDBPyConnection | None, str]:
    """A connection, or who holds the file."""
    try:
        return duckdb.connect(str(path), read_only=read_only, config=_config()), ""
    except duckdb.Error as error:
        if "Could not set lock" in str(error):
            return None, lock_holder(path, str(error))
        if "different configuration" in str(error) or "already attached" in str(error):
            # A thread of this process has it open in the other mode, for as short a time as everybody.
            return None, f"another thread of this process (pid {os.getpid()})"
        raise


def lock_holder(path: Path, message: str) -> str:
    """Who holds the file, from DuckDB's message, else from /proc/locks."""
    match = _HOLDER.search(message)
    if match:
        return f"{Path(match['program']).name} (pid {match['pid']})"
    try:
        inode = f":{path.stat().st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[5].endswith(inode):
                return f"the process with pid {fields[4]}"
    except (OSError, IndexError):
        pass
    return "another process"
