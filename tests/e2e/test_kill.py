"""kill -9 at random moments of a real sweep: resume finishes it, nothing is lost, nothing runs twice.

OPTSWEEP_FAULTS=20 makes it the whole campaign (`make faults`); the test suite runs a short one.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.e2e import workbench
from tests.e2e.workbench import optsweep

FAULTS = int(os.environ.get("OPTSWEEP_FAULTS", "3"))
RATIOS = "0.05, 0.1"
VICTIMS = ("engine", "controller", "shim")
SEEDS = 1 + FAULTS // 3


def wait_for_training(workspace: Path, seconds: float = 90.0) -> bool:
    """True once some engine has a metrics file open; False when every planned run has its record before that."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if workbench.attempts_in_training(workspace):
            return True
        time.sleep(0.05)
    return False


def steps_in_store(workspace: Path) -> dict[tuple[str, int, str], float | None]:
    query = "select run_id, step, key, value from v_metric where key in ('train_loss', 'val_loss', 'lr')"
    rows = json.loads(optsweep("sql", query, "--json", workspace=workspace).stdout)
    found: dict[tuple[str, int, str], float | None] = {}
    for row in rows:
        key = (row["run_id"], row["step"], row["key"])
        assert key not in found, f"the store holds {key} twice"
        found[key] = row["value"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_sweep_survives_kill_9_of_controller_shim_and_engine(tmp_path: Path) -> None:
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    grid = workbench.grid_file(tmp_path, RATIOS, SEEDS)
    optsweep("run", "--grid", str(grid), workspace=calm, timeout=600)
    expected = workbench.records(calm)
    assert len(expected) == 4 * SEEDS and all(record["status"] == "done" for record in expected.values())

    wild.mkdir()
    (wild / "optsweep.toml").write_text("checkpoint_seconds = 0.3\npoll_seconds = 0.1\n")
    overlaps: list[dict[str, set[str]]] = []
    over = threading.Event()

    def look_for_overlaps() -> None:
        while not over.wait(0.01):
            doubled = {run: names for run, names in workbench.attempts_in_training(wild).items() if len(names) > 1}
            if doubled:
                overlaps.append(doubled)

    watcher = threading.Thread(target=look_for_overlaps)
    watcher.start()
    chance = random.Random(20240229)
    try:
        controller = workbench.start("run", "--grid", str(grid), workspace=wild)
        for number in range(FAULTS):
            victim = VICTIMS[number % len(VICTIMS)]
            training = wait_for_training(wild)
            assert training, "the sweep was over before the last kill: it is too short for so many"
            time.sleep(chance.uniform(0.0, 1.5))
            if victim == "controller":
                controller.kill()
                controller.wait()
            else:
                module = {"shim": "optsweep_engines.shim", "engine": "optsweep_engines.run"}[victim]
                for pid in workbench.processes(wild, module)[:1]:
                    workbench.kill(pid)
            if controller.poll() is not None:
                time.sleep(chance.uniform(0.0, 1.0))  # workers go on without a controller
                planted = any((wild / "studies").glob("tiny.*"))  # from the first byte on, resume knows of the sweep
                again = ["resume"] if planted else ["run", "--grid", str(grid)]
                controller = workbench.start(*again, workspace=wild)
        controller.kill()
        controller.wait()
        optsweep("resume", workspace=wild, timeout=600)
    finally:
        over.set()
        watcher.join()
        workbench.stop_everything(wild)

    assert overlaps == [], "two attempts of a run were alive at once"
    found = workbench.records(wild)
    assert {run: record.get("status") for run, record in found.items()} == dict.fromkeys(expected, "done")
    assert {run: record["parameters_sha256"] for run, record in found.items()} == {
        run: record["parameters_sha256"] for run, record in expected.items()
    }
    assert {run: record["val_loss"] for run, record in found.items()} == {
        run: record["val_loss"] for run, record in expected.items()
    }
    assert sum(record["attempt"] for record in found.values()) > len(found), (
        "no kill hit a run: the test proves nothing"
    )
    optsweep("collect", workspace=wild)
    assert steps_in_store(wild) == steps_in_store(calm)
    before = optsweep("table", "--json", workspace=wild).stdout
    (wild / "results.duckdb").unlink()
    optsweep("collect", "--rebuild", workspace=wild)
    assert json.loads(optsweep("table", "--json", workspace=wild).stdout) == json.loads(before)
    assert workbench.processes(wild, "optsweep_engines") == []
