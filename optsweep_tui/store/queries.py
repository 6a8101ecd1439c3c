"""Questions to the store, answered as dataframes: the only SQL in Python outside the collector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from optsweep_engines.optimizers import catalogue
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.store import archive
from optsweep_tui.store.connect import WAIT_SECONDS, interruptible, open_store
from optsweep_tui.store.explain import about_the_file
from optsweep_tui.store.statement import SCHEMA_HINT, checked_statement, first_line, predicate

__all__ = [
    "curves",
    "default_study",
    "finished",
    "results",
    "run_facts",
    "run_provenance",
    "run_rows",
    "sql",
    "studies",
]

RESULT_COLUMNS = (
    "run_id", "study", "origin", "engine", "optimizer", "model", "params", "total_params", "chinchilla", "tokens",
    "dataset", "dataset_hash", "validation_set", "seq_len", "batch_size", "schedule", "dtype", "seed", "hyperparameters",
    "state", "loss", "steps", "tokens_per_step", "flops_per_token", "optimizer_flops_per_step", "seconds_per_token",
    "device", "state_bytes", "train_seconds", "start_mode",
)  # fmt: skip
"""`analysis.columns.RESULTS`, which the layers keep out of reach here; a test holds the two equal."""

RATIO_TOLERANCE = 1e-4
"""Relative: a ratio belongs to a whole number of tokens and is never exactly the one that was asked for."""

# The last point of each of so many equal spans of a run. arg_max passes nulls over, so they are NaN in between.
_THINNED = """
    WITH point AS MATERIALIZED ({source}),
    span AS (SELECT run, min(step) AS low, max(step) - min(step) + 1 AS steps FROM point GROUP BY run)
    SELECT run, max(step) AS step, arg_max(coalesce(value, CAST('nan' AS DOUBLE)), step) AS value
    FROM point JOIN span USING (run) GROUP BY run, (step - low) * {points} // steps
"""


def results(store: Path, chosen: Filter | None = None, *, wait_seconds: float = WAIT_SECONDS) -> pd.DataFrame:
    """One row per run and study that the filter keeps, with exactly the columns of `analysis.columns.RESULTS`.

    Raises:
        OptsweepError: no store, or the predicate of the filter is no SQL.
    """
    return _select(store, ", ".join(RESULT_COLUMNS), chosen or Filter(), wait_seconds)


def run_rows(store: Path, run_ids: Sequence[str] | None = None, *, wait_seconds: float = WAIT_SECONDS) -> pd.DataFrame:
    """Every column of v_run, for all runs or those named (whole ids), one row per run and study."""
    with open_store(store, wait_seconds=wait_seconds) as connection:
        if run_ids is None:
            return connection.execute("SELECT * FROM v_run ORDER BY run").fetchdf()
        query = "SELECT * FROM v_run WHERE run_id IN (SELECT unnest(CAST(? AS VARCHAR[]))) ORDER BY run"
        return connection.execute(query, [list(run_ids)]).fetchdf()


def curves(
    store: Path,
    run_ids: Sequence[str],
    key: str = "train_loss",
    *,
    max_points: int | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> pd.DataFrame:
    """One metric of some runs over their steps, each step once.

    Args:
        max_points: of a run, spread over its steps: the last value of each of so many equal spans; None for all.

    Returns:
        run_id; step; tokens trained (null where the batch is not known); value, NaN where it was not finite.
        In the order of `run_ids`, then of the steps.
    """
    wanted = list(dict.fromkeys(run_ids))
    with open_store(store, wait_seconds=wait_seconds) as connection:
        found = connection.execute(
            "SELECT run, repeats FROM run WHERE run_id IN (SELECT unnest(CAST(? AS VARCHAR[])))", [wanted]
        ).fetchall()
        archive.point_at(connection, archive.folder_of(store), (run for run, _ in found))
        keys = connection.execute("SELECT key FROM metric_key WHERE name = ?", [key]).fetchall()
        # Numbers are written into the query: only constants let DuckDB skip the blocks of other runs.
        numbers = ", ".join(str(int(run)) for run, _ in found) or "NULL"
        source = f"SELECT run, step, value FROM v_point WHERE run IN ({numbers}) AND key = {keys[0][0] if keys else 0} "
        if any(repeats for _, repeats in found):
            source += "QUALIFY row_number() OVER (PARTITION BY run, step ORDER BY attempt DESC, place DESC) = 1"
        if max_points is not None:
            source = _THINNED.format(source=source, points=max(1, int(max_points)))
        query = f"""
            SELECT r.run_id, m.step, m.step * r.tokens_per_step AS tokens, m.value FROM ({source}) m JOIN run r USING (run)
            ORDER BY list_position($wanted, r.run_id), m.step
        """
        return connection.execute(query, {"wanted": wanted}).fetchdf()


def provenance(store: Path, study: str, *, wait_seconds: float = WAIT_SECONDS) -> pd.DataFrame:
    """What the runs of a study rest on: a row per combination of origin, source, code, data and device, with its runs."""
    query = """
        SELECT p.origin, json_extract_string(p.source, '$.published') AS published, json_extract_string(p.source, '$.url') AS url,
               p.dataset, left(p.dataset_hash, 16) AS data_hash, p.validation_set, p.numerics_version,
               left(p.optimizer_file_hash, 16) AS optimizer_file, p.device, p.versions, count(*) AS runs,
               min(p.ended_at)::DATE::VARCHAR AS first_ended, max(p.ended_at)::DATE::VARCHAR AS last_ended
        FROM v_provenance p WHERE p.run_id IN (SELECT run_id FROM v_run WHERE study = ?)
        GROUP BY ALL ORDER BY runs DESC, p.origin, p.dataset, p.device, p.versions, first_ended
    """
    with open_store(store, wait_seconds=wait_seconds) as connection:
        return connection.execute(query, [study]).fetchdf()


def run_provenance(store: Path, run_ids: Sequence[str], *, wait_seconds: float = WAIT_SECONDS) -> pd.DataFrame:
    """What each of some runs rests on, a row per run: data, code, host, device, and where an imported one was published."""
    query = """
        SELECT p.* EXCLUDE (spec), r.optimizer, r.model, r.chinchilla, r.engine, r.state, r.attempts,
               CASE WHEN r.state IN ('done', 'diverged') THEN f.loss END AS loss
        FROM v_provenance p JOIN run r USING (run_id) LEFT JOIN run_final f ON f.run = r.run
        WHERE p.run_id IN (SELECT unnest(CAST(? AS VARCHAR[]))) ORDER BY list_position(CAST(? AS VARCHAR[]), p.run_id)
    """
    wanted = list(dict.fromkeys(run_ids))
    with open_store(store, wait_seconds=wait_seconds) as connection:
        return connection.execute(query, [wanted, wanted]).fetchdf()


def run_facts(store: Path, study: str, *, wait_seconds: float = WAIT_SECONDS) -> pd.DataFrame:
    """run_id, study, origin, tokens_done (null when not known), planned_at, logged (it has a curve): of every run of a study.

    Tokens trained are those of the run's record; of a run that was stopped without one, those of its last logged step,
    0 where no attempt was ever made.
    """
    query = """
        WITH logged AS (SELECT run_id, max(last_step) AS step FROM v_attempt GROUP BY run_id)
        SELECT v.run_id, v.study, v.origin, v.planned_at, l.step IS NOT NULL AS logged, coalesce(
                 v.trained_tokens, CASE WHEN v.origin = 'native' AND v.attempts = 0 THEN 0 END,
                 (l.step - CASE WHEN v.start_mode = 'branch' THEN v.start_step ELSE 0 END) * v.tokens_per_step
               ) AS tokens_done
        FROM v_run v LEFT JOIN logged l USING (run_id) WHERE lower(v.study) = lower(?) ORDER BY v.run
    """
    with open_store(store, wait_seconds=wait_seconds) as connection:
        return connection.execute(query, [study]).fetchdf()


def studies(store: Path, *, wait_seconds: float = WAIT_SECONDS) -> pd.DataFrame:
    """study, origin, runs, finished, newest (last planned, UTC): one row per study and origin, newest first."""
    query = f"""
        SELECT study, origin, count(*) AS runs, count(*) FILTER (WHERE state IN {_FINISHED}) AS finished,
               max(planned_at) AS newest
        FROM v_run GROUP BY study, origin ORDER BY newest DESC NULLS LAST, study
    """
    with open_store(store, wait_seconds=wait_seconds) as connection:
        return connection.execute(query).fetchdf()


def finished(store: Path, *, wait_seconds: float = WAIT_SECONDS) -> set[str]:
    """Ids of the runs that the store knows to be over."""
    with open_store(store, wait_seconds=wait_seconds) as connection:
        rows = connection.execute(f"SELECT run_id FROM run WHERE state IN {_FINISHED}").fetchall()
    return {run_id for (run_id,) in rows}


_FINISHED = "('done', 'diverged', 'failed', 'oom', 'cancelled', 'nan', 'missing')"


def default_study(store: Path, *, wait_seconds: float = WAIT_SECONDS) -> str:
    """The study that a question without a filter is about: that of the newest native run, else "reference", else the only one.

    Raises:
        OptsweepError: there is none, or there are several and no rule decides.
    """
    known = studies(store, wait_seconds=wait_seconds)
    native = known[known["origin"] == "native"]["study"].tolist()
    names = sorted(set(known["study"].tolist()))
    if native:
        return str(native[0])
    if "reference" in names:
        return "reference"
    if len(names) == 1:
        return str(names[0])
    if not names:
        raise OptsweepError(f"{store} holds no run yet", "run: optsweep quickstart")
    raise OptsweepError(f"several studies are here: {', '.join(names)}", "choose one with --study NAME")


def _select(store: Path, columns: str, chosen: Filter, wait_seconds: float) -> pd.DataFrame:
    conditions: list[str] = []
    values: list[Any] = []
    for column, names in (
        ("study", [chosen.study] if chosen.study else []),
        ("model", chosen.models),
        ("optimizer", [_catalogue_name(name) for name in chosen.optimizers]),
        ("dataset", chosen.datasets),
        ("engine", chosen.engines),
    ):
        if names:
            listed = "IN (SELECT unnest(CAST(? AS VARCHAR[])))"
            condition = f"lower({column}) {listed}"
            values.append([name.lower() for name in names])
            if column == "optimizer":  # mine:MyOptimizer asks for every content of that file, @1a2b3c for one
                condition = f"({condition} OR regexp_replace(lower({column}), '@[0-9a-f]{{6}}$', '') {listed})"
                values.append(values[-1])
            conditions.append(condition)
    if chosen.chinchillas:
        near = f"abs(chinchilla - wanted) <= {RATIO_TOLERANCE} * abs(wanted)"
        conditions.append(f"EXISTS (SELECT 1 FROM (SELECT unnest(CAST(? AS DOUBLE[])) AS wanted) WHERE {near})")
        values.append([float(ratio) for ratio in chosen.chinchillas])
    if chosen.where is not None:
        conditions.append(predicate(chosen.where))
    query = f"SELECT {columns} FROM v_run WHERE {' AND '.join(conditions) or 'true'} ORDER BY study, run"
    with open_store(store, wait_seconds=wait_seconds) as connection:
        _known_study(connection, chosen.study)
        try:
            return connection.execute(query, values).fetchdf()
        except duckdb.Error as error:
            if chosen.where is None:
                raise
            raise OptsweepError(f'--where "{chosen.where}": {first_line(error)}', SCHEMA_HINT) from None


def _catalogue_name(name: str) -> str:
    """The catalogue's name for an alias; a name that it does not hold stays (imported results have others)."""
    try:
        return catalogue.optimizer(name).name
    except LookupError:
        return name


def _known_study(connection: duckdb.DuckDBPyConnection, study: str | None) -> None:
    if study is None:
        return
    names = [name for (name,) in connection.execute("SELECT DISTINCT study FROM v_run ORDER BY study").fetchall()]
    if study.lower() not in [name.lower() for name in names]:
        raise UnknownName("study", study, names, hint=f"(collected: {', '.join(names) or 'none'})")


def sql(store: Path, text: str, limit: int | None = None, *, wait_seconds: float = WAIT_SECONDS) -> pd.DataFrame:
    """One statement of the user's, on a connection that can read this file and nothing else.

    Args:
        limit: so many rows at most; None for all.

    Raises:
        OptsweepError: it is not one reading statement, or DuckDB refuses it; one line.
    """
    statement = checked_statement(text)
    with open_store(store, wait_seconds=wait_seconds) as connection:
        try:
            return interruptible(connection, lambda: _fetched(connection.execute(statement), limit))
        except duckdb.Error as error:
            if about_the_file(error):
                raise
            raise OptsweepError(f"sql: {first_line(error)}", SCHEMA_HINT) from None


def _fetched(answer: duckdb.DuckDBPyConnection, limit: int | None) -> pd.DataFrame:
    if limit is None:
        return answer.fetchdf()
    frames = [answer.fetch_df_chunk()]
    while len(frames[-1]) and sum(map(len, frames)) < limit:
        frames.append(answer.fetch_df_chunk())
    kept = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(kept, ignore_index=True).head(limit)
