"""One knob of a tuning: the values it is tried at, which of them are next to each other, and what lies halfway."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from optsweep_engines.spec import Scalar, canonical_scalar
from optsweep_tui.analysis.hyperparameters.scale import Knob
from optsweep_tui.analysis.hyperparameters.spacing import next_beyond

Config: TypeAlias = Mapping[str, Scalar]
"""One configuration of a cell: every knob of the run, and its settings (batch_size, schedule, ...), resolved."""
Side: TypeAlias = Literal["low", "high"]

SIDES: tuple[Side, Side] = ("low", "high")


Key: TypeAlias = tuple[tuple[str, Scalar], ...]
"""What two equal configurations share: knobs by name with their values; 1 and 1.0 are one value."""


def key_of(config: Config) -> Key:
    """The key of a configuration whose values are canonical (12 significant digits), as those of a spec and a list are."""
    return tuple(sorted(config.items()))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A knob and the values that it is tried at."""

    knob: str
    values: tuple[Scalar, ...]
    """Rising where they have an order, else as given."""
    kind: Literal["float", "int", "bool", "choice"] = "float"
    low: float | None = None
    """Smallest value that the catalogue allows; None: none declared."""
    high: float | None = None
    """Largest value that the catalogue allows."""
    log: bool = False
    """Halfway is the geometric mean."""
    given: tuple[Scalar, ...] = ()
    """The list as somebody wrote it, whose spacing counts beyond its ends; empty: all values."""

    @property
    def ordered(self) -> bool:
        """Numbers have neighbours and ends; switches and choices have not."""
        return self.kind in ("float", "int")

    @property
    def declared(self) -> Knob:
        """The knob as the analysis judges the spacing of its values."""
        scale = ("log" if self.log else "linear") if self.ordered else "categorical"
        return Knob(name=self.knob, low=self.low, high=self.high, kind=self.kind, declared_scale=scale)

    @property
    def near_one(self) -> bool:
        """A decay of an average: what counts is its distance from 1."""
        return self.ordered and self.declared.near_one([self.number(value) for value in self.values])

    def number(self, value: Scalar) -> float:
        """A value of an ordered axis."""
        assert self.ordered and isinstance(value, int | float), f"{self.knob} = {value!r} is no number"
        return float(value)

    def holds(self, value: Scalar) -> bool:
        """Whether the value is on the list; True is not 1."""
        return any(same(value, entry) for entry in self.values)

    def with_value(self, value: Scalar) -> Axis:
        """The axis with one more value; itself when it holds it."""
        if self.holds(value):
            return self
        values = (*self.values, canonical_scalar(value))
        return replace(self, values=tuple(sorted(values, key=self.number)) if self.ordered else values)

    def place(self, value: Scalar) -> int:
        """Position of a value of the list."""
        return next(index for index, entry in enumerate(self.values) if same(entry, value))

    def neighbours(self, value: Scalar) -> tuple[Scalar, ...]:
        """The next lower and the next higher value; for an axis without order every other one."""
        if not self.ordered:
            return tuple(entry for entry in self.values if not same(entry, value))
        at = self.place(value)
        return (*self.values[max(0, at - 1) : at], *self.values[at + 1 : at + 2])

    def window(self, value: Scalar, size: int) -> tuple[Scalar, ...]:
        """So many values in a row with this one as near to their middle as the list allows."""
        first = max(0, min(self.place(value) - size // 2, len(self.values) - size))
        return self.values[first : first + size]

    def nearest_first(self, values: Iterable[Scalar], value: Scalar) -> list[Scalar]:
        """The values by their distance from one on the list, the lower first of two as near."""
        if not self.ordered:
            return list(values)
        at = self.place(value)
        return sorted(values, key=lambda entry: (abs(self.place(entry) - at), self.place(entry)))

    def end(self, side: Side) -> Scalar:
        """The last value of a side."""
        return self.values[0 if side == "low" else -1]

    def halfway(self, first: Scalar, second: Scalar) -> Scalar:
        """The value between two of the list that lies as far from both; None when there is none.

        Whole numbers stay whole. On a logarithmic axis it is the geometric mean of two positive values, near 1 that of
        their distances from 1, else the arithmetic mean.
        """
        low, high = sorted((self.number(first), self.number(second)))
        if self.kind == "int":
            middle = round(math.sqrt(low * high) if self.log and low > 0 else (low + high) / 2)
            return middle if low < middle < high else None
        if self.log and low > 0:
            found = _rounded(math.sqrt(low * high))
        elif self.near_one:
            found = float(f"{1.0 - _rounded(math.sqrt((1.0 - low) * (1.0 - high))):.12g}")
        else:
            found = _rounded((low + high) / 2)
        return canonical_scalar(found) if low < found < high else None


def same(first: Scalar, second: Scalar) -> bool:
    """Equal as values of a knob."""
    return isinstance(first, bool) == isinstance(second, bool) and canonical_scalar(first) == canonical_scalar(second)


def _rounded(value: float) -> float:
    """Three significant digits: what a user would write, and far finer than noise can tell."""
    return float(f"{value:.3g}")


def proposed(axis: Axis, side: Side) -> Scalar | None:
    """The next value beyond an end of a list, by the rule of `optsweep edges --propose`; None at a bound of the knob.

    The step is that of the list as it was given: a start that was put between its values does not change it. A list of
    one value is doubled or halved, near 1 its distance from 1; None on a linear scale.
    """
    if not axis.ordered:
        return None
    end = axis.number(axis.end(side))
    given = sorted(axis.number(value) for value in axis.given or axis.values)
    tried = _stepped(axis, given, end, side) if len(given) > 1 else _pair(axis, end, side)
    found = next_beyond(tried, side, axis.declared).values if len(tried) > 1 else ()
    if not found or axis.holds(found[0]):
        return None
    return int(found[0]) if axis.kind == "int" else canonical_scalar(found[0])


def _stepped(axis: Axis, given: list[float], end: float, side: Side) -> list[float]:
    """A list that ends where the axis does and has the spacing of the one that was given."""
    if any(same(end, value) for value in (given[0], given[-1])):
        return given
    rule = next_beyond(given, side, axis.declared)
    step = rule.step if side == "high" else 1.0 / rule.step
    if rule.spacing == "difference":
        step = rule.step if side == "high" else -rule.step
        return sorted((end - 2.0 * step, end - step, end))
    if rule.spacing == "ratio of 1-x":
        return sorted((1.0 - (1.0 - end) * step, end))
    return sorted((end / step, end))


def _pair(axis: Axis, value: float, side: Side) -> list[float]:
    """The value and an imagined neighbour on its other side, a factor of two away."""
    if axis.near_one:
        other = 1.0 - (1.0 - value) * (2.0 if side == "high" else 0.5)
    elif value > 0 and (axis.log or axis.kind == "int"):
        other = value * (0.5 if side == "high" else 2.0)
    else:
        return [value]
    return sorted((value, other))
