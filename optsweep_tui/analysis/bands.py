"""The baseline's curve drawn out: its loss at many budgets with 95 % profile limits, up to 1.5x outside its own budgets.

The limits of f(u) = amplitude x + beta, x = exp(-B u), are the smallest and largest value it takes over all admissible
curves whose chi-square is within the quantile of the best one. For a fixed B that is an ellipse in (amplitude, beta) and
its support line in the direction (x, 1); where that point has beta < 0 (or amplitude < 0) it moves onto the border. The
extremes over B are taken on a grid of exponents: what is drawn needs no more. So a loss on the band's edge is where the
D_eff of a competitor without noise has its limit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui.analysis.baselines import Baseline, Baselines, baselines
from optsweep_tui.analysis.cells import groups
from optsweep_tui.analysis.columns import BAND
from optsweep_tui.analysis.intervals import Limits
from optsweep_tui.analysis.law import B_GRID, Curves, Points, fitted, project
from optsweep_tui.analysis.noise import Floats, checked_sigma, quantile_squared
from optsweep_tui.analysis.speedups import REACH

PER_DECADE = 60
"""Budgets per factor of ten: smooth in print, and cheap."""
FINE = 400
"""Exponents between the ends of what the points allow."""
NUDGE = 1e-2
"""By which share of sigma a loss is moved to see how the curve follows."""


def bands(
    results: pd.DataFrame, *, baseline: str = "adamw", sigma: float | None = None, max_chinchilla: float | None = None
) -> pd.DataFrame:
    """The baseline's fitted curve of every group, point by point.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer whose cells are fitted.
        sigma: run-to-run standard deviation, nats; used exactly as given. Default: measured, else the prior, else none.
        max_chinchilla: largest ratio that enters the fits.

    Returns:
        Columns of `columns.BAND`, by group and rising ratio; groups whose fit is refused have no rows.

    Raises:
        OptsweepError: for a sigma that is no positive finite number.
    """
    found = baselines(groups(results), baseline, checked_sigma(sigma), max_chinchilla)
    rows: list[dict[str, Any]] = []
    for item in found.items:
        if not item.refusal:
            rows += _rows(found, item)
    return pd.DataFrame(rows, columns=list(BAND))


def _rows(found: Baselines, item: Baseline) -> list[dict[str, Any]]:
    first = item.points[0]
    top = math.log(float(item.tokens[-1]) / first.tokens)
    count = max(3, math.ceil(top / math.log(10) * PER_DECADE))
    out = np.linspace(0.0, math.log(REACH), 9)[1:]
    u = np.concatenate([-out[::-1], np.linspace(0.0, top, count), top + out])
    row = found.row(item)
    points, curve = found.points.take(row), found.curves.take(row)
    loss = curve.loss(u[None, :])[0]
    limits = Limits(low=np.full(len(u), np.nan), high=np.full(len(u), np.nan))
    if item.noise.known:
        limits = curve_limits(points, curve, u, quantile_squared(_dof(item, points, u)))
    smallest = first.tokens / (20.0 * first.params) if first.params > 0 else first.chinchilla
    return [
        {
            **item.group.columns,
            "baseline": item.baseline,
            "chinchilla": smallest * math.exp(at),
            "tokens": first.tokens * math.exp(at),
            "loss": value,
            "low": low,
            "high": high,
            "inside": 0.0 <= at <= top,
        }
        for at, value, low, high in zip(
            u.tolist(), loss.tolist(), limits.low.tolist(), limits.high.tolist(), strict=True
        )
    ]


def _dof(item: Baseline, points: Points, u: Floats) -> Floats:
    """Effective degrees of freedom of the curve's variance at each budget, from the ends' sigmas that it is made of."""
    if math.isinf(item.noise.dof):
        return np.full(len(u), math.inf)
    k = len(item.points)
    step = NUDGE * np.diag(1.0 / np.sqrt(points.w[0, :k]))
    moved = np.repeat(points.y, 2 * k, axis=0)
    moved[:, :k] += np.concatenate([step, -step])
    many = fitted(Points(u=np.repeat(points.u, 2 * k, axis=0), y=moved, w=np.repeat(points.w, 2 * k, axis=0)))
    losses = many.loss(np.broadcast_to(u, (2 * k, len(u))))
    slopes = (losses[:k] - losses[k:]).T / (2.0 * np.diag(step))
    return item.noise.effective_dof(np.broadcast_to(item.tokens, slopes.shape), slopes**2 / item.counts)


def curve_limits(points: Points, best: Curves, u: Floats, rise: Floats) -> Limits:
    """Profile limits of f at each u.

    Args:
        points: the one curve's points, R = 1.
        best: its fit.
        u: log(c / c_min), shape (M,).
        rise: what chi-square may rise by, shape (M,).
    """
    allowed = rise + best.chi2[0]
    coarse = project(points, B_GRID[None, :]).admissible_chi2[0] <= allowed.max()
    # The best exponent is allowed by definition, also where the region is narrower than the grid.
    inside = np.append(B_GRID[coarse], best.b)
    first = max(0, int(np.searchsorted(B_GRID, inside.min())) - 1)
    last = min(len(B_GRID) - 1, int(np.searchsorted(B_GRID, inside.max(), side="right")))
    b = np.sort(np.append(np.geomspace(B_GRID[first], B_GRID[last], FINE), best.b))
    ends = [np.nan_to_num(_ends(points, b, u, allowed, side), nan=-np.inf).max(axis=1) for side in (-1.0, 1.0)]
    at = best.loss(np.broadcast_to(u, (1, len(u))))[0]
    return Limits(low=np.fmin(-ends[0], at), high=np.fmax(ends[1], at))


def _ends(points: Points, b: Floats, u: Floats, allowed: Floats, side: float) -> Floats:
    """side * f at its end for each u and exponent with a chi-square of at most `allowed`, shape (M, G); NaN where none."""
    line = project(points, b[None, :])
    x = np.exp(-b * u[:, None])
    spare, spare0, spare_flat = (_spare(allowed[:, None] - chi2) for chi2 in (line.chi2, line.chi2_0, line.chi2_flat))
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = line.v_aa * x**2 + 2 * line.v_ab * x + line.v_bb
        step = side * np.sqrt(spare / variance)
        free = line.amplitude * x + line.beta + step * variance
        floor = line.beta + step * (line.v_ab * x + line.v_bb)
        slope = line.amplitude + step * (line.v_aa * x + line.v_ab)
        on_floor = x * (line.amplitude0 + side * np.sqrt(spare0 * line.v_aa0))
        constant = line.mean + side * np.sqrt(spare_flat / points.w.sum())
    return np.asarray(side * np.where(floor < 0, on_floor, np.where(slope < 0, constant, free)))


def _spare(value: Floats) -> Floats:
    return np.where(value >= 0, value, np.nan)
