"""A sweep over two hosts behind real sshd under random faults: every run ends once, whole, and nothing is left behind.

OPTSWEEP_SSH_FAULTS=300 OPTSWEEP_SSH_RUNS=60 makes it the whole campaign (`make faults`); the test suite runs a short one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from optsweep_tui.dispatch import hostsfile, links
from optsweep_tui.dispatch.channel import Channel
from optsweep_tui.settings import workspace as opened
from tests.e2e import remote, workbench
from tests.e2e.workbench import optsweep
from tests.sshd import Box, Lab, lab

FAULTS = int(os.environ.get("OPTSWEEP_SSH_FAULTS", "15"))
RUNS = int(os.environ.get("OPTSWEEP_SSH_RUNS", "14"))
RATIO = os.environ.get("OPTSWEEP_SSH_RATIO", "0.03")
SEED = int(os.environ.get("OPTSWEEP_SSH_SEED", "20261127"))

pytestmark = [pytest.mark.slow, pytest.mark.system("sshd")]


class Campaign:
    """One sweep, its controller, and the faults that may hit it."""

    def __init__(self, made: Lab, workspace: Path, grid: Path) -> None:
        self.lab, self.workspace, self.grid = made, workspace, grid
        self.chance = random.Random(SEED)
        self.hit: Counter[str] = Counter()
        self.controller = self.launch()
        self.faults: dict[str, Callable[[Box], bool]] = {
            "controller": self.controller_dies,
            "helper": lambda box: self.dies(box, "optsweep_engines.helper"),
            "shim": lambda box: self.dies(box, "optsweep_engines.shim"),
            "engine": lambda box: self.dies(box, "optsweep_engines.run"),
            "connection": lambda box: box.cut() > 0,
            "sshd": self.sshd_restarts,
            "stopped": self.helper_stops,
            "twice": self.submitted_twice,
        }

    def launch(self) -> subprocess.Popen[bytes]:
        planted = any((self.workspace / "studies").glob("counted.*")) and (self.workspace / "placing.jsonl").exists()
        again = ["resume"] if planted else ["run", "--grid", str(self.grid), "--host", "a,b"]
        return workbench.start(*again, workspace=self.workspace)

    def controller_dies(self, _box: Box) -> bool:
        self.controller.kill()
        self.controller.wait()
        time.sleep(self.chance.uniform(0.0, 0.5))
        self.controller = self.launch()
        return True

    def dies(self, box: Box, module: str) -> bool:
        pids = box.processes(module)
        for pid in pids[:1]:
            workbench.kill(pid)
        return bool(pids)

    def helper_stops(self, box: Box) -> bool:
        """It hangs for a moment, then it goes on as if nothing had been."""
        pids = box.processes("optsweep_engines.helper")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 1.0))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return bool(pids)

    def sshd_restarts(self, box: Box) -> bool:
        box.stop()
        time.sleep(self.chance.uniform(0.0, 1.0))
        box.start()
        return True

    def submitted_twice(self, box: Box) -> bool:
        """Another helper is told to take all open attempts once more, and to start workers."""
        place = opened(self.workspace)
        try:
            channel = Channel(hostsfile.entry_of(place, box.name))
        except Exception:
            return False
        try:
            parcels = []
            for run_id, number in links.open_attempts(place, box.name):
                where = place.runs / run_id
                with contextlib.suppress(OSError, ValueError):
                    intent = json.loads((where / f"a{number}" / "intent.json").read_text())
                    spec = json.loads((where / "spec.json").read_text())
                    parcels.append(
                        {"run_id": run_id, "attempt": number, "intent": intent, "spec": spec, "enqueue": True}
                    )
            channel.call("put", {"parcels": parcels})
            channel.call("advance")
        except Exception:
            return False
        finally:
            channel.close()
        return True

    def go_on(self) -> None:
        if self.controller.poll() is not None and not self.over():
            self.controller = self.launch()

    def over(self) -> bool:
        planned = remote.specs(self.workspace)
        return len(planned) == RUNS and all(
            any((self.workspace / "runs" / run_id).glob("a*/record.json")) for run_id in planned
        )


@pytest.mark.timeout(4200)
def test_a_sweep_over_two_hosts_survives_random_faults_and_ends_with_one_row_per_run(tmp_path: Path) -> None:
    started = time.monotonic()
    with lab(tmp_path, "a", "b") as made:
        workspace = made.workspace("work", settings="checkpoint_seconds = 0.2\n")
        overlaps = remote.Overlaps(list(made.boxes.values()))
        campaign = Campaign(made, workspace, remote.grid(tmp_path, RUNS, RATIO))
        overlaps.start()
        try:
            names: list[str] = []
            limit = time.monotonic() + 120 + 12 * FAULTS
            while not any(box.processes("optsweep_engines.run") for box in made.boxes.values()):
                assert time.monotonic() < limit
                time.sleep(0.05)
            while sum(campaign.hit.values()) < FAULTS and time.monotonic() < limit and not campaign.over():
                time.sleep(campaign.chance.uniform(0.05, 0.8))
                if not names:  # every fault once, in any order, then anew
                    names = campaign.chance.sample(sorted(campaign.faults), len(campaign.faults))
                name = names.pop()
                box = campaign.chance.choice(list(made.boxes.values()))
                if campaign.faults[name](box):
                    campaign.hit[name] += 1
                campaign.go_on()
            campaign.controller.kill()
            campaign.controller.wait()
            optsweep("resume", workspace=workspace, timeout=900)
        finally:
            found = overlaps.end()
            campaign.controller.kill()
            campaign.controller.wait()
        assert found == [], "two processes trained one run at a time"
        remote.require_whole(workspace, RUNS)
        remote.require_tidy(made, workspace)
        attempts = sum(1 for _ in workspace.glob("runs/*/a*/exit.json"))
        begun = remote.starts(list(made.boxes.values()))
        events = [path.read_text() for box in made.boxes.values() for path in box.runs.glob("*/a*/events.jsonl")]
        assert all(text.count('"kind": "started"') == 1 for text in events), "an attempt was started twice"
        print(
            f"\n{sum(campaign.hit.values())} faults {dict(sorted(campaign.hit.items()))}, {RUNS} runs, {attempts} attempts, "
            f"{sum(begun.values())} starts, {overlaps.looks} looks, {time.monotonic() - started:.0f} s"
        )
        assert sum(campaign.hit.values()) >= FAULTS, (
            "the sweep was over before the last fault: it is too short for so many"
        )
