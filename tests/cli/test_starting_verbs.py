"""`run --keep`, `--from-run`, `--simulate-epochs`, `--validate`: a trunk and its branches as a user makes and compares them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import workbench
from tests.e2e.workbench import optsweep

SMALL = ("--set", "batch_size=4", "--set", "seq_len=32", "--set", "validation_tokens=2048")
CELL = ("-o", "adamw", "-m", "bench-micro", *SMALL)
WSD = ("--set", "schedule=wsd", "--set", "warmup=5")


def listed(workspace: Path) -> list[dict[str, Any]]:
    return list(json.loads(optsweep("ls", "--json", workspace=workspace).stdout))


def planned(workspace: Path, *arguments: str) -> dict[str, Any]:
    return dict(json.loads(optsweep("run", *arguments, "--dry-run", "--json", workspace=workspace).stdout))


def refused(workspace: Path, *arguments: str) -> str:
    """The one line; nothing may have been written."""
    before = sorted(path.name for path in (workspace / "runs").iterdir())
    result = optsweep(*arguments, workspace=workspace, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in (workspace / "runs").iterdir()) == before
    return result.stderr


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A workspace with a finished trunk of ratio 0.01 (166 steps) that keeps what a branch of 0.0025 begins with."""
    workspace = tmp_path_factory.mktemp("trunk")
    optsweep("run", *CELL, *WSD, "-c", "0.01", "--keep", "c0.0025", workspace=workspace)
    (line,) = listed(workspace)
    yield workspace, line["run_id"]
    workbench.stop_everything(workspace)


def test_branches_are_planned_at_the_cost_of_their_decay_and_end_as_whole_runs(trunk: tuple[Path, str]) -> None:
    workspace, run_id = trunk
    plan = planned(workspace, "--from-run", run_id[:8], "-c", "0.0025")
    (row,) = plan["runs"]
    assert row["start"]["run_id"] == run_id
    assert (row["start"]["step"], row["start"]["mode"], row["steps"], row["trained_steps"]) == (33, "branch", 41, 8)
    whole = planned(workspace, *CELL, *WSD, "-c", "0.0025")
    (scratch,) = whole["runs"]
    assert plan["totals"]["flops"] == pytest.approx(scratch["flops"] * 8 / 41)
    assert plan["totals"]["tokens"] == scratch["tokens"] - 33 * 128
    assert row["hyperparameters"] == scratch["hyperparameters"]
    optsweep("run", "--from-run", run_id[:8], "-c", "0.0025", workspace=workspace)
    rows = json.loads(optsweep("table", "--json", workspace=workspace).stdout)
    flags = {round(row["chinchilla"], 4): row["flags"] for row in rows}
    assert "BRANCH" in flags[0.0025] and "BRANCH" not in flags[0.01]
    optsweep("run", *CELL, *WSD, "-c", "0.0025", workspace=workspace)
    query = "select start_mode, start_step, trained_tokens, loss, parameters_sha256 from v_run where chinchilla < 0.005"
    found = json.loads(optsweep("sql", f"{query} order by 1", "--json", workspace=workspace).stdout)
    branch, straight = found
    assert branch["parameters_sha256"] == straight["parameters_sha256"]
    assert branch["loss"] == straight["loss"]
    assert (branch["start_mode"], branch["start_step"], branch["trained_tokens"]) == ("branch", 33, 8 * 128)
    assert (straight["start_mode"], straight["start_step"], straight["trained_tokens"]) == (None, None, 41 * 128)
    rows = json.loads(optsweep("table", "--json", workspace=workspace).stdout)
    flags = {round(row["chinchilla"], 4): row["flags"] for row in rows}
    assert "BRANCHES-OUT" in flags[0.0025] and "BRANCH" not in flags[0.0025]
    cells = "select branches, n_runs from v_cell where chinchilla < 0.005 order by 1"
    assert json.loads(optsweep("sql", cells, "--json", workspace=workspace).stdout) == [
        {"branches": False, "n_runs": 1},
        {"branches": True, "n_runs": 1},
    ]


def test_what_cannot_branch_off_is_one_line_and_writes_nothing(trunk: tuple[Path, str]) -> None:
    workspace, run_id = trunk
    run = run_id[:8]
    assert f"optsweep retry {run} --keep 66 makes it" in refused(workspace, "run", "--from-run", run, "-c", "0.005")
    assert "the trunk is steady until step 133 of 166" in refused(workspace, "run", "--from-run", run, "-c", "0.05")
    assert "are warmup" in refused(workspace, "run", "--from-run", run, "-c", "0.0003")
    assert "-c RATIO is missing" in refused(workspace, "run", "--from-run", run)
    assert "all of its trunk but its length" in refused(
        workspace, "run", "--from-run", run, "-c", "0.005", "--seeds", "1"
    )
    assert "has steps 1 to 166, not 167" in refused(workspace, "run", *CELL, *WSD, "-c", "0.01", "--keep", "167")
    assert "layers is 4 here and 2 in that run" in refused(
        workspace, "run", "--from-run", f"{run}@33", "-o", "adamw", "-m", "bench-tiny", "-c", "0.01"
    )
    assert "no run starts with" in refused(workspace, "run", "--from-run", "00000000", "-c", "0.005")


def test_a_damaged_state_is_refused_and_made_again(trunk: tuple[Path, str]) -> None:
    workspace, run_id = trunk
    (path,) = (workspace / "runs" / run_id / "kept").glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert "is damaged" in refused(workspace, "run", "--from-run", f"{run_id[:8]}@33", *CELL, "-c", "0.004")
    finally:
        path.write_bytes(whole)


def test_epochs_and_validation_sets_are_part_of_a_plan(trunk: tuple[Path, str]) -> None:
    workspace, _ = trunk
    plain, repeated, measured = (
        planned(workspace, *CELL, "-c", "0.005", *more)["runs"][0]
        for more in ((), ("--simulate-epochs", "4"), ("--validate", "seen=embedded:train", "--metric-set", "seen"))
    )
    assert len({row["run_id"] for row in (plain, repeated, measured)}) == 3
    assert (plain["simulate_epochs"], repeated["simulate_epochs"]) == (1, 4)
    assert plain["validation_set"] == "validation:2048"
    assert measured["validation_set"].startswith("seen=embedded:train@")
    assert "is not a whole number from 1" in refused(workspace, "run", *CELL, "-c", "0.005", "--simulate-epochs", "0")
    assert 'is not known; did you mean "train"?' in refused(
        workspace, "run", *CELL, "-c", "0.005", "--validate", "x=embedded:trian"
    )


def test_a_state_is_asked_for_later_once_and_gc_removes_it(trunk: tuple[Path, str]) -> None:
    workspace, run_id = trunk
    folder = workspace / "runs" / run_id

    def look() -> tuple[int, list[int], str]:
        """Attempts, steps kept, hash of the newest record."""
        attempts = sorted(folder.glob("a*"), key=lambda path: int(path.name[1:]))
        record = json.loads((attempts[-1] / "record.json").read_text())
        kept = sorted(int(path.name.split("-")[1]) for path in (folder / "kept").glob("step-*.safetensors"))
        return len(attempts), kept, record["parameters_sha256"]

    count, kept, sha256 = look()
    result = optsweep("retry", run_id[:8], "--keep", "33", workspace=workspace)
    assert "is done and keeps all that was asked for: it is not tried again" in result.stderr
    assert look() == (count, kept, sha256)
    optsweep("retry", run_id[:8], "--keep", "33,150", workspace=workspace)
    assert look() == (count + 1, sorted({*kept, 150}), sha256)
    record = json.loads((folder / f"a{count + 1}" / "record.json").read_text())
    assert record["resumed_from_step"] == max(kept), "it went back to the newest state before the one that is missing"
    (row,) = (
        row
        for row in json.loads(optsweep("gc", "--states", "--json", workspace=workspace).stdout)
        if row["what"].startswith("kept states")
    )
    assert (row["count"], row["removed"]) == (len(kept) + 1, True)
    assert look() == (count + 1, [], sha256) and not (folder / "keep.json").exists()
    assert f"optsweep retry {run_id[:8]} --keep 33 makes it" in refused(
        workspace, "run", "--from-run", run_id[:8], "-c", "0.0025", "--set", "validation_interval=20"
    )
