"""What the tests of remote hosts share: sweeps of the counting engine, what must be true at their end, overlaps as they go."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from tests.counting import counting_engine
from tests.e2e import workbench
from tests.e2e.workbench import optsweep
from tests.sshd import Box, Lab


def grid(folder: Path, runs: int, ratio: str = "0.02", first_seed: int = 0) -> Path:
    """A sweep of so many runs of the counting engine; ratio 0.02 are 332 steps."""
    return workbench.grid_file(
        folder, ratio, runs, first_seed=first_seed, name="counted", engine="counting", optimizers=["adamw"],
        file=f"counted-{first_seed}-{ratio}-{runs}",
    )  # fmt: skip


def specs(workspace: Path) -> dict[str, dict[str, Any]]:
    """run id -> spec of every run of a workspace."""
    return {path.parent.name: json.loads(path.read_text()) for path in workspace.glob("runs/*/spec.json")}


def expected(spec: dict[str, Any]) -> tuple[int, str, dict[int, float]]:
    """(steps, last state in hex, step -> loss) of a run, without any program under test."""
    steps = spec["tokens"] // (spec["batch_size"] * spec["seq_len"])
    interval = max(1, steps // 200)
    chain = list(itertools.islice(counting_engine.states(spec["seed"], float(spec["hyperparameters"]["lr"])), steps))
    losses = {
        step: counting_engine.loss_of(chain[step - 1])
        for step in range(1, steps + 1)
        if step % interval == 0 or step == steps
    }
    return steps, chain[-1].hex(), losses


class Overlaps(threading.Thread):
    """Looks again and again which attempts some process has open for metrics, in these runs folders: the kernel's account."""

    def __init__(self, folders: list[Path]) -> None:
        super().__init__(daemon=True)
        self._pattern = re.compile(
            "(?:" + "|".join(re.escape(str(folder)) for folder in folders) + r")/([0-9a-f]{32})/(a\d+)/metrics\.jsonl"
        )
        self._over = threading.Event()
        self.found: list[tuple[str, set[str]]] = []
        self.looks = 0

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.looks += 1
            held: dict[str, set[str]] = {}
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        for handle in os.scandir(f"/proc/{entry.name}/fd"):
                            with contextlib.suppress(OSError):
                                path = os.readlink(handle.path)
                                match = self._pattern.fullmatch(path)
                                if match and _writes(entry.name, handle.name):
                                    held.setdefault(match.group(1), set()).add(f"{path} {entry.name}")
            for run_id, names in held.items():  # a look takes a moment: both must still be there after it
                still = {name for name in names if _still(name)} if len(names) > 1 else set()
                self.found += [(run_id, still)] if len(still) > 1 else []

    def end(self) -> list[tuple[str, set[str]]]:
        self._over.set()
        self.join()
        return self.found


def _writes(pid: str, handle: str) -> bool:
    """Whether an engine has a file open for writing: the helper only reads it, a controller writes its copy of it."""
    if b"optsweep_engines.run" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        return False
    flags = Path(f"/proc/{pid}/fdinfo/{handle}").read_text().split("flags:")[1].split()[0]
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY


def _still(name: str) -> bool:
    path, _, pid = name.rpartition(" ")
    with contextlib.suppress(OSError):
        for handle in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(handle.path) == path:
                    return True
    return False


def starts(boxes: list[Box]) -> dict[str, int]:
    """run id -> how often an engine has begun to train it, over all boxes and attempts."""
    found: dict[str, int] = {}
    for box in boxes:
        for path in box.runs.glob("*/a*/events.jsonl"):
            count = sum(json.loads(line)["kind"] == "started" for line in path.read_text().splitlines())
            found[path.parents[1].name] = found.get(path.parents[1].name, 0) + count
    return found


def require_whole(workspace: Path, count: int) -> None:
    """Every run is done with the parameters of an undisturbed one, and the store holds each of its steps once."""
    planned = specs(workspace)
    assert len(planned) == count
    records = workbench.records(workspace)
    assert {run: record.get("status") for run, record in records.items()} == dict.fromkeys(planned, "done")
    optsweep("collect", workspace=workspace)
    rows = json.loads(optsweep("sql", "select run_id, step, value from v_metric where key = 'train_loss'", "--json",
                               workspace=workspace).stdout)  # fmt: skip
    stored: dict[str, dict[int, float]] = {}
    for row in rows:
        assert row["step"] not in stored.setdefault(row["run_id"], {}), "the store holds a step twice"
        stored[row["run_id"]][row["step"]] = row["value"]
    for run_id, spec in planned.items():
        steps, state, losses = expected(spec)
        assert records[run_id]["steps"] == steps and records[run_id]["parameters_sha256"] == state
        assert stored[run_id] == losses
    listed = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
    assert sorted(row["run_id"] for row in listed) == sorted(planned)


def require_tidy(lab: Lab, workspace: Path) -> None:
    """No process, no lock, no open attempt, no half file is left."""
    limit = time.monotonic() + 30
    left: list[str] = []
    while time.monotonic() < limit:
        left = [
            f"{box.name} {module} {pid}"
            for box in lab.boxes.values()
            for module in ("optsweep_engines.shim", "optsweep_engines.run", "optsweep_engines.helper")
            for pid in box.processes(module)
        ]
        if not left:
            break
        time.sleep(0.1)
    assert left == [], "processes are left"
    assert list(workspace.glob("queue/*/open/*")) == []
    for box in lab.boxes.values():
        assert [path for path in box.root.rglob("*") if path.name.endswith(".tmp")] == []
        for lock in [*box.root.glob("queue/slot-*.lock"), *workspace.glob("queue/*/pump.lock")]:
            assert _free(lock), f"{lock} is held"


def _free(path: Path) -> bool:
    import fcntl

    with open(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
