"""`fit`: the baseline's loss curve per model, three solvers, its limits, and how well it predicts a point left out."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.baselines import Baseline, Baselines, baselines, family_of
from optsweep_tui.analysis.cells import groups
from optsweep_tui.analysis.columns import FIT
from optsweep_tui.analysis.curve_checks import alpha, between, c_min, leave_one_out, null, solver_reports
from optsweep_tui.analysis.freedom import freedom
from optsweep_tui.analysis.gradient import exponent_gradient, floor_gradient
from optsweep_tui.analysis.intervals import Limits, exponent_limits, floor_limits
from optsweep_tui.analysis.noise import checked_sigma, quantile_squared
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.shared import SHARED_P, SharedExponent, shared_exponents, uneven_supports

# analysis.md: an exponent whose interval spans more than this is not identified.
EXPONENT_SPAN = 3.0
# The solvers disagree when their curves differ at a point by more than this share of sigma.
SOLVER_SHARE = 0.5


def fit(
    results: pd.DataFrame,
    *,
    baseline: str = "adamw",
    sigma: float | None = None,
    max_chinchilla: float | None = None,
    shared_exponent: bool = False,
) -> pd.DataFrame:
    """The baseline curve f(c) = alpha c^-b + beta of every comparable group, c = D / (20 N).

    Weighted least squares with variances sigma^2 / n by variable projection over b, alpha > 0, beta >= 0.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer whose cells are fitted.
        sigma: run-to-run standard deviation, nats; used exactly as given. Default: measured, else the prior, else none.
        max_chinchilla: largest ratio that enters the fits.
        shared_exponent: one b for all models of a study in place of one per model; alpha and beta stay per model.

    Returns:
        One row per group that holds cells of any optimizer, columns of `columns.FIT`.

    Raises:
        OptsweepError: for a sigma that is no positive finite number.
    """
    found = baselines(groups(results), baseline, checked_sigma(sigma), max_chinchilla, shared_exponent)
    whole = _Whole(
        found=found,
        shared=shared_exponents(found),
        uneven=uneven_supports(found),
        limits=_limits(found),
        solvers=solver_reports(found),
    )
    frame = pd.DataFrame([_row(whole, item, baseline) for item in found.items], columns=list(FIT))
    options = {"sigma": sigma, "max_chinchilla": max_chinchilla, "shared_exponent": shared_exponent}
    return addressed(frame, "fit", **options)


@dataclass(frozen=True, kw_only=True)
class _Whole:
    """What was computed for all curves together."""

    found: Baselines
    shared: dict[Hashable, SharedExponent]
    uneven: set[Hashable]
    limits: tuple[Limits, Limits]
    """Of b and of beta, by row; NaN without sigma."""
    solvers: dict[int, dict[str, Any]]


def _limits(found: Baselines) -> tuple[Limits, Limits]:
    points, curves, families = found.points, found.curves, found.families
    if not len(points):
        return Limits(low=np.empty(0), high=np.empty(0)), Limits(low=np.empty(0), high=np.empty(0))
    exponent = exponent_gradient(points, curves, families)
    floor, by_b = floor_gradient(points, curves, exponent)
    rises = []
    for slopes, through in ((exponent.points, np.ones(len(points))), (floor, by_b)):
        dof = [
            freedom(found, exponent, item, slopes[item.row], float(through[item.row])) for item in found.fitted_items
        ]
        rises.append(quantile_squared(np.array(dof)))
    b = exponent_limits(points, curves, rises[0], families, families.of)
    # The floor's own rise, so its own limits of b to search in.
    span = exponent_limits(points, curves, rises[1], families, families.of)
    return b, floor_limits(points, curves, rises[1], span, families)


def _row(whole: _Whole, item: Baseline, baseline: str) -> dict[str, Any]:
    raw = item.raw_noise
    cells = item.points
    row: dict[str, Any] = {
        **item.group.columns,
        "baseline": baseline,
        "state": "REFUSE" if item.refusal else "FIT",
        "reason": item.refusal,
        "exponent": "shared" if whole.found.shared else "own",
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
        "between": [],
        "points": [{"chinchilla": cell.chinchilla, "loss": cell.loss, "n": cell.n} for cell in cells],
        "identified": None,
        "flags": F.ordered(
            {flag for cell in cells for flag in cell.flags} | ({F.NO_SIGMA} - {F.NO_SIGMA if raw.known else ""})
        ),
        "run_ids": [run_id for cell in cells for run_id in cell.run_ids],
    }
    if item.refusal:
        return row
    return row | _fitted_columns(whole, item, set(row["flags"]))


def _fitted_columns(whole: _Whole, item: Baseline, marks: set[str]) -> dict[str, Any]:
    found = whole.found
    curve = found.curves.take(found.row(item))
    b, amplitude, beta = float(curve.b[0]), float(curve.amplitude[0]), float(curve.beta[0])
    residuals = curve.loss(found.points.u[found.row(item)])[0, : len(item.points)] - item.losses
    sigmas = item.noise.at(item.tokens)
    shared = whole.shared.get(family_of(item.group))
    limits = _limit_columns(whole, item)
    solvers = whole.solvers[item.row]
    disagree = item.noise.known and solvers["max_difference"] > SOLVER_SHARE * float(sigmas.max())
    schedules = {cell.best.schedule for cell in item.points if cell.best and cell.best.schedule}
    found_flags = {
        F.NOT_IDENTIFIED: limits.get("identified") is False,
        F.MISFIT: item.misfit,
        F.AT_BOUND: bool(curve.at_bound[0]),
        F.SUPPORT: family_of(item.group) in whole.uneven,
        F.UNTUNED: any(cell.edges for cell in item.points),
        F.SCHEDULE: len(schedules) > 1,
        F.SOLVERS: disagree and not item.misfit,
        F.EXPONENTS: found.shared and shared is not None and shared.p < SHARED_P,
    }
    return {
        "alpha": alpha(amplitude, b, c_min(item)),
        "b": b,
        "beta": beta,
        "max_residual": float(np.abs(residuals).max()),
        "chi2": item.chi2,
        "chi2_dof": item.chi2_dof,
        "chi2_p": item.chi2_p,
        "shared_b": shared.b if shared else math.nan,
        "shared_b_p": shared.p if shared else math.nan,
        "solvers": solvers,
        "leave_one_out": leave_one_out(found, item),
        "between": between(item, curve),
        "points": [
            {
                "chinchilla": cell.chinchilla,
                "loss": cell.loss,
                "n": cell.n,
                "residual": float(residual),
                "sigma": null(sd),
            }
            for cell, residual, sd in zip(item.points, residuals, sigmas, strict=True)
        ],
        "flags": F.ordered(marks | {flag for flag, holds in found_flags.items() if holds}),
        **limits,
    }


def _limit_columns(whole: _Whole, item: Baseline) -> dict[str, Any]:
    if not item.noise.known:
        return {}
    exponent, floor = (limits.take(whole.found.row(item)) for limits in whole.limits)
    return {
        "b_low": float(exponent.low[0]),
        "b_high": float(exponent.high[0]),
        "beta_low": float(floor.low[0]),
        "beta_high": float(floor.high[0]),
        "identified": bool(floor.low[0] > 0 and exponent.high[0] <= EXPONENT_SPAN * exponent.low[0]),
    }
