"""States that runs on a real Slurm keep: in the workspace on a login node, behind ssh on the cluster; branched off there."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from optsweep_engines import kept
from tests import sshd
from tests.e2e import workbench
from tests.e2e.workbench import optsweep
from tests.slurm_node import SlurmNode

pytestmark = [
    pytest.mark.slow, pytest.mark.system("slurmctld"), pytest.mark.system("munged"), pytest.mark.timeout(600)
]  # fmt: skip

CELL = (
    *("-o", "adamw", "-m", "bench-micro", "--set", "batch_size=4", "--set", "seq_len=32"),
    *("--set", "validation_tokens=2048", "--set", "schedule=wsd", "--set", "warmup=5"),
)
BRANCH_AT = 33
"""Where a branch of ratio 0.0025 leaves its trunk."""


@pytest.fixture
def node() -> Iterator[SlurmNode]:
    before = dict(os.environ)
    try:
        with SlurmNode(cpus=2) as running:
            os.environ.update(running.environment)
            yield running
    finally:
        os.environ.clear()
        os.environ.update(before)


def workspace_of(folder: Path, hosts: str) -> Path:
    workspace = folder / "work"
    workspace.mkdir()
    (workspace / "hosts.toml").write_text(f'[hosts.cluster]\nbackend = "slurm"\npartitions = ["main"]\n{hosts}')
    (workspace / "optsweep.toml").write_text("poll_seconds = 0.1\ncheckpoint_seconds = 0.05\n")
    return workspace


def hosts_by_hash(workspace: Path, but: str) -> dict[str, list[str]]:
    """Final parameter hash -> hosts of the branches that ended with it."""
    records = workbench.records(workspace)
    found: dict[str, list[str]] = {}
    for row in json.loads(optsweep("ls", "--json", workspace=workspace).stdout):
        if row["run_id"] != but:
            record = records[row["run_id"]]
            assert (record["status"], record["started_from_step"]) == ("done", BRANCH_AT), record
            found.setdefault(record["parameters_sha256"], []).append(row["host"])
    return found


def test_on_a_login_node_states_lie_in_the_workspace_and_branches_go_anywhere(node: SlurmNode, tmp_path: Path) -> None:
    workspace = workspace_of(tmp_path, "")
    optsweep("run", *CELL, "-c", "0.01", "--keep", f"20,{BRANCH_AT}", "--host", "cluster", workspace=workspace)
    (run,) = (workspace / "runs").iterdir()
    assert kept.steps(run) == [20, BRANCH_AT]
    assert f"states of steps 20, {BRANCH_AT}\n" in optsweep("show", run.name, workspace=workspace).stdout
    branch = ("run", "--from-run", run.name[:8], "-c", "0.0025")
    optsweep(*branch, "--host", "cluster", workspace=workspace)
    optsweep(*branch, "--set", "validation_interval=20", workspace=workspace)
    assert sorted(hosts_by_hash(workspace, run.name).values()) == [["cluster", "local"]], "one hash, on both"
    optsweep("retry", run.name[:8], "--keep", "10", workspace=workspace)
    assert kept.steps(run) == [10, 20, BRANCH_AT], "asked for later, it is made on the cluster"


def test_behind_ssh_states_stay_on_the_cluster_and_branches_follow_them(node: SlurmNode, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nSLURM_CONF={os.environ["SLURM_CONF"]}; export SLURM_CONF\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    tmp_path.chmod(0o755)
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(sshd.lab(tmp_path / "lab", "login"))
        workspace = workspace_of(tmp_path, f'ssh = "login"\npython = "{python}"\n')
        optsweep("run", *CELL, "-c", "0.01", "--keep", str(BRANCH_AT), "--host", "cluster", workspace=workspace)
        (run,) = (workspace / "runs").iterdir()
        assert kept.steps(run) == [], "it is not sent"
        assert kept.steps(lab.boxes["login"].runs / run.name) == [BRANCH_AT]
        assert f"{BRANCH_AT} on cluster" in optsweep("show", run.name, workspace=workspace).stdout
        branch = ("run", "--from-run", run.name[:8], "-c", "0.0025")
        refused = optsweep(*branch, workspace=workspace, check=False)
        assert refused.returncode == 2 and "add --host cluster" in refused.stderr
        optsweep(*branch, "--host", "cluster", workspace=workspace)
        assert list(hosts_by_hash(workspace, run.name).values()) == [["cluster"]]
        gc = ("gc", "--states", "--checkpoints", "--json")
        dry = optsweep(*gc, "--dry-run", workspace=workspace)
        told = {row["what"]: (row["count"], row["bytes"], row["removed"]) for row in json.loads(dry.stdout)}
        assert told["kept states on host cluster"] == (1, None, False) and "hosts were not asked" in dry.stderr
        removed = {row["what"]: row["count"] for row in json.loads(optsweep(*gc, workspace=workspace).stdout)}
        assert (
            removed["kept states on host cluster"] == 1 and removed["checkpoints of done runs on host cluster"] == 2
        ), removed
        assert kept.steps(lab.boxes["login"].runs / run.name) == []
