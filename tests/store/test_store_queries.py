"""Questions to the store: the results frame, curves, filters, default study, and SQL that can only read this file."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from optsweep_engines.optimizers import catalogue
from optsweep_tui.analysis.columns import RESULTS
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError
from optsweep_tui.store import queries
from optsweep_tui.store.connect import open_store
from optsweep_tui.store.ingest import ingest
from tests.store.run_folders import append, attempt_folder, finish, lines, make_spec, plant


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies: `small` with adamw and muon at two ratios, one run diverged, one planned; `other` shares a run."""
    root = tmp_path_factory.mktemp("workspace")
    runs = root / "runs"
    number = 0
    for optimizer in ("adamw", "muon"):
        for tokens in (98304, 196608):
            for lr in (0.001, 0.003):
                knobs = catalogue.resolve_knobs(optimizer, {"lr": lr, "weight_decay": 0.1})
                spec = make_spec(optimizer=optimizer, tokens=tokens, hyperparameters=knobs)
                folder = plant(runs, spec, study="small")[0]
                append(attempt_folder(folder), lines(range(1, 11)) + lines([11], train_loss=None))
                loss = 3.0 - number / 10
                finish(folder, val_loss=loss, status="diverged" if number == 7 else "done")
                number += 1
    plant(runs, make_spec(seed=5), study="small")
    for path in runs.glob("*/studies/*.json"):
        path.write_text('{"study": "small", "planned_at": "2026-03-01T00:00:00+00:00"}')
    plant(runs, make_spec(seed=6), study="other")
    ingest(root / "results.duckdb", runs)
    return root / "results.duckdb"


def test_results_have_exactly_the_declared_columns_and_a_row_per_run_and_study(store: Path) -> None:
    frame = queries.results(store)
    assert list(frame.columns) == list(RESULTS)
    assert len(frame) == 10 and frame["run_id"].nunique() == 10
    planned = frame[frame["state"] == "planned"]
    assert len(planned) == 2 and planned["loss"].isna().all() and planned["device"].isna().all()
    done = frame[frame["state"] == "done"]
    assert done["loss"].notna().all() and (done["seconds_per_token"] == 1 / 40000).all()
    assert done["hyperparameters"].str.contains('"lr":0.001,', regex=False).any()
    assert (done["optimizer_flops_per_step"] > 0).all() and (done["flops_per_token"] > 6 * 106496).all()
    assert frame[frame["state"] == "diverged"]["loss"].tolist() == [pytest.approx(2.3)]


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [
        (Filter(study="small"), 9),
        (Filter(study="SMALL", optimizers=("AdamW",)), 5),
        (Filter(models=("MICRO",), engines=("Torch",), datasets=("EMBEDDED",)), 10),
        (Filter(optimizers=("adamw", "muon"), chinchillas=(0.092308,)), 4),
        (Filter(chinchillas=(0.09231,)), 4),
        (Filter(chinchillas=(0.0924,)), 0),
        (Filter(chinchillas=(0.046154, 0.092308)), 10),
        (Filter(where="lr < 0.002 and state = 'done'"), 4),
        (Filter(study="small", where="optimizer = 'muon' OR seed = 5"), 5),
        (Filter(optimizers=("nobody",)), 0),
        (Filter(where="true -- a remark"), 10),
    ],
)
def test_filters_match_without_case_and_ratios_with_a_tolerance(store: Path, chosen: Filter, rows: int) -> None:
    assert len(queries.results(store, chosen)) == rows


@pytest.mark.parametrize(
    "where",
    [
        "nope > 1",
        "seed <",
        "1) OR (1=1",
        "seed = 1; DROP TABLE run",
        "",
        "(SELECT content FROM read_text('/etc/hosts')) = ''",
    ],
)
def test_a_bad_predicate_is_one_line(store: Path, where: str) -> None:
    with pytest.raises(OptsweepError, match="--where") as caught:
        queries.results(store, Filter(where=where))
    assert "\n" not in str(caught.value)


def test_an_unknown_study_is_named_with_the_nearest(store: Path) -> None:
    with pytest.raises(OptsweepError, match='did you mean "small"'):
        queries.results(store, Filter(study="smal"))


def test_curves_come_in_the_order_asked_with_tokens_and_gaps(store: Path) -> None:
    ids = queries.results(store, Filter(where="state = 'done'"))["run_id"].tolist()[:3][::-1]
    frame = queries.curves(store, ids, "train_loss")
    assert list(frame.columns) == ["run_id", "step", "tokens", "value"]
    assert list(dict.fromkeys(frame["run_id"])) == ids
    one = frame[frame["run_id"] == ids[0]]
    assert one["step"].tolist() == list(range(1, 12))
    assert one["tokens"].tolist() == [step * 512 for step in range(1, 12)]
    assert one["value"].iloc[1] == 5.0 and one["value"].isna().tolist() == [False] * 10 + [True]
    assert queries.curves(store, ids, "no_such_metric").empty
    assert queries.curves(store, []).empty


def test_curves_can_be_thinned_to_so_many_points(store: Path) -> None:
    ids = queries.results(store, Filter(where="state = 'done'"))["run_id"].tolist()[:2]
    thin = queries.curves(store, ids, max_points=4)
    assert thin.groupby("run_id").size().tolist() == [4, 4]
    assert thin["step"].tolist() == [3, 6, 9, 11] * 2, "the last step of each span, so the last of all"
    pd.testing.assert_frame_equal(queries.curves(store, ids, max_points=1000), queries.curves(store, ids))


def test_curves_hold_each_step_once_where_attempts_overlap(tmp_path: Path) -> None:
    folder = plant(tmp_path / "runs", make_spec())[0]
    append(attempt_folder(folder), lines(range(1, 21)) + lines([20], train_loss=0.5))
    append(attempt_folder(folder, 2), lines(range(11, 16), train_loss=7.0))
    ingest(tmp_path / "results.duckdb", tmp_path / "runs")
    frame = queries.curves(tmp_path / "results.duckdb", [folder.name])
    expected = [7.0 if 11 <= step <= 15 else 10 / step for step in range(1, 20)] + [0.5]
    assert frame["value"].tolist() == expected and frame["step"].tolist() == list(range(1, 21))


def test_run_rows_are_found_by_id(store: Path) -> None:
    run_id = make_spec(seed=5).run_id
    rows = queries.run_rows(store, [run_id])
    assert rows["run_id"].tolist() == [run_id] and {"attempts", "error", "lr"} <= set(rows.columns)
    assert len(queries.run_rows(store)) == 10


def test_the_default_study_is_that_of_the_newest_native_run(store: Path) -> None:
    assert queries.default_study(store) == "other"
    assert queries.studies(store)["study"].tolist() == ["other", "small"]


def test_the_default_study_falls_back_by_the_rule(tmp_path: Path) -> None:
    store = tmp_path / "results.duckdb"
    ingest(store, tmp_path / "runs")
    with pytest.raises(OptsweepError, match="no run yet"):
        queries.default_study(store)

    def imported(*names: str) -> None:
        with open_store(store, read_only=False) as connection:
            connection.execute("DELETE FROM run; DELETE FROM study_run")
            for number, name in enumerate(names):
                connection.execute(
                    "INSERT INTO run (run, run_id, origin, state, attempts, repeats) VALUES (?, ?, 'marin', 'done', 0, false)",
                    [number, str(number)],
                )
                connection.execute("INSERT INTO study_run VALUES (?, ?, NULL)", [name, number])

    imported("alone")
    assert queries.default_study(store) == "alone"
    imported("b", "a")
    with pytest.raises(OptsweepError, match="a, b"):
        queries.default_study(store)
    imported("b", "reference")
    assert queries.default_study(store) == "reference"


def test_a_run_without_a_marker_belongs_to_the_study_default(tmp_path: Path) -> None:
    folder = plant(tmp_path / "runs", make_spec())[0]
    (folder / "studies" / "grid.json").unlink()
    ingest(tmp_path / "results.duckdb", tmp_path / "runs")
    assert queries.default_study(tmp_path / "results.duckdb") == "default"


READING = [
    "SELECT 1 AS x",
    "WITH a AS (SELECT 2) SELECT * FROM a",
    "DESCRIBE run",
    "SHOW TABLES",
    "SUMMARIZE run",
    "EXPLAIN SELECT 1",
    "FROM run;",
    "PIVOT v_run ON state USING count(*) GROUP BY optimizer",
    "-- a remark\n/* and\none */ (SELECT * FROM (PIVOT v_run ON state USING count(*)))",
]


@pytest.mark.parametrize("query", READING)
def test_statements_that_read_are_taken(store: Path, query: str) -> None:
    assert len(queries.sql(store, query)) > 0


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO run SELECT * FROM run",
        "DELETE FROM metric",
        "DROP VIEW v_run",
        "CREATE TABLE t AS SELECT 1",
        "COPY run TO '/tmp/out.csv'",
        "COPY (PIVOT v_run ON state USING count(*)) TO '/tmp/out.csv'",
        "-- a remark\nCREATE TABLE x AS PIVOT v_run ON state USING count(*)",
        "ATTACH '/tmp/other.duckdb'",
        "SET threads = 1",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CHECKPOINT",
        "CALL pragma_version()",
        "EXPLAIN ANALYZE DELETE FROM metric",
        "WITH x AS (SELECT 1) DELETE FROM metric",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT content FROM read_text('/etc/hosts')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM frame_of_the_caller",
        "SELECT 1; DROP TABLE run",
        "SELECT nope FROM run",
        "SELEC 1",
        "",
        "-- nothing",
    ],
)
def test_everything_else_is_refused_in_one_line(store: Path, query: str) -> None:
    before = store.read_bytes()
    frame_of_the_caller = queries.results(store)
    assert len(frame_of_the_caller) == 10
    with pytest.raises(OptsweepError, match=r"^sql: ") as caught:
        queries.sql(store, query)
    assert "\n" not in str(caught.value)
    assert store.read_bytes() == before


READ_AS_FILES = [
    "SELECT * FROM read_blob('{store}')",
    "FROM READ_TEXT('{store}')",
    """SELECT * FROM "read_blob" /* a remark */ ('{store}')""",
    "SELECT 'é', * FROM system.main.read_csv ('{store}')",
    "WITH a AS (FROM read_text('{store}')) SELECT 1 FROM a",
    "EXPLAIN ANALYZE FROM read_blob('{store}')",
    "SELECT * FROM (VALUES ('{store}')) t(p), LATERAL (FROM read_blob(p))",
    "FROM query('FROM read_blob(''{store}'')')",
    "FROM '{store}'",
]


@pytest.mark.parametrize("query", READ_AS_FILES)
def test_the_stores_own_file_is_refused_like_every_other_file(store: Path, query: str) -> None:
    with pytest.raises(OptsweepError, match=r"^sql: ") as caught:
        queries.sql(store, query.format(store=store))
    assert "\n" not in str(caught.value)
    with pytest.raises(OptsweepError, match=r"^--where "):
        queries.results(store, Filter(where=f"'x' IN (SELECT content FROM read_text('{store}'))"))


@pytest.mark.parametrize(
    "query", ["SELECT 'read_blob(x)' AS x", "SELECT 1 AS read_text -- read_blob(", "SELECT 1 AS query ORDER BY query"]
)
def test_the_name_of_such_a_function_alone_is_no_call(store: Path, query: str) -> None:
    assert len(queries.sql(store, query)) == 1


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("checkpoint", "CHECKPOINT"),
        ("install httpfs", "INSTALL"),
        ("-- a remark\n load httpfs", "LOAD"),
        ("call pragma_version()", "CALL"),
        ("pragma database_list", "PRAGMA"),
        ("create table x as pivot v_run on state using count(*)", "CREATE"),
        ("with x as (select 1) delete from metric", "DELETE"),
        ("vacuum", "VACUUM"),
    ],
)
def test_a_refusal_names_what_was_typed(store: Path, query: str, named: str) -> None:
    with pytest.raises(OptsweepError, match=f"^sql: {named} is not allowed"):
        queries.sql(store, query)


def test_a_limit_cuts_the_rows(store: Path) -> None:
    assert len(queries.sql(store, "SELECT * FROM range(100000) t(x)", limit=5000)) == 5000
    assert len(queries.sql(store, "SELECT * FROM range(10) t(x)", limit=5000)) == 10
    assert len(queries.sql(store, "SELECT * FROM range(10) t(x) WHERE x < 0", limit=5)) == 0
    assert list(queries.sql(store, "SELECT 1 AS x WHERE false", limit=5).columns) == ["x"]


def test_ctrl_c_ends_a_long_query_at_once(store: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from optsweep_tui.store import queries
queries.sql(Path(sys.argv[1]), "SELECT 1")
print("ready", flush=True)
try:
    queries.sql(Path(sys.argv[1]), "SELECT count(*) FROM range(100000000000) t(x) WHERE hash(x) % 7 = 1")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    command = [sys.executable, "-c", code, str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(1)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)
    assert time.monotonic() - began < 5
