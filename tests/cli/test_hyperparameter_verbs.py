"""stable, edges, sensitivity, hp and predict on the shipped figures and on a native study; their grids are plans that run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import flow, gridfile, imports, settings
from optsweep_tui import plan as planning
from optsweep_tui.cli.root import run_command
from tests.store.run_folders import finish

Ask = Callable[..., Any]
"""(verb, arguments) -> the JSON document; `code` is the exit code that is expected."""

GRID = """
name = "planted"
dataset = "embedded"
[defaults]
batch_size = 4
seq_len = 32
validation_tokens = 2048
schedule = "linear"
[[cells]]
optimizer = ["adamw"]
model = ["bench-micro"]
chinchilla = [0.05, 0.1, 0.2]
[optimizer.adamw]
set = { lr = 0.004, beta2 = 0.95 }
sweep = { lr = [0.002, 0.008], beta2 = [0.9, 0.98] }
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the shipped figures."""
    root = tmp_path_factory.mktemp("reference")
    imports.import_results(settings.workspace(root), "reference")
    return root


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of this program whose best lr is the highest swept and whose best beta2 lies inside; nothing was trained."""
    root = tmp_path_factory.mktemp("native")
    place = settings.workspace(root / "work")
    (root / "planted.toml").write_text(GRID)
    chosen = flow.plan(place, flow.Request(grid=str(root / "planted.toml")), prepare=True)
    planning.plant(place, chosen.study, chosen.specs)
    for spec in chosen.specs:
        lr, beta2 = (float(spec.hyperparameters[name]) for name in ("lr", "beta2"))  # type: ignore[arg-type]
        loss = 3.0 - math.log(spec.tokens) / 20 + 0.05 * math.log(lr / 0.02) ** 2 + 10 * (beta2 - 0.95) ** 2
        finish(place.runs / spec.run_id, val_loss=loss, steps=spec.steps, tokens=spec.tokens)
    flow.collect(place)
    return place.root


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    def asked(verb: str, *arguments: str, workspace: Path, code: int = 0) -> Any:
        assert run_command([*verb.split(), *arguments, "--json", "--workspace", str(workspace)]) == code
        return json.loads(capfd.readouterr().out)

    return asked


def dry_run(ask: Ask, grid: Path, workspace: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = ask("run", "--grid", str(grid), "--dry-run", workspace=workspace)["runs"]
    return runs


VERBS = ["stable", "edges", "sensitivity lr", "hp", "predict -o adamw -m bench-tiny -c 4"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_words_and_one_json_document(
    verb: str, native: Path, ask: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    data = ask(verb, workspace=native)
    assert isinstance(data, dict if verb.startswith("predict") else list) and data
    for row in [data] if isinstance(data, dict) else data:
        assert row["threshold"] == 0.003 and isinstance(row["flags"], list)
    assert run_command([*verb.split(), "--workspace", str(native)]) == 0
    text = capfd.readouterr().out
    assert len(text.splitlines()) > 5 and "None" not in text


def test_the_reference_study_has_the_edges_and_stable_knobs_of_an_independent_count(reference: Path, ask: Ask) -> None:
    """Counted from the CSV files alone: 421 edges, ties with an inner value left out; stable knobs per optimizer."""
    edges = ask("edges", workspace=reference)
    assert len(edges) == 421
    assert all(row["value"] in (row["tried"][0], row["tried"][-1]) for row in edges)
    stable = ask("stable", workspace=reference)
    counts: dict[str, int] = {}
    for row in stable:
        counts[row["optimizer"]] = counts.get(row["optimizer"], 0) + bool(row["stable"])
    assert counts == {
        "adam_mini": 3, "adamw": 4, "cautious": 6, "kron": 11, "lion": 4, "mars": 4, "muon": 7, "nadamw": 6,
        "scion_fantastic": 5, "soap": 7, "sophia_h": 5,
    }  # fmt: skip
    (lr,) = [row for row in stable if row["optimizer"] == "adamw" and row["knob"] == "lr"]
    assert lr["covers"] == [[0.002, 0.004, 0.008]] and (lr["n_judged"], lr["n_cells"]) == (12, 13)
    assert [cell["chinchilla"] for cell in lr["not_judged"]] == [1.0]


def test_the_lr_rules_of_the_reference_study(reference: Path, ask: Ask) -> None:
    """Exponents from a Nelder-Mead maximum of the likelihood over the CSV files, sigma at its floor of ln 2 / sqrt 12."""
    rules = {
        row["optimizer"]: row for row in ask("hp", "-o", "adamw,muon,lion", workspace=reference) if row["knob"] == "lr"
    }
    for name, b, d in (("adamw", -0.6345, -0.0671), ("muon", -0.5631, -0.6123), ("lion", -0.251, -0.1645)):
        assert (rules[name]["b"], rules[name]["d"]) == (pytest.approx(b, abs=1e-3), pytest.approx(d, abs=1e-3))
        assert rules[name]["sigma"] == pytest.approx(math.log(2) / math.sqrt(12), abs=1e-6)
    assert rules["adamw"]["verdict"] == rules["muon"]["verdict"] == "trend" and rules["lion"]["verdict"] == "no trend"


def test_proposals_are_a_grid_with_exactly_those_runs(native: Path, ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "more.toml"
    edges = ask("edges", "--propose", "--out", str(out), workspace=native)
    assert [(row["knob"], row["value"], row["side"], row["proposed"]) for row in edges] == [
        ("lr", 0.008, "high", [0.016])
    ] * 3
    runs = dry_run(ask, out, native)
    assert gridfile.load(str(out)).name == "planted", "the new runs join the study that they extend"
    assert len(runs) == 3 and [run["state"] for run in runs] == ["planned"] * 3
    known = {
        run["run_id"]: run
        for run in ask("run", "--grid", str(native.parent / "planted.toml"), "--dry-run", workspace=native)["runs"]
    }
    for run in runs:
        assert run["hyperparameters"]["lr"] == 0.016 and run["hyperparameters"]["beta2"] == 0.95
        assert run["run_id"] not in known
        twin = next(other for other in known.values() if other["tokens"] == run["tokens"])
        assert {**run["hyperparameters"], "lr": 0} == {**twin["hyperparameters"], "lr": 0}
        for name in ("batch_size", "seq_len", "schedule", "dtype", "seed", "engine", "dataset_hash", "steps"):
            assert run[name] == twin[name], name


def test_proposals_of_imported_figures_start_a_study_of_their_own(reference: Path, ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "beyond.toml"
    edges = ask("edges", "-o", "muon,adamw", "-m", "130m,300m", "--propose", "--out", str(out), workspace=reference)
    runs = dry_run(ask, out, reference)
    wanted = [
        (row["optimizer"], row["model"], row["tokens"], row["knob"], value)
        for row in edges
        for value in row["proposed"]
    ]
    assert len(runs) == len(wanted) > 20
    for run, (optimizer, model, tokens, knob, value) in zip(runs, wanted, strict=True):
        assert (run["optimizer"], run["model"], run["tokens"]) == (optimizer, model, tokens)
        assert {**run["hyperparameters"], "batch_size": run["batch_size"]}[knob] == value
    assert gridfile.load(str(out)).name == "beyond"


def test_a_grid_file_is_never_overwritten_and_stdout_takes_its_place(
    native: Path, ask: Ask, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "more.toml"
    out.write_text("mine")
    for arguments in (["edges", "--propose"], ["predict", "-o", "adamw", "-m", "bench-micro", "-c", "0.1"]):
        assert run_command([*arguments, "--out", str(out), "-w", str(native)]) == 2
        assert "exists already" in capfd.readouterr().err
    assert out.read_text() == "mine"
    assert run_command(["edges", "--propose", "-w", str(native)]) == 0
    said = capfd.readouterr()
    (tmp_path / "piped.toml").write_text(said.out)
    assert len(dry_run(ask, tmp_path / "piped.toml", native)) == 3


@pytest.mark.parametrize(
    ("workspace", "target"),
    [
        ("reference", "adamw 1.2b 16"),
        ("reference", "muon 520m 2"),
        ("native", "adamw bench-tiny 0.5"),
    ],
)
def test_a_prediction_is_a_grid_with_exactly_that_run(
    workspace: str, target: str, ask: Ask, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(workspace)
    optimizer, model, ratio = target.split()
    out = tmp_path / "next.toml"
    found = ask("predict", "-o", optimizer, "-m", model, "-c", ratio, "--out", str(out), workspace=place)
    assert gridfile.load(str(out)).name == "next"
    (run,) = dry_run(ask, out, place)
    assert (run["optimizer"], run["model"], run["chinchilla"]) == (optimizer, model, float(ratio))
    for knob, value in found["hyperparameters"].items():
        assert run["hyperparameters"][knob] == value, knob
    for name in ("batch_size", "seq_len", "schedule", "tokens", "steps"):
        assert run[name] == found[name], name
    for entry in found["knobs"]:
        if entry["basis"] in ("trend", "constant") and not entry["off_grid"]:
            assert entry["grid_below"] <= entry["value"] <= entry["grid_above"]


def test_a_prediction_beyond_the_cells_is_marked_and_too_few_cells_are_refused(reference: Path, ask: Ask) -> None:
    found = ask("predict", "-o", "adamw", "-m", "1.2b", "-c", "32", workspace=reference)
    assert found["state"] == "EXTRAP" and found["chinchilla_factor"] == pytest.approx(4.0)
    refused = ask(
        "predict", "-o", "adamw", "-m", "1.2b", "-c", "1", "--where", "chinchilla = 1 and model != '520m'",
        workspace=reference, code=0,
    )  # fmt: skip
    assert refused["n_cells"] == 3
    refused = ask("predict -o adamw -m 1.2b -c 1", "--where", "model = '1.2b'", workspace=reference, code=1)
    assert refused["state"] == "REFUSE" and "needs 3" in refused["reason"] and refused["hyperparameters"] == {}


MISTAKES = [
    (["sensitivity", "lrr"], 'did you mean "lr"?'),
    (["sensitivity", "nothing_like_it"], "swept here:"),
    (["stable", "--threshold", "0"], "--threshold 0"),
    (["hp", "--threshold", "nan"], "--threshold nan"),
    (["sensitivity", "lr", "--within", "-1"], "--within -1"),
    (["edges", "-o", "adagrad"], "is not known"),
    (["edges", "-c", "77"], "selection is empty"),
    (["edges", "--out", "x.toml"], "--propose"),
    (["edges", "--propose", "--out", "x.json"], ".toml"),
    (["predict", "-o", "adamw,muon", "-m", "130m", "-c", "1"], "one optimizer"),
    (["predict", "-o", "adamw", "-m", "13m", "-c", "1"], "is not known"),
    (["predict", "-o", "adamw", "-m", "130m", "-c", "no"], "chinchilla"),
    (["predict", "-o", "sgd", "-m", "130m", "-c", "1"], "selection is empty"),
    (["predict", "-o", "adamw", "-m", "130m"], "--chinchilla"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[" ".join(entry[0]) for entry in MISTAKES])
def test_a_mistake_is_one_line(
    arguments: list[str],
    expected: str,
    native: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([*arguments, "--workspace", str(native)]) == 2
    said = capfd.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and expected in said.err, said.err
    assert list(tmp_path.iterdir()) == []


def test_a_published_name_of_a_knob_is_known(reference: Path, ask: Ask) -> None:
    rows = ask("sensitivity Learning_Rate", "-o", "adamw", "-m", "130m", workspace=reference)
    assert {row["knob"] for row in rows} == {"lr"} and {row["optimizer"] for row in rows} == {"adamw"}
    assert [row["level"] for row in rows] == ["cell"] * 4 + ["optimizer"]
