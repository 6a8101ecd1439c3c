"""The loop around the steps of one run, the same for every engine: metric lines, validations, checkpoints, the end."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from optsweep_engines import kept, schedules
from optsweep_engines.diagnostics import SpikeWatch
from optsweep_engines.engine import Preempted, RunLog
from optsweep_engines.history import LossHistory, StepLosses
from optsweep_engines.spec import BRANCH, NUMERICS_VERSION, WEIGHTS, RecordStatus, RunRecord, RunSpec


class Trainer(Protocol):
    """One run on one engine: parameters, optimizer, data, and the step."""

    observer: Any
    """Takes the statistics of `--diagnostics full`; None without."""
    observing: bool
    """Set before a step whose statistics are wanted."""
    observed: dict[str, float]
    """Statistics of the last step, where it was observed."""

    def step(self, step: int) -> tuple[Any, Any, float]:
        """One optimizer step, counted from 0: loss and gradient norm (numbers that may still be on the way), lr."""

    def validation_loss(self, name: str | None = None) -> float:
        """Mean loss over the fixed windows of a held-out set, of the metric's without a name; nats per token."""

    def save(self, log: RunLog, step: int, progress: Mapping[str, Any]) -> None:
        """Publish a checkpoint after so many steps."""

    def keep(self, log: Any, step: int, progress: Mapping[str, Any]) -> None:
        """Publish the state after so many steps for other runs."""

    def take(self, runs_root: Path) -> dict[str, Any]:
        """Take up the whole state of a branch's trunk: its progress."""

    def restore(self, log: RunLog) -> tuple[int, dict[str, Any]] | None:
        """Take up the newest checkpoint that fits: (step, progress); None if there is none."""

    def facts(self) -> dict[str, Any]:
        """What a record says of the engine: peak_bytes, optimizer_state_bytes, device, versions."""

    def parameters_sha256(self) -> str:
        """Hash over the bytes of the parameters to keep, bank by bank in name order."""

    def arrays(self) -> dict[str, Any]:
        """numpy copies of everything by its name in a checkpoint: "param/q", "state/q/m"."""

    def set_arrays(self, arrays: Mapping[str, Any]) -> None:
        """Overwrite some of them."""


def require_trainable(spec: RunSpec) -> None:
    """Refuse what no engine of this release can train.

    Raises:
        ValueError: with the reason.
    """
    if spec.dataset_hash is None:
        raise ValueError(f"dataset {spec.dataset} is not prepared: the spec names no hash")
    if spec.dtype not in ("fp32", "bf16"):
        raise ValueError(f'dtype "{spec.dtype}" is not one of fp32, bf16')
    if spec.batch_size % spec.accumulation:
        raise ValueError(f"batch size {spec.batch_size} does not divide into {spec.accumulation} micro-batches")
    if type(spec.simulate_epochs) is not int or spec.simulate_epochs < 1:
        raise ValueError(f"simulate_epochs = {spec.simulate_epochs!r} is not a whole number from 1")
    if spec.steps < 1:
        each = f" for {spec.simulate_epochs} epochs" if spec.simulate_epochs > 1 else ""
        raise ValueError(f"{spec.tokens} tokens are less than one step of {spec.tokens_per_step}{each}")
    if spec.start is not None and spec.start.mode not in (WEIGHTS, BRANCH):
        raise ValueError(f'start.mode "{spec.start.mode}" is not one of {WEIGHTS}, {BRANCH}')
    if not 0 <= spec.first_step < spec.steps:
        raise ValueError(f"a branch from step {spec.first_step} has none of its {spec.steps} steps left")
    if spec.numerics_version != NUMERICS_VERSION:
        raise ValueError(
            f"planned for numerics {spec.numerics_version}, this engine has {NUMERICS_VERSION}: plan again"
        )


def runs_root(spec: RunSpec, log: RunLog) -> Path:
    """Folder of the run that a run begins with.

    Raises:
        ValueError: the log does not lead there.
    """
    found = getattr(log, "runs_root", None)
    if found is None and spec.start is not None:
        raise ValueError(f"run {spec.start.run_id[:8]}, with which this one begins, cannot be read from here")
    return Path(found or ".")


def foreign(found: str, own: str) -> str:
    """The line on a checkpoint of another engine."""
    return (
        f"written by engine {found}, this run is for {own}: it cannot be resumed from; its parameters can be converted, "
        "the tensors param/* have the same names, shapes and layout in both"
    )


def number(spec: RunSpec, knob: str) -> float:
    """A knob of the spec as a float; 0 when null.

    Raises:
        ValueError: the spec does not hold it.
    """
    if knob not in spec.hyperparameters:
        raise ValueError(f"the spec holds no {knob}")
    return float(spec.hyperparameters[knob] or 0.0)


def z_loss(spec: RunSpec) -> float:
    """The knob z_loss; 0 where the spec is from before it was there."""
    return float(spec.hyperparameters.get("z_loss") or 0.0)


class Account:
    """The books of one run: its losses, seconds and rates, all attempts, and the record made from them."""

    def __init__(self, spec: RunSpec, log: RunLog) -> None:
        self.spec = spec
        self.log = log
        self.done = 0
        """Optimizer steps done, all attempts."""
        self.resumed_from = 0
        self.seconds = 0.0
        """Seconds in training steps, all attempts."""
        self.history = LossHistory()
        self.losses = StepLosses() if spec.start is None and spec.schedule in schedules.TRUNKS else None
        """Of every step, where branches may want them; None where some are not known."""
        self.rates: list[float] = []
        """Tokens per second between fetches."""
        self.watch = SpikeWatch()
        self.pending: list[tuple[Any, Any]] = []
        """Loss and gradient norm of the steps since the last fetch, on the device still."""

    def validating(self, ahead: int = 0) -> bool:
        """Whether the loss is measured after the steps done: at the spec's interval, and at the end.

        Args:
            ahead: so many further steps.
        """
        spec, done = self.spec, self.done + ahead
        return done == spec.steps or bool(spec.validation_interval and done % spec.validation_interval == 0)

    def logging(self, ahead: int = 0) -> bool:
        """Whether a metric line is due after the steps done, and so many further ones."""
        return self.validating(ahead) or (self.done + ahead) % self.spec.log_interval == 0

    def watched(self) -> None:
        """Look at the steps since the last fetch: their spikes become events. Waits for the device."""
        first = self.done - len(self.pending)
        for index, (loss, norm) in enumerate(self.pending, start=1):
            if self.losses is not None:
                self.losses.train.append(float(loss))
            for kind, fields in self.watch.look(first + index, float(loss), float(norm)):
                self.log.event(kind, **fields)
        self.pending = []

    def took(self, seconds: float, steps: int) -> None:
        """So many steps in so many seconds."""
        self.seconds += seconds
        if seconds > 0:
            self.rates.append(steps * self.spec.tokens_per_step / seconds)

    def note(
        self,
        train_loss: float,
        grad_norm: float,
        lr: float,
        val_losses: Mapping[str, float] | None = None,
        further: Mapping[str, float] | None = None,
    ) -> None:
        """One metric line.

        Args:
            val_losses: validation loss by set, where they were measured.
            further: statistics of the step by key.
        """
        row = {
            "step": self.done,
            "tokens": self.done * self.spec.tokens_per_step,
            "train_seconds": round(self.seconds, 6),
            "train_loss": train_loss,
            "lr": lr,
            "grad_norm": grad_norm,
        }
        if self.spec.log_interval > 1 and self.watch.largest_norm is not None:
            row["grad_norm_max"] = self.watch.largest_norm  # of the steps since the last line
        self.watch.largest_norm = None
        if val_losses is not None:
            row["val_loss"] = val_losses[self.spec.validation_set]
            self.history.add_val_loss(row["val_loss"])
            if self.losses is not None:
                self.losses.val[self.done] = row["val_loss"]
            if self.spec.validation_sets:
                row |= {f"val_loss/{name}": loss for name, loss in val_losses.items()}
                self.history.val_losses |= {name: loss for name, loss in val_losses.items() if math.isfinite(loss)}
        self.log.metric({**(further or {}), **row})

    def progress(self) -> dict[str, Any]:
        """What a checkpoint keeps beside tensors."""
        found = {"seconds": self.seconds, "history": self.history.to_dict(), "watch": self.watch.to_dict()}
        return found if self.losses is None else {**found, "losses": self.losses.to_dict()}

    def resume(self, found: tuple[int, dict[str, Any]] | None) -> None:
        """Go on from what a checkpoint kept."""
        if found is None:
            return
        self.done, progress = found
        self.resumed_from = self.done
        self.seconds = float(progress["seconds"])
        self.history = LossHistory(**progress["history"])
        self.watch = SpikeWatch(**progress.get("watch", {}))
        if self.losses is not None:
            self.losses = StepLosses.from_dict(progress.get("losses"), self.done)
        self.log.event("resumed", step=self.done)

    def _branch_off(self, progress: Mapping[str, Any]) -> None:
        """What a trunk saw of losses and norms, as a run of one's own length would have: its lines lie at other steps."""
        losses = StepLosses.from_dict(progress.get("losses"), self.done)
        if losses is not None:
            self.history = losses.history(
                lambda step: self.logging(step - self.done), lambda step: self.validating(step - self.done)
            )
        self.watch = SpikeWatch(**{**progress.get("watch", {}), "counts": {}, "largest_norm": None})

    def begin(self, trainer: Trainer) -> None:
        """Take up the state of another run where the run begins with one, and is at its beginning.

        Raises:
            ValueError: it is not there, or is not what the spec says.
        """
        start = self.spec.start
        if start is None or self.done:
            return
        if self.spec.first_step:
            progress = trainer.take(runs_root(self.spec, self.log))
            self.done = start.step
            self._branch_off(progress)
        kept.require(self.spec, trainer.parameters_sha256())
        self.log.event("began", mode=start.mode, run=start.run_id, step=start.step)

    def record(self, status: RecordStatus, error: object, facts: Mapping[str, Any]) -> RunRecord:
        """The account of this run as it stands."""
        lines = (str(error).strip() or type(error).__name__).splitlines() if error is not None else []
        steady = self.rates[1:] or self.rates
        return RunRecord(
            run_id=self.spec.run_id,
            attempt=self.log.attempt,
            status=status,
            train_loss=self.history.train_loss,
            val_loss=self.history.val_loss,
            val_losses=dict(self.history.val_losses) or None,
            steps=self.done,
            tokens=self.done * self.spec.tokens_per_step,
            train_seconds=self.seconds,
            tokens_per_second=statistics.median(steady) if steady else None,
            resumed_from_step=self.resumed_from,
            started_from_step=self.spec.first_step,
            error=lines[0] if lines else None,
            **facts,
        )


class Loop(Account):
    """One attempt from its first step, or its last checkpoint, to its end."""

    trainer: Trainer

    def run(self, trainer: Trainer) -> RunRecord:
        """The whole attempt.

        Raises:
            Preempted: the log asked for it; a checkpoint was saved first.
        """
        spec, log = self.spec, self.log
        self.trainer = trainer
        self.resume(trainer.restore(log))
        self.begin(trainer)
        mark, mark_step = time.perf_counter(), self.done
        while self.done < spec.steps:
            reason = log.stop_requested()
            if reason is not None:
                self.seconds += time.perf_counter() - mark
                return self.stopped(reason)
            trainer.observing = trainer.observer is not None and self.logging(ahead=1)
            loss, norm, lr = trainer.step(self.done)
            self.done += 1
            self.pending.append((loss, norm))
            keeping = self.done in getattr(log, "keeps", ())
            if not self.logging() and not log.checkpoint_due() and not keeping:
                continue
            train_loss, grad_norm = float(loss), float(norm)  # the device is waited for here
            self.took(time.perf_counter() - mark, self.done - mark_step)
            self.watched()
            if self.logging():
                self.history.add_train_loss(train_loss)
                measured = self.validating() and math.isfinite(train_loss)
                losses = {name: trainer.validation_loss(name) for name in spec.measured} if measured else None
                self.note(train_loss, grad_norm, lr, losses, trainer.observed)
            if not self.history.finite:
                break
            if keeping:
                trainer.keep(log, self.done, self.progress())
            if log.checkpoint_due() and self.done < spec.steps:
                trainer.save(log, self.done, self.progress())
            mark, mark_step = time.perf_counter(), self.done
        reason = self.history.divergence()
        return self.ended("diverged" if reason else "done", reason)

    def stopped(self, reason: str) -> RunRecord:
        """Save, then end as asked.

        Raises:
            Preempted: the run is to go on later.
        """
        self.watched()
        if self.done > self.resumed_from:
            self.trainer.save(self.log, self.done, self.progress())
        if reason == "preempted":
            raise Preempted(f"stopped at step {self.done} of {self.spec.steps}")
        return self.ended("cancelled", f"cancelled at step {self.done} of {self.spec.steps}")

    def ended(self, status: RecordStatus, error: object = None) -> RunRecord:
        """The record, with the hash of the parameters."""
        return self.record(
            status, error, {**self.trainer.facts(), "parameters_sha256": self.trainer.parameters_sha256()}
        )
