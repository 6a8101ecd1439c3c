"""`optsweep import` at the command line: a clean folder, one command, and the published figures answer questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.workbench import optsweep


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    document = json.loads(optsweep("import", "reference", "--json", workspace=folder).stdout)
    assert document["studies"] == {"reference": 1883, "speedrun-2024-10": 4}
    assert document["states"] == {"done": 1601, "diverged": 182, "missing": 99, "nan": 5}
    assert document["skipped"] == [] and document["new"] == 1887
    return folder


def test_a_clean_folder_answers_after_one_command(work: Path) -> None:
    table = json.loads(optsweep("table", "--study", "reference", "--json", workspace=work).stdout)
    assert len(table) == 150
    assert {row["engine"] for row in table} == {None}
    query = "select count(*) as n from v_best where study = 'reference'"
    assert json.loads(optsweep("sql", query, "--json", workspace=work).stdout) == [{"n": 150}]
    assert json.loads(optsweep("table", "--json", workspace=work).stdout) == table, (
        "the study that is asked about unasked"
    )


def test_ls_and_show_speak_of_imported_runs(work: Path) -> None:
    rows = json.loads(optsweep("ls", "--study", "speedrun-2024-10", "--json", workspace=work).stdout)
    assert [row["optimizer"] for row in rows] == ["adam", "muon", "shampoo", "soap"]
    assert all(row["engine"] is None and row["seed"] is None for row in rows)
    missing = json.loads(optsweep("ls", "--state", "nan,missing", "--json", workspace=work).stdout)
    assert len(missing) == 104
    text = optsweep("show", missing[0]["run_id"], workspace=work).stdout
    assert "imported   reference: " in text and "arXiv 2509.02046" in text


def test_retry_of_an_imported_run_is_one_clear_line(work: Path) -> None:
    run = json.loads(optsweep("ls", "--study", "speedrun-2024-10", "--json", workspace=work).stdout)[0]["run_id"]
    result = optsweep("retry", run, workspace=work, check=False)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1 and "was imported" in result.stderr
    assert json.loads(optsweep("resume", "--json", workspace=work).stdout) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "refrence"], 'did you mean "reference"'),
        (["import", "reference", "/somewhere"], "takes no path"),
        (["import", "reference", "--study", "x"], "takes no path"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(arguments: list[str], said: str, tmp_path: Path) -> None:
    result = optsweep(*arguments, workspace=tmp_path, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and said in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_format_they_are_listed(tmp_path: Path) -> None:
    formats = json.loads(optsweep("import", "--json", workspace=tmp_path).stdout)
    assert "reference" in [entry["name"] for entry in formats] and all(entry["doc"] for entry in formats)
