"""One transaction of the collector: rows gathered in memory, written together with the offsets they were read up to."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np

from optsweep_tui.store import archive, knobs, views
from optsweep_tui.store.connect import transaction
from optsweep_tui.store.lines import Series
from optsweep_tui.store.rows import Row
from optsweep_tui.store.tables import METRIC, TABLES, Columns

MAX_ROWS = 250_000
"""Per transaction: readers wait for about half a second at most."""
_CHUNK_ROWS = 2000
"""So many rows of a small table go into one statement, as one JSON text."""


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
    columns: knobs.Columns | None = None
    """All hyperparameters that v_config is to show; None while it shows them already."""
    points: int = 0

    @property
    def size(self) -> int:
        """Rows to write, roughly."""
        return self.points + len(self.events) + len(self.runs) + len(self.attempts) + len(self.sources)

    def add_series(self, run: int, attempt: int, key: int, series: Series) -> None:
        """Take the points of one key."""
        self.series.append((run, attempt, key, series))
        self.points += len(series.steps)

    def write(self, connection: duckdb.DuckDBPyConnection, archive_folder: str) -> None:
        """Write everything in one transaction, or nothing.

        A CHECKPOINT follows where views were changed: replaying DDL from the write-ahead log is DuckDB's least tested path.
        """
        with transaction(connection):
            archived = self._forget_replaced(connection)
            _replace(connection, "run", "run", self.runs, self.runs.values())
            _replace(connection, "study_run", "run", self.studies, itertools.chain.from_iterable(self.studies.values()))
            self._write_attempts(connection)
            _replace(connection, "run_final", "run", self.finals, (row for row in self.finals.values() if row))
            _replace(connection, "src_offset", "path", self.sources, self.sources.values())
            _insert(connection, "metric_key", self.keys)
            _insert(connection, "event", self.events)
            self._write_points(connection)
            if self.columns is not None:
                connection.execute(knobs.view_sql(self.columns))
            views_changed = self.columns is not None
            if archived or self.runs or self.repeats:
                views_changed = views.settle(connection, archive_folder, files_changed=archived) or views_changed
        if views_changed:
            connection.execute("CHECKPOINT")

    def _forget_replaced(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Drop what the store holds of streams that began anew; True when the archive lost a part."""
        archived = False
        for table, run, attempt in self.replaced:
            connection.execute(f"DELETE FROM {table} WHERE run = ? AND attempt = ?", [run, attempt])
            if table == "metric" and archive.forget(connection, run, attempt):
                archived = True
        return archived

    def _write_attempts(self, connection: duckdb.DuckDBPyConnection) -> None:
        for chunk, structure in _chunks(TABLES["attempt"], self.attempts.values()):
            connection.execute(
                f"DELETE FROM attempt WHERE (run, attempt) IN (SELECT (row.run, row.attempt) FROM {_INCOMING})",
                [chunk, structure],
            )
            connection.execute(f"INSERT INTO attempt SELECT row.* FROM {_INCOMING}", [chunk, structure])
        names = ("run", "attempt", "first_step", "last_step", "repeats")
        for chunk, structure in _chunks({name: TABLES["attempt"][name] for name in names}, self.steps.values()):
            connection.execute(
                "UPDATE attempt SET first_step = row.first_step, last_step = row.last_step, repeats = row.repeats"
                f" FROM {_INCOMING} WHERE attempt.run = row.run AND attempt.attempt = row.attempt",
                [chunk, structure],
            )
        marks = ({"run": run, "repeats": repeats} for run, repeats in self.repeats.items())
        for chunk, structure in _chunks({"run": "INTEGER", "repeats": "BOOLEAN"}, marks):
            connection.execute(
                f"UPDATE run SET repeats = row.repeats FROM {_INCOMING} WHERE run.run = row.run", [chunk, structure]
            )

    def _write_points(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Straight from the arrays: ten times as fast as any other way that needs no further library."""
        if not self.points:
            return
        lengths = [len(series.steps) for _, _, _, series in self.series]
        columns: dict[str, Any] = {
            name: np.repeat(np.array([entry[place] for entry in self.series], np.int32), lengths)
            for place, name in enumerate(list(METRIC)[:3])
        }
        columns["step"] = np.concatenate([series.steps for _, _, _, series in self.series])
        columns["value"] = np.concatenate([series.values for _, _, _, series in self.series])
        connection.register("incoming", columns)
        try:
            connection.execute(
                "INSERT INTO metric SELECT run, attempt, key, step, CASE WHEN isnan(value) THEN NULL ELSE value END FROM incoming"
            )
        finally:
            with contextlib.suppress(
                duckdb.Error
            ):  # in a transaction that failed; the reason must not be hidden by this
                connection.unregister("incoming")


_INCOMING = "(SELECT unnest(from_json_strict(CAST(? AS JSON), ?)) AS row)"
"""Rows that come as a JSON text and its structure."""


def _chunks(columns: Columns, rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """(JSON text, structure) of the rows, some thousand at a time; what a row lacks is null."""
    structure = json.dumps([{name: "VARCHAR" if kind == "JSON" else kind for name, kind in columns.items()}])
    remaining = iter(rows)
    while chunk := list(itertools.islice(remaining, _CHUNK_ROWS)):
        yield _text([{name: row.get(name) for name in columns} for row in chunk]), structure


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, default=datetime.datetime.isoformat)


def _insert(connection: duckdb.DuckDBPyConnection, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    for chunk, structure in _chunks(TABLES[name], rows):
        connection.execute(f"INSERT INTO {name} SELECT row.* FROM {_INCOMING}", [chunk, structure])


def _replace(
    connection: duckdb.DuckDBPyConnection, name: str, column: str, keys: Iterable[int | str], rows: Iterable[Row]
) -> None:
    """Delete the rows whose `column` is among the keys, insert the new ones."""
    gone = list(keys)
    if gone:
        listed = [_text(gone), json.dumps([TABLES[name][column]])]
        connection.execute(f"DELETE FROM {name} WHERE {column} IN (SELECT row FROM {_INCOMING})", listed)
        _insert(connection, name, rows)
