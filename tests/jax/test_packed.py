"""Packed runs equal their unpacked twins, each with its own knobs, seed, clipping and verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import load_engine
from optsweep_engines.jax_engine.packed import train_pack
from optsweep_engines.spec import RunSpec
from tests.numerics.run_log import FolderLog
from tests.numerics.toy import spec

STEPS = 8


def toy(dataset: PreparedDataset, optimizer: str = "adamw", seed: int = 0, **knobs: Any) -> RunSpec:
    return spec(dataset, optimizer, knobs=knobs, tokens=STEPS * 64, validation_interval=4, seed=seed).replace(
        engine="jax"
    )


def losses(log: FolderLog) -> list[Any]:
    return [(row["step"], row["train_loss"], row.get("val_loss"), row["lr"], row["grad_norm"]) for row in log.rows()]


def packed(runs: list[RunSpec], folder: Path, data_root: Path, **log: Any) -> tuple[list[Any], list[FolderLog]]:
    logs = [FolderLog(folder / f"{index}", data_root, **log) for index in range(len(runs))]
    return train_pack(runs, logs), logs


def test_replicas_equal_their_unpacked_twins(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    """To the certificate's 1e-5; lr, decay, beta, clipping and seed differ, and one diverges without the others."""
    runs = [
        toy(dataset, lr=0.01),
        toy(dataset, seed=1, lr=0.02, weight_decay=0.3, max_grad_norm=0.1),
        toy(dataset, lr=0.005, beta1=0.8, warmup=2),
        toy(dataset, lr=10.0, max_grad_norm=0),
    ]
    records, logs = packed(runs, tmp_path, data_root)
    assert [record.status for record in records][:3] == ["done"] * 3
    assert len({record.parameters_sha256 for record in records}) == 4
    for index, run in enumerate(runs):
        alone_log = FolderLog(tmp_path / f"alone-{index}", data_root)
        alone = load_engine("jax").train(run, alone_log)
        assert (records[index].run_id, records[index].status, records[index].steps) == (
            run.run_id,
            alone.status,
            alone.steps,
        )
        if index < 3:
            mine, theirs = (np.array(losses(log), float) for log in (logs[index], alone_log))
            assert np.nanmax(np.abs(mine - theirs)) <= 1e-5
            assert records[index].val_loss == pytest.approx(alone.val_loss, abs=1e-5)
            assert records[index].optimizer_state_bytes == alone.optimizer_state_bytes
    events = [json.loads(line) for line in (tmp_path / "1" / "events.jsonl").read_text().splitlines()]
    assert [event["replicas"] for event in events if event["kind"] == "packed"] == [4]


def test_a_pack_in_pieces_equals_the_straight_one(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    runs = [toy(dataset, lr=0.01), toy(dataset, lr=0.02)]
    straight, _ = packed(runs, tmp_path / "straight", data_root)
    stopped, _ = packed(runs, tmp_path / "pieces", data_root, stop=lambda asked: "preempted" if asked > 5 else None)
    assert stopped == [None, None]
    (tmp_path / "pieces" / "1" / "ckpt" / "00000005.safetensors").unlink()  # members at different steps go on apart
    resumed, _ = packed(runs, tmp_path / "pieces", data_root)
    assert [record.resumed_from_step for record in resumed] == [5, 0]
    assert [record.parameters_sha256 for record in resumed] == [record.parameters_sha256 for record in straight]


def test_runs_that_do_not_go_together_are_trained_apart(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    runs = [toy(dataset, lr=0.01), toy(dataset, "lion", lr=0.001), toy(dataset, lr=0.02)]
    records, _ = packed(runs, tmp_path, data_root)
    assert [record.status for record in records] == ["done"] * 3
    sizes = []
    for index in range(3):
        lines = (tmp_path / f"{index}" / "events.jsonl").read_text().splitlines()
        sizes += [event["replicas"] for event in map(json.loads, lines) if event["kind"] == "packed"]
    assert sizes == [2, 1, 2]


def test_a_cancelled_replica_ends_and_the_others_go_on(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    runs = [toy(dataset, lr=0.01), toy(dataset, lr=0.02)]
    logs = [
        FolderLog(tmp_path / "0", data_root),
        FolderLog(tmp_path / "1", data_root, stop=lambda asked: "cancelled" if asked > 3 else None),
    ]
    first, second = train_pack(runs, logs)
    assert first is not None and second is not None
    assert (first.status, first.steps) == ("done", STEPS)
    assert (second.status, second.steps) == ("cancelled", 3)
