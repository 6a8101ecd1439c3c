"""The learning rate over a run, as a factor of its peak: cosine, linear, wsd, constant; plain floats, no framework."""

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
    """Schedule knobs that it reads, of warmup, decay, min_lr_ratio."""


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


def warmup_steps(steps: int, warmup: float) -> int:
    """Steps of warmup: the number itself from 1 up, below 1 a fraction of all steps (rounded), at most all of them."""
    return min(steps, round(warmup * steps) if warmup < 1 else round(warmup))


def lr_factor(step: int, steps: int, name: str, knobs: Mapping[str, Scalar]) -> float:
    """Learning rate of one step over its peak, in (0, 1].

    With w warmup steps, step t (from 0) has (t+1)/w for t < w. The decay takes d = min(round(decay * steps),
    steps - w) steps and ends at min_lr_ratio one step after the last, so that no step has lr 0:
    progress p = (t - (steps - d)) / d runs over 0, 1/d, ... (d-1)/d.

    Args:
        step: 0-based.
        steps: of the whole run.
        name: "cosine", "linear", "wsd" or "constant".
        knobs: warmup, decay (None or absent = the schedule's own default), min_lr_ratio.

    Raises:
        LookupError: no such schedule.
    """
    entry = schedule(name)
    warm = warmup_steps(steps, _number(knobs.get("warmup"), 0.0))
    if step < warm:
        return (step + 1) / warm
    fraction = _number(knobs.get("decay"), entry.default_decay) if "decay" in entry.knobs else 0.0
    decaying = min(round(fraction * steps), steps - warm)
    start = steps - decaying
    if step <= start or decaying == 0:
        return 1.0
    progress = (step - start) / decaying
    falling = 0.5 * (1.0 + math.cos(math.pi * progress)) if entry.name == "cosine" else 1.0 - progress
    floor = _number(knobs.get("min_lr_ratio"), 0.0)
    return floor + (1.0 - floor) * falling


def _number(value: Scalar, default: float) -> float:
    return default if value is None else float(value)
