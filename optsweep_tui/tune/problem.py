"""The words of a search: the cell and rules that it is about, the runs that it asks for, how they ended, and its steps."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from optsweep_engines.spec import Scalar
from optsweep_tui.tune.axes import Axis, Config, Key, Side, key_of

# analysis.md: one threshold for moves and near-best sets, nats.
THRESHOLD = 3e-3
# Two single runs of equal configurations differ by more than this many sigma sqrt(2) once in twenty (one-sided).
TIE_WIDTH = 1.645


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A configuration under a seed: one run of the cell."""

    config: Config
    seed: int

    @cached_property
    def key(self) -> tuple[Key, int]:
        return key_of(self.config), self.seed


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    run_id: str
    state: str
    """done, diverged, oom, failed, cancelled, lost."""
    loss: float | None
    """Final validation loss, nats; None unless it is done with a finite one."""


Results: TypeAlias = Callable[[Candidate], Outcome | None]
"""How a run ended; None for one that has not."""
Batch: TypeAlias = list[Candidate]
Asking: TypeAlias = Generator[Batch, None, None]
"""Yields runs that it needs, maybe none; is taken up again when all of them have ended."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a cell is tuned."""

    threshold: float | None = None
    """A move must gain more, nats; None: THRESHOLD, or what noise alone does where that is more."""
    sigma: float | None = None
    """Run-to-run standard deviation that was known before, nats."""
    sigma_source: str = "none"
    """given, or of a cell: measured, prior or none."""
    max_runs: int | None = None
    """Most configurations of a cell, fresh seeds apart."""
    max_extensions: int = 6
    """Most new values per knob and side beyond its list."""
    block: tuple[str, str] | None = ("lr", "weight_decay")
    fresh_seeds: int = 3
    seeds_for_start: bool = False
    """The start is run under the fresh seeds too, before the search: it then has a mean, and the noise is measured."""
    seed: int = 0
    """Of every run of the search; fresh seeds count up from it."""
    skip_failed: bool = False
    """A run that failed, was cancelled or lost counts as a value without a loss; else the search waits for it."""
    sampler: str = "descent"
    """descent or optuna."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One cell to be tuned."""

    start: Config
    axes: Mapping[str, Axis]
    """In the order in which the knobs are tried; every axis holds the start's value."""
    rules: Rules
    proposed: Callable[[Axis, Side], Scalar | None]
    """The next value beyond an end of a list; None at a bound."""
    refused: Callable[[Config], str | None] = lambda config: None
    """Why a configuration cannot be run at all; None where it can."""
    spare: Mapping[str, Axis] = field(default_factory=dict)
    """Knobs that only the block may try."""
    equal: bool = False
    """The cell waits for the number of configurations that the other optimizers needed, and spends as many."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A run of a step."""

    config: Config
    change: Mapping[str, Scalar]
    """The knobs in which it differs from the incumbent that the step began with."""
    seed: int
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Step:
    """One decision: what was tried, what was best, whether the incumbent moved, and why."""

    kind: str
    """start, sweep, extend, block, refine, sample, settle or seeds."""
    knobs: tuple[str, ...] = ()
    round: int = 0
    """Which pass over the knobs, from 1."""
    tried: tuple[Tried, ...] = ()
    """Its runs, those of earlier steps included where they lie on its line."""
    new: int = 0
    """Those of them that no earlier step tried."""
    best: Mapping[str, Scalar] = field(default_factory=dict)
    """Values of its knobs that gave the smallest loss."""
    loss: float | None = None
    """That loss, nats."""
    gain: float | None = None
    """The incumbent's loss minus it, nats; None where one of them has none."""
    moved: bool = False
    why: str = ""
