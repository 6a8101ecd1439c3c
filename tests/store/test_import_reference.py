"""The shipped figures as results: every published entry is a run, the numbers are the design note's, twice equals once."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines.spec import canonical_scalar
from optsweep_tui import ask, flow, imports, rundir, settings
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError
from optsweep_tui.importers.cells import catalogue_name, knob_name
from optsweep_tui.importers.reference import reference_cells
from optsweep_tui.resources import shipped
from optsweep_tui.settings import Workspace
from tests.store.run_folders import contents, sql_rows

SIGMA_UNITS = 0.0005


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace that holds nothing but the shipped figures."""
    workspace = settings.workspace(tmp_path_factory.mktemp("published"))
    report = imports.import_results(workspace, "reference")
    assert report.new == report.runs == 1887 and report.skipped == []
    return workspace


def cells() -> list[dict[str, str]]:
    with open(shipped("grids") / "reference" / "cells.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_cell_every_ablation_and_every_unlisted_minimum_is_a_run_with_its_state(place: Workspace) -> None:
    counted = dict(sql_rows(place.store, "SELECT state, count(*) FROM v_run WHERE study = 'reference' GROUP BY state"))
    # 1715 ablations: 1432 below 5, 182 from 5 up, 96 null, 5 "NaN"; 150 baselines, 3 of them null; 18 unlisted minima.
    assert counted == {"done": 1432 + 147 + 18, "diverged": 182, "missing": 96 + 3, "nan": 5}
    assert sql_rows(place.store, "SELECT count(*) FROM v_cell WHERE study = 'reference'") == [(150,)]
    assert sql_rows(place.store, "SELECT count(*) FROM v_run WHERE study = 'speedrun-2024-10'") == [(4,)]
    unpublished = "engine IS NULL AND seed IS NULL AND dataset_hash IS NULL AND seconds_per_token IS NULL"
    assert sql_rows(place.store, f"SELECT count(*) FROM v_run WHERE study = 'reference' AND {unpublished}") == [(1883,)]
    hollow = "hyperparameters IS NULL AND batch_size IS NULL AND steps IS NULL AND state = 'done'"
    assert sql_rows(place.store, f"SELECT count(*) FROM v_run WHERE {hollow}") == [(18,)]
    large = sql_rows(place.store, "SELECT max(loss), arg_max(state, loss) FROM v_run")
    assert large == [(138172780511232.0, "diverged")]


def test_the_loss_of_every_cell_is_its_published_minimum(place: Workspace) -> None:
    table = ask.table(ask.results(place, Filter(study="reference")))
    losses = {
        (str(row["optimizer"]), str(row["model"]), float(row["chinchilla"])): float(row["loss"])
        for row in table.to_dict("records")
    }
    published = {
        (catalogue_name(row["optimizer"]), row["model"], float(row["chinchilla"])): float(row["min_loss"])
        for row in cells()
    }
    assert len(losses) == len(published) == 150
    for cell, loss in published.items():
        # Six cells hold their incumbent twice (1e-25 and 9.999999999999999e-26 are one value): then the mean of the two.
        assert losses[cell] == pytest.approx(loss, abs=SIGMA_UNITS), cell
    exact = sum(losses[cell] == pytest.approx(loss, rel=1e-12) for cell, loss in published.items())
    assert exact >= 144


def test_run_counts_per_cell_are_the_published_ones(place: Workspace) -> None:
    rows = sql_rows(
        place.store,
        "SELECT optimizer, model, chinchilla, state, source->>'recorded' FROM v_run WHERE study = 'reference'",
    )
    found: dict[tuple[str, str, float], Counter[str]] = {}
    for optimizer, model, ratio, state, _ in rows:
        found.setdefault((optimizer, model, ratio), Counter())[state] += 1
    for row in cells():
        counted = found[catalogue_name(row["optimizer"]), row["model"], float(row["chinchilla"])]
        unlisted = row["min_loss_run_is"] == "unlisted_run"
        baseline = 1
        assert counted.total() == int(row["n_ablations"]) + baseline + unlisted, row
        assert counted["diverged"] == int(row["n_diverged"]), row
        assert counted["nan"] == int(row["n_nan"]), row
        assert counted["missing"] - (row["baseline_loss"] == "") == int(row["n_missing"]), row


def test_each_run_is_the_incumbent_with_one_change_under_our_names(place: Workspace) -> None:
    rows = sql_rows(
        place.store,
        "SELECT source->>'entry', hyperparameters, batch_size, schedule, steps, tokens FROM v_run WHERE study = 'reference'",
    )
    runs = {entry: tuple(rest) for entry, *rest in rows}
    for cell in reference_cells():
        optimizer = catalogue_name(cell.optimizer)
        assert cell.incumbent is not None
        base = {knob_name(optimizer, key): canonical_scalar(value) for key, value in cell.incumbent.items()}
        for entry in cell.entries:
            wanted: dict[str, Any] = dict(base)
            if entry.hyperparameter is not None:
                wanted[knob_name(optimizer, entry.hyperparameter)] = canonical_scalar(entry.value)
            batch, schedule = wanted.pop("batch_size"), wanted.pop("schedule", "cosine")
            text, *rest = runs[f"{cell.name}/{entry.label}"]
            assert json.loads(text) == wanted
            assert rest[:2] == [batch, schedule]
            assert rest[2] == rest[3] // (int(str(batch)) * 4096)


def test_the_baseline_curves_are_those_of_the_design_note(place: Workspace) -> None:
    fits = ask.fit(ask.results(place, Filter(study="reference")))
    found = {row["model"]: row for row in fits.to_dict("records")}
    assert list(found) == ["130m", "300m", "520m", "1.2b"]
    assert found["300m"]["alpha"] == pytest.approx(0.3707, abs=5e-4)
    assert found["300m"]["b"] == pytest.approx(0.4378, abs=5e-4)
    assert found["300m"]["beta"] == pytest.approx(2.8916, abs=5e-4)
    assert [found[model]["n_points"] for model in found] == [5, 5, 4, 4]
    # On the reference study the exponents of the sizes cannot be told apart.
    assert all(row["shared_b_p"] > 0.05 for row in found.values())


def test_more_budgets_move_the_130m_speedup_at_8x_from_1_41_to_1_30(place: Workspace) -> None:
    frame = ask.results(place, Filter(study="reference"))
    for most, expected in ((8.0, 1.41), (None, 1.30)):
        rows = ask.speedup(frame, max_chinchilla=most)
        here = rows[(rows.model == "130m") & (rows.chinchilla == 8)].sort_values("loss")
        assert float(here.iloc[0].speedup) == pytest.approx(expected, abs=0.006)
    assert len(rows) == 132
    assert float(rows.speedup.max()) < 1.5, "nobody gets 2x"


def test_time_is_refused_and_flops_are_counted(place: Workspace) -> None:
    frame = ask.results(place, Filter(study="reference"))
    timed = ask.speedup(frame, unit="time")
    assert set(timed.state) == {"REFUSE"} and timed.reason.str.contains("seconds per token").any()
    counted = ask.speedup(frame, unit="flops")
    tokens = ask.speedup(frame)
    listed = counted.state != "REFUSE"
    assert listed.sum() > 80
    muon = listed & (counted.optimizer == "muon")
    ratio = counted[muon].speedup / tokens[muon].speedup
    assert ratio.between(0.5, 1.0, inclusive="left").all(), "Newton-Schulz costs something"


def test_the_speedrun_curves_are_metrics_and_its_baseline_is_adam(place: Workspace) -> None:
    with open(shipped("grids") / "reference" / "speedrun-2024-10.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    stored = sql_rows(
        place.store,
        "SELECT r.optimizer, m.step, m.value, m.tokens FROM v_metric m JOIN v_run r USING (run_id) WHERE key = 'val_loss'",
    )
    names = {"Adam": "adam", "DistributedShampoo": "shampoo", "SOAP": "soap", "Muon": "muon"}
    wanted = {(names[row["optimizer"]], int(row["step"]), float(row["val_loss"])) for row in rows}
    assert len(stored) == len(rows) == 168
    assert {(optimizer, step, value) for optimizer, step, value, _ in stored} == wanted
    assert all(tokens == step * 512 * 1024 for _, step, _, tokens in stored)
    assert ask.baseline_of(place, "speedrun-2024-10") == "adam"
    table = ask.table(ask.results(place, Filter(study="speedrun-2024-10")), baseline="adam")
    assert dict(zip(table.optimizer, table.loss, strict=True)) == {
        "soap": 3.2752, "muon": 3.276, "shampoo": 3.2858, "adam": 3.3406,
    }  # fmt: skip
    speedups = ask.speedup(ask.results(place, Filter(study="speedrun-2024-10")), baseline="adam")
    assert set(speedups.state) == {"REFUSE"} and speedups.reason.str.contains("1 budget").all()


def test_twice_is_once_and_a_rebuild_says_the_same(place: Workspace) -> None:
    before = contents(place.store)
    report = imports.import_results(place, "reference")
    assert (report.new, report.changed, report.unchanged, report.points) == (0, 0, 1887, 0)
    assert contents(place.store) == before
    assert flow.collect(place, rebuild=True).kept is None
    assert contents(place.store) == before


def test_a_torn_import_is_listed_by_collect_and_mended_by_the_next(tmp_path: Path) -> None:
    workspace = settings.workspace(tmp_path)
    imports.import_results(workspace, "reference")
    victims = rundir.run_ids(workspace.runs)[:3]
    torn, changed, gone = (workspace.runs / run_id / rundir.ORIGIN for run_id in victims)
    torn.write_bytes(torn.read_bytes()[:40])
    changed.write_text(changed.read_text().replace('"loss": 3', '"loss": 4').replace("reference", "elsewhere", 1))
    gone.unlink()
    skipped = flow.collect(workspace, rebuild=True).skipped
    assert any(str(torn.parent) in entry.where for entry in skipped)
    assert flow.run_lines(workspace, victims) == []
    assert flow.broken(workspace).keys() >= {victims[0], victims[1]}
    report = imports.import_results(workspace, "reference")
    assert (report.new, report.changed) == (0, 3)
    assert sql_rows(workspace.store, "SELECT count(*) FROM run") == [(1887,)]


def test_nothing_touches_an_imported_run(place: Workspace) -> None:
    assert flow.unfinished(place) == []
    some = rundir.run_ids(place.runs)[:20]
    assert flow.retry(place, some) == []
    assert flow.cancel(place, some) == []
    assert not list(place.queue.rglob("*.a*"))
    assert flow.broken(place) == {}
    assert rundir.native_ids(place.runs) == []


def test_published_runs_never_count_as_trained_when_a_plan_is_made(place: Workspace) -> None:
    chosen = flow.plan(
        place, flow.Request(grid="reference", optimizers=("muon",), models=("130m",), chinchillas=("1",))
    )
    assert not set(chosen.run_ids) & set(rundir.run_ids(place.runs))


def test_lines_say_null_for_what_was_not_published(place: Workspace) -> None:
    lines = flow.run_lines(place)
    assert len(lines) == 1887
    assert {line.engine for line in lines} == {None}
    assert {line.seed for line in lines} == {None}
    assert {line.state for line in lines} == {"done", "diverged", "nan", "missing"}
    line = next(line for line in lines if line.state == "missing")
    assert line.loss is None and line.error == "no loss was recorded"
    everything = flow.everything(place, line.run_id)
    assert everything["origin"]["source"]["published"].startswith("arXiv 2509.02046")
    assert everything["record"] is None and everything["attempts"] == []
    assert math.isfinite(line.chinchilla)


def test_it_takes_no_path(tmp_path: Path) -> None:
    with pytest.raises(OptsweepError, match="takes no path"):
        imports.import_results(settings.workspace(tmp_path), "reference", path=tmp_path)
    with pytest.raises(OptsweepError, match='did you mean "reference"'):
        imports.import_results(settings.workspace(tmp_path), "refrence")
    with pytest.raises(OptsweepError, match="cannot name a study"):
        imports.import_results(settings.workspace(tmp_path), "reference", study="a/b")
