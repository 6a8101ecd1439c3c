"""Exports are read back as what they were: the marin tree, offline runs of Weights & Biases; what has no place is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import exchange, flow, imports, rundir, settings
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError
from optsweep_tui.exporters.protocol import IN_TREE, load_exporter
from optsweep_tui.settings import Workspace
from tests.store import run_folders
from tests.store.marin_tree import chosen, write_tree
from tests.store.run_folders import make_spec, sql_rows

ROW = "* EXCLUDE (run_id, run, study, origin, source)"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    place = settings.workspace(tmp_path_factory.mktemp("published"))
    imports.import_results(place, "reference")
    return place


def rows(place: Workspace, study: str, columns: str = ROW) -> list[tuple[Any, ...]]:
    return sorted(sql_rows(place.store, f"SELECT {columns} FROM v_run WHERE study = '{study}'"), key=repr)


# ---------------------------------------------------------------- the marin tree


def test_every_published_cell_comes_back_from_the_tree_as_it_was(published: Workspace, tmp_path: Path) -> None:
    report = exchange.export_results(published, "marin", tmp_path / "tree", Filter(study="reference"))
    assert (report.rows, report.files, report.skipped) == (1883, 150, [])
    assert (tmp_path / "tree" / "soape" / "130m" / "1" / "result.json").is_file(), "the study's own names"
    back = imports.import_results(published, "marin", path=tmp_path / "tree", study="back")
    assert back.skipped == [] and back.runs == 1883
    assert rows(published, "back") == rows(published, "reference")
    names = "source->>'entry', source->>'run', source->>'recorded'"
    assert rows(published, "back", names) == rows(published, "reference", names)
    again = exchange.export_results(published, "marin", tmp_path / "again", Filter(study="back"))
    assert again.rows == 1883
    for file in (tmp_path / "tree").rglob("result.json"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "tree")).read_bytes()


def test_a_tree_that_was_imported_is_written_as_it_was(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path / "work")
    tree = write_tree(tmp_path / "tree", chosen())
    imports.import_results(place, "marin", path=tree)
    exchange.export_results(place, "marin", tmp_path / "back", Filter())
    for file in tree.rglob("result.json"):
        first, second = (json.loads(path.read_text()) for path in (file, tmp_path / "back" / Path(*file.parts[-4:])))
        for key in ("result", "name", "min_loss", "baseline", "num_left"):
            assert first[key] == second[key], (file, key)
        by_label = [sorted(document.get("ablations", []), key=repr) for document in (first, second)]
        assert by_label[0] == by_label[1]
        plain = {key: value for key, value in first["best_config"].items() if key != "lr_schedule" or value != "cosine"}
        assert second["best_config"] == pytest.approx(plain)


def native(place: Workspace) -> dict[str, str]:
    """A small study: a baseline, one change of each of two knobs, a change of both, two seeds, what diverged and failed."""
    base: dict[str, Any] = {"lr": 0.003, "weight_decay": 0.1, "beta1": 0.9}
    runs = {
        "base": ({}, 0, {"val_loss": 2.5}), "seed": ({}, 1, {"val_loss": 2.51}), "lr": ({"lr": 0.006}, 0, {"val_loss": 2.4}),
        "wd": ({"weight_decay": 0.2}, 0, {"val_loss": 2.6}), "both": ({"lr": 0.006, "weight_decay": 0.2}, 0, {"val_loss": 2.7}),
        "diverged": ({"lr": 0.1}, 0, {"val_loss": 4.0, "status": "diverged"}),
        "wd2": ({"weight_decay": 0.4}, 0, {"val_loss": 2.8}),
        "failed": ({"lr": 0.2}, 0, {"val_loss": None, "status": "failed", "error": "x"}),
    }  # fmt: skip
    ids = {}
    place.ensure()
    for name, (changes, seed, ending) in runs.items():
        spec = make_spec(hyperparameters=base | changes, seed=seed, model="bench-micro")
        (folder,) = run_folders.plant(place.runs, spec)
        attempt = run_folders.attempt_folder(folder)
        run_folders.append(attempt, run_folders.lines([1, 2]) + json.dumps({"step": 3, "val_loss": None}) + "\n")
        run_folders.finish(folder, **ending)
        ids[name] = spec.run_id
    run_folders.plant(place.runs, make_spec(hyperparameters=base | {"lr": 0.4}, model="bench-micro"))
    flow.collect(place)
    return ids


def test_a_study_of_our_own_is_a_cell_around_the_baseline_that_most_are_near_to(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path / "work")
    ids = native(place)
    report = exchange.export_results(place, "marin", tmp_path / "tree", Filter(study="grid"))
    (file,) = (tmp_path / "tree").rglob("result.json")
    document = json.loads(file.read_text())
    assert document["result"] == {
        "Baseline": 2.5, "learning_rate=0.006": 2.4, "weight_decay=0.2": 2.6, "learning_rate=0.1": "NaN",
        "learning_rate=0.2": None, "weight_decay=0.4": 2.8,
    }  # fmt: skip
    assert document["name"]["Baseline"] == ids["base"] and document["min_loss"] == 2.4 and document["num_left"] == 1
    assert document["best_config"]["learning_rate"] == 0.003 and document["best_config"]["train_batch_size"] == 8
    assert document["approximate_best_config_list"] == [{"learning_rate": 0.006, "weight_decay": 0.1}]
    said = "\n".join(f"{entry.where}: {entry.why}" for entry in report.skipped)
    for words in (
        "seed 1: the tree has one place",
        "differs from the cell's baseline in 2 knobs",
        "it is planned",
        "diverged at 4",
    ):
        assert words in said
    assert report.rows == 6
    back = imports.import_results(place, "marin", path=tmp_path / "tree")
    assert back.states == {"done": 4, "nan": 1, "missing": 1} and back.skipped == []


# ---------------------------------------------------------------- Weights & Biases


def test_offline_runs_come_back_with_their_curves_and_states(published: Workspace, tmp_path: Path) -> None:
    speedrun = exchange.export_results(published, "wandb", tmp_path / "wandb", Filter(study="speedrun-2024-10"))
    assert (speedrun.rows, speedrun.skipped) == (4, [])
    place = settings.workspace(tmp_path / "work")
    report = imports.import_results(place, "wandb", path=tmp_path / "wandb", study="speedrun-2024-10")
    assert report.states == {"done": 4} and report.skipped == []
    columns = f"{ROW[:-1]}, tokens_done, steps_done, seconds_per_token)"
    assert rows(place, "speedrun-2024-10", columns) == rows(published, "speedrun-2024-10", columns)
    curve = "SELECT optimizer, step, value FROM v_metric JOIN v_run USING (run_id) WHERE key = 'val_loss' ORDER BY ALL"
    assert sql_rows(place.store, curve) == sql_rows(published.store, curve)


def test_every_state_comes_back_from_offline_runs(published: Workspace, tmp_path: Path) -> None:
    exchange.export_results(
        published,
        "wandb",
        tmp_path / "wandb",
        Filter(study="reference", models=("130m",), optimizers=("cautious", "muon")),
    )
    place = settings.workspace(tmp_path / "work")
    imports.import_results(place, "wandb", path=tmp_path / "wandb", study="reference")
    columns = "optimizer, chinchilla, state, loss, hyperparameters, batch_size, tokens, schedule, dataset, dtype"
    everything = rows(published, "reference", f"model, {columns}")
    here = [row for row in everything if row[0] == "130m" and row[1] in ("cautious", "muon")]
    assert {row[3] for row in here} >= {"done", "diverged", "missing"}
    assert rows(place, "reference", f"model, {columns}") == here


def test_our_own_runs_come_back_from_offline_runs(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path / "work")
    native(place)
    report = exchange.export_results(place, "wandb", tmp_path / "wandb", Filter())
    assert report.rows == 9
    back = imports.import_results(place, "wandb", path=tmp_path / "wandb", study="back")
    assert back.states == {"done": 6, "failed": 2, "diverged": 1}
    planned = "its log has no end"
    assert any(planned in str(row[0]) for row in rows(place, "back", "error"))
    same = "optimizer, model, lr, seed, tokens, loss, engine, dataset_hash, validation_set"
    assert rows(place, "back", same) == rows(place, "grid", same)


@pytest.mark.parametrize("name", sorted(IN_TREE))
def test_an_exporter_names_itself_and_refuses_a_folder_that_holds_something(
    name: str, published: Workspace, tmp_path: Path
) -> None:
    exporter = load_exporter(name.upper())
    assert exporter.name == name and exporter.doc and "\n" not in exporter.doc
    (tmp_path / "x").write_text("")
    for target in (tmp_path, tmp_path / "x", Path("/proc/nowhere")):
        with pytest.raises(OptsweepError) as caught:
            exchange.export_results(published, name, target, Filter(study="speedrun-2024-10"))
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_mistakes_of_an_export_are_one_line(published: Workspace, tmp_path: Path) -> None:
    with pytest.raises(OptsweepError, match='did you mean "marin"'):
        exchange.export_results(published, "marni", tmp_path / "x", Filter())
    with pytest.raises(OptsweepError, match="study"):
        exchange.export_results(published, "marin", tmp_path / "x", Filter(study="nosuch"))
    assert exchange.export_results(published, "wandb", tmp_path / "y", Filter(where="loss < 0")).rows == 0


def test_a_broken_run_folder_is_listed(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path / "work")
    ids = native(place)
    (place.runs / ids["lr"] / rundir.SPEC).write_text("{")
    report = exchange.export_results(place, "wandb", tmp_path / "wandb", Filter())
    assert report.rows == 8 and [entry.where for entry in report.skipped] == [ids["lr"]]


# ---------------------------------------------------------------- predicted configurations


def test_predictions_are_written_in_the_studys_shape_and_what_they_rest_on_is_said(
    published: Workspace, tmp_path: Path
) -> None:
    from optsweep_tui import ask
    from optsweep_tui.importers.cells import knob_name

    chosen_cells = Filter(
        study="reference", optimizers=("scion_fantastic",), models=("520m", "1.2B"), chinchillas=(8.0,)
    )
    report = exchange.export_baselines(published, tmp_path / "tree", chosen_cells)
    assert (report.rows, report.files) == (2, 2)
    assert [entry.where for entry in report.skipped if "EXTRAP" in entry.why] == ["scion_fantastic 1.2b 8"]
    frame = ask.results(published, Filter(study="reference", optimizers=("scion_fantastic",)))
    for model in ("520m", "1.2b"):
        size = model.upper()
        file = tmp_path / "tree" / "baseline_config" / "scion" / size / "8" / f"sweep_{size}_8.json"
        document = json.loads(file.read_text())
        assert set(document) == {"baseline_config", "model_size", "optimizer_name", "target_chinchilla"}
        assert (document["model_size"], document["optimizer_name"], document["target_chinchilla"]) == (
            model,
            "scion",
            8,
        )
        found = ask.predict(frame, optimizer="scion_fantastic", model=model, chinchilla=8.0)
        back = {knob_name("scion_fantastic", key): value for key, value in document["baseline_config"].items()}
        assert back.pop("batch_size") == found["batch_size"] and back.pop("schedule", "cosine") == found["schedule"]
        assert back == pytest.approx(
            {key: value for key, value in found["hyperparameters"].items() if value is not None}
        )
    with pytest.raises(OptsweepError, match=r"1\.2g"):
        exchange.export_baselines(published, tmp_path / "x", Filter(study="reference", models=("1.2g",)))
