"""The views over points in the cheapest form that is right for what the store holds; schema/*.sql has the general one.

Planning a query costs more than reading a curve, and every branch of a view is planned. So while nothing is archived v_point
is the table alone, and while no run holds a step twice v_metric chooses nothing. The forms change in the transaction that
makes them wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from optsweep_tui.store import archive

POINTS = """
SELECT run, attempt, key, step, value, 4611686018427387904 + rowid AS place FROM metric
"""
ARCHIVED = """
SELECT run, attempt, key, step, value, place FROM v_archive
"""
ONCE = """
SELECT r.run_id, k.name AS key, m.step, m.step * r.tokens_per_step AS tokens, m.value, m.attempt
FROM v_point m
JOIN run r ON r.run = m.run
JOIN metric_key k ON k.key = m.key
WHERE NOT r.repeats
"""
CHOSEN = """
SELECT run_id, key, step, tokens, value, attempt FROM (
  SELECT
    r.run_id, k.name AS key, m.step, m.step * r.tokens_per_step AS tokens, m.value, m.attempt,
    row_number() OVER (PARTITION BY m.run, m.key, m.step ORDER BY m.attempt DESC, m.place DESC) AS choice
  FROM v_point m
  JOIN run r ON r.run = m.run
  JOIN metric_key k ON k.key = m.key
  WHERE r.repeats
)
WHERE choice = 1
"""
EMPTY_ARCHIVE = "SELECT run, attempt, key, step, value, CAST(0 AS BIGINT) AS place FROM metric WHERE false"


def settle(connection: duckdb.DuckDBPyConnection, folder: str, *, files_changed: bool = False) -> bool:
    """Bring the views in the form that fits; True when one was changed, and a CHECKPOINT should follow the commit.

    Args:
        folder: where the archive lies.
        files_changed: the archive reads other files than before, or the same elsewhere.
    """
    names = archive.files(connection)
    ((repeats,),) = connection.execute("SELECT coalesce(bool_or(repeats), false) FROM run").fetchall()
    texts = dict(connection.execute("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal").fetchall())
    statements = []
    if files_changed:
        statements.append(_view("v_archive", [archive.source_sql(folder, names) if names else EMPTY_ARCHIVE]))
        connection.execute(f"RESET VARIABLE {archive.VARIABLE}")
    if bool(names) != ("v_archive" in texts["v_point"]):
        statements.append(_view("v_point", [POINTS, ARCHIVED] if names else [POINTS]))
    if repeats != ("choice" in texts["v_metric"]):
        statements.append(_view("v_metric", [ONCE, CHOSEN] if repeats else [ONCE]))
    for statement in statements:
        connection.execute(statement)
    return bool(statements)


def is_right(connection: duckdb.DuckDBPyConnection, folder: str) -> bool:
    """False where v_archive reads its files in another folder: the workspace was moved, or the store renamed."""
    listed = archive.paths(folder, archive.files(connection)[:1])
    ((text,),) = connection.execute("SELECT sql FROM duckdb_views() WHERE view_name = 'v_archive'").fetchall()
    return not listed or archive.literal(listed[0]) in text


def _view(name: str, branches: Iterable[str]) -> str:
    return f"CREATE OR REPLACE VIEW {name} AS {' UNION ALL '.join(branches)}"
