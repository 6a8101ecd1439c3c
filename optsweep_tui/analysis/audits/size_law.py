"""The law L(N, D) = E + A / N^alpha + B / D^beta through some cells, and the profile limits of a loss that it predicts.

Sizes and budgets are held as x = log(N / N0), y = log(D / D0) around their geometric means, so nothing overflows; fitted
in log A, log alpha, log B, log beta, log E from the best of a grid of exponents, and from others to see whether they agree.
The form of the law: Hoffmann et al. 2022, arXiv 2203.15556.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, least_squares, nnls

from optsweep_tui.analysis.noise import Floats
from optsweep_tui.analysis.solvers import HUBER_DELTA, LARGE, SAME

Loss: TypeAlias = Literal["squares", "huber"]
LOSSES: tuple[Loss, ...] = ("squares", "huber")

EXPONENTS: Floats = np.geomspace(0.02, 3.0, 30)
"""Of the grid whose best pair is the first start."""
OTHER_STARTS = ((0.1, 0.1), (0.3, 0.3), (0.6, 0.6), (1.2, 1.2))
"""Pairs of exponents that the solver is started from as well, to see whether it ends at the same place."""
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


def coefficients(law: Law, sample: Sample) -> dict[str, float]:
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
