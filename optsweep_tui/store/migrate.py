"""Brings a store to the newest schema: the files of schema/ in order, one transaction each, never backwards."""

from __future__ import annotations

import contextlib
import datetime
import re
from functools import cache
from pathlib import Path

import duckdb

from optsweep_tui import __version__
from optsweep_tui.resources import shipped

_FILE = re.compile(r"(\d{3})_[a-z0-9_]+\.sql")


@cache
def migrations(folder: Path | None = None) -> tuple[tuple[int, Path], ...]:
    """(version, file) of every migration, in order.

    Raises:
        FileNotFoundError: the installation has no schema.
        ValueError: the numbers have a gap.
    """
    where = folder or shipped("schema")
    found = sorted((int(match.group(1)), path) for path in where.iterdir() if (match := _FILE.fullmatch(path.name)))
    if [number for number, _ in found] != list(range(1, len(found) + 1)) or not found:
        raise ValueError(f"{where}: migrations are not numbered 001, 002, ...")
    return tuple(found)


def newest_version() -> int:
    """Version of the schema that this program writes."""
    return migrations()[-1][0]


def version_of(connection: duckdb.DuckDBPyConnection) -> int | None:
    """Version of the open store; 0 for an empty one, None for a database of something else."""
    try:
        row = connection.execute("SELECT max(version) FROM schema_version").fetchone()
    except (duckdb.CatalogException, duckdb.BinderException):
        row = connection.execute("SELECT count(*) FROM duckdb_tables()").fetchone()
        return None if row and row[0] else 0
    return int(row[0]) if row and row[0] is not None else 0


def migrate(connection: duckdb.DuckDBPyConnection, folder: Path | None = None) -> list[int]:
    """Apply what is missing; returns the versions applied. The connection must be open for writing.

    Each file and its version row are one transaction, so a crash leaves the old schema or the new one. A CHECKPOINT
    follows because replaying DDL from the write-ahead log is the least tested path of DuckDB.
    """
    applied = []
    have = version_of(connection) or 0
    for version, path in migrations(folder):
        if version <= have:
            continue
        connection.execute("BEGIN")
        try:
            for statement in duckdb.extract_statements(path.read_text(encoding="utf-8")):
                connection.execute(statement)
            now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
            connection.execute("INSERT INTO schema_version VALUES (?, ?, ?)", [version, now, f"optsweep {__version__}"])
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # a COMMIT that failed has rolled back already
                connection.execute("ROLLBACK")
            raise
        connection.execute("CHECKPOINT")
        applied.append(version)
    return applied
