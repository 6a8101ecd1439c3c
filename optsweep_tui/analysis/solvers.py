"""Two independent solvers that check a curve: Huber on log loss, and least squares from many starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import least_squares, minimize

from optsweep_tui.analysis.law import B_MAX, B_MIN
from optsweep_tui.analysis.noise import Floats

# Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3): delta of the Huber loss on residuals of log loss.
HUBER_DELTA = 1e-3
START_EXPONENTS = (0.05, 0.15, 0.4, 1.0)
START_FLOORS = (0.1, 0.5, 0.8, 0.95)
"""Shares of the smallest loss."""
# Starts whose objectives differ by less (relative) found the same bottom.
SAME = 1e-4

Ended: TypeAlias = tuple[float, Floats]
"""(objective, theta) with theta = (log amplitude, log B, log beta)."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """One solver's curve f(u) = amplitude exp(-b u) + beta."""

    amplitude: float
    b: float
    beta: float
    starts: int
    agreeing: int
    """Starts that ended at the best objective."""

    def loss(self, u: Floats) -> Floats:
        """f at u = log(c / c_min)."""
        return np.asarray(self.amplitude * np.exp(-self.b * u) + self.beta)


def huber_log(u: Floats, y: Floats) -> Solved | None:
    """Minimise the sum of Huber(log f - log y) by L-BFGS-B, as Hoffmann et al. do.

    The objective ignores the variances: it asks whether a robust loss on another scale tells the same story.
    """
    logs = np.log(y)

    def objective(theta: Floats) -> tuple[float, Floats]:
        f, slopes = _curve(theta, u)
        residual = (np.log(f) - logs) / HUBER_DELTA
        inside = np.abs(residual) <= 1.0
        value = np.where(inside, 0.5 * residual**2, np.abs(residual) - 0.5).sum()
        gradient = (np.clip(residual, -1.0, 1.0) / HUBER_DELTA / f) @ slopes
        return float(value), gradient

    def ended(start: Floats) -> Ended:
        low, high = _bounds(y)
        result = minimize(
            objective,
            np.clip(start, low, high),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low, high, strict=True)),
            options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 20},
        )
        return float(result.fun), np.asarray(result.x)

    return _best(ended, y)


def multistart(u: Floats, y: Floats, w: Floats) -> Solved | None:
    """Weighted least squares in all three parameters at once (MINPACK), from 16 starts over exponent and floor."""
    root = np.sqrt(w)

    def residuals(theta: Floats) -> Floats:
        return np.asarray(root * (_curve(theta, u)[0] - y))

    def jacobian(theta: Floats) -> Floats:
        return np.asarray(root[:, None] * _curve(theta, u)[1])

    def ended(start: Floats) -> Ended:
        result: Any = least_squares(
            residuals,
            start,
            jac=jacobian,
            method="lm",
            max_nfev=1000,
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
        )
        return float(result.cost), np.asarray(result.x)

    return _best(ended, y)


def _curve(theta: Floats, u: Floats) -> tuple[Floats, Floats]:
    """(f, df/dtheta) of shapes (K,) and (K, 3); theta clipped where exp would overflow."""
    log_amplitude, log_b, log_beta = np.clip(theta, -60.0, 60.0)
    b = np.exp(log_b)
    power, beta = np.exp(log_amplitude - b * u), np.exp(log_beta)
    return power + beta, np.stack([power, -b * u * power, np.full_like(u, beta)], axis=-1)


def _bounds(y: Floats) -> tuple[Floats, Floats]:
    return np.array([-30.0, np.log(B_MIN), -30.0]), np.array([30.0, np.log(B_MAX), float(np.log(y.max()))])


def _best(ended: Callable[[Floats], Ended], y: Floats) -> Solved | None:
    """The best of all starts; None when none of them came to an end."""
    lowest, drop = float(y.min()), max(float(y.max() - y.min()), 1e-6)
    found: list[Ended] = []
    for b, share in itertools.product(START_EXPONENTS, START_FLOORS):
        start = np.log(np.array([drop + (1 - share) * lowest, b, share * lowest]))
        objective, theta = ended(start)
        if np.isfinite(objective) and np.isfinite(theta).all():
            found.append((objective, theta))
    if not found:
        return None
    objective, theta = min(found, key=lambda entry: entry[0])
    amplitude, b, beta = (float(value) for value in np.exp(np.clip(theta, -60.0, 60.0)))
    agreeing = sum(other <= objective * (1 + SAME) + 1e-9 for other, _ in found)
    return Solved(amplitude=amplitude, b=b, beta=beta, starts=len(found), agreeing=agreeing)
