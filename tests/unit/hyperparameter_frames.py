"""Sweeps with known optima for the hyperparameter tests: losses are parabolas in the logarithm of a knob."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.unit.analysis_frames import run

SIZES = {"130m": 134_217_728, "300m": 301_989_888, "520m": 536_870_912}
RATIOS = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A knob as a catalogue declares it."""

    low: float | None = None
    high: float | None = None
    kind: str | None = "float"
    scale: str | None = "log"


def sweep(
    knob: str,
    losses: Mapping[Any, float | None],
    *,
    fixed: Mapping[str, Any] | None = None,
    optimizer: str = "adamw",
    model: str = "300m",
    chinchilla: float = 1.0,
    states: Mapping[Any, str] | None = None,
    **other: Any,
) -> list[dict[str, Any]]:
    """One cell's sweep of one knob: value -> loss; `states` names those that did not end as done."""
    rows = []
    for value, loss in losses.items():
        state = (states or {}).get(value, "done")
        settings: dict[str, Any] = {"batch_size": value} if knob == "batch_size" else {}
        knobs = dict(fixed or {}) | ({} if knob == "batch_size" else {knob: value})
        rows.append(
            run(
                optimizer,
                chinchilla,
                loss,
                knobs=knobs,
                state=state,
                model=model,
                params=SIZES[model],
                **(settings | other),
            )
        )
    return rows


def planted(
    optimum: Any,
    grid: Sequence[float],
    *,
    knob: str = "lr",
    sizes: Iterable[str] = tuple(SIZES),
    ratios: Iterable[float] = RATIOS,
    curvature: float = 0.05,
    **other: Any,
) -> list[dict[str, Any]]:
    """Sweeps whose loss is 3 + curvature (ln value - ln optimum(N, c))^2 in every cell."""
    rows = []
    for model in sizes:
        for ratio in ratios:
            best = math.log(optimum(SIZES[model], ratio))
            losses = {value: 3.0 + curvature * (math.log(value) - best) ** 2 for value in grid}
            rows += sweep(knob, losses, model=model, chinchilla=ratio, **other)
    return rows
