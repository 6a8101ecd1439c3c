"""`fit`: the baseline's loss curve per model, three solvers, its limits, and how well it predicts a point left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import minimize_scalar

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.baselines import MIN_BUDGETS, Baseline, Baselines, baselines
from optsweep_tui.analysis.cells import groups
from optsweep_tui.analysis.columns import FIT, GROUP
from optsweep_tui.analysis.intervals import exponent_limits, floor_limits
from optsweep_tui.analysis.law import B_GRID, Points, fitted, project
from optsweep_tui.analysis.noise import Floats, checked_sigma, quantile_squared
from optsweep_tui.analysis.solvers import Solved, huber_log, multistart

# analysis.md: an exponent whose interval spans more than this is not identified.
EXPONENT_SPAN = 3.0
# Curves of two models are "on the same support" when their end ratios agree this well.
SUPPORT_RATIO = 1.02
# The solvers disagree when their curves differ at a point by more than this share of sigma.
SOLVER_SHARE = 0.5


def fit(
    results: pd.DataFrame, *, baseline: str = "adamw", sigma: float | None = None, max_chinchilla: float | None = None
) -> pd.DataFrame:
    """The baseline curve f(c) = alpha c^-b + beta of every comparable group, c = D / (20 N).

    Weighted least squares with variances sigma^2 / n by variable projection over b, alpha > 0, beta >= 0.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer whose cells are fitted.
        sigma: run-to-run standard deviation, nats; used exactly as given. Default: measured, else the prior, else none.
        max_chinchilla: largest ratio that enters the fits.

    Returns:
        One row per group that holds cells of any optimizer, columns of `columns.FIT`.

    Raises:
        OptsweepError: for a sigma that is no positive finite number.
    """
    found = baselines(groups(results), baseline, checked_sigma(sigma), max_chinchilla)
    shared = _shared_exponents(found)
    uneven = uneven_supports(found)
    rows = [
        _row(found, item, baseline, shared.get(_family(item), (math.nan, math.nan)), uneven) for item in found.items
    ]
    return pd.DataFrame(rows, columns=list(FIT))


def uneven_supports(found: Baselines) -> set[tuple[Any, ...]]:
    """Families (groups that differ in the model alone) whose curves rest on different ranges of ratios."""
    ends: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for item in found.items:
        if not item.refusal:
            ends.setdefault(_family(item), []).append(item.support)
    return {
        family
        for family, supports in ends.items()
        if any(max(side) > min(side) * SUPPORT_RATIO for side in zip(*supports, strict=True))
    }


def _family(item: Baseline) -> tuple[Any, ...]:
    return tuple(item.group.columns[name] for name in GROUP if name != "model")


def in_family(item: Baseline, families: set[tuple[Any, ...]]) -> bool:
    """The item's group belongs to one of these families."""
    return _family(item) in families


def _row(
    found: Baselines, item: Baseline, baseline: str, shared: tuple[float, float], uneven: set[tuple[Any, ...]]
) -> dict[str, Any]:
    raw = item.raw_noise
    cells = item.points
    row: dict[str, Any] = {
        **item.group.columns,
        "baseline": baseline,
        "state": "REFUSE" if item.refusal else "FIT",
        "reason": item.refusal,
        "n_points": len(cells),
        "chinchilla_low": cells[0].chinchilla if cells else math.nan,
        "chinchilla_high": cells[-1].chinchilla if cells else math.nan,
        "sigma": raw.pooled,
        "sigma_source": raw.source,
        "sigma_dof": raw.dof if raw.known else 0.0,
        "sigma_small": raw.sigmas[0] if raw.known else math.nan,
        "sigma_large": raw.sigmas[-1] if raw.known else math.nan,
        "sigma_scale": item.noise.scale,
        "solvers": {},
        "leave_one_out": [],
        "points": [{"chinchilla": cell.chinchilla, "loss": cell.loss, "n": cell.n} for cell in cells],
        "identified": None,
        "flags": F.ordered(
            {flag for cell in cells for flag in cell.flags} | ({F.NO_SIGMA} - {F.NO_SIGMA if raw.known else ""})
        ),
        "run_ids": [run_id for cell in cells for run_id in cell.run_ids],
    }
    if item.refusal:
        return row
    return row | _fitted_columns(found, item, row["flags"], shared, in_family(item, uneven))


def _fitted_columns(
    found: Baselines, item: Baseline, flags: Sequence[str], shared: tuple[float, float], uneven: bool
) -> dict[str, Any]:
    index = found.row(item)
    points, curve = found.points.take(index), found.curves.take(index)
    k = len(item.points)
    u, y, w = points.u[0, :k], points.y[0, :k], points.w[0, :k]
    b, amplitude, beta = float(curve.b[0]), float(curve.amplitude[0]), float(curve.beta[0])
    residuals = curve.loss(points.u)[0, :k] - y
    sigmas = item.noise.at(item.tokens)
    marks = set(flags)
    limits: dict[str, Any] = {}
    if item.noise.known:
        rise = np.atleast_1d(quantile_squared(item.noise.dof))
        exponent = exponent_limits(points, curve, rise)
        floor = floor_limits(points, curve, rise, exponent)
        identified = floor.low[0] > 0 and exponent.high[0] <= EXPONENT_SPAN * exponent.low[0]
        limits = {
            "b_low": float(exponent.low[0]),
            "b_high": float(exponent.high[0]),
            "beta_low": float(floor.low[0]),
            "beta_high": float(floor.high[0]),
            "identified": bool(identified),
        }
        marks |= set() if identified else {F.NOT_IDENTIFIED}
    marks |= {F.MISFIT} if item.misfit else set()
    marks |= {F.AT_BOUND} if curve.at_bound[0] else set()
    marks |= {F.SUPPORT} if uneven else set()
    marks |= {F.UNTUNED} if any(cell.edges for cell in item.points) else set()
    if len({cell.best.schedule for cell in item.points if cell.best and cell.best.schedule}) > 1:
        marks.add(F.SCHEDULE)
    solvers = _solvers(
        u, y, w, c_min=_c_min(item), varpro=Solved(amplitude=amplitude, b=b, beta=beta, starts=1, agreeing=1)
    )
    if item.noise.known and not item.misfit and solvers["max_difference"] > SOLVER_SHARE * float(sigmas.max()):
        marks.add(F.SOLVERS)
    return {
        "alpha": _alpha(amplitude, b, _c_min(item)),
        "b": b,
        "beta": beta,
        "max_residual": float(np.abs(residuals).max()),
        "chi2": item.chi2,
        "chi2_dof": item.chi2_dof,
        "chi2_p": item.chi2_p,
        "shared_b": shared[0],
        "shared_b_p": shared[1],
        "solvers": solvers,
        "leave_one_out": _leave_one_out(points, item),
        "points": [
            {
                "chinchilla": cell.chinchilla,
                "loss": cell.loss,
                "n": cell.n,
                "residual": float(residual),
                "sigma": _null(sd),
            }
            for cell, residual, sd in zip(item.points, residuals, sigmas, strict=True)
        ],
        "flags": F.ordered(marks),
        **limits,
    }


def _c_min(item: Baseline) -> float:
    """Smallest ratio of the fit, from tokens and parameters where both are known (the ratio is kept to five digits)."""
    first = item.points[0]
    return first.tokens / (20.0 * first.params) if first.params > 0 else first.chinchilla


def _alpha(amplitude: float, b: float, c_min: float) -> float:
    return float(amplitude * math.exp(b * math.log(c_min))) if c_min > 0 else math.nan


def _solvers(u: Floats, y: Floats, w: Floats, c_min: float, varpro: Solved) -> dict[str, Any]:
    """Each solver's parameters in ratio units, and the largest difference of their curves at the points, nats."""
    found = {"varpro": varpro, "huber_log": huber_log(u, y), "multistart": multistart(u, y, w)}
    report: dict[str, Any] = {}
    difference = 0.0
    for name, solved in found.items():
        if solved is None:
            report[name] = None
            continue
        difference = max(difference, float(np.abs(solved.loss(u) - varpro.loss(u)).max()))
        report[name] = {"alpha": _null(_alpha(solved.amplitude, solved.b, c_min)), "b": solved.b, "beta": solved.beta}
        if name != "varpro":
            report[name] |= {"starts": solved.starts, "agreeing": solved.agreeing}
    return report | {"max_difference": difference}


def _leave_one_out(points: Points, item: Baseline) -> list[dict[str, float]]:
    """The curve through the other points, asked for the one left out."""
    k = len(item.points)
    if k <= MIN_BUDGETS:
        return []
    w = np.repeat(points.w, k, axis=0)
    w[np.arange(k), np.arange(k)] = 0.0
    without = fitted(Points(u=np.repeat(points.u, k, axis=0), y=np.repeat(points.y, k, axis=0), w=w))
    predicted = without.loss(points.u[0, :k])
    return [
        {"chinchilla": cell.chinchilla, "predicted": float(value), "loss": cell.loss, "error": float(value - cell.loss)}
        for cell, value in zip(item.points, predicted, strict=True)
    ]


def _shared_exponents(found: Baselines) -> dict[tuple[Any, ...], tuple[float, float]]:
    """One exponent for all models of a family: (B, probability that separate ones fit as much better by noise alone).

    chi2(shared) - sum chi2(own) is chi-square with models - 1 degrees of freedom when the exponents are equal.
    """
    families: dict[tuple[Any, ...], list[Baseline]] = {}
    for item in found.items:
        if not item.refusal:
            families.setdefault(_family(item), []).append(item)
    shared = {}
    for family, items in families.items():
        if len(items) < 2:
            continue
        rows = np.array([item.row for item in items], dtype=np.intp)
        points = found.points.take(rows)

        def total(log_b: float, points: Points = points) -> float:
            return float(project(points, np.full(len(points), math.exp(log_b))).admissible_chi2.sum())

        place = int(np.argmin([total(math.log(b)) for b in B_GRID]))
        low, high = (math.log(B_GRID[max(0, min(len(B_GRID) - 1, place + step))]) for step in (-1, 1))
        best = minimize_scalar(total, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
        excess = max(0.0, float(best.fun) - float(found.curves.chi2[rows].sum()))
        known = all(item.noise.known for item in items)
        shared[family] = (math.exp(best.x), float(stats.chi2.sf(excess, len(items) - 1)) if known else math.nan)
    return shared


def _null(value: float) -> float | None:
    """None in place of NaN and infinities, for values inside dicts."""
    return float(value) if math.isfinite(value) else None
