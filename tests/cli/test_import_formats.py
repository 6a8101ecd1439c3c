"""The command line of imports, exports and bundles: lists, documents, one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optsweep_tui.cli.root import run_command

FIXTURES = Path(__file__).resolve().parents[1] / "store" / "fixtures"


@pytest.mark.parametrize(("verb", "names"), [
    ("import", {"csv", "marin", "nanogpt", "olmo-sweep", "parquet", "reference", "tensorboard", "wandb"}),
    ("export", {"baselines", "bundle", "csv", "marin", "parquet", "wandb"}),
])  # fmt: skip
def test_formats_are_listed(verb: str, names: set[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command([verb, "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert {row["name"] for row in rows} == names and all(row["doc"] for row in rows)
    assert run_command([verb]) == 0
    text = capfd.readouterr().out
    assert all(name in text for name in names)


def test_a_foreign_sweep_is_a_grid_that_a_dry_run_shows_in_order(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.yaml").write_text(
        "max_duration: 1000\nglobal_train_batch_size: 8\noptimizer: {name: adamw}\nmodel: {max_sequence_length: 64, d_model: 64,"
        " n_heads: 4, mlp_hidden_size: 192, n_layers: 2}\n"
    )
    (tmp_path / "lr.yaml").write_text("sweep: [{optimizer.learning_rate: [4.0e-3, 1.0e-3, 2.0e-3]}]\n")
    work = str(tmp_path / "w")
    assert run_command(["import", "olmo-sweep", f"{tmp_path}/b.yaml+{tmp_path}/lr.yaml", "--json", "-w", work]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["planned"] == 3 and report["runs"] == 0 and Path(report["grids"]["lr"]).is_file()
    assert all(entry["why"] for entry in report["skipped"])
    assert run_command(["run", "--grid", "lr", "--dry-run", "--json", "-w", work]) == 0
    runs = json.loads(capfd.readouterr().out)["runs"]
    assert [run["hyperparameters"]["lr"] for run in runs] == [0.004, 0.001, 0.002]
    assert {(run["steps"], run["model"]) for run in runs} == {(1000, "bench-micro")}
    assert run_command(["import", "olmo-sweep", f"{tmp_path}/b.yaml+{tmp_path}/lr.yaml", "-w", work]) == 0
    assert "optsweep run --grid lr --dry-run" in capfd.readouterr().out


def test_logs_come_in_and_go_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work = str(tmp_path / "w")
    assert run_command(["import", "wandb", str(FIXTURES / "wandb"), "--json", "-w", work]) == 0
    assert json.loads(capfd.readouterr().out)["states"] == {"failed": 2, "done": 1, "nan": 1}
    assert run_command(["export", "wandb", str(tmp_path / "out"), "--json", "-w", work]) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["rows"], report["files"], report["format"]) == (4, 4, "wandb")
    assert run_command(["export", "wandb", str(tmp_path / "more"), "-w", work]) == 0
    assert "4 runs" in capfd.readouterr().out


MISTAKES = [
    (["import", "wandb"], "needs a path"),
    (["import", "wandb", "."], "no run of Weights & Biases"),
    (["import", "tensorboard", "."], "no event file"),
    (["import", "olmo-sweep", "nowhere.yaml"], "cannot be read"),
    (["import", "wandb", ".", "--out", "x.toml"], "no run of Weights & Biases"),
    (["import", "wanbd", "."], 'did you mean "wandb"'),
    (["export", "csv"], "needs a file or folder"),
    (["export", "bundle"], "needs the id of a run"),
    (["export", "bundle", "ffff"], "no run starts with"),
    (["export", "bundle", "ffff", "--study", "x"], "nothing to filter"),
    (["export", "csv", "x.csv", "--out", "y"], "--out is for bundles"),
    (["export", "wandbb", "x"], 'did you mean "wandb"'),
    (["reproduce", "nowhere.zip"], "does not exist"),
    (["reproduce", "."], "cannot be read"),
    (["reproduce", "x.zip", "--sigma", "0"], "not a positive number"),
    (["run", "-o", "adamw", "-m", "130m", "-c", "1", "--sink", "tensorbord:x"], 'did you mean "tensorboard"'),
    (["watch", "--sink", "x"], "is not known"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[" ".join(entry[0]) for entry in MISTAKES])
def test_a_mistake_is_one_line_and_changes_nothing(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTSWEEP_WORKSPACE", raising=False)
    assert run_command(arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and expected in line
    assert list(tmp_path.iterdir()) == []
