"""Packed cells: K runs of one shape in one program, each with its own knobs, seed, clipping, verdict, folder and record.

On a CPU the replicas are computed one after the other (`lax.map`), on an accelerator side by side (`vmap`), where a small
model leaves most of the device idle. What runs have in common stays a plain number of the program; what differs becomes an
array with one entry per replica. A pack is only as long as its members agree on the next step: members that resume from
different steps, or that need different programs, are trained as packs of their own, one after the other.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optsweep_engines import data
from optsweep_engines.engine import RunLog
from optsweep_engines.jax_engine.device import model_options
from optsweep_engines.jax_engine.optimizer import Events
from optsweep_engines.jax_engine.programs import ModelKey, Update, decoder, exact_scalars, gradients
from optsweep_engines.jax_engine.train import Trainer, facts, placed
from optsweep_engines.loop import Account
from optsweep_engines.optimizers.base import SERVICES
from optsweep_engines.spec import RunRecord, RunSpec

EVENTS_LOOKED_AT = 1000
"""Steps over which members are asked what their rules do."""


def unpackable(trainers: Sequence[Trainer]) -> str | None:
    """Why these runs cannot share a program, in one line; None if they can."""
    first = trainers[0]
    for other in trainers[1:]:
        if other.key != first.key or other.spec.batch_size != first.spec.batch_size:
            return "their shapes, batches or compute types differ"
        if (other.spec.steps, other.spec.validation_interval) != (first.spec.steps, first.spec.validation_interval):
            return "their steps or their validations differ"
        if _read(other.spec) != _read(first.spec):
            return "their datasets or held-out tokens differ"
        if other.update is not first.update:
            return "their optimizers differ by more than numbers"
    steps = range(1, min(first.spec.steps, EVENTS_LOOKED_AT) + 1)
    happenings = {tuple(trainer.optimizer.events(step) for step in steps) for trainer in trainers}
    if len(happenings) > 1:
        return "their rules do different things on some steps"
    if any(name in SERVICES for events in happenings.pop() for _, own in events for name in own):
        return f"{first.spec.optimizer} needs noise or Hessian estimates, which are made run by run"
    return None


def _read(spec: RunSpec) -> tuple[object, ...]:
    return spec.dataset_hash, spec.validation_tokens, spec.validation_set, dict(spec.validation_sets)


def weak_array(values: Sequence[Any], count: int) -> jax.Array:
    """Weakly typed numbers as a weakly typed array: stacking them would make them doubles that widen what they meet."""
    found = jnp.broadcast_to(values[0], (count,))
    for index in range(1, count):
        found = jnp.where(np.arange(count) == index, values[index], found)
    return found


@functools.lru_cache(maxsize=32)
def step_program(key: ModelKey, update: Update, count: int) -> Callable[..., Any]:
    """One step of every replica, compiled: (params, states, x, y, step, common, own; events)."""

    def one(
        params: Any,
        states: Any,
        x_BT: jax.Array,
        y_BT: jax.Array,
        numbers: Mapping[str, Any],
        step: Any,
        events: Events,
    ) -> Any:
        loss, grads, norm = gradients(key, params, x_BT, y_BT, numbers["max_grad_norm"])
        given = {name: value for name, value in numbers.items() if name not in ("lr", "max_grad_norm")}
        with jax.default_matmul_precision("highest"):
            params, states = update.optimizer.update(params, grads, states, numbers["lr"], step, {}, events, given)
        return params, states, loss, norm

    def program(
        params: Any, states: Any, x_KBT: jax.Array, y_KBT: jax.Array, step: Any, common: Any, own: Any, events: Events
    ) -> Any:
        arrays = {name: weak_array(values, count) for name, values in own.items()}

        def of_replica(part: Any) -> Any:
            return one(part[0], part[1], part[2], part[3], {**common, **part[4]}, step, events)

        parts = (params, states, x_KBT, y_KBT, arrays)
        if key.layout.platform == "cpu":
            return jax.lax.map(of_replica, parts)
        return jax.vmap(of_replica)(parts)

    options = model_options(key.layout.platform)
    return jax.jit(program, static_argnames="events", donate_argnums=(0, 1), compiler_options=options)


@functools.lru_cache(maxsize=32)
def loss_program(key: ModelKey) -> Callable[..., Any]:
    """Losses of every replica on the same sequences, compiled."""
    model = decoder(key)

    def program(params: Any, x_BT: jax.Array, y_BT: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest" if key.dtype == "fp32" else "default"):
            if key.layout.platform == "cpu":
                one_by_one: jax.Array = jax.lax.map(lambda values: model.loss(values, x_BT, y_BT), params)
                return one_by_one
            together: jax.Array = jax.vmap(lambda values: model.loss(values, x_BT, y_BT))(params)
            return together

    return jax.jit(program, compiler_options=model_options(key.layout.platform))


class Pack:
    """Replicas trained together."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        """Stack what the trainers hold; `spread` gives it back.

        Raises:
            ValueError: they cannot share a program.
        """
        reason = unpackable(trainers)
        if reason is not None:
            raise ValueError(f"these {len(trainers)} runs cannot be packed: {reason}")
        self.trainers = list(trainers)
        self.unseen: list[tuple[jax.Array, jax.Array]] = []
        """Losses and norms of steps that no member was shown."""
        first = self.trainers[0]
        self.params = jax.tree.map(lambda *values: jnp.stack(values), *(trainer.params for trainer in trainers))
        self.states = jax.tree.map(lambda *values: jnp.stack(values), *(trainer.states for trainer in trainers))
        self.program = step_program(first.key, first.update, len(self.trainers))
        fixed = [{**trainer.given, "max_grad_norm": trainer.max_grad_norm} for trainer in trainers]
        self.common = {name: value for name, value in fixed[0].items() if all(each[name] == value for each in fixed)}
        self.own = {name: [each[name] for each in fixed] for name in fixed[0] if name not in self.common}

    def step(self, step: int) -> tuple[jax.Array, jax.Array, list[float]]:
        """One step of every replica, counted from 0: losses and norms [K] (still on the way), learning rates."""
        batches = [data.batch_of(each.spec, each.dataset, step) for each in self.trainers]
        x_KBT, y_KBT = (np.stack(part).astype(np.int32) for part in zip(*batches, strict=True))
        lrs = [each.lr(step) for each in self.trainers]
        events = self.trainers[0].optimizer.events(step + 1)
        with exact_scalars():
            self.params, self.states, losses, norms = self.program(
                self.params, self.states, x_KBT, y_KBT, float(step + 1), self.common, {**self.own, "lr": lrs},
                events=events,
            )  # fmt: skip
        return losses, norms, lrs

    def validation_losses(self) -> list[dict[str, float]]:
        """Mean loss of each replica over the fixed windows of each held-out set, nats per token."""
        spec, first = self.trainers[0].spec, self.trainers[0]
        params = self.params
        if first.update.optimizer.swaps:
            self.spread()
            kept = [each.evaluated() for each in self.trainers]
            params = jax.tree.map(lambda *values: jnp.stack(values), *kept)
        rows, program = spec.batch_size // spec.accumulation, loss_program(first.key)
        by_set = {}
        for name in spec.measured:
            x, y = first.held_out.windows(name)
            found = []
            for start in range(0, len(x), rows):
                inputs, targets = (part[start : start + rows].astype(np.int32) for part in (x, y))
                found.append((program(params, inputs, targets), len(inputs)))
            by_set[name] = np.sum([np.asarray(each, np.float64) * count for each, count in found], axis=0) / len(x)
        return [{name: float(values[k]) for name, values in by_set.items()} for k in range(len(self.trainers))]

    def shown(self, members: Sequence[Member]) -> None:
        """Show the members their losses and norms of the steps since the last time; waits for the device."""
        found = [(np.asarray(losses, np.float64), np.asarray(norms, np.float64)) for losses, norms in self.unseen]
        self.unseen = []
        for index, member in enumerate(members):
            if member.ended is None:
                member.pending = [(losses[index], norms[index]) for losses, norms in found]
                member.watched()

    def spread(self) -> None:
        """Give each trainer its own arrays, for checkpoints and hashes."""
        for index, trainer in enumerate(self.trainers):
            trainer.params = jax.tree.map(lambda value, index=index: value[index], self.params)
            trainer.states = jax.tree.map(lambda value, index=index: value[index], self.states)


class Member(Account):
    """The books of one replica."""

    trainer: Trainer
    ended: RunRecord | None = None
    preempted = False

    def close(self, status: Any, error: object = None) -> None:
        """End it, with the parameters that its trainer holds now."""
        known = {**facts(self.trainer.layout, self.trainer)}
        self.ended = self.record(status, error, {**known, "parameters_sha256": self.trainer.parameters_sha256()})


def train_pack(specs: Sequence[RunSpec], logs: Sequence[RunLog]) -> list[RunRecord | None]:
    """Train runs together as far as they go together; a record each, None for one that was preempted (and saved).

    Raises:
        ValueError: one of them cannot be trained here.
    """
    members = []
    if any(spec.start is not None for spec in specs):
        raise ValueError("a run that begins with the state of another one is trained alone, not in a pack")
    for spec, log in zip(specs, logs, strict=True):
        member = Member(spec, log)
        member.trainer = Trainer(spec, log.data_root, placed(spec, log), log.optimizer_file)
        member.resume(member.trainer.restore(log))
        members.append(member)
    waiting = list(members)
    while waiting:
        leader = waiting[0]
        together = [
            other
            for other in waiting
            if other.done == leader.done and unpackable([leader.trainer, other.trainer]) is None
        ] or [leader]
        for member in together:
            member.log.event("packed", replicas=len(together), led_by=leader.spec.run_id)
        _trained(together)
        waiting = [member for member in waiting if member not in together]
    return [member.ended for member in members]


def _trained(members: list[Member]) -> None:
    """The steps of one pack, from where its members are to their ends."""
    pack = Pack([member.trainer for member in members])
    first = members[0]
    mark, mark_step = time.perf_counter(), first.done
    while first.done < first.spec.steps:
        open_ = [member for member in members if member.ended is None]
        reasons = {id(member): member.log.stop_requested() for member in open_}
        if any(reasons.values()):
            _stopped(pack, members, open_, reasons)
            if not any(member.ended is None and not member.preempted for member in members):
                return
        losses, norms, lrs = pack.step(first.done)
        pack.unseen.append((losses, norms))
        for member in members:
            member.done += 1
        due = first.log.checkpoint_due()
        keeping = [each for each in members if each.ended is None and each.done in getattr(each.log, "keeps", ())]
        if not first.logging() and not due and not keeping:
            continue
        values, sizes = np.asarray(losses, np.float64), np.asarray(norms, np.float64)  # the device is waited for here
        elapsed = time.perf_counter() - mark
        for member in members:
            member.took(elapsed / len(members), member.done - mark_step)
        pack.shown(members)
        if first.logging():
            measured = pack.validation_losses() if first.validating() else [None] * len(members)
            for member, loss, norm, lr, val in zip(members, values, sizes, lrs, measured, strict=True):
                if member.ended is None:
                    member.history.add_train_loss(float(loss))
                    member.note(float(loss), float(norm), lr, val if math.isfinite(loss) else None)
        broken = [member for member in members if member.ended is None and not member.history.finite]
        if broken or due or keeping:
            pack.spread()
        for member in broken:
            member.close("diverged", member.history.divergence())
        for member in keeping:
            if member.ended is None:
                member.trainer.keep(member.log, member.done, member.progress())
        if due and first.done < first.spec.steps:
            for member in members:
                if member.ended is None:
                    member.trainer.save(member.log, member.done, member.progress())
        if all(member.ended is not None for member in members):
            return
        mark, mark_step = time.perf_counter(), first.done
    pack.spread()
    for member in members:
        if member.ended is None:
            reason = member.history.divergence()
            member.close("diverged" if reason else "done", reason)


def _stopped(pack: Pack, everyone: list[Member], members: list[Member], reasons: Mapping[int, str | None]) -> None:
    """Save those that are to stop; a cancelled one ends, the others of the pack go on."""
    pack.spread()
    pack.shown(everyone)
    for member in members:
        reason = reasons[id(member)]
        if reason is None:
            continue
        if member.done > member.resumed_from:
            member.trainer.save(member.log, member.done, member.progress())
        if reason == "cancelled":
            member.close("cancelled", f"cancelled at step {member.done} of {member.spec.steps}")
        else:
            member.preempted = True
