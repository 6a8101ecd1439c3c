"""The learning rate over a run, as a factor of its peak: cosine, linear, wsd, constant, frozen start; plain floats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optsweep_engines.spec import Scalar


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One shape of the learning rate: warmup, a plateau, then a decay that ends at the last step."""

    name: str
    doc: str
    default_decay: float
    """Fraction of all steps spent decaying unless the knob `decay` says otherwise; 1 = everything after warmup."""
    knobs: frozenset[str]
    """Schedule knobs that it reads: of warmup, decay, min_lr_ratio, and t_freeze, which only some optimizers have."""


TRUNKS = ("wsd", "constant")
"""Those with a steady part: other runs may branch off there."""
FREEZE = "freeze_cosine_with_warmup"

SCHEDULES: dict[str, Schedule] = {
    entry.name: entry
    for entry in (
        Schedule(
            name="cosine",
            doc="warmup, then half a cosine from the peak to min_lr_ratio x peak",
            default_decay=1.0,
            knobs=frozenset({"warmup", "decay", "min_lr_ratio"}),
        ),
        Schedule(
            name="linear",
            doc="warmup, then a straight line from the peak to min_lr_ratio x peak",
            default_decay=1.0,
            knobs=frozenset({"warmup", "decay", "min_lr_ratio"}),
        ),
        Schedule(
            name="wsd",
            doc="warmup, a stable peak, then a straight line over the last fifth of the steps",
            default_decay=0.2,
            knobs=frozenset({"warmup", "decay", "min_lr_ratio"}),
        ),
        Schedule(
            name="constant",
            doc="warmup, then the peak to the end",
            default_decay=0.0,
            knobs=frozenset({"warmup"}),
        ),
        Schedule(
            name=FREEZE,
            doc="nothing for t_freeze steps, then cosine over the others: for scales measured before training",
            default_decay=1.0,
            knobs=frozenset({"warmup", "decay", "min_lr_ratio", "t_freeze"}),
        ),
    )
}


def schedule(name: str) -> Schedule:
    """The entry of a name, matched without case.

    Raises:
        LookupError: no such schedule; the argument is the name that was asked for.
    """
    if name.lower() not in SCHEDULES:
        raise LookupError(name)
    return SCHEDULES[name.lower()]


def unread(name: str) -> frozenset[str]:
    """The knobs of other schedules that this one does not read."""
    return frozenset().union(*(entry.knobs for entry in SCHEDULES.values())) - schedule(name).knobs


def warmup_steps(steps: int, warmup: float) -> int:
    """Steps of warmup: the number itself from 1 up, below 1 a fraction of all steps (rounded), at most all of them."""
    return min(steps, round(warmup * steps) if warmup < 1 else round(warmup))


def frozen_steps(steps: int, t_freeze: float) -> int:
    """Steps at learning rate 0 before the warmup: t_freeze itself from 1 up, below 1 a fraction of all steps, at least 1.

    Raises:
        ValueError: none would be left to train.
    """
    frozen = max(1, warmup_steps(steps, t_freeze))
    if frozen >= steps:
        raise ValueError(f"t_freeze = {t_freeze:g} leaves none of {steps} steps to train")
    return frozen


def lr_factor(step: int, steps: int, name: str, knobs: Mapping[str, Scalar]) -> float:
    """Learning rate of one step over its peak, in (0, 1]; 0 in the frozen steps of freeze_cosine_with_warmup.

    With w warmup steps, step t (from 0) has (t+1)/w for t < w. The decay takes d = min(round(decay * steps),
    steps - w) steps and ends at min_lr_ratio one step after the last, so that no step has lr 0:
    progress p = (t - (steps - d)) / d runs over 0, 1/d, ... (d-1)/d.

    Args:
        step: 0-based.
        steps: of the whole run.
        name: "cosine", "linear", "wsd", "constant" or "freeze_cosine_with_warmup".
        knobs: warmup, decay (None or absent = the schedule's own default), min_lr_ratio, t_freeze.

    Raises:
        LookupError: no such schedule.
        ValueError: t_freeze covers every step.
    """
    entry = schedule(name)
    if entry.name == FREEZE and knobs.get("t_freeze") is not None:
        frozen = frozen_steps(steps, _number(knobs["t_freeze"], 0.0))
        if step < frozen:
            return 0.0
        return lr_factor(step - frozen, steps - frozen, "cosine", knobs)
    warm = warmup_steps(steps, _number(knobs.get("warmup"), 0.0))
    if step < warm:
        return (step + 1) / warm
    fraction = _number(knobs.get("decay"), entry.default_decay) if "decay" in entry.knobs else 0.0
    decaying = min(round(fraction * steps), steps - warm)
    start = steps - decaying
    if step <= start or decaying == 0:
        return 1.0
    progress = (step - start) / decaying
    falling = 0.5 * (1.0 + math.cos(math.pi * progress)) if entry.name in ("cosine", FREEZE) else 1.0 - progress
    floor = _number(knobs.get("min_lr_ratio"), 0.0)
    return floor + (1.0 - floor) * falling


def decay_start(steps: int, name: str, knobs: Mapping[str, Scalar]) -> int:
    """Steps before the decay: the first one below the peak is one further; all steps where nothing decays."""
    entry = schedule(name)
    warm = warmup_steps(steps, _number(knobs.get("warmup"), 0.0))
    fraction = _number(knobs.get("decay"), entry.default_decay) if "decay" in entry.knobs else 0.0
    return steps - min(round(fraction * steps), steps - warm)


def never_at_peak(name: str, steps: int, knobs: Mapping[str, Scalar]) -> bool:
    """True where the warmup takes every step (published sweeps hold such runs: large batches under a fixed warmup)."""
    return "warmup" in schedule(name).knobs and warmup_steps(steps, _number(knobs.get("warmup"), 0.0)) >= steps


def check(name: str, knobs: Mapping[str, Scalar]) -> None:
    """Refuse a warmup or frozen start that is neither a fraction nor a whole number of steps.

    Raises:
        ValueError: with the reason.
    """
    for key in ("warmup", "t_freeze"):
        value = _number(knobs.get(key), 0.0)
        if key in schedule(name).knobs and value >= 1 and not value.is_integer():
            raise ValueError(f"{key} = {value:g} is neither a fraction below 1 nor a whole number of steps")


def _number(value: Scalar, default: float) -> float:
    return default if value is None else float(value)
