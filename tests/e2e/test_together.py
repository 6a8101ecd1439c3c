"""One run over two machines behind ssh, two sshd with homes of their own: the losses of one process, and who dies when."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optsweep_engines.certify import NoLog, Request
from optsweep_engines.engine import load_engine
from optsweep_engines.spec import RunSpec
from optsweep_tui.certificates.parity import CONTROLS, LATER
from tests.e2e import workbench
from tests.e2e.workbench import optsweep
from tests.sshd import Lab, lab

pytestmark = [pytest.mark.slow, pytest.mark.system("sshd")]

RUN = ["run", "-m", "bench-micro", "--set", "batch_size=8", "--set", "seq_len=32", "--set", "validation_tokens=2048"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab"), "first", "second") as made:
        yield made


def free_ports(count: int = 6) -> str:
    """A range of ports that nobody listens on."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return f"{first}-{first + count - 1}"


def place(made: Lab, name: str, *lines: str, settings: str = "", patience: float = 60.0) -> Path:
    """A workspace whose one host is both boxes together."""
    where = made.folder / name
    where.mkdir()
    (where / "optsweep.toml").write_text(f"slots = 1\npoll_seconds = 0.1\n{settings}")
    secrets = where / "engine.env"
    secrets.write_text(f"OPTSWEEP_MEETING_SECONDS={patience}\nOMP_NUM_THREADS=1\n")
    secrets.chmod(0o600)
    entry = [
        "[hosts.pod]", 'ssh = "first"', 'workers = ["second"]', f'python = "{made.python}"', 'device = "cpu"',
        f'coordinator = "127.0.0.1:{free_ports()}"', f'env_file = "{secrets}"', *lines,
    ]  # fmt: skip
    (where / "hosts.toml").write_text("\n".join(entry) + "\n")
    return where


def specs(workspace: Path) -> list[RunSpec]:
    return [RunSpec.from_dict(json.loads(path.read_text())) for path in sorted(workspace.glob("runs/*/spec.json"))]


def losses_of(run_folder: Path) -> dict[int, float]:
    """step -> training loss; the later attempt of a step counts."""
    found: dict[int, float] = {}
    for path in sorted(run_folder.glob("a*/metrics.jsonl")):
        found |= {row["step"]: row["train_loss"] for row in map(json.loads, path.read_text().splitlines())}
    return found


def alone(workspace: Path, spec: RunSpec, *, ulps: int = 0) -> list[float]:
    """Losses of the same steps in this process, from parameters moved by so many units in the last place."""
    request: dict[str, Any] = {"engine": spec.engine, "spec": {}, "data_root": str(workspace / "data"), "device": "cpu"}
    trainer = load_engine(spec.engine).trainer(spec, NoLog(Request(**request, steps=0, answer="")))
    for _ in range(ulps):
        held = {name: value for name, value in trainer.arrays().items() if name.startswith("param/")}
        trainer.set_arrays({name: np.nextafter(value, np.float32(np.inf)) for name, value in held.items()})
    return [float(trainer.step(step)[0]) for step in range(spec.steps)]


def wait_for(what: Any, seconds: float = 120.0) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def require_nobody_left(made: Lab) -> None:
    """No process of ours is left on either machine."""
    for module in ("optsweep_engines.shim", "optsweep_engines.run", "torch_engine.worker"):
        wait_for(lambda: not [pid for box in made.boxes.values() for pid in box.processes(module)], 30)  # noqa: B023


@pytest.mark.parametrize("engine", ["jax", "torch"])
def test_two_machines_give_the_losses_of_one_process(made: Lab, engine: str) -> None:
    workspace = place(made, f"two-{engine}")
    optsweep(*RUN, "-o", "adamw", "-c", "0.006", "--engine", engine, "--host", "pod", workspace=workspace)
    [spec] = specs(workspace)
    found = losses_of(workspace / "runs" / spec.run_id)
    assert list(found) == list(range(1, spec.steps + 1)) and spec.steps == 49
    one, control = alone(workspace, spec), alone(workspace, spec, ulps=1)
    drift = np.maximum.accumulate(np.abs(np.subtract(one, control)))
    difference = np.abs(np.subtract(one, list(found.values())))
    assert (difference <= np.maximum(LATER, CONTROLS * drift)).all(), difference.max()
    [record] = workbench.records(workspace).values()
    assert record["status"] == "done" and ("2 x cpu" in record["device"]) == (engine == "jax")
    for box in made.boxes.values():  # each with a claim, a lease and an end of its own
        own = box.runs / spec.run_id / "a1"
        assert json.loads((own / "exit.json").read_text())["reason"] == "finished"
        assert (own / "claim").exists() and (own / "lease").exists()
        assert json.loads((own / "record.json").read_text())["parameters_sha256"] == record["parameters_sha256"]
    require_nobody_left(made)


def test_either_machine_may_lose_its_engine_or_its_worker_and_the_run_goes_on_from_its_checkpoint(made: Lab) -> None:
    """Four deaths in one run: the engine and the worker, of the second machine and of the first."""
    workspace = place(made, "deaths", settings="checkpoint_seconds = 0.2\n")
    arguments = [*RUN, "-o", "adamw", "-c", "0.03", "--engine", "jax", "--host", "pod"]
    controller = workbench.start(*arguments, workspace=workspace)
    try:
        victims = [
            (box, module)
            for box in ("second", "first")
            for module in ("optsweep_engines.run", "optsweep_engines.shim_team")
        ]
        for number, (box, module) in enumerate(victims, start=1):
            wait_for(lambda: list(made.boxes["first"].runs.glob(f"*/a{number}/ckpt/step-*")))  # noqa: B023
            assert controller.poll() is None
            [run_folder] = [path.parents[1] for path in workspace.glob("runs/*/a1/intent.json")]
            for pid in made.boxes[box].processes(module):
                workbench.kill(pid)
            wait_for(lambda: (run_folder / f"a{number}" / "exit.json").exists())  # noqa: B023
        assert controller.wait(timeout=240) == 0
    finally:
        controller.kill()
        controller.wait()
    [record] = workbench.records(workspace).values()
    assert record["status"] == "done" and record["attempt"] == 5 and record["resumed_from_step"] > 0
    errors = [json.loads((run_folder / f"a{number}" / "exit.json").read_text()).get("error") for number in (1, 2)]
    assert "worker second: its engine was killed by signal 9" in errors[0]
    assert "worker second was cut off" in errors[1]
    require_nobody_left(made)
