"""The scale on which a knob is spaced and fitted: its logarithm, that of 1 - x for decays near 1, or none at all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from optsweep_engines.spec import Scalar, canonical_scalar
from optsweep_tui.analysis.edges import KnobInfo, natural_bounds
from optsweep_tui.analysis.lines import BATCH, Value

Transform: TypeAlias = Literal["log", "log(1-x)"]

LOG: Transform = "log"
LOG_REST: Transform = "log(1-x)"

WARMUP = "warmup"
# Below 1 the knob is a fraction of all steps, from 1 up a number of steps (knobs.RUN_KNOBS): two units in one list.
FRACTION_OR_STEPS = frozenset({WARMUP})
# A running mean's decay may come near 1 and never reach it: the catalogue ends their ranges at .999999.
DECAY_LIMIT = (0.9, 1.0)
# Where no range is declared, a decay is known by its name.
DECAY_NAME = re.compile(r"beta|momentum|ema|rho_decay|decay_rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """What decides how a knob's values are spaced: declared where the catalogue has it, else told by the values."""

    name: str
    low: float | None = None
    """Declared range; None = open."""
    high: float | None = None
    kind: str | None = None
    """"float", "int", "bool" or "choice"; None = undeclared."""
    declared_scale: str | None = None
    """"log", "linear" or "categorical"; None = undeclared."""

    def bounds(self, tried: Sequence[float]) -> tuple[float, float]:
        """The range that no proposal and no prediction leaves; open ends closed by nature (`edges.natural_bounds`)."""
        return natural_bounds(self.name, tried, (self.low, self.high))

    def near_one(self, tried: Sequence[float]) -> bool:
        """A decay whose distance from 1 is what counts: all values in [0, 1), the range ending just below 1.

        Undeclared, it is told by its name (beta, momentum, ...).
        """
        if not tried or not all(0.0 <= value < 1.0 for value in tried):
            return False
        if self.high is not None and math.isfinite(self.high):
            return DECAY_LIMIT[0] < self.high < DECAY_LIMIT[1]
        return DECAY_NAME.search(self.name) is not None

    def integer(self, tried: Sequence[float]) -> bool:
        """Whole numbers only: declared so, a batch size, steps of warmup, or undeclared with nothing but such values."""
        if self.kind == "int" or self.name == BATCH:
            return True
        whole = all(value.is_integer() for value in tried if math.isfinite(value))
        if self.name in FRACTION_OR_STEPS:
            return whole and any(value >= 1.0 for value in tried)
        return self.kind is None and whole

    def mixed_units(self, tried: Sequence[float]) -> bool:
        """Fractions of the run and numbers of steps in one list."""
        return (
            self.name in FRACTION_OR_STEPS
            and any(0.0 < value < 1.0 for value in tried)
            and any(value >= 1.0 for value in tried)
        )

    def transform(self, tried: Sequence[float]) -> Transform | None:
        """The scale on which rules and widths are taken; None where a value is negative or units are mixed.

        A 0 has no logarithm: it is a switch ("off") and is left to the caller.
        """
        if self.near_one(tried):
            return LOG_REST
        if not tried or any(value < 0 for value in tried) or self.mixed_units(tried):
            return None
        return LOG if any(value > 0 for value in tried) else None


def forward(transform: Transform, value: float) -> float:
    """A value on its scale, natural logarithm; -inf for the 0 of a positive knob. log(1-x) falls as x rises."""
    if transform == LOG_REST:
        return math.log1p(-value)
    return math.log(value) if value > 0 else -math.inf


def back(transform: Transform, z: float) -> float:
    """The inverse of `forward`; a z beyond floating point gives 0 or infinity."""
    if transform == LOG_REST:
        return -math.expm1(min(z, 700.0))
    return math.exp(z) if z < 700.0 else math.inf


def rounded(transform: Transform | None, value: float, digits: int) -> float:
    """A value to so many significant digits; near 1 it is 1 - x that keeps them."""
    if transform == LOG_REST and 0.5 < value < 1.0:
        return float(f"{1.0 - float(f'{1.0 - value:.{digits}g}'):.12g}")
    return float(f"{value:.{digits}g}")


def knobs_of(knob_info: KnobInfo | None, optimizer: str) -> dict[str, Knob]:
    """The declared knobs of an optimizer; by name alone where they are declared for all optimizers."""
    flat: dict[str, Knob] = {}
    own: dict[str, Knob] = {}
    for name, entry in (knob_info or {}).items():
        if not isinstance(entry, Mapping):
            flat[name] = _knob(name, entry)
        elif name == optimizer:
            own = {knob: _knob(knob, declared) for knob, declared in entry.items()}
    return flat | own


def _knob(name: str, entry: object) -> Knob:
    low, high = getattr(entry, "low", None), getattr(entry, "high", None)
    return Knob(
        name=name,
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        kind=getattr(entry, "kind", None),
        declared_scale=getattr(entry, "scale", None),
    )


def shown(value: Value | None) -> Scalar:
    """A value as a run holds it: whole numbers as such, twelve digits."""
    return canonical_scalar(value)


def shown_all(values: Iterable[Value]) -> list[Scalar]:
    """The same of several."""
    return [shown(value) for value in values]


def numbers(values: Sequence[Value]) -> list[float] | None:
    """The values as floats, rising; None where one is a truth value or a text."""
    found = [value for value in values if isinstance(value, float)]
    return sorted(found) if len(found) == len(values) else None
