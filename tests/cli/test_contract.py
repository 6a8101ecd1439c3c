"""Every verb with --json prints one document; every mistake is one line on stderr with exit code 2 and changes nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from optsweep_tui import flow
from optsweep_tui.cli.root import run_command
from tests.e2e.workbench import OPTSWEEP, optsweep

CATALOGUES = [
    ["optimizers"],
    ["optimizers", "MUON"],
    ["models"],
    ["models", "130M"],
    ["datasets"],
    ["datasets", "embedded"],
]
CATALOGUES += [["grids"], ["grids", "quickstart"]]
QUESTIONS = [["ls"], ["table"], ["fit"], ["speedup"], ["collect"], ["doctor"], ["plot", "loss"], ["plot", "ratio"]]
QUESTIONS += [
    ["sql", "select count(*) as n from v_run"],
    ["sql", "--schema"],
    ["sql", "--examples"],
    ["resume"],
    ["watch"],
]


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith((".lock", ".wal"))
    }


@pytest.mark.parametrize("verb", CATALOGUES, ids=" ".join)
def test_catalogues_print_one_json_document_anywhere(verb: list[str], tmp_path: Path) -> None:
    result = optsweep(*verb, "--json", workspace=tmp_path) if verb[0] == "datasets" else _plain(*verb, "--json")
    assert json.loads(result.stdout)
    assert list(tmp_path.iterdir()) == [], "a question changes nothing"


def _plain(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*OPTSWEEP, *arguments], capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("verb", QUESTIONS, ids=" ".join)
def test_questions_print_one_json_document_and_readable_text(verb: list[str], swept: Path) -> None:
    document = optsweep(*verb, "--json", workspace=swept, check=False)
    text = optsweep(*verb, workspace=swept, check=False)
    refused = verb[0] in ("fit", "speedup")  # two budgets: too few for a curve, and said so
    assert document.returncode == text.returncode == (1 if refused else 0), document.stderr
    if verb[0] not in ("watch",):
        json.loads(document.stdout)
    assert "Traceback" not in document.stderr + text.stderr
    assert text.stdout.strip() or text.stderr.strip()


@pytest.mark.slow
def test_two_budgets_are_refused_with_the_reason(swept: Path) -> None:
    rows = json.loads(optsweep("speedup", "--json", workspace=swept, check=False).stdout)
    assert rows
    for row in rows:
        assert row["state"] == "REFUSE" and row["reason"]
        assert row["speedup"] is row["low"] is row["high"] is None
    (curve,) = json.loads(optsweep("fit", "--json", workspace=swept, check=False).stdout)
    assert curve["state"] == "REFUSE" and curve["alpha"] is None


@pytest.mark.slow
def test_running_the_same_grid_again_trains_nothing(swept: Path) -> None:
    before = snapshot(swept / "runs")
    optsweep("run", "--grid", str(swept.parent / "tiny.toml"), workspace=swept)
    assert snapshot(swept / "runs") == before


@pytest.mark.slow
def test_ls_and_show_agree_with_the_record(swept: Path) -> None:
    rows = json.loads(optsweep("ls", "--json", workspace=swept).stdout)
    assert len(rows) == 8
    for row in rows[:2]:
        shown = json.loads(optsweep("show", row["run_id"][:10], "--json", workspace=swept).stdout)
        assert shown["record"]["val_loss"] == row["loss"]
        assert shown["record"]["steps"] == row["step"] == row["steps"]
        assert optsweep("logs", row["run_id"], workspace=swept).stdout
        assert json.loads(optsweep("logs", row["run_id"], "--json", workspace=swept).stdout)


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_says_its_ids_are_provisional(tmp_path: Path) -> None:
    result = optsweep("run", "-o", "adamw,muon", "-m", "130m", "-c", "1,8", "--dry-run", "--json", workspace=tmp_path)
    data = json.loads(result.stdout)
    first = data["runs"][0]
    assert (first["optimizer"], first["steps"], first["batch_size"], first["seq_len"]) == ("adamw", 5120, 128, 4096)
    assert first["dataset_hash"] is None and first["provisional"] is True
    assert data["totals"]["runs"] == len(data["runs"]) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_forced_run_is_a_second_attempt_of_the_same_run(swept: Path) -> None:
    grid = str(swept.parent / "tiny.toml")
    ids = [row["run_id"] for row in json.loads(optsweep("ls", "--json", workspace=swept).stdout)]
    run = json.loads(
        optsweep(
            "run", "--grid", grid, "-o", "adamw", "-c", "0.02", "--limit", "1", "--force", "--json", workspace=swept
        ).stdout
    )
    again = json.loads(optsweep("ls", "--json", workspace=swept).stdout)
    assert [row["run_id"] for row in again] == ids
    assert {row["attempt"] for row in again if row["run_id"] == run["runs"][0]["run_id"]} == {2}


MISTAKES = [
    (["run", "-o", "adamww", "-m", "130m", "-c", "1"], 'did you mean "adamw"?'),
    (["run", "-o", "adamw", "-m", "131m", "-c", "1"], 'did you mean "130m"?'),
    (["run", "-o", "adamw", "-m", "130m", "-c", "zero"], "not a positive number"),
    (["run", "-o", "adamw", "-m", "130m", "-c", "1", "--set", "lrr=1"], 'did you mean "lr"?'),
    (["run", "-o", "adamw", "-m", "130m", "-c", "1", "--set", "lr=-0.1"], "outside"),
    (["run", "-o", "adamw", "-m", "130m", "-c", "1", "--engine", "tourch"], 'did you mean "torch"?'),
    (["run", "-o", "adamw", "-m", "130m", "-c", "1", "--seeds", "a"], "whole numbers"),
    (["run", "-o", "adamw", "-m", "130m", "-c", "1", "--limit", "0"], "leaves no run"),
    (["run", "-o", "adamw", "-m", "130m", "-c", "1", "--host", "mars"], "is not known"),
    (["run", "-o", "adamw", "-m", "130m", "-c", "1"], "cannot be prepared"),
    (["run", "-o", "adamw"], "is missing"),
    (["run", "--grid", "quickstrat"], 'did you mean "quickstart"?'),
    (["run", "--grid", "missing.toml"], "does not exist"),
    (["run", "--grid", "quickstart", "-m", "130m"], "selection is empty"),
    (["run", "--gird", "quickstart"], "--gird"),
    (["rnu"], "rnu"),
    (["show", "ffff"], "no run starts with"),
    (["cancel"], "no run is named"),
    (["sql"], "there is no query"),
    (["sql", "select 1"], "optsweep collect"),
    (["table"], "optsweep collect"),
    (["speedup", "--unit", "hours"], "--unit"),
    (["plot", "lss"], 'did you mean "loss"?'),
    (["optimizers", "muonn"], 'did you mean "muon"?'),
    (["models", "1.2g"], "is not known"),
    (["datasets", "embeded"], 'did you mean "embedded"?'),
    (["tui"], "needs a terminal"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[" ".join(entry[0]) for entry in MISTAKES])
def test_a_mistake_is_one_line_and_changes_nothing(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from optsweep_tui.cli.root import run_command

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTSWEEP_WORKSPACE", raising=False)
    assert run_command(arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), said.err
    assert expected in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_grid_that_is_not_toml_and_a_workspace_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("this is = = not")
    (tmp_path / "file").write_text("")
    for arguments, workspace, expected in (
        (["run", "--grid", str(tmp_path / "bad.toml")], tmp_path / "w", "is not TOML"),
        (["ls"], tmp_path / "file", "is not a folder"),
        (["run", "--grid", "quickstart"], Path("/proc/nowhere"), "cannot be written"),
    ):
        result = optsweep(*arguments, workspace=workspace, check=False)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1 and expected in result.stderr
    assert not (tmp_path / "w").exists()


def test_the_settings_file_is_checked(tmp_path: Path) -> None:
    for text, expected in (
        ("slot = 2", 'did you mean "slots"?'),
        ("slots = 0", "whole number from 1"),
        ("x = = 1", "not TOML"),
    ):
        (tmp_path / "optsweep.toml").write_text(text)
        result = optsweep("ls", workspace=tmp_path, check=False)
        assert result.returncode == 2 and expected in result.stderr and result.stderr.count("\n") == 1


def test_the_command_line_leaves_the_heavy_libraries_alone() -> None:
    code = (
        "import sys; import optsweep_tui.cli.root\n"
        "heavy = {'textual', 'duckdb', 'torch', 'jax', 'pandas', 'scipy', 'numpy', 'plotext'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_verb_has_help_with_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    from optsweep_tui.cli import root

    assert root.run_command(["--help"]) == 0
    listing = capfd.readouterr().out
    for verb in root.VERBS:
        first = (root.function_of(verb).__doc__ or "").strip().split()[0]
        assert re.search(rf"^  {verb} +{first}", listing, re.MULTILINE), verb
        assert root.run_command([verb, "--help"]) == 0
        text = capfd.readouterr().out
        assert "Example" in text, verb
        assert "--json" in text, verb


def test_version_is_the_packages_own() -> None:
    import optsweep_tui

    assert _plain("--version").stdout == f"optsweep {optsweep_tui.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "step"),
    [
        (["collect"], "run optsweep collect again"),
        (["collect", "--rebuild"], "run optsweep collect again"),
        (["sql", "select 1"], "Run the command again"),
        (["doctor"], "Run the command again"),
        (["resume"], "optsweep resume takes up whatever was launched"),
    ],
    ids=["collect", "rebuild", "sql", "doctor", "resume"],
)
def test_ctrl_c_names_the_next_step_of_the_verb_that_it_ended(
    arguments: list[str],
    step: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("collect", "sql", "doctor", "unfinished"):
        monkeypatch.setattr(flow, name, stopped)
    assert run_command([*arguments, "--workspace", str(tmp_path)]) == 130
    told = capsys.readouterr().err
    assert step in told and told.startswith("error: interrupted. ") and told.count("\n") == 1
    assert ("resume" in told) == (arguments == ["resume"])
