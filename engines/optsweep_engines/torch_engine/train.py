"""Steps of the torch engine: `train(spec, log)` from the first step, or the last checkpoint, to a RunRecord."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optsweep_engines import data, kept, weights
from optsweep_engines.diagnostics import Wanted, wanted
from optsweep_engines.engine import RunLog
from optsweep_engines.heldout import HeldOut
from optsweep_engines.loop import Loop, number, require_trainable, runs_root, z_loss
from optsweep_engines.mesh import words
from optsweep_engines.models import initial_parameters, parameter_table
from optsweep_engines.schedules import lr_factor
from optsweep_engines.spec import WEIGHTS, RunRecord, RunSpec
from optsweep_engines.torch_engine import checkpoint
from optsweep_engines.torch_engine.cpu_model import CpuDecoder
from optsweep_engines.torch_engine.device import description, opened, peak_bytes, versions
from optsweep_engines.torch_engine.graphed import Graphed
from optsweep_engines.torch_engine.model import Decoder, decoder
from optsweep_engines.torch_engine.observe import Observer
from optsweep_engines.torch_engine.ranks import joined, spread_over
from optsweep_engines.torch_engine.services import Services
from optsweep_engines.torch_engine.user import optimizer_of

# Of a micro-batch: up to here a GPU is done with it before its kernels are launched one by one (about 5 ms of 700 launches).
GRAPH_FLOPS = 2e12

# As torch.nn.utils.clip_grad_norm_.
CLIP_EPSILON = 1e-6


class Trainer:
    """One run on one device: parameters, optimizer, data, and the step. The loop around it is `train`."""

    def __init__(
        self,
        spec: RunSpec,
        data_root: Path,
        device: torch.device,
        optimizer_file: Path | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the data, make the parameters and the optimizer.

        Args:
            optimizer_file: the run's copy of a user's own optimizer, where the spec names its hash.
            initial: parameters to begin with, by name, in the place of those of the seed.
        """
        require_trainable(spec)
        self.spec = spec
        self.device = device
        self.ranks = joined()
        self.dataset = data.dataset_of(spec, data_root)
        self.held_out = HeldOut(spec, data_root, self.dataset)
        self.dtype = torch.bfloat16 if spec.dtype == "bf16" else torch.float32
        self.observer: Observer | None = None
        self.observing = False
        self.observed: dict[str, float] = {}
        self.peak_lr = number(spec, "lr")
        self.max_grad_norm = number(spec, "max_grad_norm")
        self.build(optimizer_file, initial)

    def build(self, optimizer_file: Path | None, initial: Mapping[str, Any] | None) -> None:
        """Parameters, model and optimizer."""
        spec, dtype = self.spec, self.dtype
        self.params: dict[str, Tensor] = {
            name: torch.from_numpy(np.array(value)).to(self.device).requires_grad_()
            for name, value in (initial or initial_parameters(spec.shape, spec.seed)).items()
        }
        self.names = list(self.params)
        self.decoder: Decoder | CpuDecoder | Graphed = decoder(
            spec.shape, spec.seq_len, self.params, dtype, spec.flops, z_loss(spec)
        )
        part_flops = spec.flops / spec.steps / spec.accumulation
        if self.device.type == "cuda" and isinstance(self.decoder, Decoder) and part_flops <= GRAPH_FLOPS:
            self.decoder = Graphed(self.decoder)
        self.services = Services(spec, self.params, dtype)
        self.optimizer, self.versions = optimizer_of(
            spec, parameter_table(spec.shape), self.params, dtype, optimizer_file
        )

    def lr(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.peak_lr * lr_factor(step, self.spec.steps, self.spec.schedule, self.spec.hyperparameters)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets [batch_size, seq_len] of a step, of all processes, on the device."""
        x, y = data.batch_of(self.spec, self.dataset, step)
        return self.moved(x), self.moved(y)

    def moved(self, array: np.ndarray[Any, Any]) -> Tensor:
        """The array on the device; to CUDA by pinned memory, without waiting."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def gradients(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean loss and its gradients in the order of `names`, over the micro-batches and the processes."""
        count = self.spec.accumulation
        loss, grads = self.own_gradients(self.ranks.share(x_BT, count), self.ranks.share(y_BT, count))
        self.ranks.average_([loss, *grads])
        return loss, grads

    def own_gradients(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Of this process' sequences, accumulated over the micro-batches."""
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

    def norm(self, grads: list[Tensor]) -> Tensor:
        """Global norm of the gradients."""
        found: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        return found

    def clip(self, grads: list[Tensor]) -> Tensor:
        """Scale the gradients down to the global norm allowed, in place; returns the norm before."""
        norm = self.norm(grads)
        if self.max_grad_norm > 0:
            factor = (self.max_grad_norm / (norm + CLIP_EPSILON)).clamp(max=1.0)
            if self.device.type != "cpu" or float(factor) < 1.0:
                torch._foreach_mul_(grads, factor)
        return norm

    def step(self, step: int) -> tuple[Tensor, Tensor, float]:
        """One optimizer step, counted from 0: loss and gradient norm (still on the device), learning rate."""
        x_BT, y_BT = self.batch(step)
        loss, grads = self.gradients(x_BT, y_BT)
        if self.observing and self.observer is not None:
            self.observer.before(x_BT, dict(zip(self.names, grads, strict=True)))
        norm = self.clip(grads)
        lr = self.lr(step)
        services = self.services.at(x_BT, y_BT) if self.optimizer.plain else None
        self.optimizer.step(dict(zip(self.names, grads, strict=True)), step + 1, lr, services)
        self.observed = self.observer.after() if self.observing and self.observer is not None else {}
        return loss, norm, lr

    def observe(self, asked: Wanted | None, tell: Callable[..., None]) -> None:
        """Take statistics on the steps that the loop asks for.

        Args:
            tell: writes an event.
        """
        if asked is not None:
            self.observer = Observer(self.spec, self.params, self.dtype, asked, tell)

    @torch.no_grad()
    def validation_loss(self, name: str | None = None) -> float:
        """Mean loss over the fixed windows of a held-out set (None: of the metric's), nats per token."""
        x, y = self.held_out.windows(name)
        rows = self.spec.batch_size // self.spec.accumulation
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with self.optimizer.evaluated():
            for start in range(rows * self.ranks.index, len(x), rows * self.ranks.count):
                part = slice(start, start + rows)
                total += self.decoder.loss(self.moved(x[part]), self.moved(y[part])) * len(x[part])
        self.ranks.sum_(total)
        return float(total) / len(x)

    def save(self, log: RunLog, step: int, progress: Mapping[str, Any]) -> None:
        """Publish a checkpoint after so many steps."""
        checkpoint.save(log, self.spec.run_id, step, self.params, self.optimizer, progress)

    def keep(self, log: Any, step: int, progress: Mapping[str, Any]) -> None:
        """Publish the state after so many steps for other runs."""
        sha256 = self.parameters_sha256()
        checkpoint.keep(log, self.spec.run_id, step, self.params, self.optimizer, progress, sha256)

    def take(self, runs_root: Path) -> dict[str, Any]:
        """Take up the whole state of a branch's trunk: its progress."""
        found = kept.start_of(self.spec, runs_root)
        return checkpoint.load(found.path, found.run_id, found.step, self.params, self.optimizer)

    def restore(self, log: RunLog) -> tuple[int, dict[str, Any]] | None:
        """Take up the newest checkpoint that fits: (step, progress)."""
        return checkpoint.restore(log, self.spec.run_id, self.params, self.optimizer)

    def arrays(self) -> dict[str, Any]:
        """numpy copies of everything by its name in a checkpoint."""
        held = checkpoint.named(self.params, self.optimizer)
        return {name: value.detach().cpu().numpy().copy() for name, value in held.items()}

    @torch.no_grad()
    def set_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Overwrite some of them."""
        held = checkpoint.named(self.params, self.optimizer)
        for name, value in arrays.items():
            held[name].copy_(torch.from_numpy(np.asarray(value)))

    def facts(self) -> dict[str, Any]:
        """What a record says of the engine."""
        return facts(self.device, {"data": self.ranks.count}, self)

    def parameters_sha256(self) -> str:
        """Hash over the bytes of the parameters to keep, bank by bank in name order."""
        digest = hashlib.sha256()
        with self.optimizer.evaluated():
            for name in sorted(self.params):
                digest.update(name.encode())
                digest.update(self.params[name].detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()


def train(spec: RunSpec, log: RunLog) -> RunRecord:
    """Train to the end of the spec, or resume and train to the end; running out of memory is a record, not an error.

    Raises:
        Preempted: the log asked for it; a checkpoint was saved first.
        ValueError: the spec cannot be trained here.
    """
    device = opened(log.device, log.threads)
    sizes = spread_over(log.mesh, joined().count) or {"data": joined().count}
    run = Loop(spec, log)
    trainer: Trainer | None = None
    try:
        trainer = made(spec, log, device)
        trainer.observe(wanted(log), log.event)
        return run.run(trainer)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return run.record("oom", error, facts(device, sizes, trainer))
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # torch's CPU allocator has no exception of its own
            return run.record("oom", error, facts(device, sizes, trainer))
        raise


def made(spec: RunSpec, log: RunLog, device: torch.device) -> Trainer:
    """The trainer that the mesh asks for, at the run's first step.

    Raises:
        ValueError: the spec cannot be trained here.
    """
    own = next(log.checkpoints(), None)  # with a state of its own a run needs that of no other
    sizes = spread_over(log.mesh, joined().count)
    if sizes is None:
        initial = weights.initial(spec, runs_root(spec, log)) if own is None else None
        return Trainer(spec, log.data_root, device, log.optimizer_file, initial)
    from optsweep_engines.torch_engine.spread_train import SpreadTrainer  # noqa: PLC0415 (it builds on this module)

    begins = spec.start is not None and spec.start.mode == WEIGHTS and own is None
    values = weights.one_by_one(spec, runs_root(spec, log)) if begins else None
    return SpreadTrainer(spec, log.data_root, device, sizes, log.optimizer_file, values)


def facts(device: torch.device, sizes: Mapping[str, int], trainer: Trainer | None) -> dict[str, Any]:
    """What a record says of the engine, as far as the run came.

    Args:
        sizes: of the mesh.
    """
    return {
        "peak_bytes": peak_bytes(device),
        "optimizer_state_bytes": trainer.optimizer.state_bytes() if trainer else None,
        "device": description(device),
        "mesh": words(sizes),
        "versions": {**versions(), **(trainer.versions if trainer else {})},
    }
