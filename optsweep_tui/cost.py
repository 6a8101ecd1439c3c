"""What a run will cost before it starts: FLOPs, memory, hours; hours only from rates that were measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from optsweep_engines import models
from optsweep_engines.optimizers import catalogue
from optsweep_engines.spec import ModelShape, Scalar
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError
from optsweep_tui.imported import ImportedSpec

RateKey = tuple[str, str, str, int, int, str]
"""(engine, optimizer, model, batch_size, seq_len, dtype): runs of one key take the same time per token here."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Prediction for one run."""

    flops: float
    """Model FLOPs, forward and backward."""
    optimizer_flops: float | None
    """FLOPs of the update rule over all steps; None for a rule that declares none (a user's own)."""
    bytes_estimate: int
    """Parameters, gradients, optimizer state and activations."""
    seconds_estimate: float | None
    """On one slot of this machine; None without a measured rate."""
    seconds_basis: str | None
    """"measured": runs of this rule, model and batch went at this rate here; "neighbours": only runs of the same model and
    batch under other rules or engines did; None without an estimate."""


def rate_key(spec: RunSpec) -> RateKey:
    """What decides the time per token."""
    return (spec.engine, spec.optimizer, spec.model, spec.batch_size, spec.seq_len, spec.dtype)


def predicted(spec: RunSpec, rates: Mapping[RateKey, float]) -> Cost:
    """The cost of a run.

    Args:
        rates: measured tokens/s per `rate_key`; where a key is missing, the median of the same model and batch under other
            optimizers and engines stands in its place.
    """
    state = _state_floats(spec)
    per_step = optimizer_flops_per_step(spec)
    seconds = _seconds(spec, rates)
    own = rates.get(rate_key(spec))
    return Cost(
        flops=spec.trained_flops,
        optimizer_flops=None if per_step is None else per_step * spec.trained_steps,
        bytes_estimate=int(
            models.training_bytes(spec.shape, spec.batch_size // spec.accumulation, spec.seq_len, spec.dtype, state)
        ),
        seconds_estimate=seconds,
        seconds_basis=None if seconds is None else "measured" if own else "neighbours",
    )


def require_memory(specs: Iterable[RunSpec], here_bytes: int | None) -> None:
    """Refuse runs that this machine cannot hold: they would be killed in the middle, and others with them.

    Args:
        here_bytes: main memory of this machine; None where it cannot be told.

    Raises:
        OptsweepError: weights, gradients and optimizer state alone are more, or all that is estimated is twice as much.
    """
    looked: set[object] = set()
    if here_bytes is None:
        return
    for spec in specs:
        kind = (spec.shape, spec.optimizer, spec.batch_size // spec.accumulation, spec.seq_len, spec.dtype)
        if kind in looked:
            continue
        looked.add(kind)
        micro = spec.batch_size // spec.accumulation
        state = _state_floats(spec)
        firm = int(spec.shape.total_params * 8 + state * 4)
        whole = models.training_bytes(spec.shape, micro, spec.seq_len, spec.dtype, state)
        if firm > here_bytes or whole > 2 * here_bytes:
            smaller = "" if firm > here_bytes else ", or give a smaller batch with --set accumulation=N"
            raise OptsweepError(
                f"{spec.optimizer} {spec.model}: too little memory: a run takes about {whole / 2**30:.1f} GiB (weights, "
                f"gradients and optimizer state {firm / 2**30:.1f}, the rest for {micro} x {spec.seq_len} tokens at once), "
                f"this machine has {here_bytes / 2**30:.1f} GiB",
                f"take a smaller model or another host{smaller}",
            )


def require_disk(specs: Iterable[RunSpec], free_bytes: int, slots: int, kept: Mapping[str, int] | None = None) -> None:
    """Refuse runs whose states the disk cannot hold: they would train for hours and fail when they save.

    Args:
        specs: those that are new here; what others need is on the disk.
        free_bytes: of the workspace's disk.
        slots: runs that go on at a time; each has its newest checkpoint and the one that it is writing.
        kept: run id -> states that it is to keep.

    Raises:
        OptsweepError: checkpoints of the runs that go on together, and the states to be kept, are more than that.
    """
    sizes = {spec.run_id: checkpoint_bytes(spec) for spec in specs}
    together = 2 * sum(sorted(sizes.values())[-slots:])
    states = sum(size * (kept or {}).get(run_id, 0) for run_id, size in sizes.items())
    if together + states > free_bytes:
        for_states = f", and {states / 2**30:.2f} GiB for the states to be kept" if states else ""
        raise OptsweepError(
            f"too little disk: checkpoints of the runs that go on together take {together / 2**30:.2f} GiB{for_states}, "
            f"{free_bytes / 2**30:.2f} GiB are free",
            "free some space (optsweep gc --checkpoints), name another disk with --workspace DIR, or keep fewer states",
        )


def checkpoint_bytes(spec: RunSpec) -> int:
    """Parameters and optimizer state in fp32, as a checkpoint holds them at least."""
    return int(4 * (spec.shape.total_params + _state_floats(spec)))


def _state_floats(spec: RunSpec) -> float:
    """Numbers that the optimizer keeps."""
    return _floats(spec.optimizer, spec.shape, tuple(sorted(spec.hyperparameters.items())))


@cache
def _floats(optimizer: str, shape: ModelShape, knobs: tuple[tuple[str, Scalar], ...]) -> float:
    return catalogue.optimizer(optimizer).state_floats(models.parameter_table(shape), dict(knobs))


def optimizer_flops_per_step(spec: RunSpec) -> float | None:
    """Operations of one update, amortised over its refreshes; None for a rule that is not in the catalogue."""
    return _optimizer_flops(spec.optimizer, spec.shape, tuple(sorted(spec.hyperparameters.items())))


def imported_flops(spec: ImportedSpec) -> tuple[float | None, float | None]:
    """(model FLOPs per token, FLOPs of the update rule per step) of an imported run; None where too little is known.

    The shape is the catalogue's entry of the model's name, if that has as many parameters. Knobs that the import does
    not mention are at their defaults.
    """
    shape = _shape_of(spec.model, spec.params)
    if shape is None:
        return None, None
    per_token = None if spec.seq_len is None else shape.flops_per_token(spec.seq_len)
    if spec.hyperparameters is None or spec.batch_size is None:
        return per_token, None
    return per_token, _filled_flops(spec.optimizer, shape, tuple(sorted(spec.hyperparameters.items())))


@lru_cache(maxsize=64)
def _shape_of(model: str, params: int | None) -> ModelShape | None:
    try:
        shape = models.model(model).shape
    except LookupError:
        return None
    return shape if shape.non_embedding_params == params else None


@lru_cache(maxsize=4096)
def _filled_flops(optimizer: str, shape: ModelShape, knobs: tuple[tuple[str, Scalar], ...]) -> float | None:
    try:
        entry = catalogue.optimizer(optimizer)
    except LookupError:
        return None
    defaults = {knob.name: knob.default for knob in entry.knobs}
    counting = {key: value for key, value in (defaults | dict(knobs)).items() if key in defaults}
    return _optimizer_flops(optimizer, shape, tuple(sorted(counting.items())))


@lru_cache(maxsize=4096)
def _optimizer_flops(optimizer: str, shape: ModelShape, knobs: tuple[tuple[str, Scalar], ...]) -> float | None:
    try:
        return catalogue.optimizer(optimizer).flops_per_step(models.parameter_table(shape), dict(knobs))
    except (LookupError, ValueError, TypeError, ArithmeticError):
        return None


def _seconds(spec: RunSpec, rates: Mapping[RateKey, float]) -> float | None:
    tokens = spec.trained_steps * spec.tokens_per_step
    rate = rates.get(rate_key(spec))
    if rate is None:
        same_model = [value for key, value in rates.items() if key[2:] == rate_key(spec)[2:]]
        rate = statistics.median(same_model) if same_model else None
    return None if not rate else tokens / rate


def total_seconds(seconds: Iterable[float | None], slots: int) -> float | None:
    """Wall seconds of a plan on so many slots; None when one run has no estimate."""
    known = list(seconds)
    if not known or any(value is None for value in known):
        return None
    longest = max(value for value in known if value is not None)
    return max(longest, sum(value for value in known if value is not None) / max(1, slots))
