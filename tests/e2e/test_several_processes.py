"""One run of the torch engine over two processes: the losses of one process, and what becomes of it when one of them dies."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optsweep_engines.certify import NoLog, Request
from optsweep_engines.spec import RunSpec
from optsweep_engines.torch_engine import TorchEngine
from optsweep_tui import rundir
from optsweep_tui.certificates.parity import CONTROLS, LATER
from tests.e2e import workbench
from tests.e2e.workbench import optsweep
from tests.sshd import lab

pytestmark = [pytest.mark.slow]

FOLLOWER = "optsweep_engines.torch_engine.worker"
SETTINGS = ["--set", "batch_size=8", "--set", "seq_len=32", "--set", "validation_tokens=2048"]
RUN = ["run", "-m", "bench-micro", *SETTINGS]


def place(folder: Path, name: str, *lines: str) -> Path:
    workspace = folder / name
    workspace.mkdir()
    (workspace / "optsweep.toml").write_text("\n".join(["slots = 1", "poll_seconds = 0.1", *lines]) + "\n")
    return workspace


def specs(workspace: Path) -> list[RunSpec]:
    return [RunSpec.from_dict(json.loads(path.read_text())) for path in sorted(workspace.glob("runs/*/spec.json"))]


def losses_of(workspace: Path, run_id: str) -> dict[int, float]:
    """step -> training loss; the later attempt of a step counts."""
    found: dict[int, float] = {}
    for path in sorted(workspace.glob(f"runs/{run_id}/a*/metrics.jsonl")):
        found |= {row["step"]: row["train_loss"] for row in map(json.loads, path.read_text().splitlines())}
    return found


def alone(workspace: Path, spec: RunSpec, *, ulps: int = 0) -> list[float]:
    """Losses of the same steps in this process, from parameters moved by so many units in the last place."""
    request: dict[str, Any] = {"engine": "torch", "spec": {}, "data_root": str(workspace / "data"), "device": "cpu"}
    trainer = TorchEngine().trainer(spec, NoLog(Request(**request, steps=0, answer="")))
    for _ in range(ulps):
        held = {name: value for name, value in trainer.arrays().items() if name.startswith("param/")}
        trainer.set_arrays({name: np.nextafter(value, np.float32(np.inf)) for name, value in held.items()})
    return [float(trainer.step(step)[0]) for step in range(spec.steps)]


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    workspace = place(tmp_path, "two", 'mesh = "data=2"')
    grid = tmp_path / "two.toml"
    grid.write_text(
        'dataset = "embedded"\n[defaults]\nbatch_size = 8\nseq_len = 32\nvalidation_tokens = 2048\n'
        '[[cells]]\noptimizer = ["adamw", "muon"]\nmodel = ["bench-micro"]\nchinchilla = [0.006]\n'
        "[optimizer.adamw]\nset = { lr = 0.001, accumulation = 2 }\n"
        "[optimizer.muon]\nset = { lr = 0.01 }\n"
    )
    try:
        optsweep("run", "--grid", str(grid), workspace=workspace)
        assert [spec.accumulation for spec in specs(workspace)].count(2) == 1 and len(specs(workspace)) == 2
        for spec in specs(workspace):
            found = losses_of(workspace, spec.run_id)
            assert list(found) == list(range(1, spec.steps + 1)) and spec.steps == 49
            one, control = alone(workspace, spec), alone(workspace, spec, ulps=1)
            drift = np.maximum.accumulate(np.abs(np.subtract(one, control)))
            difference = np.abs(np.subtract(one, list(found.values())))
            assert (difference <= np.maximum(LATER, CONTROLS * drift)).all(), (spec.optimizer, difference.max())
            [record] = [record for run, record in workbench.records(workspace).items() if run == spec.run_id]
            assert record["status"] == "done" and record["mesh"] == "data=2"
            assert record["val_loss"] == pytest.approx(min(one), abs=1.0)
        assert workbench.processes(workspace, FOLLOWER) == [], "no process is left"
        shown = optsweep("show", specs(workspace)[0].run_id, workspace=workspace).stdout
        assert "   mesh data=2\n" in shown
    finally:
        workbench.stop_everything(workspace)


@pytest.mark.parametrize(
    ("mesh", "ratio", "victims"),
    [("data=2", "0.04", (FOLLOWER, "optsweep_engines.run")), ("fsdp=2", "0.008", (FOLLOWER,))],
)
def test_a_run_over_two_processes_survives_the_death_of_either(
    mesh: str, ratio: str, victims: tuple[str, ...], tmp_path: Path
) -> None:
    undisturbed = place(tmp_path, "straight", f'mesh = "{mesh}"')
    arguments = [*RUN, "-o", "muon", "-c", ratio]  # its state is spread over the processes
    disturbed = place(tmp_path, "killed", f'mesh = "{mesh}"', "checkpoint_seconds = 0.2")
    try:
        optsweep(*arguments, workspace=undisturbed)
        controller = workbench.start(*arguments, workspace=disturbed)
        for number, victim in enumerate(victims, start=1):
            limit = time.monotonic() + 120
            while not list(disturbed.glob(f"runs/*/a{number}/ckpt/step-*")):
                assert time.monotonic() < limit and controller.poll() is None
                time.sleep(0.02)
            for pid in workbench.processes(disturbed, victim):
                workbench.kill(pid)
        assert controller.wait(timeout=180) == 0
        [before], [after] = (list(workbench.records(each).values()) for each in (undisturbed, disturbed))
        assert after["status"] == "done" and after["resumed_from_step"] > 0
        assert after["attempt"] == len(victims) + 1
        [first] = disturbed.glob("runs/*/a1")
        ending = json.loads((first / "exit.json").read_text())
        assert (ending["reason"], ending["signal"]) == ("died", 9), "as if a run of one process had been killed"
        told = [event for event in rundir.events(first) if event["kind"] == "process_killed"]
        assert [(event["process"], event["signal"]) for event in told] == [(1, 9)]
        assert after["parameters_sha256"] == before["parameters_sha256"]
        assert workbench.processes(disturbed, FOLLOWER) == [], "no process is left"
    finally:
        for workspace in (undisturbed, disturbed):
            workbench.stop_everything(workspace)


@pytest.mark.system("sshd")
def test_a_run_over_two_processes_on_a_host_behind_ssh_ends_at_the_bits_of_one_here(tmp_path: Path) -> None:
    """Though one of the processes dies on the way."""
    arguments = [*RUN, "-o", "adamw", "-c", "0.02"]
    here = place(tmp_path, "here", 'mesh = "data=2"')
    with lab(tmp_path, "box") as made:
        away = made.workspace("away", settings='mesh = "data=2"\ncheckpoint_seconds = 0.2\n')
        try:
            optsweep(*arguments, workspace=here)
            controller = workbench.start(*arguments, "--host", "box", workspace=away)
            limit = time.monotonic() + 120
            while not list(made.boxes["box"].runs.glob("*/a1/ckpt/step-*")):
                assert time.monotonic() < limit and controller.poll() is None
                time.sleep(0.02)
            [follower] = made.boxes["box"].processes(FOLLOWER)
            workbench.kill(follower)
            assert controller.wait(timeout=180) == 0
            [expected], [found] = (list(workbench.records(each).values()) for each in (here, away))
            assert found["status"] == "done" and found["attempt"] == 2 and found["resumed_from_step"] > 0
            assert found["parameters_sha256"] == expected["parameters_sha256"]
            assert made.boxes["box"].processes(FOLLOWER) == [], "no process is left"
        finally:
            workbench.stop_everything(here)


@pytest.mark.parametrize(
    ("mesh", "optimizer", "line"),
    [
        ("data=3", "adamw", 'mesh "data=3" does not divide the batch: 3 devices, 8 sequences in a micro-batch'),
        (
            "fsdp=2",
            "prodigy",
            "the rule of prodigy for embedding sums over all tensors before each update: it cannot be",
        ),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line_before_anything_is_written(
    mesh: str, optimizer: str, line: str, tmp_path: Path
) -> None:
    workspace = place(tmp_path, "bad", f'mesh = "{mesh}"')
    for dry in (["--dry-run"], []):
        result = optsweep(*RUN, "-o", optimizer, "-c", "0.005", *dry, workspace=workspace, check=False)
        assert result.returncode == 2 and result.stderr.count("\n") == 1
        assert line in result.stderr
    assert [path.name for path in workspace.iterdir()] == ["optsweep.toml"]
