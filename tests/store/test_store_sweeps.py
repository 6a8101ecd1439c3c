"""The views for sweeps: near-best sets, incumbents, one-at-a-time changes, hyperparameters as columns."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from optsweep_tui.importers.plant import plant as plant_imported
from optsweep_tui.importers.protocol import Request
from optsweep_tui.importers.reference import ReferenceImporter
from optsweep_tui.resources import shipped
from optsweep_tui.store import knobs, migrate
from optsweep_tui.store.ingest import ingest, rebuild
from tests.store.run_folders import contents, finish, make_spec, plant, sql_rows

BASE = {"lr": 0.003, "weight_decay": 0.1, "beta1": 0.9}


class Trained(NamedTuple):
    """A run of a made-up cell."""

    knobs: Mapping[str, Any]
    loss: float | None
    seed: int | None = 0
    state: str = "done"
    batch_size: int = 8
    optimizer: str = "adamw"


@cache
def empty() -> duckdb.DuckDBPyConnection:
    """A store in memory."""
    connection = duckdb.connect()
    migrate.migrate(connection)
    return connection


def store_of(runs: Iterable[Trained]) -> duckdb.DuckDBPyConnection:
    """A store in memory that holds these runs, numbered from 1, of study `default`, and no others."""
    connection = empty()
    connection.execute("DELETE FROM run")
    connection.execute("DELETE FROM run_final")
    for number, run in enumerate(runs, start=1):
        connection.execute(
            """INSERT INTO run (run, run_id, origin, state, attempts, optimizer, model, tokens, seed, batch_size, schedule,
                                dtype, hyperparameters, repeats)
               VALUES (?, ?, 'native', ?, 1, ?, 'micro', 1000, ?, ?, 'linear', 'fp32', ?, false)""",
            [
                number,
                f"r{number}",
                run.state,
                run.optimizer,
                run.seed,
                run.batch_size,
                json.dumps(run.knobs, sort_keys=True),
            ],
        )
        connection.execute(
            "INSERT INTO run_final (run, attempt, state, loss) VALUES (?, 1, ?, ?)", [number, run.state, run.loss]
        )
    return connection


def changed(**changes: Any) -> dict[str, Any]:
    return {**BASE, **changes}


def test_the_near_best_set_ends_below_three_thousandths_of_a_nat_above_the_best() -> None:
    losses = [3.0, 3.0029, 3.003, 3.0031, 3.5]
    runs = [Trained(changed(lr=0.001 * (1 + place)), loss) for place, loss in enumerate(losses)]
    runs += [Trained(changed(lr=0.5), 2.0, state="diverged"), Trained(BASE, 4.0, optimizer="muon")]
    found = store_of(runs).execute("SELECT run_id, threshold FROM v_near_best ORDER BY run_id").fetchall()
    assert found == [("r1", 0.003), ("r2", 0.003), ("r7", 0.003)]


STAR = [
    Trained(BASE, 3.0),
    Trained(changed(lr=0.001), 3.1),
    Trained(changed(lr=0.01), 2.9),
    Trained(changed(lr=0.1), None, state="nan"),
    Trained(changed(weight_decay=0), 3.2),
    Trained(BASE, 3.05, batch_size=16),
    Trained(changed(lr=0.01, weight_decay=0), 2.5),
    Trained({"lr": 0.003, "weight_decay": 0.1}, 2.0),
]
"""Around BASE; the last two differ in more than one setting and are the best runs."""


def test_the_incumbent_is_what_the_changes_were_made_around_and_not_the_best_run() -> None:
    store = store_of(STAR)
    found = store.execute("SELECT run_id, loss, n_changes, hyperparameters, batch_size FROM v_incumbent").fetchall()
    assert [(*row[:3], json.loads(row[3]), row[4]) for row in found] == [("r1", 3.0, 5, BASE, 8)]
    assert store.execute("SELECT run_id FROM v_best").fetchall() == [("r8",)]


def test_a_change_is_shown_with_the_incumbents_value_and_loss_whatever_became_of_it() -> None:
    found = (
        store_of(STAR)
        .execute(
            "SELECT run_id, knob, value, incumbent_value, state, change, incumbent_run_id FROM v_ablation ORDER BY ALL"
        )
        .fetchall()
    )
    assert found == [
        ("r2", "lr", "0.001", "0.003", "done", pytest.approx(0.1), "r1"),
        ("r3", "lr", "0.01", "0.003", "done", pytest.approx(-0.1), "r1"),
        ("r4", "lr", "0.1", "0.003", "nan", None, "r1"),
        ("r5", "weight_decay", "0", "0.1", "done", pytest.approx(0.2), "r1"),
        ("r6", "batch_size", "16", "8", "done", pytest.approx(0.05), "r1"),
    ]


def test_changes_are_held_against_the_incumbent_of_the_same_seed() -> None:
    runs = [Trained(BASE, 3.0), Trained(BASE, 3.5, seed=1), Trained(changed(lr=0.001), 3.1)]
    runs += [
        Trained(changed(lr=0.001), 3.7, seed=1),
        Trained(changed(lr=0.001), 3.2, seed=2),
        Trained(changed(beta1=0.8), 9.0),
    ]
    found = store_of(runs).execute("SELECT run_id, incumbent_run_id, change FROM v_ablation ORDER BY run_id").fetchall()
    assert found == [
        ("r3", "r1", pytest.approx(0.1)),
        ("r4", "r2", pytest.approx(0.2)),
        ("r5", None, None),
        ("r6", "r1", pytest.approx(6.0)),
    ]


def test_a_cell_of_one_configuration_has_an_incumbent_without_changes() -> None:
    store = store_of([Trained(BASE, 3.0), Trained(BASE, 3.1, seed=1)])
    assert store.execute("SELECT run_id, n_changes FROM v_incumbent ORDER BY ALL").fetchall() == [("r1", 0), ("r2", 0)]
    assert store.execute("SELECT count(*) FROM v_ablation").fetchall() == [(0,)]


def test_a_configuration_is_hyperparameters_batch_size_schedule_and_dtype_in_every_view() -> None:
    store = store_of(
        [
            Trained(BASE, 3.0),
            Trained(BASE, 3.1, seed=1),
            Trained(BASE, 3.2, batch_size=16),
            Trained(changed(lr=0.1), 3.3),
            *[Trained(BASE, 3.4)] * 4,
        ]
    )
    store.execute("UPDATE run SET schedule = 'wsd' WHERE run_id = 'r5'")
    store.execute("UPDATE run SET dtype = 'bf16' WHERE run_id = 'r6'")
    store.execute("UPDATE run SET batch_size = NULL WHERE run_id = 'r7'")
    store.execute("UPDATE run SET hyperparameters = NULL WHERE run_id = 'r8'")
    assert store.execute("SELECT n_runs, n_seeds, n_configurations FROM v_cell").fetchall() == [(8, 2, 6)]
    assert store.execute("SELECT count(DISTINCT configuration) FROM v_setting").fetchall() == [(6,)]


values = st.sampled_from([0.1, 0.2, 0.3, True, "a"])
tables = st.lists(
    st.tuples(
        st.fixed_dictionaries({"x": values, "y": values}, optional={"z": values}),
        st.one_of(st.none(), st.integers(20, 60).map(lambda loss: loss / 10)),
        st.sampled_from([8, 16]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None, phases=[Phase.generate])
@given(tables)
def test_incumbents_and_changes_equal_a_search_through_all_pairs(
    rows: list[tuple[dict[str, Any], float | None, int]],
) -> None:
    runs = [Trained(own, loss, batch_size=batch, state="done" if loss else "failed") for own, loss, batch in rows]
    store = store_of(runs)
    full = [{**run.knobs, "batch_size": run.batch_size} for run in runs]

    def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
        if one.keys() != other.keys():
            return ["?", "?"]
        return [key for key in one if json.dumps(one[key]) != json.dumps(other[key])]

    kinds = list({json.dumps(own, sort_keys=True): own for own in full}.values())
    assert store.execute("SELECT n_configurations FROM v_cell").fetchall() == [(len(kinds),)]
    rank: list[tuple[int, float]] = []
    for own in kinds:
        losses = [run.loss for run, other in zip(runs, full, strict=True) if other == own and run.loss]
        changes = sum(len(differing(own, other)) == 1 for other in kinds)
        rank.append((-changes, min(losses, default=math.inf)))
    best = min(rank)
    found = store.execute("SELECT n_changes, min(loss) FROM v_incumbent GROUP BY ALL").fetchall()
    assert found == [(-best[0], None if best[1] == math.inf else best[1])]
    if rank.count(best) > 1:
        return  # of equal ones any
    centre = kinds[rank.index(best)]
    expected = [
        (f"r{number}", differing(centre, own)[0])
        for number, own in enumerate(full, start=1)
        if len(differing(centre, own)) == 1
    ]
    assert sorted(store.execute("SELECT run_id, knob FROM v_ablation").fetchall()) == sorted(expected)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped figures, collected."""
    root = tmp_path_factory.mktemp("reference")
    (root / "runs").mkdir()
    plant_imported(root / "runs", ReferenceImporter().read(Request(path=None, study=None, mapping=None)).runs)
    ingest(root / "results.duckdb", root / "runs")
    return root / "results.duckdb"


def _rows(name: str) -> list[dict[str, str]]:
    with open(shipped("grids") / "reference" / name, newline="") as handle:
        return list(csv.DictReader(handle))


def _plain(value: Any) -> Any:
    """9.999999999999999e-26 is meant to be 1e-25."""
    return float(f"{value:.12g}") if isinstance(value, int | float) and not isinstance(value, bool) else value


def test_the_incumbents_of_the_published_study_are_the_published_ones(reference: Path) -> None:
    """Found by counting changes alone; in six cells a listed change repeats the incumbent's own value."""
    found = sql_rows(
        reference,
        """SELECT run.source ->> 'entry' FROM v_incumbent JOIN run USING (run_id)
           WHERE study = 'reference' AND run.source ->> 'entry' LIKE '%/Baseline'""",
    )
    assert len(found) == len({entry for (entry,) in found}) == len(_rows("cells.csv")) == 150


def test_the_published_cells_have_as_many_configurations_as_their_runs_differ(reference: Path) -> None:
    settings_of: dict[tuple[str, str, float], set[str]] = {}
    for optimizer, model, ratio, *setting in sql_rows(
        reference,
        """SELECT optimizer, model, chinchilla, hyperparameters::VARCHAR, batch_size, schedule, dtype
           FROM v_run WHERE study = 'reference' AND hyperparameters IS NOT NULL""",
    ):
        settings_of.setdefault((optimizer, model, ratio), set()).add(repr(setting))
    found = sql_rows(
        reference, "SELECT optimizer, model, chinchilla, n_configurations FROM v_cell WHERE study = 'reference'"
    )
    assert {tuple(cell): count for *cell, count in found} == {cell: len(own) for cell, own in settings_of.items()}
    assert len(found) == 150 and ("mars", "520m", 1.0, 24) in found
    doubled = sql_rows(
        reference,
        "SELECT count(*) - count(DISTINCT cell), count(*) FROM v_incumbent WHERE study = 'reference'",
    )
    assert doubled == [(6, 156)], "six listed changes repeat the incumbent's own value"


def test_the_published_changes_are_the_rows_of_v_ablation(reference: Path) -> None:
    incumbents = {
        (row["optimizer"], row["model"], row["chinchilla"]): json.loads(row["incumbent_hyperparameters"])
        for row in _rows("cells.csv")
    }
    changes = [row for row in _rows("ablations.csv") if row["hyperparameter"]]
    assert len(changes) == 1715
    real = [
        row
        for row in changes
        if _plain(json.loads(row["value"]))
        != _plain(incumbents[row["optimizer"], row["model"], row["chinchilla"]][row["hyperparameter"]])
    ]
    assert len(real) == 1715 - 6
    # Cells are named alike by us; optimizers are not.
    expected = Counter((row["model"].lower(), float(row["chinchilla"])) for row in real)
    found = sql_rows(
        reference, "SELECT model, chinchilla, count(*) FROM v_ablation WHERE study = 'reference' GROUP BY ALL"
    )
    assert {(model.lower(), ratio): count for model, ratio, count in found} == expected
    ends = Counter(
        "missing"
        if row["loss"] == ""
        else "nan"
        if row["loss"] == "NaN"
        else "done"
        if float(row["loss"]) < 5
        else "diverged"
        for row in real
    )
    assert dict(sql_rows(reference, "SELECT state, count(*) FROM v_ablation GROUP BY state")) == ends


def test_every_hyperparameter_is_a_column_as_soon_as_a_run_has_it(tmp_path: Path) -> None:
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    finish(plant(runs, make_spec(hyperparameters={"lr": 0.003, "nesterov": True, "decay": 0.1}))[0])
    ingest(store, runs)
    columns = sql_rows(store, "SELECT column_name, column_type FROM (DESCRIBE v_config)")[len(knobs.FIXED) :]
    assert columns == [("decay", "DOUBLE"), ("lr", "DOUBLE"), ("nesterov", "BOOLEAN")]
    assert sql_rows(store, "SELECT lr, nesterov, loss FROM v_config") == [(0.003, True, 2.5)]
    finish(
        plant(runs, make_spec(hyperparameters={"lr": 1, "decay": "linear", "seed": 5, "Seed_Knob": 1, "none": None}))[0]
    )
    ingest(store, runs)
    columns = sql_rows(store, "SELECT column_name, column_type FROM (DESCRIBE v_config)")[len(knobs.FIXED) :]
    assert columns == [("Seed_Knob", "DOUBLE"), ("decay", "VARCHAR"), ("lr", "DOUBLE"), ("nesterov", "BOOLEAN")]
    assert sql_rows(store, "SELECT lr, decay, nesterov FROM v_config ORDER BY lr") == [
        (0.003, "0.1", True),
        (1.0, "linear", None),
    ]
    before = contents(store)["v_config"]
    rebuild(store, runs)
    assert contents(store)["v_config"] == before


def test_odd_names_of_hyperparameters_are_in_v_knob_at_least(tmp_path: Path) -> None:
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    odd = {'a"b': 1, "$.c": 2, "it's": 3, "": 4, "d.e-f": 5}
    finish(plant(runs, make_spec(hyperparameters=odd))[0])
    ingest(store, runs)
    assert sql_rows(store, 'SELECT "d.e-f" FROM v_config') == [(5.0,)]
    assert dict(sql_rows(store, "SELECT knob, value FROM v_knob")) == odd


def test_more_hyperparameters_than_a_view_should_show_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knobs, "MAX_COLUMNS", 5)
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    for seed in range(2):
        plant(runs, make_spec(seed=seed, hyperparameters={f"k{number}": number for number in range(9)}))
        ingest(store, runs)
    assert len(sql_rows(store, "DESCRIBE v_config")) == len(knobs.FIXED) + 5
    assert sql_rows(store, "SELECT count(*) FROM v_knob") == [(18,)]
