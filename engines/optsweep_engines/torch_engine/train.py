"""The training loop of the torch engine: `train(spec, log)` from the first step, or the last checkpoint, to a RunRecord."""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optsweep_engines import data
from optsweep_engines.engine import Preempted, RunLog
from optsweep_engines.history import LossHistory
from optsweep_engines.models import initial_parameters, parameter_table
from optsweep_engines.schedules import lr_factor
from optsweep_engines.spec import NUMERICS_VERSION, RecordStatus, RunRecord, RunSpec
from optsweep_engines.torch_engine import checkpoint
from optsweep_engines.torch_engine.device import description, opened, peak_bytes, versions
from optsweep_engines.torch_engine.model import decoder
from optsweep_engines.torch_engine.services import Services
from optsweep_engines.torch_engine.user import optimizer_of

# As torch.nn.utils.clip_grad_norm_.
CLIP_EPSILON = 1e-6


class Trainer:
    """One run on one device: parameters, optimizer, data, and the step. The loop around it is `train`."""

    def __init__(
        self, spec: RunSpec, data_root: Path, device: torch.device, optimizer_file: Path | None = None
    ) -> None:
        """Open the data, make the parameters and the optimizer.

        Args:
            optimizer_file: the run's copy of a user's own optimizer, where the spec names its hash.
        """
        if spec.dataset_hash is None:
            raise ValueError(f"dataset {spec.dataset} is not prepared: the spec names no hash")
        if spec.dtype not in ("fp32", "bf16"):
            raise ValueError(f'dtype "{spec.dtype}" is not one of fp32, bf16')
        if spec.batch_size % spec.accumulation:
            raise ValueError(f"batch size {spec.batch_size} does not divide into {spec.accumulation} micro-batches")
        if spec.steps < 1:
            raise ValueError(f"{spec.tokens} tokens are less than one step of {spec.tokens_per_step}")
        self.spec = spec
        self.device = device
        if spec.numerics_version != NUMERICS_VERSION:
            raise ValueError(
                f"planned for numerics {spec.numerics_version}, this engine has {NUMERICS_VERSION}: plan again"
            )
        self.dataset = data.open_dataset(data_root, spec.dataset, spec.dataset_hash)
        if self.dataset.vocab_size > spec.shape.vocab_size:
            raise ValueError(
                f"dataset {spec.dataset} has {self.dataset.vocab_size} tokens, model {spec.model} knows {spec.shape.vocab_size}"
            )
        self.params: dict[str, Tensor] = {
            name: torch.from_numpy(value).to(device).requires_grad_()
            for name, value in initial_parameters(spec.shape, spec.seed).items()
        }
        self.names = list(self.params)
        dtype = torch.bfloat16 if spec.dtype == "bf16" else torch.float32
        self.decoder = decoder(spec.shape, spec.seq_len, self.params, dtype, spec.flops)
        self.services = Services(spec, self.params, dtype)
        self.optimizer, self.versions = optimizer_of(
            spec, parameter_table(spec.shape), self.params, dtype, optimizer_file
        )
        self.peak_lr = number(spec, "lr")
        self.max_grad_norm = number(spec, "max_grad_norm")

    def lr(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.peak_lr * lr_factor(step, self.spec.steps, self.spec.schedule, self.spec.hyperparameters)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets [batch_size, seq_len] of a step, on the device."""
        x, y = data.batch(self.dataset, self.spec.seed, step, self.spec.batch_size, self.spec.seq_len)
        return self.moved(x), self.moved(y)

    def moved(self, array: np.ndarray[Any, Any]) -> Tensor:
        """The array on the device; to CUDA by pinned memory, without waiting."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def gradients(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean loss and its gradients in the order of `names`, accumulated over the micro-batches."""
        count = self.spec.accumulation
        if count == 1:
            return self.decoder.loss_and_grads(x_BT, y_BT)
        total = torch.zeros((), device=self.device)
        sums: list[Tensor] = []
        for x_bT, y_bT in zip(x_BT.chunk(count), y_BT.chunk(count), strict=True):
            loss, grads = self.decoder.loss_and_grads(x_bT, y_bT)
            total += loss / count
            if sums:
                torch._foreach_add_(sums, grads)
            else:
                sums = [grad.clone() for grad in grads]
        torch._foreach_div_(sums, float(count))
        return total, sums

    def clip(self, grads: list[Tensor]) -> Tensor:
        """Scale the gradients down to the global norm allowed, in place; returns the norm before."""
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if self.max_grad_norm > 0:
            factor = (self.max_grad_norm / (norm + CLIP_EPSILON)).clamp(max=1.0)
            if self.device.type != "cpu" or float(factor) < 1.0:
                torch._foreach_mul_(grads, factor)
        return norm

    def step(self, step: int) -> tuple[Tensor, Tensor, float]:
        """One optimizer step, counted from 0: loss and gradient norm (still on the device), learning rate."""
        x_BT, y_BT = self.batch(step)
        loss, grads = self.gradients(x_BT, y_BT)
        norm = self.clip(grads)
        lr = self.lr(step)
        services = self.services.at(x_BT, y_BT) if self.optimizer.plain else None
        self.optimizer.step(dict(zip(self.names, grads, strict=True)), step + 1, lr, services)
        return loss, norm, lr

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss over the fixed held-out windows, nats per token."""
        x, y = data.validation_windows(self.dataset, self.spec.validation_tokens, self.spec.seq_len)
        rows = self.spec.batch_size // self.spec.accumulation
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with self.optimizer.evaluated():
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                total += self.decoder.loss(self.moved(x[part]), self.moved(y[part])) * len(x[part])
        return float(total) / len(x)

    def parameters_sha256(self) -> str:
        """Hash over the bytes of the parameters to keep, bank by bank in name order."""
        digest = hashlib.sha256()
        with self.optimizer.evaluated():
            for name in sorted(self.params):
                digest.update(name.encode())
                digest.update(self.params[name].detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()


def number(spec: RunSpec, knob: str) -> float:
    """A knob of the spec as a float; 0 when null.

    Raises:
        ValueError: the spec does not hold it.
    """
    if knob not in spec.hyperparameters:
        raise ValueError(f"the spec holds no {knob}")
    return float(spec.hyperparameters[knob] or 0.0)


def train(spec: RunSpec, log: RunLog) -> RunRecord:
    """Train to the end of the spec, or resume and train to the end; running out of memory is a record, not an error.

    Raises:
        Preempted: the log asked for it; a checkpoint was saved first.
        ValueError: the spec cannot be trained here.
    """
    device = opened(log.device, log.threads)
    run = Loop(spec, log, device)
    try:
        return run.run()
    except (torch.OutOfMemoryError, MemoryError) as error:
        return run.record("oom", error)
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # torch's CPU allocator has no exception of its own
            return run.record("oom", error)
        raise


class Loop:
    """Steps, metric lines, validations, checkpoints and the end of one attempt."""

    def __init__(self, spec: RunSpec, log: RunLog, device: torch.device) -> None:
        self.spec = spec
        self.log = log
        self.device = device
        self.trainer: Trainer | None = None
        self.done = 0
        """Optimizer steps done, all attempts."""
        self.resumed_from = 0
        self.seconds = 0.0
        """Seconds in training steps, all attempts."""
        self.history = LossHistory()
        self.rates: list[float] = []
        """Tokens per second between fetches."""

    def run(self) -> RunRecord:
        """The whole attempt."""
        spec, log = self.spec, self.log
        trainer = self.trainer = Trainer(spec, log.data_root, self.device, log.optimizer_file)
        self.resume(trainer)
        mark, mark_step = time.perf_counter(), self.done
        while self.done < spec.steps:
            reason = log.stop_requested()
            if reason is not None:
                self.seconds += time.perf_counter() - mark
                return self.stopped(trainer, reason)
            loss, norm, lr = trainer.step(self.done)
            self.done += 1
            validating = self.done == spec.steps or bool(
                spec.validation_interval and self.done % spec.validation_interval == 0
            )
            if not validating and self.done % spec.log_interval and not log.checkpoint_due():
                continue
            train_loss, grad_norm = float(loss), float(norm)  # the device is waited for here
            elapsed = time.perf_counter() - mark
            self.seconds += elapsed
            if elapsed > 0:
                self.rates.append((self.done - mark_step) * spec.tokens_per_step / elapsed)
            if validating or self.done % spec.log_interval == 0:
                self.note(trainer, train_loss, grad_norm, lr, validating)
            if not self.history.finite:
                break
            if log.checkpoint_due() and self.done < spec.steps:
                self.save(trainer)
            mark, mark_step = time.perf_counter(), self.done
        reason = self.history.divergence()
        return self.record("diverged" if reason else "done", reason)

    def resume(self, trainer: Trainer) -> None:
        """Go on from the newest checkpoint that fits, if there is one."""
        found = checkpoint.restore(self.log, self.spec.run_id, trainer.params, trainer.optimizer)
        if found is None:
            return
        self.done, progress = found
        self.resumed_from = self.done
        self.seconds = float(progress["seconds"])
        self.history = LossHistory(**progress["history"])
        self.log.event("resumed", step=self.done)

    def note(self, trainer: Trainer, train_loss: float, grad_norm: float, lr: float, validating: bool) -> None:
        """One metric line, with a validation when it is due."""
        self.history.add_train_loss(train_loss)
        row = {
            "step": self.done,
            "tokens": self.done * self.spec.tokens_per_step,
            "train_seconds": round(self.seconds, 6),
            "train_loss": train_loss,
            "lr": lr,
            "grad_norm": grad_norm,
        }
        if validating and math.isfinite(train_loss):
            row["val_loss"] = trainer.validation_loss()
            self.history.add_val_loss(row["val_loss"])
        self.log.metric(row)

    def save(self, trainer: Trainer) -> None:
        """Publish a checkpoint of this step."""
        progress = {"seconds": self.seconds, "history": self.history.to_dict()}
        checkpoint.save(self.log, self.spec.run_id, self.done, trainer.params, trainer.optimizer, progress)

    def stopped(self, trainer: Trainer, reason: str) -> RunRecord:
        """Save, then end as asked.

        Raises:
            Preempted: the run is to go on later.
        """
        if self.done > self.resumed_from:
            self.save(trainer)
        if reason == "preempted":
            raise Preempted(f"stopped at step {self.done} of {self.spec.steps}")
        return self.record("cancelled", f"cancelled at step {self.done} of {self.spec.steps}")

    def record(self, status: RecordStatus, error: object = None) -> RunRecord:
        """The account of this run as it stands."""
        lines = (str(error).strip() or type(error).__name__).splitlines() if error is not None else []
        steady = self.rates[1:] or self.rates
        trainer = self.trainer
        return RunRecord(
            run_id=self.spec.run_id,
            attempt=self.log.attempt,
            status=status,
            train_loss=self.history.train_loss,
            val_loss=self.history.val_loss,
            steps=self.done,
            tokens=self.done * self.spec.tokens_per_step,
            train_seconds=self.seconds,
            tokens_per_second=statistics.median(steady) if steady else None,
            peak_bytes=peak_bytes(self.device),
            optimizer_state_bytes=trainer.optimizer.state_bytes() if trainer else None,
            device=description(self.device),
            versions={**versions(), **(trainer.versions if trainer else {})},
            parameters_sha256=trainer.parameters_sha256() if trainer and status != "oom" else None,
            resumed_from_step=self.resumed_from,
            error=lines[0] if lines else None,
        )
