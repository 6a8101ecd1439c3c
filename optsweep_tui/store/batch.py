"""One transaction of the collector: rows gathered in memory, written together with the offsets they were read up to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pandas as pd  # noqa: F401  Arrow loads it at the first array; Ctrl-C in the middle of that was an AttributeError
import pyarrow as pa

from optsweep_tui.store.lines import Series
from optsweep_tui.store.rows import Row
from optsweep_tui.store.tables import METRIC, TABLES

MAX_ROWS = 250_000
"""Per transaction: readers wait for about half a second at most."""


@dataclass(kw_only=True)
class Batch:
    """Rows not yet written. A run, an attempt or a source that occurs here replaces what the store holds of it."""

    runs: dict[int, Row] = field(default_factory=dict)
    studies: dict[int, list[Row]] = field(default_factory=dict)
    attempts: dict[tuple[int, int], Row] = field(default_factory=dict)
    finals: dict[int, Row | None] = field(default_factory=dict)
    """None: the run is no longer over."""
    steps: dict[tuple[int, int], Row] = field(default_factory=dict)
    """(run, attempt) -> first_step, last_step, repeats."""
    repeats: dict[int, bool] = field(default_factory=dict)
    keys: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    sources: dict[str, Row] = field(default_factory=dict)
    replaced: list[tuple[str, int, int]] = field(default_factory=list)
    """(table, run, attempt) of streams that began anew."""
    series: list[tuple[int, int, int, Series]] = field(default_factory=list)
    """(run, attempt, key, series)"""
    points: int = 0

    @property
    def size(self) -> int:
        """Rows to write, roughly."""
        return self.points + len(self.events) + len(self.runs) + len(self.attempts) + len(self.sources)

    def add_series(self, run: int, attempt: int, key: int, series: Series) -> None:
        """Take the points of one key."""
        self.series.append((run, attempt, key, series))
        self.points += len(series.steps)

    def write(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Write everything in one transaction, or nothing."""
        connection.execute("BEGIN")
        try:
            for table, run, attempt in self.replaced:
                connection.execute(f"DELETE FROM {table} WHERE run = ? AND attempt = ?", [run, attempt])
            _replace(connection, "run", "run", self.runs, self.runs.values())
            _replace(
                connection, "study_run", "run", self.studies, (row for rows in self.studies.values() for row in rows)
            )
            self._write_attempts(connection)
            _replace(connection, "run_final", "run", self.finals, (row for row in self.finals.values() if row))
            _replace(connection, "src_offset", "path", self.sources, self.sources.values())
            _insert(connection, "metric_key", _table("metric_key", self.keys))
            _insert(connection, "event", _table("event", self.events))
            _insert(connection, "metric", self._metrics())
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                connection.execute("ROLLBACK")
            raise

    def _write_attempts(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self.attempts:
            rows = _table("attempt", self.attempts.values())
            with _registered(connection, rows):
                connection.execute("DELETE FROM attempt WHERE (run, attempt) IN (SELECT (run, attempt) FROM incoming)")
                connection.execute("INSERT INTO attempt SELECT * FROM incoming")
        if self.steps:
            with _registered(connection, _table("attempt", self.steps.values())):
                connection.execute(
                    "UPDATE attempt SET first_step = i.first_step, last_step = i.last_step, repeats = i.repeats"
                    " FROM incoming i WHERE attempt.run = i.run AND attempt.attempt = i.attempt"
                )
        if self.repeats:
            rows = pa.table({"run": pa.array(self.repeats, pa.int32()), "repeats": list(self.repeats.values())})
            with _registered(connection, rows):
                connection.execute("UPDATE run SET repeats = i.repeats FROM incoming i WHERE run.run = i.run")

    def _metrics(self) -> pa.Table:
        lengths = [len(series.steps) for _, _, _, series in self.series]
        columns = [
            np.repeat(np.array([entry[place] for entry in self.series], np.int32), lengths) for place in range(3)
        ]
        steps = [series.steps for _, _, _, series in self.series]
        values = np.concatenate([series.values for _, _, _, series in self.series] or [np.empty(0)])
        arrays = [*columns, np.concatenate(steps or [np.empty(0, np.int64)])]
        return pa.table([*map(pa.array, arrays), pa.array(values, mask=np.isnan(values))], schema=METRIC)


def _table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=TABLES[name])


@contextlib.contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> Any:
    connection.register("incoming", rows)
    try:
        yield
    finally:
        with contextlib.suppress(duckdb.Error):  # in a transaction that failed; the reason must not be hidden by this
            connection.unregister("incoming")


def _insert(connection: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    if rows.num_rows:
        with _registered(connection, rows):
            connection.execute(f"INSERT INTO {name} SELECT * FROM incoming")


def _replace(
    connection: duckdb.DuckDBPyConnection, name: str, column: str, keys: Iterable[int | str], rows: Iterable[Row]
) -> None:
    """Delete the rows whose `column` is among the keys, insert the new ones."""
    kind = TABLES[name].field(column).type
    gone = pa.table({column: pa.array(list(keys), kind)})
    if gone.num_rows:
        with _registered(connection, gone):
            connection.execute(f"DELETE FROM {name} WHERE {column} IN (SELECT {column} FROM incoming)")
        _insert(connection, name, _table(name, rows))
