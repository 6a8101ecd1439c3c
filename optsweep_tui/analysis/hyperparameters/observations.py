"""What each cell says of a knob's optimum: the best value of its grid, and the interval in which the optimum must lie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from optsweep_tui.analysis.hyperparameters.scale import LOG, Knob, Transform, forward, numbers
from optsweep_tui.analysis.hyperparameters.tuned import Family, Tuned
from optsweep_tui.analysis.lines import Value


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One cell's optimum of one knob, on the scale z of the rule."""

    cell: Tuned
    best: float
    z: float
    """Of the best value."""
    low: float
    """Half way to the neighbour in the list with the smaller z; -inf where there is none."""
    high: float
    """Half way to the other neighbour; inf where there is none."""
    step: float
    """Median distance of neighbours in the list; NaN with one value on the scale."""

    @property
    def log_params(self) -> float:
        return math.log(self.cell.cell.params)

    @property
    def log_ratio(self) -> float:
        return math.log(self.cell.cell.chinchilla)

    @property
    def open(self) -> bool:
        """The best value is an end of its list."""
        return math.isinf(self.low) or math.isinf(self.high)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One knob over the cells of a family."""

    knob: Knob
    cells: tuple[Tuned, ...]
    """Cells in which it was swept."""
    transform: Transform | None
    """None: not fitted, see `refusal`."""
    refusal: str
    observations: tuple[Observation, ...]
    left_out: tuple[tuple[Tuned, str], ...]
    """Cells without an interval, with the reason."""
    n_zero: int
    """Cells whose best value is 0, which has no logarithm."""
    tried: tuple[float, ...]
    """All values tried in any cell, rising; empty where they are not numbers."""

    @property
    def step(self) -> float:
        """Usual distance of neighbouring grid values on the scale of z."""
        return median(item.step for item in self.observations if not math.isnan(item.step))

    @property
    def integer(self) -> bool:
        return self.knob.integer(self.tried)

    @property
    def powers_of_two(self) -> bool:
        """Every value tried is one, so a prediction had better be."""
        return self.integer and all(value > 0 and math.log2(value).is_integer() for value in self.tried)


def evidence(family: Family, name: str) -> Evidence:
    """The intervals of a knob.

    The interval of a cell runs from half way (on the scale of z) to the value tried next below its best one to half way
    to the next above, tried meaning with or without a loss: where the next larger lr diverged, the optimum lies below
    half way to it. At an end of the list the interval is open. A 0 has no logarithm: as a neighbour it leaves the
    interval open, and a cell whose best value it is stays out and is counted, for 0 often means "off", not "small".
    """
    knob, cells = family.knob(name), tuple(family.having(name))
    lists = [numbers(cell.lines[name].tried) for cell in cells]
    known = [values for values in lists if values is not None]
    tried = tuple(sorted(set(itertools.chain.from_iterable(known)))) if len(known) == len(lists) else ()
    transform = knob.transform(tried)
    kept: list[Observation] = []
    left_out: list[tuple[Tuned, str]] = []
    n_zero = 0
    for cell in cells if transform is not None else ():
        best = cell.best_of(name)
        assert transform is not None
        if transform == LOG and best == 0.0:
            n_zero += 1
        item = _observed(cell, name, best, transform)
        if isinstance(item, str):
            left_out.append((cell, item))
        else:
            kept.append(item)
    return Evidence(
        knob=knob,
        cells=cells,
        transform=transform,
        refusal=_refusal(knob, tried),
        observations=tuple(kept),
        left_out=tuple(left_out),
        n_zero=n_zero,
        tried=tried,
    )


def _observed(cell: Tuned, name: str, best: Value | None, transform: Transform) -> Observation | str:
    """The interval of one cell, or why there is none."""
    if not isinstance(best, float):
        return "no line of this knob has a final loss near the cell's best"
    if not (cell.cell.params > 0 and cell.cell.chinchilla > 0):
        return "its size or its budget is not known"
    if transform == LOG and best == 0.0:
        return "its best value is 0 (off), which has no logarithm"
    values = [value for value in numbers(cell.lines[name].tried) or [] if transform != LOG or value > 0]
    if len(values) < 2:
        return "its list has one positive value"
    zs = sorted(forward(transform, value) for value in values)
    z = forward(transform, best)
    place = zs.index(z)
    return Observation(
        cell=cell,
        best=best,
        z=z,
        low=(zs[place - 1] + z) / 2 if place else -math.inf,
        high=(zs[place + 1] + z) / 2 if place + 1 < len(zs) else math.inf,
        step=median(second - first for first, second in itertools.pairwise(zs)),
    )


def _refusal(knob: Knob, tried: Sequence[float]) -> str:
    if not tried:
        return "its values have no order: categories are never fitted"
    if knob.mixed_units(tried):
        return "values below 1 are fractions of the run, those from 1 up are steps: two units are never fitted together"
    if any(value < 0 for value in tried):
        return "negative values have no logarithm"
    return "nothing but 0 was tried" if not any(value > 0 for value in tried) else ""
