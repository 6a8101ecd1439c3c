"""`joint_law`: the loss to expect at another size and budget, from the law through one optimizer's cells; to plan with only.

Speedups never rest on it: there each size has a curve of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui.analysis.audits.size_law import LOSSES, Loss, Sample, coefficients, fit_law, profile_limits
from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import GROUP, PROJECTION
from optsweep_tui.analysis.noise import Noise, checked_sigma, noise_of, quantile_squared
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.errors import OptsweepError

USE = "planning only, never used for speedups"
PARAMETERS = 5
MIN_SIZES = 3
MIN_BUDGETS = 3
# Cells "at one ratio", or "that very cell", agree this well: ratios are kept to five digits.
SAME_RATIO = 1e-3


def joint_law(
    results: pd.DataFrame,
    *,
    optimizer: str,
    model: str,
    params: float,
    chinchilla: float,
    baseline: str = "adamw",
    sigma: float | None = None,
    loss: Loss = "squares",
) -> pd.DataFrame:
    """The loss to expect of one optimizer at one size and budget, by the law through its cells of one family.

    The interval is that of the law at this place by profile likelihood (Student, cells - 5 degrees of freedom), widened
    where sigma does not explain the residuals; how wrong the form of the law is outside its cells it cannot say.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        optimizer: whose cells are fitted.
        model: name of the size asked for.
        params: its N, non-embedding parameters.
        chinchilla: ratio asked for.
        baseline: optimizer whose seeds give sigma.
        sigma: run-to-run standard deviation, nats; default: measured, else the prior, else none.
        loss: "squares" (weighted by sigma^2 / n), or "huber" on log losses, unweighted and without an interval.

    Returns:
        One row per family that holds cells of the optimizer, columns of `columns.PROJECTION`.

    Raises:
        OptsweepError: a size, a ratio, a loss or a sigma that cannot be one.
    """
    if loss not in LOSSES:
        raise OptsweepError(f'--loss "{loss}" is not known', "Use squares or huber.")
    if not (0 < params < math.inf and 0 < chinchilla < math.inf):
        raise OptsweepError(f"N = {params:g} at ratio {chinchilla:g} is no cell", "Give a known model and a ratio.")
    checked_sigma(sigma)
    families: dict[tuple[Any, ...], list[tuple[str, CellLoss, Noise]]] = {}
    for group in groups(results):
        noise = noise_of(group, baseline, sigma)
        key = tuple(value for name, value in zip(GROUP, group.key, strict=True) if name != "model")
        for cell in group.of(optimizer):
            if cell.has_loss and cell.tokens > 0 and cell.params > 0:
                families.setdefault(key, []).append((str(group.columns["model"]), cell, noise))
    rows = []
    for key, found in families.items():
        head = dict(zip((name for name in GROUP if name != "model"), key, strict=True))
        asked = {"optimizer": optimizer, "model": model, "params": params, "chinchilla": chinchilla}
        rows.append({**head, **asked, **_row(found, params, chinchilla, loss)})
    frame = pd.DataFrame(rows, columns=list(PROJECTION))
    return addressed(frame, "project", baseline=baseline, sigma=sigma, loss=loss)


def _row(found: Sequence[tuple[str, CellLoss, Noise]], params: float, chinchilla: float, loss: Loss) -> dict[str, Any]:
    cells = [cell for _, cell, _ in found]
    tokens = 20.0 * params * chinchilla
    known = all(noise.known for _, _, noise in found)
    sizes, ratios = _distinct([cell.params for cell in cells]), _distinct([cell.chinchilla for cell in cells])
    same = [cell.loss for cell in cells if _close(cell.params, params) and _close(cell.chinchilla, chinchilla)]
    row: dict[str, Any] = {
        "tokens": tokens,
        "use": USE,
        "loss": loss,
        "n_cells": len(cells),
        "n_sizes": sizes,
        "n_budgets": ratios,
        "measured": same[0] if same else math.nan,
        "sigma": float(np.median([noise.at(cell.tokens) for _, cell, noise in found])) if known else math.nan,
        "sigma_source": found[0][2].source if known else "none",
        "params_factor": _outside(params, [cell.params for cell in cells]),
        "tokens_factor": _outside(tokens, [cell.tokens for cell in cells]),
        "held_out": [],
        "run_ids": [run_id for cell in cells for run_id in cell.run_ids],
    }
    if sizes < MIN_SIZES or ratios < MIN_BUDGETS or len(cells) <= PARAMETERS:
        have = f"{_many(len(cells), 'cell')} of {_many(sizes, 'size')} at {_many(ratios, 'ratio')}"
        needed = f"{PARAMETERS + 1} cells of {MIN_SIZES} sizes at {MIN_BUDGETS} ratios"
        return row | {"state": "REFUSE", "reason": f"{have}; the law's 5 parameters need {needed}"}
    sample = _sample(found, known)
    fitted = fit_law(sample, loss)
    place = (np.array([math.log(params)]) - sample.centre[0], np.array([math.log(tokens)]) - sample.centre[1])
    residual = fitted.at(sample.x, sample.y) - sample.loss
    dof = len(cells) - PARAMETERS
    chi2 = float((sample.w * residual**2).sum())
    scale2 = max(1.0, chi2 / dof) if known else chi2 / dof
    explained = known and scale2 == 1.0
    own_dof = min(noise.dof for _, _, noise in found) if explained else float(dof)
    rise = float(quantile_squared(own_dof)) * scale2
    low, high = profile_limits(sample, fitted, place, chi2, rise) if loss == "squares" else (math.nan, math.nan)
    predicted = float(fitted.at(*place)[0])
    far = [f"{factor:.3g}x outside in {name}" for name, factor in _factors(row) if factor > 1]
    return (
        row
        | coefficients(fitted, sample)
        | {
            "state": "PLAN",
            "reason": f"EXTRAP: {' and '.join(far)}" if far else "",
            "predicted": predicted,
            "low": low,
            "high": high,
            "residual_sd": math.sqrt(float((residual**2).sum()) / dof),
            "max_residual": float(np.abs(residual).max()),
            "misfit_scale": math.sqrt(scale2) if known else math.nan,
            "starts": fitted.starts,
            "agreeing": fitted.agreeing,
            "held_out": _held_out(found, sample, loss),
        }
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s'[: count != 1]}"


def _factors(row: dict[str, Any]) -> tuple[tuple[str, float], tuple[str, float]]:
    return ("N", row["params_factor"]), ("D", row["tokens_factor"])


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= SAME_RATIO * max(first, second)


def _distinct(values: Sequence[float]) -> int:
    """Values that differ by more than the rounding of a ratio."""
    ordered = sorted(values)
    return sum(place == 0 or not _close(value, ordered[place - 1]) for place, value in enumerate(ordered))


def _outside(value: float, fitted: Sequence[float]) -> float:
    """How many times beyond the largest or below the smallest fitted value; 1 inside."""
    factor = max(value / max(fitted), min(fitted) / value)
    return 1.0 if factor < 1 + SAME_RATIO else factor


def _sample(found: Sequence[tuple[str, CellLoss, Noise]], known: bool) -> Sample:
    log_n = np.log([cell.params for _, cell, _ in found])
    log_d = np.log([cell.tokens for _, cell, _ in found])
    counts = np.array([float(cell.n) for _, cell, _ in found])
    sigmas = np.array([float(noise.at(cell.tokens)) if known else 1.0 for _, cell, noise in found])
    centre = (float(log_n.mean()), float(log_d.mean()))
    losses = np.array([cell.loss for _, cell, _ in found])
    return Sample(x=log_n - centre[0], y=log_d - centre[1], loss=losses, w=counts / sigmas**2, centre=centre)


def _held_out(found: Sequence[tuple[str, CellLoss, Noise]], sample: Sample, loss: Loss) -> list[dict[str, Any]]:
    """The law through all other models, asked for the cells of the one left out; empty where too few sizes remain."""
    sizes = sorted({cell.params for _, cell, _ in found})
    if len(sizes) <= MIN_SIZES:
        return []
    rows = []
    for size in sizes:
        gone = np.array([cell.params == size for _, cell, _ in found])
        if (~gone).sum() <= PARAMETERS:
            continue
        predicted = fit_law(sample.without(gone), loss, others=()).at(sample.x[gone], sample.y[gone])
        left = [(model, cell) for model, cell, _ in found if cell.params == size]
        rows += [
            {
                "model": model,
                "chinchilla": cell.chinchilla,
                "predicted": float(value),
                "loss": cell.loss,
                "error": float(value - cell.loss),
            }
            for (model, cell), value in zip(left, predicted, strict=True)
        ]
    return rows
