"""`optsweep tune` at the command line: plans, mistakes, and the account of a tuning whose runs are made, not trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import flow, plan, rundir, settings
from optsweep_tui.cli import root

CELL = ["-o", "adamw", "-m", "bench-micro", "-c", "0.05"]
NARROW = [*CELL, "--sweep", "lr=0.001,0.002"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command in this process."""
    code = root.run_command(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "adamw", "-m", "bench-micro"], "-c RATIO is missing"),
        ([*CELL, "--sweep", "lrr=1"], 'did you mean "lr"'),
        ([*CELL, "--sweep", "lr="], "not of the form knob=value"),
        ([*CELL, "--knobs", "nosuch"], 'knob of adamw "nosuch"'),
        ([*CELL, "--block", "lr"], "does not name two knobs"),
        ([*CELL, "--max-runs", "0"], "leaves no run"),
        ([*CELL, "--sigma", "-1"], "not a positive number"),
        ([*CELL, "--threshold", "nan"], "not a number of nats"),
        ([*CELL, "--seeds-for-start", "--fresh-seeds", "0"], "contradict"),
        ([*CELL, "--host", "far"], 'host "far"'),
        (["--grid", "quickstart", "-c", "7"], "has no such cell"),
        (["--grid", "quickstart", "--phases", "quickstart"], "both name a study"),
        (["--phases", "quickstart", "-o", "adamw", "-c", "0.1"], "one model and ratio"),
        (["--resume"], "there is no tuning"),
        (["--resume", "-o", "adamw"], "-o cannot change it"),
        (["--resume", "--study", "nosuch"], '"nosuch" is not known'),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "tune", *arguments, "-w", str(tmp_path))
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and said in err, err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_optuna_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "optuna" else found(name, *more)
    )
    code, _, err = run(capsys, "tune", *CELL, "--sampler", "optuna", "-w", str(tmp_path))
    assert code == 2 and "pip install 'optsweep[optuna]'" in err and len(err.splitlines()) == 1


def test_a_dry_run_shows_rules_lists_and_first_runs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "tune", *NARROW, "--dry-run", "--json", "-w", str(tmp_path))
    data = json.loads(out)
    assert code == 0 and data["incumbent"] is None and data["history"] == []
    assert [row["hyperparameters"]["lr"] for row in data["runs"]] == [0.003, 0.002, 0.001], "the start, nearest first"
    assert data["rules"]["block"] == ["lr", "weight_decay"] and data["rules"]["fresh_seeds"] == 3
    assert data["rules"]["cells"][0]["lists"] == {"lr": [0.001, 0.002, 0.003]}
    assert data["totals"]["runs"] == 3 + 6 + 3, "list, block with a knob of its own, seeds"
    code, out, _ = run(capsys, "tune", *NARROW, "--dry-run", "-w", str(tmp_path))
    assert code == 0 and "0.001  0.002  [0.003]" in out and "--seeds-for-start measures it first" in out
    assert list(tmp_path.iterdir()) == []


def test_three_phases_are_shown_before_they_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(
        capsys, "tune", "--phases", "quickstart", "-o", "adamw", "--dry-run", "--json", "-w", str(tmp_path)
    )
    cells = json.loads(out)["rules"]["cells"]
    assert code == 0
    assert {cell["chinchilla"]: cell["phase"] for cell in cells} == {0.05: 1, 0.07: 1, 0.1: 2, 0.15: 3}


# ---------------------------------------------------------------- with made results


def ended(runs: Path, spec: RunSpec, loss: float | None) -> None:
    """A run folder as if the run had been trained."""
    attempt = runs / spec.run_id / "a1"
    attempt.mkdir(parents=True)
    record = RunRecord(
        run_id=spec.run_id,
        attempt=1,
        status="done" if loss is not None else "diverged",
        train_loss=loss,
        val_loss=loss,
        steps=spec.steps,
        tokens=spec.steps * spec.tokens_per_step,
        train_seconds=1.0,
        tokens_per_second=1e4,
        peak_bytes=None,
        optimizer_state_bytes=None,
        device="cpu",
        versions={},
    )
    (attempt / rundir.CLAIM).write_text("{}")
    (attempt / rundir.RECORD).write_text(json.dumps(record.to_dict()))
    (attempt / rundir.EXIT).write_text(json.dumps({"returncode": 0, "signal": None, "reason": "finished"}))


def loss_of(spec: RunSpec) -> float | None:
    """A bowl around lr 0.008 and weight decay 0.2, with a little noise per seed; lr 0.03 and more diverges."""
    lr, decay = float(str(spec.hyperparameters["lr"])), float(str(spec.hyperparameters["weight_decay"]))
    if lr > 0.03:
        return None
    shape = 0.05 * math.log2(lr / 0.008) ** 2 + 0.01 * math.log2(max(decay, 0.01) / 0.2) ** 2
    return 2.0 + shape + 0.002 * ((spec.seed * 7) % 5 - 2)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs end as soon as they are launched; their ids in order."""
    launched: list[str] = []

    def launch(workspace: settings.Workspace, chosen: flow.Plan, *, force: bool = False) -> list[str]:
        known = {spec.run_id for spec in chosen.specs if (workspace.runs / spec.run_id / "a1").exists()}
        plan.plant(workspace.ensure(), chosen.study, chosen.specs)
        for spec in chosen.specs:
            if spec.run_id not in known:
                launched.append(spec.run_id)
                ended(workspace.runs, spec, loss_of(spec))
        return chosen.run_ids

    monkeypatch.setattr(flow, "launch", launch)
    return launched


def tuned(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, "tune", *arguments, "--json", "-w", str(folder))
    assert code == 0, err
    data: dict[str, Any] = json.loads(out)
    return data


def test_a_tuning_from_start_to_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str], made: list[str]) -> None:
    data = tuned(capsys, tmp_path, *NARROW, "--set", "lr=0.001", "--seeds-for-start")
    best = data["incumbent"]
    assert best["hyperparameters"]["lr"] == 0.008 and best["state"] == "ended" and best["edges"] == {}
    assert best["hyperparameters"]["weight_decay"] == 0.2, "the block reached it"
    assert best["changed"] == {"lr": [0.001, 0.008], "weight_decay": [0.1, 0.2]}
    assert best["n"] == 3 and best["start_n"] == 4 and best["resolved"] is True
    assert best["loss"] == pytest.approx(2.0 + 0.002 * (0 + 2 - 1) / 3)
    kinds = [step["kind"] for step in data["history"]]
    assert kinds[0] == "start" and "extend" in kinds and "block" in kinds and kinds[-1] == "seeds"
    assert [row["run_id"] for row in data["runs"]] == made and len(made) == data["totals"]["runs"]
    assert {row["state"] for row in data["runs"]} == {"done"}
    shown = {row["run_id"]: row["hyperparameters"]["lr"] for row in data["runs"]}
    for step in data["history"]:
        for tried in step["tried"]:
            assert shown[tried["run_id"]] == tried["values"].get("lr", shown[tried["run_id"]])
    code, out, _ = run(capsys, "table", "--study", data["study"], "--json", "-w", str(tmp_path))
    (row,) = json.loads(out)
    assert code == 0 and row["loss"] == pytest.approx(best["loss"]) and row["edges"] == []
    before = list(made)
    assert tuned(capsys, tmp_path, "--resume") == data and made == before, "a second time trains nothing"
    code, out, _ = run(capsys, "tune", "--resume", "-w", str(tmp_path))
    assert code == 0 and "lr 0.008 (was 0.001)" in out and "resolved" in out and "none: every best value" in out


def test_runs_of_another_study_are_not_trained_again_and_belong_to_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: list[str]
) -> None:
    asked = [*NARROW, "--block", "none", "--threshold", "0.003"]
    first = tuned(capsys, tmp_path, *asked, "--study", "first")
    count = len(made)
    second = tuned(capsys, tmp_path, *asked, "--study", "second")
    assert len(made) == count and second["history"][1:] == first["history"][1:]
    assert second["rules"]["cells"][0]["sigma_source"] == "measured", "the first one's seeds"
    for study in ("first", "second"):
        (row,) = json.loads(run(capsys, "table", "--study", study, "--json", "-w", str(tmp_path))[1])
        assert row["tuning_runs"] == first["incumbent"]["tuning_runs"] and row["n"] == 3


def test_equal_budgets_pass_the_audit_of_fairness(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: list[str]
) -> None:
    cells = ["-o", "adamw,lion", "-m", "bench-micro", "-c", "0.05,0.1", "--set", "weight_decay=0.1"]
    lists = ["--sweep", "adamw.lr=0.001,0.002", "--sweep", "lion.lr=0.004,0.008,0.016", "--block", "none"]
    data = tuned(capsys, tmp_path, *cells, *lists, "--equal-budget")
    runs = {(row["optimizer"], row["chinchilla"]): row["tuning_runs"] for row in data["incumbents"]}
    assert runs["adamw", 0.05] == runs["lion", 0.05] and runs["adamw", 0.1] == runs["lion", 0.1]
    assert data["incumbent"] is None and len(data["incumbents"]) == 4
    assert any(step["kind"] == "refine" for step in data["history"])
    code, out, _ = run(capsys, "fairness", "--study", data["study"], "--json", "-w", str(tmp_path))
    audit = json.loads(out)
    assert code == 0 and [row["verdict"] for row in audit if row["optimizer"] == "lion"] == ["PASS", "PASS"]


def test_a_failed_run_stops_its_cell_with_exit_1_and_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = flow.launch

    def launch(workspace: settings.Workspace, chosen: flow.Plan, *, force: bool = False) -> list[str]:
        ids = honest(workspace, chosen)
        for spec in chosen.specs:
            if spec.hyperparameters["lr"] == 0.002:
                rundir.cancel(workspace.runs / spec.run_id)
                for name in (rundir.RECORD, rundir.EXIT, rundir.CLAIM):
                    (workspace.runs / spec.run_id / "a1" / name).unlink()
        return ids

    monkeypatch.setattr(flow, "launch", launch)
    code, out, _ = run(capsys, "tune", *NARROW, "-w", str(tmp_path))
    assert code == 1 and "stuck" in out and "cancelled" in out and "optsweep retry RUN" in out
    code, out, _ = run(capsys, "tune", *NARROW, "--skip-failed", "-w", str(tmp_path))
    assert code == 0 and "incumbent" in out and "1 cancelled" in out


PHASED = """
name = "three"
dataset = "embedded"
[defaults]
batch_size = 4
seq_len = 32
validation_tokens = 2048
[[cells]]
optimizer = ["adamw"]
model = ["bench-micro"]
chinchilla = [0.01, 0.02, 0.04, 0.08, 0.16]
[optimizer.adamw]
set = { lr = 0.004, weight_decay = 0.1 }
sweep = { lr = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032], weight_decay = [0.05, 0.1, 0.2] }
[fresh_seeds]
count = 2
[phases]
small = { model = "bench-micro", chinchilla = [0.01, 0.02, 0.04] }
middle = { model = "bench-micro", chinchilla = 0.08 }
large = { model = "bench-micro", chinchilla = 0.16 }
"""


def shifting(spec: RunSpec) -> float | None:
    """The best learning rate is 0.016 at ratio 0.01 and halves with every doubling; weight decay 0.2 always."""
    lr, decay = float(str(spec.hyperparameters["lr"])), float(str(spec.hyperparameters["weight_decay"]))
    off = math.log2(lr / 0.016) + math.log2(spec.chinchilla / 0.01)
    return 2.0 + 0.05 * off**2 + 0.02 * math.log2(max(decay, 0.01) / 0.2) ** 2 + 0.0001 * (spec.seed % 3)


def test_three_phases_sweep_what_moves_and_predict_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.cli.test_tune_verb.loss_of", shifting)
    (tmp_path / "three.toml").write_text(PHASED)
    data = tuned(capsys, tmp_path, "--phases", str(tmp_path / "three.toml"), "--block", "none")
    assert data["study"] == "phases-three" and data["rules"]["fresh_seeds"] == 2
    by_ratio = {row["chinchilla"]: row for row in data["incumbents"]}
    assert [by_ratio[ratio]["hyperparameters"]["lr"] for ratio in (0.01, 0.02, 0.04)] == [0.016, 0.008, 0.004]
    middle, large = by_ratio[0.08], by_ratio[0.16]
    assert "sensitive over 3 small cells" in middle["decided"] and ": lr;" in middle["decided"]
    swept = {knob for step in data["history"] if step["chinchilla"] == 0.08 for knob in step["knobs"]}
    assert swept == {"lr"} and middle["hyperparameters"]["weight_decay"] == 0.2
    assert middle["hyperparameters"]["lr"] == pytest.approx(0.002, rel=0.1)
    assert large["tuning_runs"] == 1 and large["n"] == 2 and large["hyperparameters"]["weight_decay"] == 0.2
    assert large["hyperparameters"]["lr"] == pytest.approx(0.001, rel=0.3) and "lr" in large["decided"]
    assert {row["phase"] for row in data["incumbents"]} == {1, 2, 3}
    again = tuned(capsys, tmp_path, "--resume")
    assert again == data
    code, out, _ = run(capsys, "tune", "--resume", "-w", str(tmp_path))
    assert code == 0 and "phase 3: predicted" in out and "trend" in out
