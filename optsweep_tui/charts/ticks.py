"""Round numbers for axes, their labels, and a scale that does not twitch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 5.0, 10.0)


def nice_step(span: float, count: int) -> float:
    """The smallest of 1, 2, 5 x 10^k that puts at most `count` steps into the span."""
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in _STEPS if step * power >= raw * (1 - 1e-9))


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers inside [low, high], about `count`; both may be equal."""
    if not high > low:
        return [low]
    step = nice_step(high - low, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers inside [low, high] for a log axis: powers of ten, else 1-2-5, else evenly spaced ones."""
    decades = math.log10(high / low)
    if decades < 0.7:
        return linear_ticks(low, high, count)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / max(1, count)))
    multiples = (1.0,) if decades * 3 > count + 1 else (1.0, 2.0, 5.0)
    ticks = [multiple * 10.0**power for power in range(first, last + 1, every) for multiple in multiples]
    return [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def ticks(low: float, high: float, count: int, log: bool) -> list[float]:
    """Round numbers inside [low, high], about `count`."""
    return log_ticks(low, high, count) if log else linear_ticks(low, high, count)


FEWEST = 3
"""Labels that an axis of a figure has at least, where round numbers allow it."""


def axis_ticks(low: float, high: float, count: int, log: bool) -> list[tuple[float, str]]:
    """Round numbers inside [low, high] with labels; on a log axis of several decades each label has its own digits."""
    # Two numbers say what a scale is; one does not.
    found = (ticks(low, high, wanted, log) for wanted in range(count, 2 * count + 3))
    values = next((each for each in found if len(each) >= FEWEST), ticks(low, high, count, log))
    if not log or not values or values[-1] < 10 * values[0]:
        return list(zip(values, tick_labels(values), strict=True))
    return [(value, f"{value:g}".replace("e-0", "e-") if value < 1 else tick_labels([value])[0]) for value in values]


_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def tick_labels(values: list[float]) -> list[str]:
    """Labels with the same number of decimals, thousands as k, M, G, T."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0:
        return ["0"] * len(values)
    if largest < 1e-3:
        return [f"{value:.0e}".replace("e-0", "e-") if value else "0" for value in values]
    labels = []
    spacing = min((b - a for a, b in itertools.pairwise(values) if b > a), default=largest)
    for value in values:
        scale, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s * (1 - 1e-9)), (1.0, ""))
        digits = _decimals(value / scale) if prefix else max(0, min(6, -math.floor(math.log10(spacing) + 1e-9)))
        labels.append(f"{value / scale:.{digits}f}{prefix}")
    return labels


def _decimals(value: float) -> int:
    return next((digits for digits in range(3) if math.isclose(round(value, digits), value, rel_tol=1e-6)), 3)


FLAT = 1e-6
"""Relative: a smaller span is a constant with the rounding of float32 in it (a constant lr, smoothed)."""


@dataclass
class SteadyScale:
    """An axis range that follows data in round steps and stays put while they fit: most frames redraw no axis."""

    shrink_below: float = 0.6
    """The range is tightened only when the data cover less than this part of it."""
    low: float = math.nan
    high: float = math.nan

    def fit(self, low: float, high: float, log: bool = False) -> tuple[float, float]:
        """The range to show for data in [low, high] (log: both positive)."""
        wanted = _rounded(low, high, log)
        outside = math.isnan(self.low) or low < self.low or high > self.high or (log and self.low <= 0)
        if outside or _span(low, high, log) < self.shrink_below * _span(self.low, self.high, log):
            self.low, self.high = wanted
        return self.low, self.high

    def forget(self) -> None:
        """Start anew: another metric, another axis."""
        self.low = self.high = math.nan


def _span(low: float, high: float, log: bool) -> float:
    return math.log(high / low) if log else high - low


def _rounded(low: float, high: float, log: bool) -> tuple[float, float]:
    if high - low <= FLAT * max(abs(low), abs(high)):
        pad = abs(low) * 0.05 or 1.0
        low, high = low - pad, high + pad
    if log:
        margin = (high / low) ** 0.03
        return low / margin, high * margin
    step = nice_step(high - low, 8)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
