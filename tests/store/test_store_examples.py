"""Every query of `optsweep sql --examples` runs, on the published studies and on runs trained here, and has an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from optsweep_tui import rundir
from optsweep_tui.importers.plant import plant as plant_imported
from optsweep_tui.importers.protocol import Request
from optsweep_tui.importers.reference import ReferenceImporter
from optsweep_tui.store import queries
from optsweep_tui.store.examples import EXAMPLES
from optsweep_tui.store.ingest import archive_finished, ingest
from tests.store.run_folders import append, attempt_folder, finish, lines, make_spec, plant

WITHOUT_ANSWER: Mapping[str, Mapping[str, str]] = {
    "published": {
        "What is running now and how far it is": "published runs are over",
        "Memory: optimizer state per parameter": "not published",
        "The largest gradient norms and where they came": "not published",
        "Steps at which a metric was not finite": "the published curves are finite",
        "Runs that needed more than one attempt": "not published",
        "What happened to runs, newest first": "not published",
        "What was moved to Parquet files": "four short curves are left where they are",
    },
    "trained": {"What is running now and how far it is": "no engine runs in this test"},
}
"""Store -> title -> why there is nothing to answer."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A store of the shipped figures, and one of made-up runs that ended in every way."""
    published, trained = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("trained")
    (published / "runs").mkdir()
    plant_imported(published / "runs", ReferenceImporter().read(Request(path=None, study=None, mapping=None)).runs)
    ingest(published / "results.duckdb", published / "runs")
    runs = trained / "runs"
    base = {"lr": 0.003, "weight_decay": 0.1, "nesterov": True}
    kinds = [base, {**base, "lr": 0.01}, {**base, "nesterov": False}, {**base, "weight_decay": 0.0}]
    specs = [
        make_spec(optimizer=optimizer, hyperparameters=knobs, seed=seed)
        for optimizer in ("adamw", "muon")
        for knobs in kinds
        for seed in (0, 1)
    ]
    for number, folder in enumerate(plant(runs, *specs, study="sweep")):
        attempt = attempt_folder(folder)
        append(attempt, lines(range(1, 20), val_loss=3.5, grad_norm=float(number)) + lines([20], train_loss=None))
        append(attempt, json.dumps({"seq": 1, "time": 1.7e9, "kind": "started"}) + "\n", rundir.EVENTS)
        if number == 3:
            finish(folder, status="diverged", val_loss=None, error="the loss is not finite")
        elif number == 5:
            append(attempt_folder(folder, 2), lines(range(10, 25)))
            finish(folder, 2)
        else:
            finish(folder, val_loss=3.0 + number / 50)
    ingest(trained / "results.duckdb", runs)
    archive_finished(trained / "results.duckdb")
    return {"published": published / "results.duckdb", "trained": trained / "results.duckdb"}


def test_there_are_at_least_twenty_and_each_asks_something_else() -> None:
    assert len(EXAMPLES) >= 20
    assert len({example.title for example in EXAMPLES}) == len({example.query for example in EXAMPLES}) == len(EXAMPLES)
    assert {title for titles in WITHOUT_ANSWER.values() for title in titles} <= {title for title, _ in EXAMPLES}


@pytest.mark.parametrize("kind", ["published", "trained"])
def test_every_example_runs_and_has_an_answer_where_there_can_be_one(stores: Mapping[str, Path], kind: str) -> None:
    empty = {title for title, query in EXAMPLES if queries.sql(stores[kind], query).empty}
    assert empty == set(WITHOUT_ANSWER[kind])
