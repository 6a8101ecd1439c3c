"""A sweep over hosts behind real sshd, its controller, and the faults that may hit any of them."""

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

from optsweep_tui.dispatch import hostsfile, links
from optsweep_tui.dispatch.channel import Channel
from optsweep_tui.settings import workspace as opened
from tests.e2e import remote, workbench
from tests.e2e.workbench import optsweep
from tests.sshd import Box, Lab


class Campaign:
    """One sweep, its controller, and the faults that may hit it."""

    def __init__(self, made: Lab, workspace: Path, grid: Path, *, runs: int, hosts: str, seed: int) -> None:
        """Launch the sweep.

        Args:
            runs: of the grid.
            hosts: as of --host.
            seed: of the faults.
        """
        self.lab, self.workspace, self.grid = made, workspace, grid
        self.runs, self.hosts = runs, hosts
        self.chance = random.Random(seed)
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
        again = ["resume"] if planted else ["run", "--grid", str(self.grid), "--host", self.hosts]
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

    def strike(self, count: int, limit: float) -> None:
        """So many faults, every kind once in any order, then anew, until the sweep is over.

        Args:
            limit: time.monotonic() after which no further one begins.
        """
        names: list[str] = []
        while sum(self.hit.values()) < count and time.monotonic() < limit and not self.over():
            time.sleep(self.chance.uniform(0.05, 0.8))
            names = names or self.chance.sample(sorted(self.faults), len(self.faults))
            name = names.pop()
            if self.faults[name](self.chance.choice(list(self.lab.boxes.values()))):
                self.hit[name] += 1
            self.go_on()

    def end(self) -> None:
        """Kill the controller, and let another one bring the sweep to its end."""
        self.controller.kill()
        self.controller.wait()
        enough = 600 + 5 * self.runs
        optsweep("resume", workspace=self.workspace, timeout=enough, check=False)
        # A run that met a full disk twice is given up until somebody has made room and says so.
        optsweep("retry", "--failed", workspace=self.workspace, timeout=enough, check=False)

    def over(self) -> bool:
        planned = remote.specs(self.workspace)
        return len(planned) == self.runs and all(
            any((self.workspace / "runs" / run_id).glob("a*/record.json")) for run_id in planned
        )
