"""States kept on a host behind a real sshd, among a kill -9 and a cut: known here, branched off there, to the same bits.

OPTSWEEP_FAULTS, as `make faults` sets it, adds the whole run to compare with, and what is asked for again after `gc --states`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import kept
from tests.e2e import workbench
from tests.e2e.workbench import optsweep
from tests.sshd import Lab, lab

pytestmark = [pytest.mark.slow, pytest.mark.system("sshd"), pytest.mark.timeout(900)]

CELL = (
    *("-o", "adamw", "-m", "bench-micro", "--set", "batch_size=4", "--set", "seq_len=32"),
    *("--set", "validation_tokens=2048", "--set", "schedule=wsd", "--set", "warmup=5"),
)
KEPT = list(range(5, 46))
LONG = int(os.environ.get("OPTSWEEP_FAULTS", "0")) > 0


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path / "lab", "a", "b") as boxes:
        yield boxes


def refused(workspace: Path, *arguments: str) -> str:
    before = sorted(path.name for path in (workspace / "runs").iterdir())
    result = optsweep(*arguments, workspace=workspace, check=False)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr
    assert sorted(path.name for path in (workspace / "runs").iterdir()) == before
    return result.stderr


def record(workspace: Path, run_id: str) -> dict[str, Any]:
    return workbench.records(workspace)[run_id]


def test_a_trunk_on_a_host_keeps_states_among_a_kill_and_a_cut_and_branches_follow_it_there(made: Lab) -> None:
    workspace, box = made.workspace("work", settings="checkpoint_seconds = 0.5\n"), made.boxes["a"]
    steps = ",".join(map(str, KEPT))
    controller = workbench.start(
        "run", *CELL, "-c", "0.01", "--keep", steps, "--host", "a", workspace=workspace
    )  # a branch of ratio 0.0025 begins at step 33
    try:
        limit = time.monotonic() + 120
        while len(list(box.runs.glob("*/kept/step-*"))) < 4 and time.monotonic() < limit:
            time.sleep(0.005)
        for pid in box.processes("optsweep_engines.run"):
            workbench.kill(pid)
        box.cut()
        assert controller.wait(timeout=300) == 0
    finally:
        controller.kill()
        controller.wait()
    (run,) = (workspace / "runs").iterdir()
    trunk = run.name
    assert record(workspace, trunk)["status"] == "done"
    assert len(list(run.glob("a*"))) == 2, "the kill hit it: the test proves nothing without"
    assert kept.steps(box.runs / trunk) == KEPT and not (run / "kept").exists()
    assert all(kept.find(box.runs, trunk, step).step == step for step in KEPT), "every one is whole"
    shown = optsweep("show", trunk, workspace=workspace).stdout
    assert "33 on a" in shown and "not kept yet" not in shown

    branch = ("run", "--from-run", trunk[:8], "-c", "0.0025")
    assert "which lies on a and is not sent to this machine. add --host a" in refused(workspace, *branch)
    assert "is not sent to b" in refused(workspace, *branch, "--host", "a,b")
    assert f"optsweep retry {trunk[:8]} --keep 66 makes it" in refused(
        workspace, "run", "--from-run", trunk[:8], "-c", "0.005", "--host", "a"
    )
    optsweep(*branch, "--host", "a", workspace=workspace)
    rows = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
    ((host, run_id),) = ((row["host"], row["run_id"]) for row in rows if row["steps"] == 41)
    found = record(workspace, run_id)
    assert (host, found["started_from_step"], found["status"]) == ("a", 33, "done")
    if LONG:
        optsweep("run", *CELL, "-c", "0.0025", workspace=workspace)
        (whole,) = (each for name, each in workbench.records(workspace).items() if name not in (trunk, run_id))
        assert found["parameters_sha256"] == whole["parameters_sha256"], "the whole run was trained here"
        assert found["val_loss"] == whole["val_loss"]

    again = optsweep("retry", trunk[:8], "--keep", "33", workspace=workspace)
    assert "is done and keeps all that was asked for" in again.stderr
    rows = json.loads(optsweep("gc", "--states", "--json", workspace=workspace).stdout)
    removed = {row["what"]: row["count"] for row in rows}
    assert removed["kept states on host a"] == len(KEPT) and kept.steps(box.runs / trunk) == []
    assert "keeps      states" not in optsweep("show", trunk, workspace=workspace).stdout
    assert "makes it" in refused(workspace, *branch, "--set", "validation_interval=20", "--host", "a")
    if LONG:
        before = record(workspace, trunk)["parameters_sha256"]
        optsweep("retry", trunk[:8], "--keep", "33", workspace=workspace)
        assert record(workspace, trunk)["parameters_sha256"] == before
        assert kept.steps(box.runs / trunk) == [33]
        assert "33 on a" in optsweep("show", trunk, workspace=workspace).stdout
