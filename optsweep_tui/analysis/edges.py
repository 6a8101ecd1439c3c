"""Knobs whose best value lies at the end of its swept list, so that the optimum may lie outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from optsweep_tui.analysis.lines import BATCH, Line, lines
from optsweep_tui.analysis.runs import Run


class Declared(Protocol):
    """A knob of a catalogue: all that counts here is its range."""

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


KnobInfo: TypeAlias = Mapping[str, Declared | Mapping[str, Declared]]
"""Declared knobs by name; or by optimizer, then name, which wins where ranges differ between optimizers."""
Ranges: TypeAlias = Mapping[str, tuple[float | None, float | None]]
"""Knob -> (low, high), None = open. A best value at a declared bound is no edge."""

# Bounds that cannot be crossed whatever the rule declares: no knob goes below 0 (0 switches weight decay, clipping or
# warmup off), and a decay phase is at most the whole run.
FLOOR = 0.0
FLOORS = {BATCH: 1.0}
CEILINGS = {"decay": 1.0, "min_lr_ratio": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Edge:
    """The best value of one knob is the lowest or highest that was swept."""

    knob: str
    value: float
    side: str
    """"low" or "high"."""

    def __str__(self) -> str:
        return f"{self.knob}={self.value:g} ({'lowest' if self.side == 'low' else 'highest'} swept)"


def declared_ranges(knob_info: KnobInfo | None, optimizer: str) -> Ranges:
    """Ranges of one optimizer's knobs."""
    flat, own = {}, {}
    for name, entry in (knob_info or {}).items():
        if not isinstance(entry, Mapping):
            flat[name] = (entry.low, entry.high)
        elif name == optimizer:
            own = {knob: (declared.low, declared.high) for knob, declared in entry.items()}
    return flat | own


def edges(best: Run, runs: Sequence[Run], ranges: Ranges) -> list[Edge]:
    """Edges of one cell, by knob name: the best value of a knob's line (`lines`) is the first or last that was tried.

    The swept list of a knob is every value that a run of the cell reports on, diverged ones included: when the next
    larger lr diverged, the best one is interior. Booleans and texts have no order and no edges.

    Args:
        best: the run of the best configuration; unpublished, nothing is known of its edges.
        runs: the runs of the cell that were part of the selection.
        ranges: declared range per knob.
    """
    if best.knobs is None:
        return []
    return [edge for line in lines(runs).values() for edge in edges_of(line, ranges.get(line.knob, (None, None)))]


def edges_of(line: Line, bounds: tuple[float | None, float | None]) -> list[Edge]:
    """The ends of one knob's list at which its best value lies, declared and natural bounds left out."""
    if not line.numeric or not isinstance(line.best, float):
        return []
    low, high = natural_bounds(line.knob, [value for value in line.tried if isinstance(value, float)], bounds)
    found = []
    if line.best == line.tried[0] and line.best > low:
        found.append(Edge(knob=line.knob, value=line.best, side="low"))
    if line.best == line.tried[-1] and line.best < high:
        found.append(Edge(knob=line.knob, value=line.best, side="high"))
    return found


def natural_bounds(knob: str, tried: Sequence[float], bounds: tuple[float | None, float | None]) -> tuple[float, float]:
    """The declared range, its open sides closed by what no value can cross: FLOOR unless negative values were tried."""
    low, high = bounds
    if low is None or math.isinf(low):
        floor = FLOORS.get(knob, FLOOR)
        low = floor if all(value >= floor for value in tried) else -math.inf
    return low, CEILINGS.get(knob, math.inf) if high is None else high
