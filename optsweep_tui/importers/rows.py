"""CSV and Parquet files with one row per run: `optsweep import csv FILE --mapping FILE.toml`.

Without a mapping every column has the name of its field (`optimizer`, `model`, `loss`, `tokens` or `chinchilla`, ...),
`hyperparameters` is JSON, as `optsweep export csv` writes it; where there is no such column, columns that are called like a
knob of the row's optimizer (`lr`, `weight_decay`, ...) are its hyperparameters. Columns that mean nothing are listed.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.importers import mapping as mappings
from optsweep_tui.importers.fields import FIELDS, called_like_knobs, run_of, unread_text
from optsweep_tui.importers.protocol import Found, Request, opened, required_path

MAX_ROWS = 200_000
"""More are no runs but points of curves."""
_FIELD_BYTES = 1 << 20
_SURPLUS, _MISSING = "\0more", "\0less"
"""Of rows with more or fewer fields than the line of column names."""
_FIRST = "#1"
"""Without a column `entry` a run is told by its configuration, budget and seed, and equal ones by their order: a table that
grows at any place brings its new rows only."""
WRITTEN_BESIDE = (
    *("run_id", "study", "origin", "tokens_per_step", "flops_per_token", "optimizer_flops_per_step", "state_bytes"),
)
"""Columns of `optsweep export csv` that follow from the others or that an import gives anew."""


class _RowsImporter:
    name = ""
    doc = ""

    def read(self, request: Request) -> Found:
        """One run per row.

        Raises:
            OptsweepError: the file or its mapping cannot be used at all.
        """
        path = required_path(request, self.name)
        said = mappings.load(request.mapping)
        if said.metrics or said.runs:
            raise OptsweepError(
                f"{request.mapping}: [metrics] and [[runs]] are for logs", "use [columns] and [constants]"
            )
        study = request.study or said.study or path.stem
        found = Found()
        rows = self.rows(path, found)
        first = next(rows, None)
        if first is None:
            raise OptsweepError(f"{path} holds no row", "it needs a line of column names and a line per run")
        columns = _columns(said, first, path)
        others = [name for name in map(str, first) if name and name not in columns.values()]
        unread = set(others) - set(said.hyperparameters.values()) - set(WRITTEN_BESIDE)
        constant = {field: columns.pop(field) for field in said.constants if field in columns}
        if constant:
            found.skip(f"{path}: columns", f"[constants] hold instead of: {', '.join(constant.values())}")
        seen: dict[str, int] = {}
        equal: Counter[str] = Counter()
        for place, row in enumerate(itertools.chain([first], rows), start=1):
            where = f"{path}: row {place}"
            if place > MAX_ROWS:
                found.skip(where, f"more than {MAX_ROWS} rows are no runs; this one and all after it are left out")
                break
            try:
                if _SURPLUS in row or _MISSING in row.values():
                    raise ValueError("it has not as many fields as the line of column names")
                values = {**{field: row.get(column) for field, column in columns.items()}, **said.constants}
                if said.hyperparameters:
                    knobs = {knob: row.get(column) for knob, column in said.hyperparameters.items()}
                    values["hyperparameters"] = {
                        knob: value for knob, value in knobs.items() if value not in (None, "")
                    }
                elif "hyperparameters" not in values:
                    known = called_like_knobs(str(values.get("optimizer") or ""), others)
                    unread.difference_update(known)
                    values["hyperparameters"] = {
                        name: row[name] for name in known if row.get(name) not in (None, "")
                    } or None
                entry = str(values.get("entry") or "")[:200]
                if entry in seen:
                    raise ValueError(f"its entry {entry!r} is that of row {seen[entry]}, which is kept")
                run = run_of(values, self.name, study, entry or _FIRST, {"file": path.name})
                if entry:
                    seen[entry] = place
                else:
                    equal[run.run_id] += 1
                    run = dataclasses.replace(run, entry=f"#{equal[run.run_id]}")
                found.runs.append(run)
            except (ValueError, OverflowError) as error:
                found.skip(where, str(error))
        if unread:
            found.skip(f"{path}: columns", unread_text("column", "columns", unread))
        return found

    def rows(self, path: Path, found: Found) -> Iterator[Mapping[str, Any]]:
        """The rows as tables."""
        raise NotImplementedError


class CsvImporter(_RowsImporter):
    """Text with a line of column names; separated by comma, semicolon or tab, whichever that line holds most of."""

    name = "csv"
    doc = "a CSV or TSV file with a row per run; --mapping says which column means what"

    def rows(self, path: Path, found: Found) -> Iterator[Mapping[str, Any]]:
        csv.field_size_limit(_FIELD_BYTES)
        reader: csv.DictReader[str] | None = None
        try:
            with io.TextIOWrapper(opened(path), newline="", encoding="utf-8-sig") as handle:
                head = handle.readline(_FIELD_BYTES)
                separator = max(",;\t", key=head.count)
                handle.seek(0)
                reader = csv.DictReader(handle, delimiter=separator, restkey=_SURPLUS, restval=_MISSING)
                _require_once(reader.fieldnames or (), path)
                yield from reader
        except UnicodeDecodeError as error:
            raise OptsweepError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
        except csv.Error as error:
            line = f" (line {reader.line_num + 1})" if reader is not None else ""
            raise OptsweepError(f"{path} is not CSV{line}: {error}", "mend that line") from None
        except OSError as error:
            raise OptsweepError(f"{path} cannot be read: {error.strerror}", "name a file") from None


class ParquetImporter(_RowsImporter):
    """A Parquet file."""

    name = "parquet"
    doc = "a Parquet file with a row per run; --mapping says which column means what"

    def rows(self, path: Path, found: Found) -> Iterator[Mapping[str, Any]]:
        try:
            with opened(path) as handle:
                file = pq.ParquetFile(handle)
                _require_once(file.schema_arrow.names, path)
                for batch in file.iter_batches(batch_size=10_000):
                    yield from map(_plain, batch.to_pylist())
        except (pa.ArrowException, ValueError, UnicodeDecodeError) as error:
            raise OptsweepError(
                f"{path} is not Parquet: {str(error).splitlines()[0][:200]}", "check the file"
            ) from None
        except OSError as error:
            raise OptsweepError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}", "name a file") from None


def _require_once(names: Sequence[str], path: Path) -> None:
    """Of two columns of one name nobody knows which is meant."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise OptsweepError(f"{path} has several columns called {_listed(twice)}", "rename or remove the others")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """NaN in a Parquet file is mostly a missing value, but a loss that is NaN is one."""
    return {
        key: None if key != "loss" and isinstance(value, float) and math.isnan(value) else value
        for key, value in row.items()
    }


def _columns(said: mappings.ColumnMapping, first: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Field -> column: what the mapping says, and the columns that have the name of a field.

    Raises:
        OptsweepError: a column that is mapped is not there, or nothing says what a run's optimizer and model are.
    """
    present = [str(name) for name in first]
    for name in (*said.columns.values(), *said.hyperparameters.values()):
        if name not in present:
            raise UnknownName("column", name, present, where=str(path))
    columns = {name: name for name in FIELDS if name in present} | dict(said.columns)
    for needed in ("optimizer", "model"):
        if needed not in columns and needed not in said.constants:
            hint = f'write [columns] {needed} = "NAME" in a --mapping file; it has {_listed(present)}'
            raise OptsweepError(f"{path} has no column {needed}", hint)
    return columns


def _listed(names: Iterable[str]) -> str:
    return ", ".join(ascii(name)[1:-1] for name in itertools.islice(names, 12))[:300]
