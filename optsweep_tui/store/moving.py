"""Moves the points of finished runs to the archive, file after file: written while readers go on, counted in one moment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from optsweep_tui.store import archive, views
from optsweep_tui.store.connect import open_store, transaction


def archive_finished(store: Path, folder: str, wait_seconds: float, *, without: Iterable[int] = ()) -> int:
    """Move all points of runs that are over; returns how many. Call it under the collector's lock.

    Args:
        without: numbers of runs that are left alone.

    Raises:
        StoreLocked: another program held the store for too long; the files that count already stay so.
        OptsweepError: the disk is full, or the folder cannot be written.
    """
    with open_store(store, wait_seconds=wait_seconds, archive_folder=folder) as connection:
        parts = archive.finished_parts(connection, without)
    moved = 0
    for group in archive.groups(parts):
        # Sorting and writing takes seconds: a connection that only reads keeps other readers working meanwhile.
        with open_store(store, wait_seconds=wait_seconds, archive_folder=folder) as connection:
            name = archive.write_file(connection, folder, group)
        with open_store(store, read_only=False, wait_seconds=wait_seconds, archive_folder=folder) as connection:
            with transaction(connection):
                archive.count_in(connection, name, group)
                views.settle(connection, folder, files_changed=True)
            connection.execute("CHECKPOINT")
        moved += sum(part.points for part in group)
    return moved


def sweep(store: Path, wait_seconds: float) -> None:
    """Remove what lies in the archive's folder and does not count. Call it under the collector's lock."""
    folder = archive.folder_of(store)
    if Path(folder).is_dir():
        with open_store(store, wait_seconds=wait_seconds) as connection:
            counting = archive.files(connection)
        archive.sweep(folder, counting)
