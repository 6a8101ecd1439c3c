"""Knobs that are counted, not fitted: which value was best in most cells, and which values never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from optsweep_tui.analysis.hyperparameters.tuned import Tuned
from optsweep_tui.analysis.lines import Value, value_order


@dataclass(frozen=True, kw_only=True)
class Votes:
    """How often each value of a knob was the best of its cell."""

    counts: tuple[tuple[Value, int], ...]
    """Most first; equal counts by the number of cells that have the value near-best, then by value."""

    @property
    def majority(self) -> Value | None:
        return self.counts[0][0] if self.counts else None


def votes(cells: Sequence[Tuned], knob: str, threshold: float) -> Votes:
    """The best value along the knob's line in each cell, counted."""
    best = Counter(value for cell in cells if (value := cell.best_of(knob)) is not None)
    near = Counter(value for cell in cells for value in cell.near_best(knob, threshold))
    ordered = sorted(best.items(), key=lambda item: (-item[1], -near[item[0]], value_order(item[0])))
    return Votes(counts=tuple(ordered))
