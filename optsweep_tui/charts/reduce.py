"""Less data, same picture: the smallest and largest value per pixel column, and smoothing on full resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optsweep_tui.charts.chart import Floats

# exp() of one block of the running sum stays below exp(500), far from the overflow at exp(709).
_BLOCK = 500.0


def column_extents(x: Floats, y: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """Smallest and largest y of the points in each column; NaN for a column without a finite point.

    Args:
        x: not decreasing, shape [points].
        y: shape [points]; NaN is ignored.
        edges: rising, shape [columns + 1]; a column holds edges[i] <= x < edges[i + 1], the last one its end too.

    Returns:
        (low, high), each of shape [columns]. Nothing is dropped: min and max of the data are among them.
    """
    columns = len(edges) - 1
    low, high = np.full(columns, np.nan), np.full(columns, np.nan)
    starts = np.searchsorted(x, edges, side="left")
    starts[-1] = np.searchsorted(x, edges[-1], side="right")
    filled = starts[:-1] < starts[1:]
    cuts = starts[:-1][filled]
    if cuts.size:
        inside = y[: starts[-1]]
        low[filled] = np.fmin.reduceat(inside, cuts)
        high[filled] = np.fmax.reduceat(inside, cuts)
    return low, high


@dataclass(frozen=True)
class Carry:
    """What the average must know of the points before, to go on with later ones."""

    total: float
    """Weighted sum of the values, seen from `step`."""
    count: float
    """Sum of their weights."""
    step: float
    """Step of the last point."""


NOTHING_BEFORE = Carry(total=0.0, count=0.0, step=0.0)


def smoothed(steps: Floats, y: Floats, tau: float) -> Floats:
    """Bias-corrected exponential moving average with a time constant in steps.

    s_i = sum_j<=i exp(-(t_i - t_j) / tau) y_j / sum_j<=i exp(-(t_i - t_j) / tau). On evenly spaced steps this is Adam's
    bias-corrected average with beta = exp(-spacing / tau); on uneven ones it still means the same number of steps.
    Non-finite y do not enter and stay gaps.

    Args:
        steps: rising, shape [points].
        y: shape [points].
        tau: steps after which a value counts 1/e; 0 = no smoothing.
    """
    return smoothed_on(steps, y, tau, NOTHING_BEFORE)[0]


def smoothed_on(steps: Floats, y: Floats, tau: float, before: Carry) -> tuple[Floats, Carry]:
    """`smoothed` for points that follow others: the average of the new points, and what the next ones need."""
    if tau <= 0 or not len(y):
        return y, before
    finite = np.isfinite(y)
    ages = (steps - steps[0]) / tau
    block = np.floor(ages / _BLOCK)
    starts = np.flatnonzero(np.diff(block, prepend=-1.0))
    values, weights = np.where(finite, y, 0.0), finite.astype(np.float64)
    result = np.empty(len(y))
    total, count = before.total, before.count
    last = (before.step - float(steps[0])) / tau
    for start, end in zip(starts, [*starts[1:], len(y)], strict=True):
        grown = np.exp(ages[start:end] - ages[start])
        kept = math.exp(last - ages[start])
        totals = (np.cumsum(grown * values[start:end]) + kept * total) / grown
        counts = (np.cumsum(grown * weights[start:end]) + kept * count) / grown
        with np.errstate(invalid="ignore", divide="ignore"):
            result[start:end] = totals / counts
        total, count, last = float(totals[-1]), float(counts[-1]), float(ages[end - 1])
    result[~finite] = np.nan
    return result, Carry(total=total, count=count, step=float(steps[-1]))
