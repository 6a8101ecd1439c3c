"""Three ways to a narrower interval, each alone: seeds everywhere, seeds of the cell only, further baseline budgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

from optsweep_tui.analysis.audits.design import Design, planned_noise, with_budgets
from optsweep_tui.analysis.cells import CellLoss
from optsweep_tui.analysis.costs import flops_per_token
from optsweep_tui.analysis.noise import Floats

MAX_SEEDS = 1000
FEW_SEEDS = 64
"""Tried first, so that only hopeless cells pay for all of them."""
MAX_BUDGETS = 6
RUNG = math.sqrt(2.0)
"""Ratio between neighbouring budgets that may be added."""
OCTAVE = math.log(2.0)
TAKEN = 1.1
"""A budget nearer than this to one that is there is no new one."""


def equal_seeds(design: Design, target: float) -> dict[str, Any]:
    """Seeds of the cell and of every baseline point alike."""
    item, cell = design.item, design.cell
    if item.misfit and item.noise.source != "given":
        why = "MISFIT: the baseline's curve misses its points by more than noise, which no seeds mend; add budgets, "
        return {"equal_reason": f"{why}or fit fewer with --max-chinchilla"}

    def widths(seeds: range) -> Floats:
        many = np.array(seeds, dtype=float)
        counts = np.maximum(item.counts[None, :], many[:, None])
        noises = [planned_noise(item.noise, item, n) for n in seeds]
        return design.half_widths(noises, counts, np.maximum(float(cell.n), many))

    seeds, width = _smallest(widths, target)
    if seeds is None:
        return {"equal_half_width": width, "equal_reason": _out_of_reach(width)}
    own, others = new_runs(cell, seeds), {point.tokens: new_runs(point, seeds) for point in item.points}
    plan = [(cell, own), *((point, others[point.tokens]) for point in item.points)]
    return {
        "equal_seeds": seeds,
        "equal_half_width": width,
        "equal_cell_runs": own,
        "equal_baseline_runs": sum(others.values()),
        "equal_tokens": sum(count * each.tokens for each, count in plan),
        "equal_flops": sum(count * _flops(each, each.tokens) for each, count in plan if count),
        "equal_reason": "",
    }


def cell_seeds(design: Design, target: float, extrapolates: str) -> dict[str, Any]:
    """Seeds of the cell only."""
    item, cell = design.item, design.cell

    def widths(seeds: range) -> Floats:
        many = np.maximum(float(cell.n), np.array(seeds, dtype=float))
        return design.half_widths([item.noise] * len(many), np.repeat(item.counts[None, :], len(many), axis=0), many)

    floor = float(design.half_widths([item.noise], item.counts[None, :], np.array([math.inf]))[0])
    if floor >= target:
        misfit = ", MISFIT included," if item.noise.scale > 1 else ""
        why = f"the baseline's curve alone{misfit} leaves +-{floor:.1%}{extrapolates}"
        return {"cell_half_width": floor, "cell_reason": why}
    seeds, width = _smallest(widths, target)
    if seeds is None:
        return {"cell_half_width": width, "cell_reason": _out_of_reach(width)}
    runs = new_runs(cell, seeds)
    return {
        "cell_seeds": seeds,
        "cell_half_width": width,
        "cell_runs": runs,
        "cell_tokens": runs * cell.tokens,
        "cell_flops": runs * _flops(cell, cell.tokens),
        "cell_reason": "",
    }


def _out_of_reach(width: float) -> str:
    return f"{MAX_SEEDS} seeds still leave +-{width:.1%}"


def _smallest(widths: Callable[[range], Floats], target: float) -> tuple[int | None, float]:
    """(fewest seeds whose half width is within the target, that half width); (None, that of MAX_SEEDS) without."""
    for seeds in (range(1, FEW_SEEDS + 1), range(FEW_SEEDS + 1, MAX_SEEDS + 1)):
        found = widths(seeds)
        within = np.flatnonzero(found <= target)
        if len(within):
            return seeds[within[0]], float(found[within[0]])
        if not np.isfinite(found).any() or found[-1] > target * math.sqrt(MAX_SEEDS):
            break
    return None, float(found[-1])


def new_runs(cell: CellLoss, seeds: int) -> int:
    """Runs that bring a cell to so many seeds in its mean: the run that chose the configuration is none of them."""
    return 0 if seeds <= cell.n else seeds - cell.n_fresh


def _flops(cell: CellLoss, tokens: float) -> float:
    """FLOPs of one run of the cell's best configuration, update rule included; NaN when unknown."""
    return flops_per_token(cell.best) * tokens if cell.best else math.nan


def further_budgets(design: Design, target: float, extrapolates: str) -> dict[str, Any]:
    """Budgets that the baseline was not run at, the most useful one first, until the target is met."""
    item = design.item
    own = np.array([float(design.cell.n)])
    chosen: list[float] = []
    width = float(design.half_widths([item.noise], item.counts[None, :], own)[0])
    while len(chosen) < MAX_BUDGETS and width > target:
        rungs = _rungs(design, chosen)
        plans = [with_budgets(design, [*chosen, rung]) for rung in rungs]
        found = design.half_widths(
            [noise for noise, _ in plans],
            np.stack([counts for _, counts in plans]),
            np.repeat(own, len(plans)),
            np.array([[*chosen, rung] for rung in rungs]),
        )
        best = int(np.argmin(np.where(np.isfinite(found), found, np.inf)))
        if not found[best] < width:
            break
        chosen.append(rungs[best])
        width = float(found[best])
    if width > target:
        more = f"{len(chosen)} more budget{'s'[: len(chosen) != 1]} of the baseline still leave"
        more = more + "s" * (len(chosen) == 1) if chosen else "no further budget of the baseline helps: it leaves"
        return {"budgets_half_width": width, "budgets_reason": f"{more} +-{width:.1%}{extrapolates}"}
    _, counts = with_budgets(design, chosen)
    tuning = max(1.0, float(median(point.tuning_runs for point in item.points)))
    tokens = [design.first * math.exp(u) for u in chosen]
    runs = [tuning + (count if count > 1 else 0.0) for count in counts[len(item.points) :].tolist()]
    nearest = [item.nearest(each) for each in tokens]
    flops = [_flops(cell, each) if cell else math.nan for cell, each in zip(nearest, tokens, strict=True)]
    ratio = item.points[0].chinchilla
    return {
        "budgets": sorted(float(f"{ratio * math.exp(u):.3g}") for u in chosen),
        "budgets_half_width": width,
        "budgets_runs": math.ceil(sum(runs)),
        "budgets_tokens": sum(count * each for count, each in zip(runs, tokens, strict=True)),
        "budgets_flops": sum(count * each for count, each in zip(runs, flops, strict=True)),
        "budgets_reason": "",
    }


def _rungs(design: Design, chosen: Sequence[float]) -> list[float]:
    """log(D / smallest D) of budgets that may be added: half octaves from an octave below the smallest to one above the
    largest, or above D_eff where that is more."""
    there = [*design.shown.tolist(), *chosen]
    wanted = float(design.curve.invert(np.array([design.cell.loss]))[0])
    step = math.log(RUNG)
    high = math.ceil(max(float(design.shown[-1]) + OCTAVE, wanted) / step - 1e-9)
    places = (place * step for place in range(-round(OCTAVE / step), high + 1))
    return [at for at in places if all(abs(at - taken) > math.log(TAKEN) for taken in there)]
