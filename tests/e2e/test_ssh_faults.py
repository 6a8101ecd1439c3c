"""A sweep over two hosts behind real sshd under random faults: every run ends once, whole, and nothing is left behind.

OPTSWEEP_SSH_FAULTS=60 OPTSWEEP_SSH_RUNS=40 makes it a campaign (`make faults`); the test suite runs a short one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.e2e import remote
from tests.e2e.campaign import Campaign
from tests.sshd import lab

FAULTS = int(os.environ.get("OPTSWEEP_SSH_FAULTS", "15"))
RUNS = int(os.environ.get("OPTSWEEP_SSH_RUNS", "14"))
RATIO = os.environ.get("OPTSWEEP_SSH_RATIO", "0.03")
SEED = int(os.environ.get("OPTSWEEP_SSH_SEED", "20261127"))

pytestmark = [pytest.mark.slow, pytest.mark.system("sshd")]


@pytest.mark.timeout(4200)
def test_a_sweep_over_two_hosts_survives_random_faults_and_ends_with_one_row_per_run(tmp_path: Path) -> None:
    started = time.monotonic()
    with lab(tmp_path, "a", "b") as made:
        workspace = made.workspace("work", settings="checkpoint_seconds = 0.2\n")
        overlaps = remote.Overlaps([box.runs for box in made.boxes.values()])
        grid = remote.grid(tmp_path, RUNS, RATIO)
        campaign = Campaign(made, workspace, grid, runs=RUNS, hosts="a,b", seed=SEED)
        overlaps.start()
        try:
            limit = time.monotonic() + 120 + 12 * FAULTS
            while not any(box.processes("optsweep_engines.run") for box in made.boxes.values()):
                assert time.monotonic() < limit
                time.sleep(0.05)
            campaign.strike(FAULTS, limit)
            campaign.end()
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
