"""What Weights & Biases exports: a table with a line per run, the chart of many runs, or the history of one run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optsweep_tui.errors import OptsweepError
from optsweep_tui.importers.curves import Curves
from optsweep_tui.importers.logged import NO_END, STEPS, LoggedRun, flat
from optsweep_tui.importers.mapping import ColumnMapping
from optsweep_tui.importers.protocol import Complaints, Found, opened
from optsweep_tui.importers.rows import MAX_ROWS, CsvImporter, ParquetImporter

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
MAX_LINE = 1 << 20
"""Bytes of a line of JSON."""
_STEP = ("_step", "Step", "step", *STEPS)
_BOUNDS = ("__MIN", "__MAX")
"""Columns that an exported chart holds beside each curve."""
_ENDED = {"finished": True, "crashed": False, "failed": False, "killed": False, "running": False, "preempted": False}
_TABLES = ("config", "summary", "summary_metrics", "summaryMetrics")
"""Columns that hold a whole table as JSON."""


def read(path: Path, said: ColumnMapping, found: Found) -> list[LoggedRun]:
    """The runs of an exported file.

    Raises:
        OptsweepError: it cannot be read, or holds nothing.
    """
    rows = _lines(path, found) if path.suffix.lower() == ".jsonl" else _rows(path, found)
    first = next(rows, None)
    if first is None:
        raise OptsweepError(f"{path} holds no row", "export the table, the chart or the history again")
    wanted = said.metrics.get("step")
    step = next((name for name in ((wanted,) if wanted else _STEP) if name in first), None)
    if wanted and step is None:
        raise OptsweepError(f"{path} has no column {wanted}, which [metrics] calls step", "check the --mapping")
    numbered = enumerate(_chained(first, rows), start=1)
    if step is None:
        return [_table_row(place, row, path) for place, row in _bounded(numbered, path, found, MAX_ROWS)]
    return _histories(numbered, step, path, said, found)


def _rows(path: Path, found: Found) -> Iterator[Mapping[str, Any]]:
    reader = ParquetImporter() if path.suffix.lower() == ".parquet" else CsvImporter()
    return reader.rows(path, found)


def _lines(path: Path, found: Found) -> Iterator[Mapping[str, Any]]:
    """Tables, one a line; a line longer than MAX_LINE is never in memory as a whole."""
    try:
        with opened(path) as handle:
            number, whole = 0, True
            while piece := handle.readline(MAX_LINE):
                ended = piece.endswith(b"\n") or len(piece) < MAX_LINE
                if whole:
                    number += 1
                if whole and ended and piece.strip():
                    try:
                        row = json.loads(piece.removeprefix(b"\xef\xbb\xbf"))
                        if not isinstance(row, Mapping):
                            raise ValueError("it is not a table")
                        yield flat(row)
                    except (ValueError, RecursionError) as error:
                        found.skip(f"{path}: line {number}", str(error) or "it is nested too deeply")
                elif whole and not ended:
                    found.skip(f"{path}: line {number}", f"it is longer than {MAX_LINE} bytes")
                whole = ended
    except OSError as error:
        raise OptsweepError(f"{path} cannot be read: {error.strerror}", "check the path") from None


def _chained(first: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield first
    yield from rows


def _bounded(
    rows: Iterable[tuple[int, Mapping[str, Any]]], path: Path, found: Found, limit: int
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for place, row in rows:
        if place > limit:
            found.skip(f"{path}: row {place}", f"more than {limit} rows; this one and all after it are left out")
            return
        yield place, row


def _table_row(place: int, row: Mapping[str, Any], path: Path) -> LoggedRun:
    """One line of a table of runs: every column may be configuration or summary, as their export does not say."""
    plain = {str(key): value for key, value in row.items() if value not in (None, "") and isinstance(key, str)}
    table: dict[str, Any] = {}
    for key, value in plain.items():
        table |= flat(_tables(value)) if key in _TABLES else {key: value}
    lowered = {key.lower(): value for key, value in plain.items()}
    name = str(lowered.get("name") or f"row {place}")
    entry = str(lowered.get("id") or name)[:200]
    state = str(lowered.get("state") or "").lower()
    config = {key: value for key, value in table.items() if key.lower() not in ("state", "name", "id")}
    return LoggedRun(
        entry=entry,
        names=(name, entry),
        where=f"{path}: row {place}",
        config=config,
        summary=config,
        ended=_ENDED.get(state),
        ending=f"its state is {state}" if state in _ENDED else NO_END,
        source={"file": path.name, "run": name[:200]},
    )


def _tables(value: Any) -> Mapping[str, Any]:
    """A table in a cell: as JSON; anything else is not taken apart."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


def _histories(
    rows: Iterable[tuple[int, Mapping[str, Any]]], step: str, path: Path, said: ColumnMapping, found: Found
) -> list[LoggedRun]:
    """Curves: of one run, or of each run that a chart's columns are called after ("NAME - metric")."""
    logs: dict[str, LoggedRun] = {}
    complaints = Complaints(found, str(path))
    for place, row in rows:
        at = _float(row.get(step))
        if at is None or not math.isfinite(at) or not at.is_integer():
            complaints.add(f"row {place}: its {step} is {str(row.get(step))[:40]!r}, no step")
            continue
        for column, text in row.items():
            if column == step or not isinstance(column, str) or column.endswith(_BOUNDS):
                continue
            number = _float(text)
            if number is None:
                continue
            run, dash, metric = column.rpartition(" - ")
            name = run if dash else path.stem
            log = logs.get(name)
            if log is None:
                where = f"{path}: {name}" if dash else str(path)
                log = logs[name] = LoggedRun(entry=name[:200], names=(name, path.name), where=where)
                log.curves = Curves(said.metrics.values())
                log.source = {"file": path.name, "run": name[:200]}
            if metric not in ("_step", "_timestamp"):
                log.curves.add(int(at), "wall_seconds" if metric == "_runtime" else metric, number)
    complaints.close()
    if not logs:
        raise OptsweepError(f"{path} holds no number beside its {step}", "export the chart or the history again")
    return list(logs.values())


def _float(value: Any) -> float | None:
    """A number, NaN and infinities in any spelling; None for nothing and for texts."""
    if isinstance(value, bool) or value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf
