"""Is an open store whole? What opens well may still have lost its end, or hold a block that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from optsweep_tui.errors import OptsweepError
from optsweep_tui.store.explain import REBUILD

HEADER_BYTES = 3 * 4096
"""Before the first block of a DuckDB file: its main header and two database headers."""

_SIZES = "SELECT block_size, total_blocks FROM pragma_database_size()"
_TABLES = "SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary ORDER BY table_name"
_LAST_OF_TABLE = """
    SELECT max(greatest(block_id, coalesce(list_max(additional_block_ids), -1)))
    FROM pragma_storage_info('{table}') WHERE persistent
"""


def require_whole(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Compare the length of the file with what its header promises; costs a millisecond, reads no table.

    Raises:
        OptsweepError: the file ends before its last block in use.
    """
    ((block_bytes, promised),) = connection.execute(_SIZES).fetchall()
    found = os.stat(path).st_size  # never opened: closing any handle of a file gives up this process's locks on it
    if found >= HEADER_BYTES + promised * block_bytes:
        return
    # DuckDB counts the blocks before it cuts free ones off the end, so a shorter file may be whole.
    needed = HEADER_BYTES + (_last_block(connection) + 1) * block_bytes
    if found < needed:
        raise OptsweepError(
            f"{path} is not a DuckDB file or is damaged: it ends after {found:,} of {needed:,} bytes", REBUILD
        )


def read_through(connection: duckdb.DuckDBPyConnection) -> None:
    """Read every row of every table, so that DuckDB checks each block, and the heads of the archive's files.

    Raises:
        duckdb.Error: something cannot be read.
    """
    for table in _tables(connection):
        connection.execute(f'SELECT bit_xor(hash(t)) FROM "{table}" t').fetchall()
    connection.execute("SELECT count(*) FROM v_point").fetchall()


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [table for (table,) in connection.execute(_TABLES).fetchall()]


def _last_block(connection: duckdb.DuckDBPyConnection) -> int:
    """Number of the last block that holds something; -1 without any."""
    queries = [_LAST_OF_TABLE.format(table=table) for table in _tables(connection)]
    queries.append("SELECT max(block_id) FROM pragma_metadata_info()")
    found = [number for query in queries for (number,) in connection.execute(query).fetchall() if number is not None]
    return max(found, default=-1)
