"""The training loop: how a run learns, logs, ends, and what its record says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from optsweep_engines import data
from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import Preempted, load_engine
from optsweep_engines.history import LossHistory
from optsweep_engines.optimizers.catalogue import ENTRIES, RUN_KNOBS
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_engines.torch_engine import train as training
from optsweep_engines.torch_engine.probe import matmul_error, medium_is_exact, use_fast_matmul
from tests.numerics.run_log import FolderLog
from tests.numerics.toy import shape, spec


def trained(run: RunSpec, folder: Path, data_root: Path, **log: Any) -> tuple[RunRecord, FolderLog]:
    run_log = FolderLog(folder, data_root, **log)
    return load_engine("torch").train(run, run_log), run_log


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_optimizer_learns_the_toy_text(
    name: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    lr = {"sgd": 0.5, "adafactorw_last": 1.0, "adalayer_last": 1.0, "prodigy": 1.0, "scion": 0.003}.get(name, 0.02)
    run = spec(dataset, name, knobs={"lr": lr}, tokens=150 * 64)
    record, log = trained(run, tmp_path, data_root)
    assert record.status == "done"
    assert (
        record.val_loss is not None and record.val_loss < 1.5
    )  # guessing: log 32 = 3.47; the text's own entropy: about 0.8
    assert log.rows()[0]["train_loss"] > 3.2


def test_a_record_accounts_for_the_run(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    run = spec(dataset)
    record, log = trained(run, tmp_path, data_root)
    rows = log.rows()
    assert record.run_id == run.run_id
    assert (record.steps, record.tokens, record.resumed_from_step) == (40, 40 * 64, 0)
    assert record.optimizer_state_bytes == 2 * 4 * run.shape.total_params
    assert record.train_loss == rows[-1]["train_loss"]
    assert record.val_loss == rows[-1]["val_loss"]
    assert record.tokens_per_second is not None and record.tokens_per_second > 0
    assert record.train_seconds > 0
    assert record.peak_bytes is not None and record.peak_bytes > 1e7
    assert record.device.startswith("cpu")
    assert record.versions["torch"] == torch.__version__
    assert record.parameters_sha256 is not None and len(record.parameters_sha256) == 64
    assert RunRecord.from_dict(record.to_dict()) == record


def test_metric_lines_come_at_the_interval_at_validations_and_at_the_end(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run = spec(dataset, tokens=450 * 64, validation_interval=100)
    assert run.log_interval == 2
    record, log = trained(run, tmp_path, data_root)
    rows = log.rows()
    assert [row["step"] for row in rows] == list(range(2, 451, 2))
    assert [row["step"] for row in rows if "val_loss" in row] == [100, 200, 300, 400, 450]
    assert all(row["tokens"] == row["step"] * 64 for row in rows)
    seconds = [row["train_seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert record.train_seconds == pytest.approx(seconds[-1], abs=1e-5)


def test_the_logged_learning_rate_is_the_schedule(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    run = spec(dataset, knobs={"warmup": 10, "decay": 0.5, "min_lr_ratio": 0.1})
    _, log = trained(run, tmp_path, data_root)
    rates = [row["lr"] for row in log.rows()]
    assert rates[:2] == [pytest.approx(0.002), pytest.approx(0.004)]
    assert rates[9] == rates[20] == pytest.approx(0.02)
    assert rates[-1] == pytest.approx(0.02 * (0.1 + 0.9 / 20))


def test_the_same_spec_gives_the_same_parameters_twice(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run = spec(dataset)
    first, first_log = trained(run, tmp_path / "1", data_root)
    second, second_log = trained(run, tmp_path / "2", data_root)
    assert first.parameters_sha256 == second.parameters_sha256
    assert [row["train_loss"] for row in first_log.rows()] == [row["train_loss"] for row in second_log.rows()]
    other, _ = trained(run.replace(seed=1), tmp_path / "3", data_root)
    assert other.parameters_sha256 != first.parameters_sha256


@pytest.mark.parametrize("knob", [knob.name for knob in RUN_KNOBS])
def test_changing_any_knob_of_the_run_changes_the_parameters(
    knob: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    value = {"warmup": 3, "decay": 0.5, "min_lr_ratio": 0.5, "max_grad_norm": 0.1, "z_loss": 0.01}[knob]
    first, _ = trained(spec(dataset), tmp_path / "1", data_root)
    second, _ = trained(spec(dataset, knobs={knob: value}), tmp_path / "2", data_root)
    assert first.parameters_sha256 != second.parameters_sha256


def test_a_gradient_norm_of_zero_turns_clipping_off(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    off, log = trained(spec(dataset, "sgd", knobs={"max_grad_norm": 0}), tmp_path / "1", data_root)
    wide, _ = trained(spec(dataset, "sgd", knobs={"max_grad_norm": 1e6}), tmp_path / "2", data_root)
    tight, tight_log = trained(spec(dataset, "sgd", knobs={"max_grad_norm": 0.01}), tmp_path / "3", data_root)
    assert off.parameters_sha256 == wide.parameters_sha256 != tight.parameters_sha256
    assert log.rows()[0]["grad_norm"] == tight_log.rows()[0]["grad_norm"]  # the norm before clipping is logged


def test_clipping_scales_all_gradients_to_the_norm(dataset: PreparedDataset, data_root: Path) -> None:
    trainer = training.Trainer(spec(dataset, knobs={"max_grad_norm": 0.5}), data_root, torch.device("cpu"))
    _, grads = trainer.gradients(*trainer.batch(0))
    before = [grad.clone() for grad in grads]
    norm = float(trainer.clip(grads))
    assert norm == pytest.approx(math.sqrt(sum(float((grad**2).sum()) for grad in before)), rel=1e-5)
    for old, new in zip(before, grads, strict=True):
        assert torch.allclose(new, old * (0.5 / (norm + 1e-6)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_accumulated_gradients_equal_those_of_the_full_batch(
    count: int, dataset: PreparedDataset, data_root: Path
) -> None:
    full = training.Trainer(spec(dataset, batch_size=8), data_root, torch.device("cpu"))
    parts = training.Trainer(spec(dataset, batch_size=8, accumulation=count), data_root, torch.device("cpu"))
    loss, grads = full.gradients(*full.batch(0))
    part_loss, part_grads = parts.gradients(*parts.batch(0))
    assert float(part_loss) == pytest.approx(float(loss), abs=1e-6)
    for name, grad, found in zip(full.names, grads, part_grads, strict=True):
        assert float((grad - found).norm() / grad.norm()) < 1e-5, name


def test_validation_is_the_same_whatever_the_batch(dataset: PreparedDataset, data_root: Path) -> None:
    losses = [
        training.Trainer(
            spec(dataset, batch_size=size, accumulation=count), data_root, torch.device("cpu")
        ).validation_loss()
        for size, count in ((3, 1), (32, 1), (8, 2))
    ]
    assert max(losses) - min(losses) < 1e-6


def test_a_non_finite_loss_ends_the_run_as_diverged(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = training.Trainer.step

    def spoiled(self: training.Trainer, number: int) -> Any:
        if number == 10:
            self.params["mlp_up"].data[0, 0, 0] = math.nan
        return step(self, number)

    monkeypatch.setattr(training.Trainer, "step", spoiled)
    record, log = trained(spec(dataset), tmp_path, data_root)
    rows = log.rows()
    assert record.status == "diverged"
    assert record.error == "the loss is not finite"
    assert record.steps == len(rows) == 11
    assert record.train_loss == rows[9]["train_loss"]
    assert record.val_loss is None
    assert rows[10]["train_loss"] is None


def test_a_run_that_ends_far_above_its_minimum_is_diverged_and_keeps_its_losses(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    # It learns during warmup, then the rate passes what it can stand: the loss rises and stays finite.
    knobs = {"lr": 30.0, "warmup": 100, "max_grad_norm": 1, "momentum": 0.9}
    run = spec(dataset, "sgd", knobs=knobs, schedule="constant", tokens=100 * 64, validation_interval=10)
    record, log = trained(run, tmp_path, data_root)
    losses = [row["val_loss"] for row in log.rows() if "val_loss" in row]
    assert losses[-1] > min(losses) + 0.5
    assert record.status == "diverged"
    assert record.val_loss == losses[-1]
    assert record.error is not None and "above" in record.error
    assert record.steps == 100


def test_cancelling_saves_and_is_a_record(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    run = spec(dataset)
    record, log = trained(run, tmp_path, data_root, stop=lambda asked: "cancelled" if asked > 10 else None)
    assert (record.status, record.steps) == ("cancelled", 10)
    assert [step for step, _ in log.checkpoints()] == [10]


def test_preemption_saves_and_raises(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        trained(spec(dataset), tmp_path, data_root, stop=lambda asked: "preempted" if asked > 10 else None)
    assert [step for step, _ in FolderLog(tmp_path, data_root).checkpoints()] == [10]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: 9 bytes")],
)
def test_running_out_of_memory_is_a_record(
    error: Exception, dataset: PreparedDataset, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(training.Trainer, "step", full)
    record, _ = trained(spec(dataset), tmp_path, data_root)
    assert record.status == "oom"
    assert record.steps == 0
    assert record.error


def test_real_exhaustion_of_memory_is_recognised(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    huge = spec(dataset, batch_size=1 << 34, tokens=1 << 40)  # the batch alone is 4 TB
    record, _ = trained(huge, tmp_path, data_root)
    assert record.status == "oom"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset_hash": None}, "not prepared"),
        ({"dataset_hash": "0" * 64}, "not prepared there"),
        ({"dtype": "fp8"}, "fp32, bf16"),
        ({"accumulation": 3}, "3 micro-batches"),
        ({"tokens": 63}, "less than one step"),
        ({"validation_tokens": 10**9}, "too few"),
        ({"validation_tokens": 3}, "less than one window"),
        ({"shape": shape(vocab_size=8)}, "32 tokens"),
        ({"numerics_version": 0}, "plan again"),
    ],
)
def test_a_spec_that_cannot_be_trained_is_refused_with_the_reason(
    fields: dict[str, Any], words: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        trained(spec(dataset, **fields), tmp_path, data_root)


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "mps"])
def test_a_device_that_is_not_here_is_refused(
    device: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    log = FolderLog(tmp_path, data_root)
    log.device = device
    with pytest.raises(ValueError, match=device):
        load_engine("torch").train(spec(dataset), log)


def test_the_cpu_is_always_listed_as_a_device() -> None:
    found = load_engine("torch").devices()
    assert found[-1]["device"] == "cpu"
    assert found[-1]["memory_bytes"] > 1e8
    assert len(found) == 1 + torch.cuda.device_count()


def test_the_fast_matmul_is_only_used_where_it_is_exact() -> None:
    use_fast_matmul()
    assert matmul_error() < 1e-6
    assert torch.get_float32_matmul_precision() == ("medium" if medium_is_exact() else "highest")


def test_windows_of_training_losses_decide_divergence_without_validations() -> None:
    history = LossHistory()
    for loss in [3.0] * 10 + [2.0] * 10 + [2.4] * 10:
        history.add_train_loss(loss)
    assert history.divergence() is None
    for _ in range(10):
        history.add_train_loss(2.6)
    assert history.divergence() == "the last 10 training losses are 0.600 above their minimum 2.000"
    assert LossHistory(**history.to_dict()) == history


def test_one_bad_batch_is_not_divergence() -> None:
    history = LossHistory()
    for loss in [2.0] * 20 + [6.0]:
        history.add_train_loss(loss)
    assert history.divergence() is None  # mean of the last ten: 2.4


def test_the_final_validation_loss_is_compared_with_earlier_ones() -> None:
    history = LossHistory()
    for loss in (3.0, 2.0, 2.4):
        history.add_val_loss(loss)
    assert history.divergence() is None
    history.add_val_loss(2.51)
    assert history.divergence() is not None
    history.add_val_loss(2.0)
    assert history.divergence() is None
    history.add_val_loss(math.nan)
    assert history.divergence() == "the loss is not finite"
    assert history.val_loss == 2.0


def test_a_dataset_with_changed_tokens_is_found_by_verification(dataset: PreparedDataset, tmp_path: Path) -> None:
    copy = tmp_path / dataset.folder.name
    copy.mkdir()
    for file in dataset.folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data.open_dataset(tmp_path, dataset.name, dataset.sha256).verify()
    blob = bytearray((copy / "train.bin").read_bytes())
    blob[100] ^= 1
    (copy / "train.bin").write_bytes(blob)
    with pytest.raises(ValueError, match="hash to"):
        data.open_dataset(tmp_path, dataset.name, dataset.sha256).verify()
