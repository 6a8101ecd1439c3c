"""Answers to the user's statements as Arrow tables, for a screen: large ones are cheap to keep, and one can be stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from optsweep_tui.errors import OptsweepError
from optsweep_tui.store.connect import open_store
from optsweep_tui.store.explain import about_the_file
from optsweep_tui.store.statement import SCHEMA_HINT, checked_statement, first_line

BATCH_ROWS = 50_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a statement answered."""

    table: pa.Table
    complete: bool
    """False: there are more rows than were asked for."""
    seconds: float


class Stopped(OptsweepError):
    """The statement was interrupted."""


def answer(
    store: Path,
    text: str,
    *,
    most_rows: int,
    started: Callable[[Callable[[], None]], None],
    wait_seconds: float,
) -> Answer:
    """One reading statement; the store is open for as long as it takes and no longer.

    Args:
        most_rows: rows beyond these are not fetched.
        started: called with a function that interrupts the statement, from any thread.
        wait_seconds: for another process that holds the store.

    Raises:
        Stopped: it was interrupted.
        OptsweepError: not one reading statement, refused by DuckDB, or the store cannot be read; one line.
    """
    checked_statement(text)
    begun = time.monotonic()
    with open_store(store, wait_seconds=wait_seconds) as connection:
        started(connection.interrupt)
        try:
            table, complete = _fetched(connection.sql(text), most_rows)  # lazy: rows beyond the last are never made
        except duckdb.InterruptException:
            raise Stopped("sql: stopped", "r runs it again") from None
        except duckdb.Error as error:
            if about_the_file(error):
                raise
            raise OptsweepError(f"sql: {first_line(error)}", SCHEMA_HINT) from None
    return Answer(table=table, complete=complete, seconds=time.monotonic() - begun)


def _fetched(result: Any, most_rows: int) -> tuple[pa.Table, bool]:
    """Batches until there are enough rows; DuckDB computes them as they are fetched."""
    if not hasattr(result, "to_arrow_reader"):  # its name before DuckDB 2.0
        reader = result.fetch_record_batch(BATCH_ROWS)
    else:
        reader = result.to_arrow_reader(BATCH_ROWS)
    batches: list[pa.RecordBatch] = []
    rows, complete = 0, True
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        if rows > most_rows:
            complete = False
            break
    table = pa.Table.from_batches(batches, schema=reader.schema).slice(0, most_rows)
    return table.combine_chunks(), complete


def functions() -> list[str]:
    """Names of the functions that a statement may use, as DuckDB knows them."""
    query = """
        SELECT DISTINCT function_name FROM duckdb_functions()
        WHERE function_type IN ('scalar', 'aggregate', 'table', 'macro') AND regexp_matches(function_name, '^[a-z][a-z0-9_]*$')
        ORDER BY 1
    """
    with duckdb.connect(":memory:") as connection:
        return [name for (name,) in connection.execute(query).fetchall()]
