"""`joint_law`: L(N, D) = E + A / N^alpha + B / D^beta on one optimizer's cells, to plan the next size with; nothing else.

Sizes and budgets are held as x = log(N / N0), y = log(D / D0) around their geometric means, so nothing overflows; fitted
in log A, log alpha, log B, log beta, log E from the best of a grid of exponents, and from others to see whether they agree.
The form of the law: Hoffmann et al. 2022, arXiv 2203.15556. Speedups never rest on it: there each size has its own curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq, least_squares, nnls

from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import GROUP, PROJECTION
from optsweep_tui.analysis.noise import Floats, Noise, checked_sigma, noise_of, quantile_squared
from optsweep_tui.analysis.solvers import HUBER_DELTA, LARGE, SAME
from optsweep_tui.errors import OptsweepError

Loss: TypeAlias = Literal["squares", "huber"]
LOSSES: tuple[Loss, ...] = ("squares", "huber")

USE = "planning only, never used for speedups"
PARAMETERS = 5
MIN_SIZES = 3
MIN_BUDGETS = 3
EXPONENTS: Floats = np.geomspace(0.02, 3.0, 30)
"""Of the grid whose best pair is the first start."""
OTHER_STARTS = ((0.1, 0.1), (0.3, 0.3), (0.6, 0.6), (1.2, 1.2))
"""Pairs of exponents that the solver is started from as well, to see whether it ends at the same place."""
# Cells "at one ratio", or "that very cell", agree this well: ratios are kept to five digits.
SAME_RATIO = 1e-3
MOST_DOUBLINGS = 12


@dataclass(frozen=True, kw_only=True)
class Sample:
    """K cells: x, y, losses and weights, each of shape (K,)."""

    x: Floats
    """log(N / N0)."""
    y: Floats
    """log(D / D0)."""
    loss: Floats
    w: Floats
    """1 / variance, or the number of seeds without sigma."""
    centre: tuple[float, float]
    """(log N0, log D0)."""

    def without(self, gone: npt.NDArray[np.bool_]) -> Sample:
        """The cells that are not gone."""
        keep = ~gone
        return Sample(x=self.x[keep], y=self.y[keep], loss=self.loss[keep], w=self.w[keep], centre=self.centre)


@dataclass(frozen=True, kw_only=True)
class Law:
    """A fitted law around its centre."""

    theta: Floats
    """log A', log alpha, log B', log beta, log E."""
    starts: int
    agreeing: int

    def at(self, x: Floats, y: Floats) -> Floats:
        """Loss at log sizes and budgets from the centre."""
        return _law(self.theta, x, y)[0]


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
    return pd.DataFrame(rows, columns=list(PROJECTION))


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
        | _coefficients(fitted, sample)
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


def _law(theta: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """(f, df/dtheta), shapes (K,) and (K, 5)."""
    log_a, log_alpha, log_b, log_beta, log_e = np.clip(theta, -LARGE, LARGE)
    alpha, beta, e = np.exp(log_alpha), np.exp(log_beta), np.exp(log_e)
    size, budget = np.exp(np.clip(log_a - alpha * x, -LARGE, LARGE)), np.exp(np.clip(log_b - beta * y, -LARGE, LARGE))
    slopes = np.stack([size, -alpha * x * size, budget, -beta * y * budget, np.full_like(x, e)], axis=-1)
    return size + budget + e, slopes


def fit_law(sample: Sample, loss: Loss = "squares", others: Sequence[tuple[float, float]] = OTHER_STARTS) -> Law:
    """All five parameters at once, from the best pair of a grid of exponents and from some others.

    Args:
        sample: the cells.
        loss: squares or huber.
        others: further pairs to start from.
    """
    root, logs = np.sqrt(sample.w), np.log(sample.loss)

    def residuals(theta: Floats) -> Floats:
        value = _law(theta, sample.x, sample.y)[0]
        return np.asarray(root * (value - sample.loss) if loss == "squares" else np.log(value) - logs)

    def jacobian(theta: Floats) -> Floats:
        value, slopes = _law(theta, sample.x, sample.y)
        return np.asarray((root if loss == "squares" else 1.0 / value)[:, None] * slopes)

    options: dict[str, Any] = {"method": "lm"}
    if loss == "huber":
        options = {"loss": "huber", "f_scale": HUBER_DELTA, "x_scale": "jac"}
    found = []
    for alpha, beta in (_best_pair(sample), *others):
        columns = np.stack([np.exp(-alpha * sample.x), np.exp(-beta * sample.y), np.ones_like(sample.x)], axis=-1)
        size, budget, floor = nnls(root[:, None] * columns, root * sample.loss)[0]
        start = np.log([max(size, 1e-3), alpha, max(budget, 1e-3), beta, max(floor, 1e-3)])
        solved: Any = least_squares(
            residuals, start, jac=jacobian, xtol=1e-13, ftol=1e-13, gtol=1e-13, max_nfev=2000, **options
        )
        found.append((float(solved.cost), np.asarray(solved.x)))
    best, theta = min(found, key=lambda entry: entry[0])
    agreeing = sum(cost <= best * (1 + SAME) + 1e-12 for cost, _ in found)
    return Law(theta=theta, starts=len(found), agreeing=agreeing)


def _best_pair(sample: Sample) -> tuple[float, float]:
    """The exponents of a grid whose law with positive terms lies nearest, amplitudes and floor at their best."""
    alpha, beta = (each.ravel() for each in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
    size, budget = np.exp(-alpha[:, None] * sample.x), np.exp(-beta[:, None] * sample.y)
    columns = np.sqrt(sample.w)[:, None] * np.stack([size, budget, np.ones_like(size)], axis=-1)
    target = np.sqrt(sample.w) * sample.loss
    terms = np.linalg.pinv(columns) @ target
    chi2 = ((columns @ terms[..., None])[..., 0] - target) ** 2
    place = int(np.argmin(np.where((terms >= 0).all(axis=1), chi2.sum(axis=1), np.inf)))
    return float(alpha[place]), float(beta[place])


def profile_limits(
    sample: Sample, law: Law, place: tuple[Floats, Floats], chi2: float, rise: float
) -> tuple[float, float]:
    """Losses at a place where chi-square, minimised over everything else, has risen by `rise`; NaN where it never does.

    With the loss L* at the place given, the floor is L* minus both terms there, and four parameters remain. The floor
    may fall below 0 on the way, which widens the interval.
    """
    centre = float(law.at(*place)[0])
    root = np.sqrt(sample.w)
    warm = np.array(law.theta[:4])

    def least(loss: float, start: Floats) -> tuple[float, Floats]:
        def parts(theta: Floats) -> tuple[Floats, Floats]:
            full = np.append(theta, -LARGE)
            value, slopes = _law(full, sample.x, sample.y)
            there, slope_there = _law(full, *place)
            return loss + value - there - sample.loss, slopes[:, :4] - slope_there[:, :4]

        def residuals(theta: Floats) -> Floats:
            return np.asarray(root * parts(theta)[0])

        def jacobian(theta: Floats) -> Floats:
            return np.asarray(root[:, None] * parts(theta)[1])

        tight: dict[str, Any] = {"method": "lm", "xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12, "max_nfev": 2000}
        solved: Any = least_squares(residuals, start, jac=jacobian, **tight)
        return 2.0 * float(solved.cost), np.asarray(solved.x)

    def limit(side: float) -> float:
        step = max(math.sqrt(rise / float(sample.w.sum())), 1e-9)
        inner, start = centre, warm
        for _ in range(MOST_DOUBLINGS):
            outer = centre + side * step
            value, start = least(outer, start)
            if value - chi2 > rise:
                near = start
                return float(brentq(lambda at: least(at, near)[0] - chi2 - rise, inner, outer, xtol=1e-7))  # noqa: B023
            inner, step = outer, 2.0 * step
        return math.nan

    return limit(-1.0), limit(1.0)


def _coefficients(law: Law, sample: Sample) -> dict[str, float]:
    """E, A, alpha, B, beta in nats, parameters and tokens."""
    log_a, log_alpha, log_b, log_beta, log_e = law.theta.tolist()
    alpha, beta = math.exp(log_alpha), math.exp(log_beta)
    return {
        "e": math.exp(log_e),
        "a": _exp(log_a + alpha * sample.centre[0]),
        "alpha": alpha,
        "b": _exp(log_b + beta * sample.centre[1]),
        "beta": beta,
    }


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


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
