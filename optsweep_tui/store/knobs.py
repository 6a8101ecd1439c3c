"""Hyperparameters as columns: which ones the view v_config shows, of which type, and its SQL.

A view cannot have columns that depend on the rows, so the collector writes the view anew, in the transaction that brings
the first run with a new hyperparameter. The same runs give the same view, in whatever order they come.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import duckdb

Columns: TypeAlias = Mapping[str, str]
"""Hyperparameter -> DOUBLE, BOOLEAN or VARCHAR, the narrowest that holds every value of it."""

FIXED = (
    "run_id", "study", "engine", "optimizer", "model", "chinchilla", "seed", "batch_size", "schedule", "state", "loss",
)  # fmt: skip
"""The first columns of v_config, as in schema/*.sql."""
MAX_COLUMNS = 300
"""Further hyperparameters are in v_knob only."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def types_of(hyperparameters: str | None) -> dict[str, str]:
    """Type of each hyperparameter of one run; what is null, or has a name that no column can have, is left out."""
    values: Mapping[str, Any] = json.loads(hyperparameters or "{}")
    found = {}
    for name, value in values.items():
        if value is not None and _NAME.fullmatch(name):
            numeric = isinstance(value, int | float)
            found[name] = "BOOLEAN" if isinstance(value, bool) else "DOUBLE" if numeric else "VARCHAR"
    return found


def merged(known: Columns, more: Columns) -> Columns:
    """Both together; `known` itself where nothing is new."""
    changed = {name: kind for name, kind in more.items() if known.get(name) not in (kind, "VARCHAR")}
    if not changed:
        return known
    return {**known, **{name: kind if name not in known else "VARCHAR" for name, kind in changed.items()}}


def column_name(knob: str) -> str:
    """The knob's own name, unless a fixed column has it."""
    return f"{knob}_knob" if knob.lower() in FIXED else knob


def view_sql(columns: Columns) -> str:
    """The statement that makes v_config anew."""
    taken = {name.lower() for name in FIXED}
    selected = list(FIXED)
    for knob in sorted(columns)[:MAX_COLUMNS]:
        name = column_name(knob)
        if name.lower() in taken:
            continue  # names that differ in case only are one column to SQL
        taken.add(name.lower())
        text = f"""hyperparameters ->> '$."{knob}"'"""
        value = text if columns[knob] == "VARCHAR" else f"try_cast({text} AS {columns[knob]})"
        selected.append(f'{value} AS "{name}"')
    return f"CREATE OR REPLACE VIEW v_config AS SELECT {', '.join(selected)} FROM v_run"


def known_columns(connection: duckdb.DuckDBPyConnection) -> Columns:
    """What the view of an open store shows."""
    rows = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'v_config' ORDER BY column_index"
    ).fetchall()
    restored = {f"{name}_knob": name for name in FIXED}
    return {restored.get(name, name): kind for name, kind in rows[len(FIXED) :]}
