"""What a rule says at a size and a ratio: a value that can be run, with its interval and its grid neighbours; and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optsweep_tui.analysis.hyperparameters.observations import Evidence
from optsweep_tui.analysis.hyperparameters.rules import Rule
from optsweep_tui.analysis.hyperparameters.scale import LOG_REST, Transform, back, forward, rounded

DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A predicted value of a knob."""

    value: float
    low: float
    high: float
    clipped: bool
    """The rule's own value is outside what the catalogue allows, or a constant's far outside what was tried."""


def predicted(found: Evidence, chosen: Rule, params: float, chinchilla: float) -> Predicted:
    """The value that a rule predicts, with the 95 % interval of the optimum there.

    Clipped to the range of the catalogue, and a constant to one grid step beyond the values tried (best values that
    crowd at an end say "further", not how far). Whole numbers stay whole, and powers of two such where every value
    tried is one; else four digits.
    """
    assert found.transform is not None
    z, half = chosen.predicted(math.log(params), math.log(chinchilla))
    raw = back(found.transform, z)
    if not chosen.columns:
        z = _near_grid(found, z)
    ends = sorted(back(found.transform, end) for end in (z - half, z + half))
    low, high = found.knob.bounds(found.tried)
    inside = min(max(back(found.transform, z), low), high)
    return Predicted(
        value=_settled(found, inside, low, high),
        low=min(max(ends[0], low), high),
        high=min(max(ends[1], low), high),
        clipped=inside != raw,
    )


def _near_grid(found: Evidence, z: float) -> float:
    assert found.transform is not None
    zs = [forward(found.transform, value) for value in found.tried]
    finite = [each for each in zs if math.isfinite(each)]
    return min(max(z, min(finite) - found.step), max(finite) + found.step)


def _settled(found: Evidence, value: float, low: float, high: float) -> float:
    if found.powers_of_two and value > 0:
        whole = 2.0 ** math.floor(math.log2(value) + 0.5)
    elif found.integer:
        whole = float(math.floor(value + 0.5))
    else:
        return min(max(rounded(found.transform, value, DIGITS), low), high)
    smallest = max(low, 1.0 if min(found.tried) >= 1.0 else 0.0)
    return min(max(whole, float(math.ceil(smallest))), high)


def rule_text(name: str, transform: Transform, chosen: Rule) -> str:
    """The rule as a formula: "lr = 816 N^(-0.61 +- 0.15)", "1 - beta2 = 0.0213 (constant)"."""
    left = f"1 - {name}" if transform == LOG_REST else name
    a = float(chosen.theta[0])
    parts = [f"{math.exp(a):.3g}" if abs(a) < 700 else f"exp({a:.4g})"]
    for column, symbol in ((1, "N"), (2, "c")):
        if column in chosen.columns:
            parts.append(f"{symbol}^({chosen.theta[column]:.3g} +- {chosen.se[column]:.2g})")
    return f"{left} = {' '.join(parts)}" + ("" if chosen.columns else " (constant)")


def around(tried: Sequence[float], value: float) -> tuple[float | None, float | None]:
    """The grid values next below and above, the value itself where it is one; None beyond the grid."""
    below = [each for each in tried if each <= value or math.isclose(each, value, rel_tol=1e-9)]
    above = [each for each in tried if each >= value or math.isclose(each, value, rel_tol=1e-9)]
    return max(below, default=None), min(above, default=None)
