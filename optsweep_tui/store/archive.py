"""Points of finished runs in Parquet files beside the store: results.duckdb.archive/, read by v_metric like the rest.

The table `archive` says which streams of which files count; a file that it does not name is left over from a killed
collector and is swept away. So a file is written whole first, and one transaction then names it, takes its points out of the
table `metric` and makes the view over the files anew: a kill before the commit leaves everything as it was, one after it
leaves nothing to do. In the files points lie by run, attempt, key and place, so that a curve is a few adjacent row groups.

The view holds the files' full paths, for readers that know nothing of this program. Connections of this program set the
variable optsweep_archive instead, so that a workspace can be moved, or seen under another path.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

VARIABLE = "optsweep_archive"
FILE_POINTS = 4_000_000
"""Per file, at least one stream: sorting them fits the memory limit, deleting their rows takes less than a second."""
ROW_GROUP_POINTS = 262_144
"""Rows with one entry in the index of a file: a query reads the whole index of every file, and a curve's groups (1e8 points,
DuckDB 2.0: the last 1000 of a run in 25 ms, in 75 ms with groups of 65,536, which also take 0.36 GB instead of 0.26)."""


class Part(NamedTuple):
    """One stream of points that is to be moved."""

    number: int
    run: int
    attempt: int
    points: int


def folder_of(store: Path) -> str:
    """Where the archive of a store lies."""
    return f"{os.path.abspath(store)}.archive"


def files(connection: duckdb.DuckDBPyConnection, runs: Iterable[int] | None = None) -> list[str]:
    """Names of the files that count, or of those among them that hold points of some runs, oldest first."""
    where = "" if runs is None else f"WHERE run IN ({', '.join(str(int(run)) for run in runs) or 'NULL'})"
    rows = connection.execute(f"SELECT file FROM archive {where} GROUP BY file ORDER BY min(part)").fetchall()
    return [name for (name,) in rows]


def paths(folder: str, names: Iterable[str]) -> list[str]:
    """Full paths of files."""
    return [f"{folder}/{name}" for name in names]


def point_at(connection: duckdb.DuckDBPyConnection, folder: str, runs: Iterable[int] | None = None) -> None:
    """Let v_archive of this connection read the files in `folder`, whatever path is written into the view.

    Args:
        runs: numbers of the runs that will be asked for: files that hold none of them are not opened.
    """
    names = files(connection, runs)
    if names:
        connection.execute(f"SET VARIABLE {VARIABLE} = {_list(paths(folder, names))}")


def source_sql(folder: str, names: Sequence[str]) -> str:
    """The query of v_archive over these files."""
    return f"""
        SELECT run, attempt, key, step, value, (CAST(part AS BIGINT) << 40) + row AS place
        FROM read_parquet(coalesce(getvariable('{VARIABLE}'), {_list(paths(folder, names))})) SEMI JOIN archive USING (part)
    """


def forget(connection: duckdb.DuckDBPyConnection, run: int, attempt: int) -> bool:
    """Let the archived points of an attempt count no more; True when there were any."""
    gone = connection.execute(
        "DELETE FROM archive WHERE run = ? AND attempt = ? RETURNING part", [run, attempt]
    ).fetchall()
    return bool(gone)


def finished_parts(connection: duckdb.DuckDBPyConnection, without: Iterable[int] = ()) -> list[Part]:
    """Streams of finished runs that still lie in the table `metric`, in the order in which they are to be moved."""
    rows = connection.execute("""
        SELECT run, attempt, count(*) FROM metric WHERE run IN (SELECT run FROM run_final)
        GROUP BY run, attempt ORDER BY run, attempt
    """).fetchall()
    (last,) = connection.execute("SELECT coalesce(max(part), 0) FROM archive").fetchall()[0]
    left = set(without)
    chosen = [row for row in rows if row[0] not in left]
    return [Part(last + number, *row) for number, row in enumerate(chosen, start=1)]


def groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """The parts of one file after the other."""
    group: list[Part] = []
    for part in parts:
        if group and sum(each.points for each in group) + part.points > FILE_POINTS:
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def write_file(connection: duckdb.DuckDBPyConnection, folder: str, parts: Sequence[Part]) -> str:
    """Copy parts into a new file, durably; returns its name. The connection may be read-only.

    Raises:
        OSError, duckdb.Error: it cannot be written; no half of it stays.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    name = f"{parts[0].number:06d}-{secrets.token_hex(4)}.parquet"
    half = f"{folder}/.{name}.part"
    values = ", ".join(f"({part.number}, {part.run}, {part.attempt})" for part in parts)
    runs = ", ".join(str(run) for run in sorted({part.run for part in parts}))
    try:
        (copied,) = connection.execute(f"""
            COPY (
              SELECT a.part, m.run, m.attempt, m.key, m.step, m.value, m.rowid AS row
              FROM metric m JOIN (VALUES {values}) a(part, run, attempt) ON a.run = m.run AND a.attempt = m.attempt
              WHERE m.run IN ({runs}) ORDER BY m.run, m.attempt, m.key, m.rowid
            ) TO {literal(half)}
            (FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_POINTS})
        """).fetchall()[0]
        assert copied == sum(part.points for part in parts), "nobody else writes"
        _sync(half)
        os.rename(half, f"{folder}/{name}")
        _sync(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(half)
        raise
    return name


def count_in(connection: duckdb.DuckDBPyConnection, name: str, parts: Sequence[Part]) -> None:
    """Let a file count from now on, and take its points out of the table `metric`."""
    values = ", ".join(f"({part.number}, '{name}', {part.run}, {part.attempt}, {part.points})" for part in parts)
    runs = ", ".join(str(run) for run in sorted({part.run for part in parts}))
    pairs = ", ".join(f"({part.run}, {part.attempt})" for part in parts)
    connection.execute(f"INSERT INTO archive VALUES {values}")
    connection.execute(f"DELETE FROM metric WHERE run IN ({runs}) AND (run, attempt) IN (VALUES {pairs})")


def fold_in(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring every archived point back into the table `metric`."""
    # What came after its stream was archived must stay behind it: within an attempt the last line of a step wins.
    streams = "(run, attempt) IN (SELECT (run, attempt) FROM archive)"
    connection.execute(f"CREATE TEMP TABLE later AS SELECT * FROM metric WHERE {streams}")
    connection.execute(f"DELETE FROM metric WHERE {streams}")
    ((listed,),) = connection.execute(f"SELECT getvariable('{VARIABLE}')").fetchall()
    for path in listed or ():
        connection.execute(f"""
            INSERT INTO metric SELECT run, attempt, key, step, value
            FROM read_parquet({literal(path)}) SEMI JOIN archive USING (part)
        """)
    connection.execute("INSERT INTO metric SELECT * FROM later")
    connection.execute("DELETE FROM archive")
    connection.execute("DROP TABLE later")


def sweep(folder: str, counting: Iterable[str]) -> None:
    """Remove every file of an archive that does not count, and the folder when nothing does."""
    kept = set(counting)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            if name not in kept and name.endswith((".parquet", ".part")):
                with contextlib.suppress(OSError):
                    os.unlink(f"{folder}/{name}")
        if not kept:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def link(source: str, target: str) -> None:
    """Give every file of an archive a second name in another, on the same filesystem."""
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(source)
        os.makedirs(target, mode=0o700, exist_ok=True)
        for name in names:
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.link(f"{source}/{name}", f"{target}/{name}")


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(literal, texts))}]"
