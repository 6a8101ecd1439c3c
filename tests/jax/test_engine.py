"""The JAX engine as a run sees it: what it learns, logs, resumes and refuses, and that it trains as torch does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from optsweep_engines import certify
from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import Preempted, load_engine
from optsweep_engines.jax_engine import device, loss, programs
from optsweep_engines.jax_engine.layout import layout
from optsweep_engines.jax_engine.model import Decoder
from optsweep_engines.jax_engine.train import Trainer
from optsweep_engines.models import initial_parameters
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui.certificates.parity import judged
from tests.numerics.run_log import FolderLog
from tests.numerics.toy import shape, spec

ENGINE = load_engine("jax")
SHORT = ("adamw", "muon", "soap", "sophia_g")
LRS = {"adamw": 0.001, "sgd": 0.1, "lion": 0.001, "scion": 0.003, "prodigy": 1.0}


def toy(dataset: PreparedDataset, optimizer: str = "adamw", **changes: Any) -> RunSpec:
    return spec(dataset, optimizer, **{"tokens": 12 * 64, **changes}).replace(engine="jax")


def trained(run: RunSpec, folder: Path, data_root: Path, **log: Any) -> tuple[RunRecord, FolderLog]:
    run_log = FolderLog(folder, data_root, **log)
    return ENGINE.train(run, run_log), run_log


def trainer(run: RunSpec, data_root: Path) -> Trainer:
    return Trainer(run, data_root, layout(jax.devices(), None, run.batch_size // run.accumulation))


# ---------------------------------------------------------------- equal to torch


@pytest.mark.parametrize("name", sorted(ENTRIES) if os.environ.get("OPTSWEEP_JAX_RULES") else SHORT)
def test_it_trains_as_torch_does(name: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    """The rule of the certificate: 2e-6 at step 0, later the larger of 1e-5 and 3 times what one ulp does."""
    run = toy(dataset, name, knobs={"lr": LRS.get(name, 0.01)})
    found = {}
    for which, engine, ulps in (("first", "torch", 0), ("moved", "torch", 1), ("second", "jax", 0)):
        answer, basis = tmp_path / f"{which}.npz", None if which == "first" else str(tmp_path / "first.npz")
        request = certify.Request(
            engine=engine, spec=run.to_dict(), data_root=str(data_root), device="cpu", steps=12,
            answer=str(answer), ulps=ulps, basis=basis,
        )  # fmt: skip
        found[which], _ = certify.trained(request)
        np.savez(answer, **found[which])
    verdict = judged(*(found[which]["losses"] for which in ("first", "second", "moved")))
    assert verdict["verdict"] == "equal", verdict["steps_outside"]


def test_both_engines_start_from_the_same_bits(dataset: PreparedDataset, data_root: Path) -> None:
    from optsweep_engines.torch_engine.train import Trainer as TorchTrainer

    run = toy(dataset)
    ours, theirs = trainer(run, data_root), TorchTrainer(run, data_root, torch.device("cpu"))
    assert ours.parameters_sha256() == theirs.parameters_sha256()
    assert ours.arrays().keys() == theirs.arrays().keys()
    for mine, other in zip(ours.batch(7), theirs.batch(7), strict=True):
        assert np.array_equal(np.asarray(mine), other.numpy())


# ---------------------------------------------------------------- the model


def test_a_scan_over_the_layers_equals_the_layers_one_by_one() -> None:
    small = shape(layers=3)
    params = {name: jnp.asarray(value) for name, value in initial_parameters(small, 0).items()}
    x = np.arange(32, dtype=np.int32).reshape(2, 16)
    found = [Decoder(small, 16, unrolled=unrolled).loss_and_grads(params, x, x[:, ::-1]) for unrolled in (True, False)]
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), abs=1e-6)
    for name, grad in found[0][1].items():
        assert np.allclose(grad, found[1][1][name], atol=1e-5), name


def test_cross_entropy_in_chunks_equals_all_at_once() -> None:
    stream = np.random.Generator(np.random.PCG64(0))
    hidden, head = (jnp.asarray(stream.standard_normal(size), jnp.float32) for size in ((24, 8), (20, 8)))
    y = jnp.asarray(stream.integers(0, 20, 24), jnp.int32)

    def of(largest: int) -> Any:
        return jax.value_and_grad(lambda h, w: loss.cross_entropy(h, w, y, largest), argnums=(0, 1))(hidden, head)

    whole, parts = of(1 << 20), of(100)
    assert float(whole[0]) == pytest.approx(float(parts[0]), rel=1e-6)
    for one, other in zip(whole[1], parts[1], strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_accumulated_micro_batches_equal_the_whole_batch(dataset: PreparedDataset, data_root: Path) -> None:
    whole, parts = (trainer(toy(dataset, accumulation=count), data_root) for count in (1, 2))
    for step in range(2):
        one, other = whole.step(step), parts.step(step)
        assert float(one[0]) == pytest.approx(float(other[0]), abs=2e-6)
        assert float(one[1]) == pytest.approx(float(other[1]), rel=1e-5)


def test_bf16_computes_near_fp32_and_keeps_fp32_parameters(dataset: PreparedDataset, data_root: Path) -> None:
    exact, rough = (trainer(toy(dataset, "muon", dtype=dtype), data_root) for dtype in ("fp32", "bf16"))
    for step in range(2):
        one, other = float(exact.step(step)[0]), float(rough.step(step)[0])
        assert 0 < abs(one - other) < 0.05
    assert {value.dtype for value in rough.params.values()} == {jnp.dtype("float32")}


# ---------------------------------------------------------------- the loop


def test_a_run_in_pieces_equals_the_straight_run(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    run = toy(dataset, "soap", validation_interval=5, knobs={"precondition_frequency": 3})
    straight, straight_log = trained(run, tmp_path / "straight", data_root)
    for piece in (1, 5):
        with pytest.raises(Preempted):
            trained(
                run,
                tmp_path / "pieces",
                data_root,
                stop=lambda asked, piece=piece: "preempted" if asked > piece else None,
            )
    resumed, log = trained(run, tmp_path / "pieces", data_root)
    assert resumed.parameters_sha256 == straight.parameters_sha256
    assert (resumed.resumed_from_step, resumed.val_loss) == (6, straight.val_loss)
    rows = {row["step"]: row for row in log.rows()}
    assert all(rows[row["step"]]["train_loss"] == row["train_loss"] for row in straight_log.rows())
    assert [row["step"] for row in straight_log.rows() if "val_loss" in row] == [5, 10, 12]
    assert straight.optimizer_state_bytes and straight.peak_bytes and straight.versions["jax"] == jax.__version__


def test_a_checkpoint_of_the_other_engine_is_named_and_passed_over(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    for ours, theirs in (("jax", "torch"), ("torch", "jax")):
        run = toy(dataset, tokens=4 * 64).replace(engine=ours)
        log = FolderLog(tmp_path / ours, data_root, stop=lambda asked: "preempted" if asked > 2 else None)
        with pytest.raises(Preempted):
            load_engine(theirs).train(run, log)
        record = load_engine(ours).train(run, FolderLog(tmp_path / ours, data_root))
        assert (record.status, record.resumed_from_step) == ("done", 0)
        events = [json.loads(line) for line in (tmp_path / ours / "events.jsonl").read_text().splitlines()]
        [line] = [event["error"] for event in events if event["kind"] == "checkpoint_rejected"]
        assert f"written by engine {theirs}, this run is for {ours}" in line and "parameters can be converted" in line


def test_a_run_whose_loss_is_not_finite_has_diverged(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(*arguments: Any) -> dict[str, Any]:
        values = initial_parameters(*arguments)
        values["q"][0, 0, 0] = np.nan
        return values

    monkeypatch.setattr("optsweep_engines.jax_engine.train.initial_parameters", poisoned)
    record, log = trained(toy(dataset), tmp_path, data_root)
    assert (record.status, record.steps, record.error) == ("diverged", 1, "the loss is not finite")
    assert [(row["train_loss"], row.get("val_loss")) for row in log.rows()] == [(None, None)]


def test_runs_that_differ_in_plain_numbers_share_their_programs(dataset: PreparedDataset, data_root: Path) -> None:
    base = trainer(toy(dataset), data_root)
    for knobs in (
        {"lr": 0.3},
        {"beta1": 0.5},
        {"weight_decay": 0.3},
        {"eps": 1e-3},
        {"warmup": 3, "max_grad_norm": 0.1},
    ):
        other = trainer(toy(dataset, knobs=knobs), data_root)
        assert other.update.step is base.update.step
        assert programs.gradients_program(other.key) is programs.gradients_program(base.key)
        first = trainer(toy(dataset), data_root)
        for step in range(2):
            first.step(step), other.step(step)
        assert other.parameters_sha256() != first.parameters_sha256(), knobs
    assert base.update.step._cache_size() <= 2


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("cuda", "finds none here, it finds cpu"),
        ("tpu:1", "finds none here"),
        ("cpu:99", "only 8 cpu devices"),
        ("gpx", "is not one of"),
    ],
)
def test_a_device_that_is_not_there_is_one_clear_line(name: str, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        device.opened(name)


def test_a_users_own_rule_is_compiled_and_a_torch_class_is_refused(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    import hashlib

    text = (
        b"def plain(xp, param, grad, state, step, hp, *, lr, weight_decay=0.0):\n"
        b"    return param * (1 - lr * weight_decay) - lr * grad, state\n"
        b"import torch\nclass Mine(torch.optim.SGD):\n    pass\n"
    )
    (tmp_path / "optimizer.py").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    run = toy(dataset, "sgd", knobs={"momentum": 0.0}, tokens=3 * 64)
    own = run.replace(optimizer="mine:plain", optimizer_file_hash=digest)
    record, _ = trained(own, tmp_path, data_root)
    plain, _ = trained(run, tmp_path / "plain", data_root)
    assert record.status == "done"
    assert record.val_loss == pytest.approx(plain.val_loss, abs=1e-5)
    with pytest.raises(ValueError, match="engine jax cannot run it"):
        trained(own.replace(optimizer="mine:Mine"), tmp_path, data_root)
