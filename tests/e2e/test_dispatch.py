"""Real workers on real runs: two controllers at once, a failing run, a shim that is asked to stop."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from optsweep_tui import flow, settings
from tests.e2e import workbench
from tests.e2e.workbench import optsweep

pytestmark = pytest.mark.slow


def test_two_controllers_at_once_start_nothing_twice(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    grid = str(workbench.grid_file(tmp_path, "0.02, 0.03"))
    first = workbench.start("run", "--grid", grid, workspace=workspace)
    second = workbench.start("run", "--grid", grid, workspace=workspace)
    assert first.wait(timeout=300) == second.wait(timeout=300) == 0
    rows = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
    assert {row["state"] for row in rows} == {"done"}
    assert {row["attempt"] for row in rows} == {1}
    limit = time.monotonic() + 10
    while workbench.processes(workspace, "optsweep_engines") and time.monotonic() < limit:
        time.sleep(0.1)
    assert workbench.processes(workspace, "optsweep_engines") == [], "workers leave when their queue is empty"


def test_a_run_that_fails_is_tried_twice_says_why_and_exits_1_while_the_rest_goes_on(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    grid = str(workbench.grid_file(tmp_path, "0.02"))
    place = settings.workspace(workspace)
    flow.launch(place, flow.plan(place, flow.Request(grid=grid, optimizers=("muon",)), prepare=True))
    (shards,) = (workspace / "data").iterdir()
    intact = (shards / "validation.bin").read_bytes()
    (shards / "validation.bin").write_bytes(b"")
    damaged = optsweep("run", "--grid", grid, workspace=workspace, check=False)
    assert damaged.returncode == 2 and damaged.stderr.count("\n") == 1 and "is damaged" in damaged.stderr
    result = optsweep("resume", workspace=workspace, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and "optsweep logs" in result.stderr
    rows = [
        row for row in json.loads(optsweep("ls", "--json", workspace=workspace).stdout) if row["optimizer"] == "muon"
    ]
    assert {(row["state"], row["attempt"]) for row in rows} == {("failed", 2)}
    assert all("validation" in row["error"] for row in rows)
    assert "Traceback" in optsweep("logs", rows[0]["run_id"], workspace=workspace).stdout, "the log has the whole story"
    (shards / "validation.bin").write_bytes(intact)
    optsweep("retry", "--failed", workspace=workspace)
    assert {row["state"] for row in json.loads(optsweep("ls", "--json", workspace=workspace).stdout)} == {"done"}


def test_a_shim_that_is_told_to_stop_leaves_a_checkpoint_and_the_run_resumes_from_it(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    (workspace / "optsweep.toml").write_text("slots = 1\ncheckpoint_seconds = 1000\n")
    arguments = ["run", "-o", "adamw", "-m", "bench-micro", "-c", "0.2", "--set", "seq_len=64", "--json"]
    controller = workbench.start(*arguments, workspace=workspace)
    try:
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            metrics = list(workspace.glob("runs/*/a1/metrics.jsonl"))
            if metrics and metrics[0].read_bytes().count(b"\n") > 3:
                break
            time.sleep(0.05)
        controller.kill()
        controller.wait()
        (shim,) = workbench.processes(workspace, "optsweep_engines.shim")
        os.kill(shim, signal.SIGTERM)
        while workbench.processes(workspace, "optsweep_engines") and time.monotonic() < limit:
            time.sleep(0.05)
        (run,) = (workspace / "runs").iterdir()
        assert json.loads((run / "a1" / "exit.json").read_text())["reason"] == "preempted"
        assert not (run / "a1" / "record.json").exists()
        optsweep("resume", workspace=workspace)
        record = json.loads((run / "a2" / "record.json").read_text())
        assert record["status"] == "done" and record["resumed_from_step"] > 0
    finally:
        workbench.stop_everything(workspace)
