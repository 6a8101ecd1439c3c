"""Steps of the JAX engine: `train(spec, log)` from the first step, or the last checkpoint, to a RunRecord."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optsweep_engines import data, kept, weights
from optsweep_engines.diagnostics import Wanted, wanted
from optsweep_engines.engine import RunLog
from optsweep_engines.heldout import HeldOut
from optsweep_engines.jax_engine import checkpoint
from optsweep_engines.jax_engine.device import description, opened, peak_bytes, versions
from optsweep_engines.jax_engine.layout import Layout, layout
from optsweep_engines.jax_engine.observe import Observer
from optsweep_engines.jax_engine.optimizer import States
from optsweep_engines.jax_engine.programs import (
    exact_scalars,
    gradients_program,
    loss_program,
    model_key,
    update_of,
)
from optsweep_engines.jax_engine.services import Services
from optsweep_engines.jax_engine.user import entry_of
from optsweep_engines.loop import Loop, number, require_trainable, runs_root
from optsweep_engines.mesh import words
from optsweep_engines.models import initial_parameters, parameter_table
from optsweep_engines.schedules import lr_factor
from optsweep_engines.spec import RunRecord, RunSpec

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
"""How XLA says it, in the text of its one exception."""


class Trainer:
    """One run on one device or a mesh: parameters, optimizer, data, and the step. The loop around it is `loop.Loop`."""

    def __init__(
        self,
        spec: RunSpec,
        data_root: Path,
        place: Layout,
        optimizer_file: Path | None = None,
        initial: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the data, make the parameters and the optimizer; programs are compiled when they are first called.

        Args:
            optimizer_file: the run's copy of a user's own optimizer, where the spec names its hash.
            initial: parameters to begin with, by name, in the place of those of the seed.
        """
        require_trainable(spec)
        self.spec = spec
        self.layout = place
        self.dataset = data.dataset_of(spec, data_root)
        self.held_out = HeldOut(spec, data_root, self.dataset)
        entry, self.versions = entry_of(spec, optimizer_file)
        self.update, self.optimizer = update_of(entry, spec, place, code=spec.optimizer_file_hash)
        self.given = self.update.given(self.optimizer)
        self.key = model_key(spec, place)
        self.services = Services(spec, self.key)
        values = initial or initial_parameters(spec.shape, spec.seed)
        self.params: dict[str, jax.Array] = {
            item.name: checkpoint.laid_out(values[item.name], place.of(item)) for item in parameter_table(spec.shape)
        }
        with exact_scalars():
            self.states: States = self.update.init(self.params)
        self.observer: Observer | None = None
        self.observing = False
        self.observed: dict[str, float] = {}
        self.peak_lr = number(spec, "lr")
        self.max_grad_norm = number(spec, "max_grad_norm")

    def lr(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.peak_lr * lr_factor(step, self.spec.steps, self.spec.schedule, self.spec.hyperparameters)

    def batch(self, step: int) -> tuple[jax.Array, jax.Array]:
        """Inputs and targets [batch_size, seq_len] of a step, on the devices."""
        x, y = data.batch_of(self.spec, self.dataset, step)
        return self.layout.batch(x.astype(np.int32)), self.layout.batch(y.astype(np.int32))

    def step(self, step: int) -> tuple[jax.Array, jax.Array, float]:
        """One optimizer step, counted from 0: loss and gradient norm (still on the way), learning rate.

        Nothing here waits for the device: while it computes, the host draws the next batch.
        """
        x_BT, y_BT = self.batch(step)
        loss, grads, norm = gradients_program(self.key)(self.params, x_BT, y_BT, self.max_grad_norm)
        if self.observing and self.observer is not None:
            self.observer.before(self.params, x_BT, grads, norm, self.max_grad_norm)
        lr, events = self.lr(step), self.optimizer.events(step + 1)
        extra: dict[str, dict[str, jax.Array]] = {}
        if events:
            extra = self.services.at(self.optimizer.services(events), step + 1, self.params, x_BT, y_BT)
        with exact_scalars():
            self.params, self.states = self.update.step(
                self.params, grads, self.states, lr, float(step + 1), extra, self.given, events=events
            )
        self.observed = self.observer.after(self.params) if self.observing and self.observer is not None else {}
        return loss, norm, lr

    def observe(self, asked: Wanted | None, tell: Callable[..., None]) -> None:
        """Take statistics on the steps that the loop asks for.

        Args:
            tell: writes an event.
        """
        if asked is not None:
            self.observer = Observer(self.key, asked, tell)

    def evaluated(self) -> dict[str, jax.Array]:
        """The values to evaluate and to keep."""
        if not self.update.optimizer.swaps:
            return self.params
        with exact_scalars():
            return self.update.evaluated(self.params, self.states)

    def validation_loss(self, name: str | None = None) -> float:
        """Mean loss over the fixed windows of a held-out set (None: of the metric's), nats per token."""
        x, y = self.held_out.windows(name)
        rows = self.spec.batch_size // self.spec.accumulation
        params, program = self.evaluated(), loss_program(self.key)
        found = []
        for start in range(0, len(x), rows):
            inputs, targets = (self.layout.batch(part[start : start + rows].astype(np.int32)) for part in (x, y))
            found.append((program(params, inputs, targets), len(inputs)))
        return sum(float(loss) * count for loss, count in found) / len(x)

    def save(self, log: RunLog, step: int, progress: Mapping[str, Any]) -> None:
        """Publish a checkpoint after so many steps."""
        checkpoint.save(log, self.spec.run_id, step, self.params, self.states, progress)

    def keep(self, log: Any, step: int, progress: Mapping[str, Any]) -> None:
        """Publish the state after so many steps for other runs."""
        evaluated = self.evaluated()
        checkpoint.keep(
            log, self.spec.run_id, step, self.params, self.states, progress, evaluated, sha256_of(evaluated)
        )

    def take(self, runs_root: Path) -> dict[str, Any]:
        """Take up the whole state of a branch's trunk: its progress."""
        found = kept.start_of(self.spec, runs_root)
        progress, self.params, self.states = checkpoint.load(
            found.path, found.run_id, found.step, self.params, self.states
        )
        return progress

    def restore(self, log: RunLog) -> tuple[int, dict[str, Any]] | None:
        """Take up the newest checkpoint that fits: (step, progress)."""
        found = checkpoint.restore(log, self.spec.run_id, self.params, self.states)
        if found is None:
            return None
        step, progress, self.params, self.states = found
        return step, progress

    def arrays(self) -> dict[str, Any]:
        """numpy copies of everything by its name in a checkpoint."""
        return {name: checkpoint.on_host(value) for name, value in checkpoint.named(self.params, self.states).items()}

    def set_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Overwrite some of them."""
        for name, value in arrays.items():
            kind, _, rest = name.partition("/")
            bank, _, key = rest.partition("/")
            held = self.params if kind == "param" else self.states[bank]
            place = bank if kind == "param" else key
            held[place] = checkpoint.laid_out(np.asarray(value), held[place].sharding)

    def facts(self) -> dict[str, Any]:
        """What a record says of the engine."""
        return facts(self.layout, self)

    def parameters_sha256(self) -> str:
        """Hash over the bytes of the parameters to keep, bank by bank in name order."""
        return sha256_of(self.evaluated())


def sha256_of(params: Mapping[str, jax.Array]) -> str:
    """Hash over names and bytes, in name order; the same function of the same numbers as the other engine's."""
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(name.encode())
        digest.update(checkpoint.on_host(params[name]).data)
    return digest.hexdigest()


def train(spec: RunSpec, log: RunLog) -> RunRecord:
    """Train to the end of the spec, or resume and train to the end; running out of memory is a record, not an error.

    Raises:
        Preempted: the log asked for it; a checkpoint was saved first.
        ValueError: the spec cannot be trained here.
    """
    place = placed(spec, log)
    run = Loop(spec, log)
    trainer: Trainer | None = None
    try:
        own = next(log.checkpoints(), None)  # with a state of its own a run needs that of no other
        initial = weights.initial(spec, runs_root(spec, log)) if own is None else None
        trainer = Trainer(spec, log.data_root, place, log.optimizer_file, initial)
        trainer.observe(wanted(log), log.event)
        return run.run(trainer)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in OUT_OF_MEMORY):
            raise
        return run.record("oom", error, facts(place, trainer))


def placed(spec: RunSpec, log: RunLog) -> Layout:
    """The devices of a run and how its arrays lie on them, as its log says.

    Raises:
        ValueError: no such device, or a mesh that does not fit.
    """
    require_trainable(spec)
    return layout(opened(log.device), log.mesh, spec.batch_size // spec.accumulation)


def facts(place: Layout, trainer: Trainer | None) -> dict[str, Any]:
    """What a record says of the engine, as far as the run came."""
    held = 0 if trainer is None else sum(leaf.nbytes for leaf in jax.tree.leaves(trainer.states))
    return {
        "peak_bytes": peak_bytes(place.devices),
        "optimizer_state_bytes": held if trainer else None,
        "device": description(place.devices),
        "mesh": words({"data": place.data, "fsdp": place.fsdp}),
        "versions": {**versions(), **(trainer.versions if trainer else {})},
    }
