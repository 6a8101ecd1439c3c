"""`sensitivity`: one knob's curve of best losses in each cell, how wide it is near its best, and what a factor of 2 costs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.cells import groups
from optsweep_tui.analysis.columns.hyperparameters import SENSITIVITY
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.hyperparameters.scale import Transform, back, forward, numbers, shown, shown_all
from optsweep_tui.analysis.hyperparameters.tuned import Family, Tuned, checked_threshold, families, family_flags
from optsweep_tui.analysis.lines import NEAR_BEST, Line, Value
from optsweep_tui.analysis.noise import Noise, checked_sigma, noise_of, quantile_squared
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.runs import LOST
from optsweep_tui.analysis.ties import TIE_WIDTH
from optsweep_tui.errors import OptsweepError

# analysis.md: the width is that of the interval within so much of the best, nats.
WITHIN = 0.02
LN2 = math.log(2.0)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of the curve on its scale."""

    x: float
    """log2 of the value, or of 1 - value."""
    loss: float
    """Nats; infinite for a value that diverged."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """The interval around the best value in which the loss stays within so much of the best."""

    low: float
    """In log2 units."""
    high: float
    open_low: bool
    """Nothing measured on that side is worse by so much."""
    open_high: bool

    @property
    def open(self) -> bool:
        return self.open_low or self.open_high


def sensitivity(
    results: pd.DataFrame,
    knob: str,
    *,
    baseline: str = "adamw",
    sigma: float | None = None,
    within: float = WITHIN,
    threshold: float = NEAR_BEST,
    noise_from: pd.DataFrame | None = None,
    knob_info: KnobInfo | None = None,
) -> pd.DataFrame:
    """The curve of best loss against one knob, per cell; then per optimizer the medians and ranges over its cells.

    The curve is that of the knob's own line (`lines.lines`): each loss one run's, so the noise band is that of single
    runs (n = 1). Between values it is read off straight lines in log2 of the knob, or of 1 - x for decays near 1. A
    value of 0 has no logarithm and stays outside. A diverged value bounds what is known: nothing is interpolated
    towards it, and a width that reaches it is a lower bound.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        knob: name; batch_size counts as one.
        baseline: the optimizer whose seeds measure the noise.
        sigma: given by the user, nats.
        within: nats above the best that the width is taken at.
        threshold: nats, stored in every row.
        noise_from: the results that measure the noise, where `results` are a selection without the baseline.
        knob_info: declared knobs: ranges, kinds, scales.

    Returns:
        One row per cell in which the knob was swept, then one per optimizer and scope; columns of
        `columns.SENSITIVITY`.
    """
    checked_threshold(threshold)
    checked_sigma(sigma)
    if not (math.isfinite(within) and within > 0):
        raise OptsweepError(f"--within {within:g} is not a positive number of nats", "write --within 0.02")
    cells: list[dict[str, object]] = []
    summaries: list[dict[str, object]] = []
    noises = {
        group.key: noise_of(group, baseline, sigma) for group in groups(results if noise_from is None else noise_from)
    }
    for family in families(results, knob_info):
        swept = family.having(knob)
        rows = []
        for cell in swept:
            noise = noises.get(cell.group.key) or noise_of(cell.group, baseline, sigma)
            rows.append(_row(family, cell, knob, noise, within) | {"n_cells": len(swept), "threshold": threshold})
        cells += rows
        if rows:
            summaries.append(_summary(family, knob, swept, rows) | {"within": within, "threshold": threshold})
    options = {"baseline": baseline, "sigma": sigma, "within": within, "threshold": threshold}
    frame = addressed(pd.DataFrame([*cells, *summaries], columns=list(SENSITIVITY)), "sensitivity", **options)
    return frame.astype(dict.fromkeys(("n", "n_cells", "n_open", "n_double", "n_half"), "Int64"))


def _row(family: Family, cell: Tuned, knob: str, noise: Noise, within: float) -> dict[str, object]:
    line = cell.lines[knob]
    own = float(noise.at(cell.cell.tokens))
    half = own * math.sqrt(float(quantile_squared(noise.dof))) if noise.known else math.nan
    band = TIE_WIDTH * own * math.sqrt(2.0)
    transform = _scale(family, line)
    best = line.best
    shape = _shape(line, transform, within) if isinstance(best, float) else {}
    flags = [] if noise.known else [F.NO_SIGMA]
    return {
        **cell.group.columns,
        "level": "cell",
        "optimizer": cell.cell.optimizer,
        "chinchilla": cell.cell.chinchilla,
        "params": cell.cell.params,
        "tokens": cell.cell.tokens,
        "knob": knob,
        "best": shown(best),
        "best_loss": math.nan if best is None else line.losses[best],
        "curve": [_point(line, value, half) for value in line.tried],
        "tried": shown_all(line.tried),
        "within": within,
        "transform": transform,
        "sigma": own,
        "sigma_source": noise.source,
        "n": 1,
        "noise_band": band,
        "reason": _reason(line, transform, band, within),
        "flags": cell.flags(*flags, *([F.EDGE] if knob in cell.edges else [])),
        **shape,
    }


def _scale(family: Family, line: Line) -> Transform | None:
    tried = numbers(line.tried)
    return None if tried is None else family.knob(line.knob).transform(tried)


def _point(line: Line, value: Value, half: float) -> dict[str, object]:
    loss = line.losses.get(value, math.nan)
    return {
        "value": shown(value),
        "loss": loss,
        "excess": math.nan if line.best is None else loss - line.losses[line.best],
        "low": loss - half,
        "high": loss + half,
        "state": "done" if value in line.losses else line.states.get(value, "not on this line"),
        "run_id": line.run_ids.get(value),
    }


def _shape(line: Line, transform: Transform | None, within: float) -> dict[str, object]:
    """Width and costs of one curve; the costs of twice and half the value, of 1 - x where that is the scale."""
    assert isinstance(line.best, float)
    points = _points(line, transform) if transform is not None else []
    center = next((index for index, point in enumerate(points) if point.x == _x(line.best, transform)), None)
    if transform is None or center is None:
        return {}
    found = width_of(points, center, within)
    ends = sorted(back(transform, end * LN2) for end in (found.low, found.high))
    opens = (found.open_low, found.open_high) if transform == "log" else (found.open_high, found.open_low)
    width = found.high - found.low
    return {
        "width": width,
        "width_open": found.open,
        "width_text": f"{'>= ' if found.open else ''}{width:.2f}",
        "interval_low": ends[0],
        "interval_high": ends[1],
        "open_low": opens[0],
        "open_high": opens[1],
        "cost_double": cost_at(points, center, points[center].x + 1.0),
        "cost_half": cost_at(points, center, points[center].x - 1.0),
    }


def _x(value: float, transform: Transform | None) -> float:
    return math.nan if transform is None else forward(transform, value) / LN2


def _points(line: Line, transform: Transform) -> list[Point]:
    """Values with a loss, and those that diverged, by rising x; a 0 of a positive knob is left out."""
    found = []
    for value in line.tried:
        if not isinstance(value, float) or (transform == "log" and value <= 0):
            continue
        if value in line.losses:
            found.append(Point(x=_x(value, transform), loss=line.losses[value]))
        elif line.states.get(value) in LOST:
            found.append(Point(x=_x(value, transform), loss=math.inf))
    return sorted(found, key=lambda point: point.x)


def width_of(points: Sequence[Point], center: int, within: float) -> Width:
    """The interval around a point in which straight lines between the points stay below its loss plus `within`."""
    level = points[center].loss + within
    low, open_low = _crossing(points[: center + 1][::-1], level)
    high, open_high = _crossing(points[center:], level)
    return Width(low=low, high=high, open_low=open_low, open_high=open_high)


def _crossing(points: Sequence[Point], level: float) -> tuple[float, bool]:
    """(where the loss first rises above the level, going outwards; whether that lies outside what was measured)."""
    for inner, outer in itertools.pairwise(points):
        if math.isinf(outer.loss):
            return inner.x, True
        if outer.loss > level:
            return inner.x + (outer.x - inner.x) * (level - inner.loss) / (outer.loss - inner.loss), False
    return points[-1].x, True


def cost_at(points: Sequence[Point], center: int, x: float) -> float:
    """Loss at x by straight lines, minus the loss at the center; NaN outside what was measured or next to a diverged one."""
    # A doubling of 0.1 is 0.2 up to rounding: a value that was tried is taken as it is.
    for point in points:
        if math.isclose(point.x, x, rel_tol=0.0, abs_tol=1e-9):
            return point.loss - points[center].loss if math.isfinite(point.loss) else math.nan
    for left, right in itertools.pairwise(points):
        if left.x < x < right.x and math.isfinite(left.loss) and math.isfinite(right.loss):
            loss = left.loss + (right.loss - left.loss) * (x - left.x) / (right.x - left.x)
            return loss - points[center].loss
    return math.nan


def _reason(line: Line, transform: Transform | None, band: float, within: float) -> str:
    if line.best is None:
        return "no line of this knob has a final loss"
    if not line.numeric:
        return "the values have no order: no width, no factor of 2"
    if transform is None:
        return "negative values, nothing but 0, or two units in one list: no logarithm, no width"
    if transform == "log" and line.best == 0.0:
        return "the best value is 0, which has no logarithm: no width"
    if band > within:
        return f"single runs differ by {band:.2g} nats of noise, more than the {within:g} of the width"
    return ""


def _summary(family: Family, knob: str, swept: Sequence[Tuned], rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """Medians over the cells of an optimizer, and their range; open widths count as their lower bounds."""
    row: dict[str, object] = {
        **family.columns,
        "level": "optimizer",
        "knob": knob,
        "curve": [],
        "tried": [],
        "n_cells": len(swept),
        "n_open": sum(row.get("width_open") is True for row in rows),
        "flags": family_flags(swept, knob),
    }
    for name in ("width", "cost_double", "cost_half"):
        known = [value for each in rows if isinstance(value := each.get(name), float) and not math.isnan(value)]
        row |= {name: median(known), f"{name}_min": min(known), f"{name}_max": max(known)} if known else {}
        row |= {f"n_{name[5:]}": len(known)} if name != "width" else {}
    n_open = row["n_open"]
    if "width" in row:
        row |= {"width_open": bool(n_open), "width_text": f"{'>= ' if n_open else ''}{row['width']:.2f}"}
    transforms = {each["transform"] for each in rows}
    row["transform"] = transforms.pop() if len(transforms) == 1 else None
    lacking = sum("width" not in each for each in rows)
    row["reason"] = f"{lacking} of {len(rows)} cells have no width" if lacking else ""
    return row
