"""The next value beyond the end of a swept list: by the ratio, the difference or the ratio of 1 - x that the list shows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from optsweep_tui.analysis.hyperparameters.scale import LOG_REST, Knob, rounded

Spacing: TypeAlias = Literal["ratio", "difference", "ratio of 1-x", "integer ratio"]

# Lists are written with few digits: 0.001, 0.00316, 0.01 share one ratio all the same. Relative.
SAME_STEP = 0.02
# Proposals are typed into grids; factor-2 lists stay exact.
DIGITS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Next:
    """What to try beyond one end of a list."""

    values: tuple[float, ...]
    """The value that the rule gives, first; a second one where the range cut the step short. Empty: nothing new."""
    spacing: Spacing
    """How the list was judged."""
    step: float
    """The ratio (above 1) or the difference that was applied; of 1-x where that is the spacing."""
    clipped: bool
    """The range's end took the place of the step's value."""
    note: str
    """In words: how it was judged, and why nothing is proposed where nothing is."""


def spacing_of(tried: Sequence[float], knob: Knob) -> tuple[Spacing, str]:
    """How a list is spaced, and why.

    In this order: decays near 1 by the ratio of 1-x; whole-number knobs by their ratio; three values or more with one
    difference, then with one ratio (a 0 aside); else the declared scale; else the evener of the two.

    Args:
        tried: two values or more, rising.
    """
    positive = [value for value in tried if value > 0]
    if knob.near_one(tried):
        return "ratio of 1-x", "a decay near 1"
    if knob.integer(tried) and len(positive) >= 2 and tried[0] >= 0:
        return "integer ratio", "whole numbers"
    if len(tried) >= 3 and _unevenness(_differences(tried)) <= SAME_STEP:
        return "difference", "all differences are equal"
    if tried[0] < 0 or len(positive) < 2:
        return "difference", "there is no ratio of two positive values"
    if len(positive) >= 3 and _unevenness(_log_ratios(positive)) <= SAME_STEP:
        return "ratio", "all ratios are equal"
    if knob.declared_scale in ("log", "linear"):
        kind: Spacing = "ratio" if knob.declared_scale == "log" else "difference"
        return kind, f"the knob is declared {knob.declared_scale}"
    if len(positive) < 3 or _unevenness(_log_ratios(positive)) <= _unevenness(_differences(tried)):
        return "ratio", "two values" if len(positive) < 3 else "ratios are evener than differences"
    return "difference", "differences are evener than ratios"


def next_beyond(tried: Sequence[float], side: str, knob: Knob) -> Next:
    """The next value below ("low") or above ("high") a list.

    The step is the whole list's where it has one, else that of the outermost pair on that side. The result is clipped
    to the declared range; whole numbers are rounded to one that is new.

    Args:
        tried: two values or more, rising.
        side: "low" or "high".
    """
    spacing, why = spacing_of(tried, knob)
    low, high = knob.bounds(tried)
    if knob.mixed_units(tried):
        note = "values below 1 are fractions of the run, those from 1 up are steps: one list of two units has no step"
        return Next(values=(), spacing=spacing, step=math.nan, clipped=False, note=note)
    step, whole = _step(tried, side, spacing)
    value = _moved(tried[0] if side == "low" else tried[-1], step, side, spacing)
    if spacing == "integer ratio" or knob.kind == "int":
        value = _whole(value, tried, side)
    inside = min(max(value, low), high)
    new = inside not in tried and math.isfinite(inside)
    values = [inside] if new else []
    end = low if side == "low" else high
    note = f"{why}; {_step_text(spacing, step)}{'' if whole else ' of the outermost pair'}"
    if not new:
        note += f"; nothing new within {low:g} to {high:g}"
    elif inside != value:
        note += f"; clipped to {end:g}"
        if spacing == "difference" and side == "low" and knob.declared_scale == "log" and tried[0] / 2 > low:
            # One difference below the smallest of 0.1, 0.2, 0.3 the range ends; on a log scale that is decades away.
            values.append(rounded(None, tried[0] / 2, DIGITS))
            note += ", and half the smallest on the way"
    return Next(values=tuple(values), spacing=spacing, step=step, clipped=inside != value, note=note)


def _step(tried: Sequence[float], side: str, spacing: Spacing) -> tuple[float, bool]:
    """(ratio above 1 or difference, whether the whole list shares it)."""
    if spacing == "difference":
        steps = _differences(tried)
    elif spacing == "ratio of 1-x":
        steps = [-each for each in _log_ratios([1.0 - value for value in tried])]
    else:
        steps = _log_ratios([value for value in tried if value > 0])
    even = _unevenness(steps) <= SAME_STEP
    own = sum(steps) / len(steps) if even else steps[0 if side == "low" else -1]
    step = own if spacing == "difference" else math.exp(own)
    return float(f"{step:.12g}"), even


def _moved(end: float, step: float, side: str, spacing: Spacing) -> float:
    if spacing == "difference":
        return rounded(None, end - step if side == "low" else end + step, DIGITS)
    if spacing == "ratio of 1-x":
        return rounded(LOG_REST, 1.0 - (1.0 - end) * (step if side == "low" else 1.0 / step), DIGITS)
    value = end / step if side == "low" else end * step
    return value if spacing == "integer ratio" else rounded(None, value, DIGITS)


def _whole(value: float, tried: Sequence[float], side: str) -> float:
    """The nearest whole number, or the first beyond the list where that one is not new."""
    nearest = float(math.floor(value + 0.5)) if math.isfinite(value) else value
    if side == "low":
        return min(nearest, math.ceil(tried[0]) - 1.0)
    return max(nearest, math.floor(tried[-1]) + 1.0)


def _step_text(spacing: Spacing, step: float) -> str:
    return f"{spacing}: {step:.4g}"


def _differences(values: Sequence[float]) -> list[float]:
    return [second - first for first, second in itertools.pairwise(values)]


def _log_ratios(values: Sequence[float]) -> list[float]:
    return [math.log(second) - math.log(first) for first, second in itertools.pairwise(values)]


def _unevenness(steps: Sequence[float]) -> float:
    """Largest deviation of a step from their mean, relative to it."""
    mean = sum(steps) / len(steps)
    return max(abs(step - mean) for step in steps) / abs(mean) if mean else math.inf
