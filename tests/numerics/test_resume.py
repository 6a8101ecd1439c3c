"""A run that was stopped or killed at any moment and resumed ends at the same parameters as one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import Preempted
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_engines.torch_engine import TorchEngine, checkpoint
from optsweep_engines.torch_engine.train import Trainer
from tests.numerics.resume_worker import STEPS
from tests.numerics.run_log import FolderLog
from tests.numerics.toy import spec

KILLS = int(os.environ.get("OPTSWEEP_RESUME_KILLS", "2"))


def stopped_at(step: int) -> Any:
    return lambda asked: "preempted" if asked > step else None


def in_pieces(run: RunSpec, folder: Path, data_root: Path, pieces: list[int]) -> RunRecord:
    """Train, stopped after each of these numbers of further steps."""
    for piece in pieces:
        with pytest.raises(Preempted):
            TorchEngine().train(run, FolderLog(folder, data_root, stop=stopped_at(piece)))
    return TorchEngine().train(run, FolderLog(folder, data_root))


@pytest.mark.parametrize("optimizer", sorted(ENTRIES))
def test_a_run_in_pieces_equals_the_straight_run(
    optimizer: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run = spec(dataset, optimizer, validation_interval=9)
    straight_log = FolderLog(tmp_path / "straight", data_root)
    straight = TorchEngine().train(run, straight_log)
    resumed = in_pieces(run, tmp_path / "pieces", data_root, [1, 13, 5, 20])
    assert resumed.parameters_sha256 == straight.parameters_sha256
    assert resumed.resumed_from_step == 39
    assert (resumed.val_loss, resumed.train_loss) == (straight.val_loss, straight.train_loss)
    rows = {row["step"]: row for row in FolderLog(tmp_path / "pieces", data_root).rows()}
    for row in straight_log.rows():
        assert rows[row["step"]]["train_loss"] == row["train_loss"]
    assert resumed.train_seconds > rows[39]["train_seconds"] > rows[10]["train_seconds"]


def test_the_verdict_of_divergence_survives_a_resume(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    knobs = {"lr": 30.0, "warmup": 100, "max_grad_norm": 1}
    run = spec(dataset, "sgd", knobs=knobs, schedule="constant", tokens=100 * 64, validation_interval=10)
    straight = TorchEngine().train(run, FolderLog(tmp_path / "straight", data_root))
    resumed = in_pieces(run, tmp_path / "pieces", data_root, [95])
    assert straight.status == resumed.status == "diverged"
    assert straight.error == resumed.error


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_kill_9_at_random_moments_changes_nothing(optimizer: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    def started(folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.numerics.resume_worker", optimizer, str(folder), str(dataset.folder)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"})

    straight = started(tmp_path / "straight")
    assert straight.wait(timeout=120) == 0
    expected = json.loads((tmp_path / "straight" / "record.json").read_text())

    folder = tmp_path / "killed"
    moments = random.Random(optimizer)
    kills = 0
    while not (folder / "record.json").exists():
        before = newest_step(folder)
        process = started(folder)
        deadline = time.monotonic() + 120
        # Killed once it has gone beyond its checkpoint, at a moment that falls anywhere in a step or a save.
        if kills < KILLS:
            while newest_step(folder) <= before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(moments.random() * 0.25)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        process.wait(timeout=120)
    found = json.loads((folder / "record.json").read_text())
    assert kills >= min(KILLS, 3)
    assert found["resumed_from_step"] > 0
    assert found["steps"] == STEPS
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    assert found["val_loss"] == expected["val_loss"]


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    return max((int(path.stem) for path in (folder / "ckpt").glob("*.safetensors")), default=0)


@pytest.mark.parametrize("optimizer", sorted(ENTRIES))
def test_saving_and_loading_keeps_every_bit(
    optimizer: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run = spec(dataset, optimizer)
    log = FolderLog(tmp_path, data_root)
    first, second = (Trainer(run, data_root, torch.device("cpu")) for _ in range(2))
    for step in range(3):
        first.step(step)
    checkpoint.save(log, run.run_id, 3, first.params, first.optimizer, {"seconds": 1.5})
    assert checkpoint.restore(log, run.run_id, second.params, second.optimizer) == (3, {"seconds": 1.5})
    for name, value in {**first.params, **first.optimizer.tensors()}.items():
        assert torch.equal({**second.params, **second.optimizer.tensors()}[name], value), name


def test_checkpoints_that_do_not_fit_are_passed_over(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    run = spec(dataset)
    in_pieces_log = FolderLog(tmp_path, data_root, stop=stopped_at(5))
    with pytest.raises(Preempted):
        TorchEngine().train(run, in_pieces_log)
    [(_, good)] = in_pieces_log.checkpoints()
    torn = good.with_name("00000006.safetensors")
    torn.write_bytes(good.read_bytes()[:1000])
    tensors = load_file(good)
    metadata = {"format": "1", "run_id": "another", "attempt": "1", "step": "7", "progress": "{}"}
    save_file(tensors, good.with_name("00000007.safetensors"), metadata)
    fewer = {name: value for name, value in tensors.items() if name != "param/q"}
    save_file(fewer, good.with_name("00000008.safetensors"), {**metadata, "run_id": run.run_id, "step": "8"})
    record = TorchEngine().train(run, FolderLog(tmp_path, data_root))
    assert record.resumed_from_step == 5
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    rejected = [event["file"] for event in events if event["kind"] == "checkpoint_rejected"]
    assert rejected == ["00000008.safetensors", "00000007.safetensors", "00000006.safetensors"]
    straight = TorchEngine().train(run, FolderLog(tmp_path / "straight", data_root))
    assert record.parameters_sha256 == straight.parameters_sha256
