"""States that are kept while the disk is full, or while everything is killed: nothing half is taken for whole, bits stay.

OPTSWEEP_FAULTS=20 runs it (`make faults`); in the test suite tests/e2e/test_ssh_states.py kills one, and
tests/numerics/test_starts.py has writing, syncing and naming fail.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import kept
from tests.e2e import workbench
from tests.e2e.workbench import OPTSWEEP, optsweep

FAULTS = int(os.environ.get("OPTSWEEP_FAULTS", "0"))
VICTIMS = ("optsweep_engines.run", "ctrl-c", "optsweep_engines.shim")
CELL = (
    *("-o", "adamw", "-m", "bench-micro", "--set", "batch_size=4", "--set", "seq_len=32"),
    *("--set", "validation_tokens=2048", "--set", "schedule=wsd", "--set", "warmup=5"),
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FAULTS, reason="the campaign: OPTSWEEP_FAULTS=20")]
TRUNK = (*CELL, "-c", "0.01")
KEPT = list(range(4, min(160, 30 + 6 * FAULTS)))
"""Steps whose states are kept; a branch of ratio 0.0025 begins at 33."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, dict[str, Any]]]:
    """A workspace with an undisturbed trunk and the whole run of a quarter of its length, and their records by length."""
    workspace = tmp_path_factory.mktemp("calm")
    optsweep("run", *CELL, "-c", "0.0025,0.01", workspace=workspace)
    return workspace, {record["steps"]: record for record in workbench.records(workspace).values()}


def fill(path: Path, leave: int) -> None:
    """A file that takes all of a disk but so many bytes."""
    with open(path, "wb", buffering=0) as handle:
        try:
            while True:
                handle.write(b"x" * 4096)
        except OSError:
            pass
        handle.truncate(max(0, handle.tell() - leave))


def steps_kept(run: Path) -> list[int]:
    """Steps of the states that a run keeps, every one of them hashed and read."""
    steps = kept.steps(run)
    for step in steps:
        assert kept.find(run.parent, run.name, step).step == step
    return steps


def newest_record(run: Path) -> dict[str, Any]:
    newest = max(run.glob("a*"), key=lambda path: int(path.name[1:]))
    return dict(json.loads((newest / "record.json").read_text()))


def test_a_disk_that_is_full_keeps_no_half_state_and_branches_are_one_line(
    small_disk: Path, calm: tuple[Path, dict[int, dict[str, Any]]]
) -> None:
    before, expected = calm
    workspace = small_disk / "work"
    workspace.mkdir()
    (workspace / "data").symlink_to(before / "data")
    fill(small_disk / "filler", leave=1 << 20)  # a state has 1.7 MB
    result = optsweep("run", *TRUNK, "--keep", "33,66", workspace=workspace, check=False)
    assert result.returncode in (1, 2) and "Traceback" not in result.stderr
    (run,) = (workspace / "runs").iterdir()
    assert newest_record(run)["status"] == "failed" and "space" in newest_record(run)["error"].lower()
    assert list((run / "kept").iterdir()) == [], "what was half written is gone"
    (small_disk / "filler").unlink()
    optsweep("retry", "--failed", workspace=workspace)
    assert newest_record(run)["parameters_sha256"] == expected[166]["parameters_sha256"]
    assert steps_kept(run) == [33, 66]

    fill(small_disk / "filler", leave=0)
    branch = ("run", "--from-run", run.name[:8], "-c", "0.0025")
    result = optsweep(*branch, workspace=workspace, check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert "disk is full" in result.stderr
    assert [row["run_id"] for row in json.loads(optsweep("ls", "--json", workspace=workspace).stdout)] == [run.name]
    (small_disk / "filler").unlink()
    (planned,) = json.loads(optsweep(*branch, "--dry-run", "--json", workspace=workspace).stdout)["runs"]
    assert planned["trained_steps"] == 8 and steps_kept(run) == [33, 66]


def test_kills_and_ctrl_c_while_states_are_kept_leave_whole_ones_and_the_same_bits(
    tmp_path: Path, calm: tuple[Path, dict[int, dict[str, Any]]]
) -> None:
    before, expected = calm
    workspace = tmp_path / "work"
    workspace.mkdir()
    (workspace / "data").symlink_to(before / "data")
    (workspace / "optsweep.toml").write_text("poll_seconds = 0.1\n")
    chance, hit = random.Random(5), 0

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [*OPTSWEEP, *arguments, "--workspace", str(workspace)]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, **pipes)  # type: ignore[call-overload,no-any-return]

    controller = start("run", *TRUNK, "--keep", ",".join(map(str, KEPT)))
    try:
        for number in range(FAULTS):
            victim = VICTIMS[number % len(VICTIMS)]
            reached = len(list(workspace.glob("runs/*/kept/step-*")))
            limit = time.monotonic() + 90
            while len(list(workspace.glob("runs/*/kept/step-*"))) < reached + 2 and time.monotonic() < limit:
                time.sleep(0.005)
                if controller.poll() is not None:
                    break
            if controller.poll() is not None:
                break  # it was over before the last of many kills
            time.sleep(chance.uniform(0.0, 0.02))
            if victim == "ctrl-c":
                controller.send_signal(signal.SIGINT)
                _, said = controller.communicate(timeout=60)
                assert controller.returncode == 130 and "Traceback" not in said
                controller = start("resume")
            else:
                for pid in workbench.processes(workspace, victim)[:1]:
                    workbench.kill(pid)
                    hit += 1
        _, said = controller.communicate(timeout=200)
        assert "Traceback" not in said
        optsweep("resume", workspace=workspace, timeout=200)
    finally:
        workbench.stop_everything(workspace)
        controller.kill()
        controller.wait()
    (run,) = (workspace / "runs").iterdir()
    assert hit and len(list(run.glob("a*"))) > 1, "no kill hit the run: the test proves nothing"
    found = newest_record(run)
    assert (found["status"], found["parameters_sha256"]) == ("done", expected[166]["parameters_sha256"])
    assert steps_kept(run) == KEPT
    optsweep("gc", workspace=workspace)
    assert [path.name for path in (run / "kept").iterdir() if not path.name.startswith("step-")] == []
    optsweep("run", "--from-run", run.name[:8], "-c", "0.0025", workspace=workspace)
    (branch,) = (record for name, record in workbench.records(workspace).items() if name != run.name)
    assert branch["parameters_sha256"] == expected[41]["parameters_sha256"], "made of a state that was kept among kills"


def test_two_that_ask_at_once_both_get_their_states(
    tmp_path: Path, calm: tuple[Path, dict[int, dict[str, Any]]]
) -> None:
    before, expected = calm
    workspace = Path(shutil.copytree(before, tmp_path / "work"))
    run = workspace / "runs" / expected[166]["run_id"]
    askers = [workbench.start("retry", run.name, "--keep", step, workspace=workspace) for step in ("40", "80")]
    try:
        assert {asker.wait(timeout=200) for asker in askers} == {0}
        optsweep("resume", workspace=workspace, timeout=200)
        missing = kept.unmet(run)
        if missing:  # the second came when the first one's attempt was past its step
            optsweep("retry", run.name, workspace=workspace)
        assert steps_kept(run) == [40, 80]
        found = newest_record(run)
        assert (found["status"], found["parameters_sha256"]) == ("done", expected[166]["parameters_sha256"])
    finally:
        workbench.stop_everything(workspace)
