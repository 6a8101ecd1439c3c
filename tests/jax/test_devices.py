"""Meshes: eight simulated devices in one process, and two processes, train as one device does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from optsweep_engines import folder
from optsweep_engines.certify import moved_by_an_ulp
from optsweep_engines.data import PreparedDataset
from optsweep_engines.jax_engine.layout import layout, parsed
from optsweep_engines.jax_engine.train import Trainer
from optsweep_engines.spec import RunSpec
from optsweep_tui.certificates.parity import judged
from tests.numerics.toy import shape, spec

OPTIMIZERS = ("adamw", "muon", "soap") if os.environ.get("OPTSWEEP_JAX_RULES") else ("muon",)
MESHES = ("data=8", "data=2,fsdp=4") if os.environ.get("OPTSWEEP_JAX_RULES") else ("data=2,fsdp=4",)


def toy(dataset: PreparedDataset, optimizer: str, **changes: Any) -> RunSpec:
    """Batches of eight sequences, four layers: what eight devices divide."""
    fields = {"batch_size": 8, "shape": shape(layers=4), "tokens": 6 * 128, "knobs": {"lr": 0.01}, **changes}
    return spec(dataset, optimizer, **fields).replace(engine="jax")


def losses(trainer: Trainer) -> np.ndarray[Any, Any]:
    return np.array([float(trainer.step(step)[0]) for step in range(trainer.spec.steps)])


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_eight_devices_give_the_losses_of_one(
    optimizer: str, mesh: str, dataset: PreparedDataset, data_root: Path
) -> None:
    """Matrix rules on banks that are spread over the devices too; the bound is the certificate's."""
    run = toy(dataset, optimizer)
    one, moved = (Trainer(run, data_root, layout(jax.devices(), None, 8)) for _ in range(2))
    moved.set_arrays(moved_by_an_ulp(moved.arrays()))
    spread = Trainer(run, data_root, layout(jax.devices(), mesh, 8))
    if "fsdp" in mesh:
        assert len({str(shard.index) for shard in spread.params["q"].addressable_shards}) == 4
        assert spread.states["q"]["m" if optimizer != "soap" else "m0"].addressable_shards[0].data.shape[0] == 1
    first = [float(each.step(0)[0]) for each in (one, spread, moved)]
    if optimizer == "soap":
        basis = {name: value for name, value in one.arrays().items() if "/q_" in name}
        spread.set_arrays(basis), moved.set_arrays(basis)
    series = [
        [start, *(float(each.step(step)[0]) for step in range(1, run.steps))]
        for start, each in zip(first, (one, spread, moved), strict=True)
    ]
    verdict = judged(*(np.array(values) for values in series))
    assert verdict["verdict"] == "equal", verdict
    assert spread.params["q"].sharding == layout(jax.devices(), mesh, 8).of(spread.services.table["q"])
    assert abs(spread.validation_loss() - one.validation_loss()) < 1e-3


def test_a_run_on_a_mesh_resumes_on_one_device(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    from tests.numerics.run_log import FolderLog

    run = toy(dataset, "adamw")
    spread = Trainer(run, data_root, layout(jax.devices(), "data=2,fsdp=4", 8))
    spread.step(0)
    spread.save(FolderLog(tmp_path, data_root), 1, {"seconds": 0.0, "history": {}})
    one = Trainer(run, data_root, layout(jax.devices(), None, 8))
    assert one.restore(FolderLog(tmp_path, data_root)) == (1, {"seconds": 0.0, "history": {}})
    for name, value in spread.arrays().items():
        assert np.array_equal(one.arrays()[name], value), name


@pytest.mark.parametrize(
    ("mesh", "rows", "line"),
    [
        ("data=3", 8, "does not divide the batch: 3 devices, 8 sequences"),
        ("data=16", 16, "takes 16 devices, there are 8"),
        ("rows=2", 8, "is not one of data=N, fsdp=N"),
        ("data=0", 8, "is not one of data=N, fsdp=N"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_clear_line(mesh: str, rows: int, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        layout(jax.devices(), mesh, rows)


def test_a_mesh_leaves_no_process_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)  # of these devices all are this process'
    for mesh, rows in (("data=2", 8), (None, 3)):
        with pytest.raises(ValueError, match="takes devices of 1 of the 2 processes"):
            layout(jax.devices(), mesh, rows)


def test_an_axis_left_out_is_one() -> None:
    assert parsed("fsdp=4") == {"data": 1, "fsdp": 4}


def test_two_processes_give_the_losses_of_one(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    run = toy(dataset, "adamw", tokens=12 * 128)
    straight = losses(Trainer(run, data_root, layout(jax.devices(), None, 8)))
    attempt = tmp_path / run.run_id / "a1"
    attempt.mkdir(parents=True)
    folder.write_json(attempt.parent / folder.SPEC, run.to_dict())
    intent = {"data_root": str(data_root), "device": "cpu", "mesh": "data=2,fsdp=2", "checkpoint_seconds": 0.0}
    folder.write_json(attempt / folder.INTENT, intent)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {quick}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "optsweep_engines.jax_engine.worker", str(attempt)]
    command += ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    processes = [
        subprocess.Popen(
            [*command, str(index)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-3000:]
    record = folder.read_json(attempt / folder.RECORD)
    assert record["device"].startswith("4 x cpu") and record["mesh"] == "data=2,fsdp=2"
    import json

    rows = [json.loads(line) for line in (attempt / folder.METRICS).read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))  # process 0 alone has written
    assert np.abs(np.array([row["train_loss"] for row in rows]) - straight).max() <= 1e-5
    assert list((attempt / folder.CHECKPOINTS).iterdir())
