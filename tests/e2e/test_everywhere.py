"""One sweep over two hosts behind sshd and a Slurm of one node, killed and resumed at will: one row per run.

OPTSWEEP_EVERYWHERE_FAULTS=300 makes it a campaign (`make faults`).
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from optsweep_tui import rundir
from tests import smalldisk
from tests.e2e import remote, workbench
from tests.e2e.campaign import Campaign
from tests.e2e.workbench import again_and_again
from tests.slurm_node import SlurmNode
from tests.smalldisk import SmallDisk
from tests.sshd import Box, lab

FAULTS = int(os.environ.get("OPTSWEEP_EVERYWHERE_FAULTS", "9"))
RUNS = 15 if FAULTS <= 9 else 60 + FAULTS
RATIO = "0.03" if FAULTS <= 9 else "0.1"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.system("sshd"),
    pytest.mark.system("slurmctld"),
    pytest.mark.system("munged"),
    pytest.mark.timeout(3000),
]


class OnSlurmToo(Campaign):
    """The faults of ssh, and those of a cluster."""

    node: SlurmNode
    disk: SmallDisk

    def with_cluster(self, node: SlurmNode, disk: SmallDisk | None) -> OnSlurmToo:
        """Args:
        disk: that one of the hosts keeps its files on; None where none could be mounted.
        """
        self.node = node
        faults: dict[str, Callable[[Box], bool]] = {
            "requeue": self.requeued,
            "slurmctld": lambda box: self.daemon_dies("slurmctld"),
            "slurmd": lambda box: self.daemon_dies("slurmd"),
            "task": self.task_dies,
        }
        if disk is not None:
            self.disk = disk
            faults["disk"] = self.disk_fills
        self.faults |= faults
        return self

    def tasks(self) -> list[str]:
        """Those of Slurm that train now."""
        found = []
        for run_id in workbench.attempts_in_training(self.workspace):
            claim = rundir.attempts(self.workspace / "runs" / run_id)[-1][1] / "claim"
            if claim.exists():
                found.append(str(json.loads(claim.read_text()).get("job") or ""))
        return sorted(filter(None, found))

    def requeued(self, _box: Box) -> bool:
        tasks = self.tasks()
        if tasks:
            self.node.run("scontrol", "requeue", self.chance.choice(tasks), check=False, timeout=120)
        return bool(tasks)

    def daemon_dies(self, name: str) -> bool:
        self.node.stop(name, signal.SIGKILL)
        time.sleep(self.chance.uniform(0.2, 1.0))
        self.node.start(name)
        return True

    def disk_fills(self, _box: Box) -> bool:
        """For a moment nothing can be written on one of the hosts: no checkpoint, no metric line, no claim."""
        self.disk.fill()
        time.sleep(self.chance.uniform(0.2, 1.5))
        self.disk.free()
        return True

    def task_dies(self, _box: Box) -> bool:
        pids = workbench.processes(self.workspace, self.chance.choice(["shim_batch", "optsweep_engines.run"]))
        for pid in pids[:1]:
            workbench.kill(pid)
        return bool(pids)


def places(workspace: Path) -> set[str]:
    """Hosts that ended a run."""
    found = set()
    for path in workspace.glob("runs/*/a*/record.json"):
        found.add(str(rundir.host_of(path.parent)))
    return found


def test_a_sweep_over_two_ssh_hosts_and_slurm_killed_and_resumed_ends_with_one_row_per_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    with (
        smalldisk.mounted(tmp_path / "b" / "home", "96m") as disk,
        lab(tmp_path, "a", "b") as made,
        SlurmNode(cpus=2, kill_wait=4, max_array=101) as node,
    ):
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, node.environment[name])
        workspace = made.workspace("work", settings="checkpoint_seconds = 0.2\n")
        with (workspace / "hosts.toml").open("a") as file:
            file.write('[hosts.cluster]\nbackend = "slurm"\npartitions = ["main"]\nslots = 2\n')
        overlaps = remote.Overlaps([box.runs for box in made.boxes.values()] + [workspace / "runs"])
        grid = remote.grid(tmp_path, RUNS, RATIO)
        campaign = OnSlurmToo(
            made, workspace, grid, runs=RUNS, hosts="a,b,cluster", seed=random.Random(7).getrandbits(32)
        )
        campaign.with_cluster(node, disk)
        overlaps.start()
        try:
            limit = time.monotonic() + 180 + 15 * FAULTS
            while not (campaign.tasks() and all(box.processes("optsweep_engines.run") for box in made.boxes.values())):
                assert time.monotonic() < limit, "not every host trains"
                time.sleep(0.05)
            with again_and_again(node.mend, 2.0):  # as an administrator would, also while the last one resumes
                campaign.strike(FAULTS, limit)
                campaign.end()
        finally:
            found = overlaps.end()
            campaign.controller.kill()
            campaign.controller.wait()
        assert found == [], "two processes trained one run at a time"
        remote.require_whole(workspace, RUNS)
        remote.require_tidy(made, workspace)
        assert places(workspace) == {"a", "b", "cluster"}
        print(f"\n{sum(campaign.hit.values())} faults {dict(sorted(campaign.hit.items()))}, {RUNS} runs, "
              f"{overlaps.looks} looks, {time.monotonic() - started:.0f} s")  # fmt: skip
        assert sum(campaign.hit.values()) >= FAULTS, "the sweep was over before the last fault: it is too short"
