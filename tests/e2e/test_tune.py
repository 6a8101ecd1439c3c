"""A real cell tuned on CPU: it improves, goes beyond a list that is too narrow, ends with seeds; kill -9 changes nothing.

OPTSWEEP_TUNE_FAULTS=20 makes the kills a campaign; the test suite runs a few.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import workbench
from tests.e2e.test_kill import wait_for_training
from tests.e2e.workbench import optsweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

FAULTS = int(os.environ.get("OPTSWEEP_TUNE_FAULTS", "2"))
VICTIMS = ("everything", "controller", "engine", "shim")
GRID = """
name = "narrow"
dataset = "embedded"
[defaults]
batch_size = 4
seq_len = 32
schedule = "linear"
validation_tokens = 2048
[[cells]]
optimizer = ["adamw"]
model = ["bench-micro"]
chinchilla = [{ratio}]
[optimizer.adamw]
set = {{ lr = 0.001 }}
sweep = {{ lr = [0.001, 0.002] }}
"""
STUDY = "tune-narrow-adamw-bench-micro"


def command(folder: Path, ratio: str) -> list[str]:
    path = folder / "narrow.toml"
    path.write_text(GRID.format(ratio=ratio))
    return ["tune", "--grid", str(path), "--threshold", "0.02", "--block", "none", "--fresh-seeds", "2"]


def account(workspace: Path, arguments: list[str]) -> dict[str, Any]:
    """What the tuning says at its end, without what a clock decides."""
    # One worker at a time: starting PyTorch costs more than these runs do.
    workspace.mkdir(exist_ok=True)
    (workspace / "optsweep.toml").write_text("slots = 1\ncheckpoint_seconds = 0.3\npoll_seconds = 0.1\n")
    data: dict[str, Any] = json.loads(optsweep(*arguments, "--json", workspace=workspace, timeout=900).stdout)
    for row in data["runs"]:
        row.pop("seconds_estimate")
    return data


def records(workspace: Path) -> int:
    return len(list(workspace.glob("runs/*/a*/record.json")))


def disturbed(workspace: Path, arguments: list[str], faults: int, chance: random.Random) -> int:
    """Run a tuning and kill parts of it at random moments, starting the same command again whenever it is gone.

    Between two kills up to two runs end: a run that dies five times in a row without a step gained is given up. Returns
    the number of kills, fewer than asked for where the tuning was over before.
    """
    controller, kills, started = workbench.start(*arguments, workspace=workspace), 0, 0
    while kills < faults:
        while records(workspace) < started or not workbench.attempts_in_training(workspace):
            if controller.poll() is not None:
                return kills
            time.sleep(0.05)
        time.sleep(chance.uniform(0.0, 1.0))
        victim = VICTIMS[kills % len(VICTIMS)]
        if victim in ("controller", "everything"):
            controller.kill()
            controller.wait()
        for module in {"engine": ["run"], "shim": ["shim"], "everything": ["shim", "run"]}.get(victim, []):
            for pid in workbench.processes(workspace, f"optsweep_engines.{module}"):
                workbench.kill(pid)
        kills += 1
        started = records(workspace) + chance.randrange(3) if kills % 3 else records(workspace) + 1
        if controller.poll() is not None:
            time.sleep(chance.uniform(0.0, 1.5))  # workers go on without it, and end without anybody who looks
            controller = workbench.start(*arguments, workspace=workspace)
    controller.kill()
    controller.wait()
    return kills


def test_a_tuning_improves_extends_seeds_and_is_the_same_after_any_kill_9(tmp_path: Path) -> None:
    calm = tmp_path / "calm"
    arguments = command(tmp_path, "0.01")
    expected = account(calm, arguments)
    best = expected["incumbent"]
    assert best["state"] == "ended" and best["resolved"] is True and best["improvement"] > 0.1
    assert best["loss"] < best["start_loss"] and best["n"] == 2
    kinds = [step["kind"] for step in expected["history"]]
    assert kinds[0] == "start" and kinds.count("extend") >= 2 and kinds[-1] == "seeds"
    assert best["hyperparameters"]["lr"] > 0.002 and best["edges"] == {}, "beyond the list that was given"

    before, kills, again, chance = workbench.records(calm), 0, 0, random.Random(20260101)
    for number in range(1 + FAULTS // 4):
        wild = tmp_path / f"wild{number}"
        wild.mkdir()
        (wild / "optsweep.toml").write_text((calm / "optsweep.toml").read_text())
        try:
            done = disturbed(wild, arguments, min(6, FAULTS - kills), chance)
            found = account(wild, arguments)
        finally:
            workbench.stop_everything(wild)
        kills += done
        assert found == expected
        after = workbench.records(wild)
        assert {run: record["parameters_sha256"] for run, record in after.items()} == {
            run: record["parameters_sha256"] for run, record in before.items()
        }, "the same runs, and no other was planted"
        again += sum(record["attempt"] for record in after.values()) - len(after)
        if kills >= FAULTS:
            break
    assert kills > 0 and (again > 0 or FAULTS < 4), "no kill hit a run"
    (cell,) = json.loads(optsweep("table", "--study", f"{STUDY}-0.01", "--json", workspace=wild).stdout)
    assert cell["loss"] == pytest.approx(best["loss"], abs=1e-12) and cell["n"] == 2 and cell["edges"] == []


def test_ctrl_c_leaves_the_runs_and_the_same_command_goes_on(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    arguments = [*command(tmp_path, "0.006"), "--max-extensions", "0"]
    controller = workbench.start(*arguments, workspace=workspace)
    try:
        assert wait_for_training(workspace)
        controller.send_signal(signal.SIGINT)
        assert controller.wait(timeout=60) == 130
        resumed = account(workspace, ["tune", "--resume"])
    finally:
        workbench.stop_everything(workspace)
    assert resumed["incumbent"]["state"] == "ended" and resumed["study"] == f"{STUDY}-0.006"
    assert {record["attempt"] for record in workbench.records(workspace).values()} == {1}, "nothing ran twice"
    other = optsweep(*arguments[:-1], "1", workspace=workspace, check=False)
    assert other.returncode == 2 and "max_extensions was 0, now 1" in other.stderr and other.stderr.count("\n") == 1
