"""Two independent solvers that check a curve: Huber on log loss, and least squares from many starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from optsweep_tui.analysis.noise import Floats

# Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3): delta of the Huber loss on residuals of log loss.
HUBER_DELTA = 1e-3
# Starts: (exponent, floor as a share of the smallest loss).
MANY_STARTS = tuple(itertools.product((0.05, 0.15, 0.4, 1.0), (0.1, 0.5, 0.8, 0.95)))
FEW_STARTS = tuple(itertools.product((0.1, 0.5), (0.3, 0.9)))
# Starts whose objectives differ by less (relative) found the same bottom.
SAME = 1e-4
# exp(60) is far outside every loss and far inside a float.
LARGE = 60.0


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
    """Minimise the sum of Huber(log f - log y), the objective of Hoffmann et al., by a trust region from 4 starts.

    It ignores the variances: it asks whether a robust loss on another scale tells the same story.
    """
    logs = np.log(y)

    def residuals(theta: Floats) -> Floats:
        return np.asarray(np.log(_curve(theta, u)[0]) - logs)

    def jacobian(theta: Floats) -> Floats:
        f, slopes = _curve(theta, u)
        return np.asarray(slopes / f[:, None])

    return _best(residuals, jacobian, y, FEW_STARTS, method="trf", loss="huber", f_scale=HUBER_DELTA)


def multistart(u: Floats, y: Floats, w: Floats) -> Solved | None:
    """Weighted least squares in all three parameters at once (MINPACK), from 16 starts over exponent and floor."""
    root = np.sqrt(w)

    def residuals(theta: Floats) -> Floats:
        return np.asarray(root * (_curve(theta, u)[0] - y))

    def jacobian(theta: Floats) -> Floats:
        return np.asarray(root[:, None] * _curve(theta, u)[1])

    return _best(residuals, jacobian, y, MANY_STARTS, method="lm")


def _curve(theta: Floats, u: Floats) -> tuple[Floats, Floats]:
    """(f, df/dtheta) of shapes (K,) and (K, 3); theta clipped where exp would overflow."""
    log_amplitude, log_b, log_beta = np.clip(theta, -LARGE, LARGE)
    b = np.exp(log_b)
    power, beta = np.exp(log_amplitude - b * u), np.exp(log_beta)
    return power + beta, np.stack([power, -b * u * power, np.full_like(u, beta)], axis=-1)


def _best(
    residuals: Callable[[Floats], Floats],
    jacobian: Callable[[Floats], Floats],
    y: Floats,
    starts: tuple[tuple[float, float], ...],
    **options: Any,
) -> Solved | None:
    """The best of all starts; None when none of them came to an end."""
    lowest, drop = float(y.min()), max(float(y.max() - y.min()), 1e-6)
    found: list[tuple[float, Floats]] = []
    for b, share in starts:
        start = np.log(np.array([drop + (1 - share) * lowest, b, share * lowest]))
        result: Any = least_squares(
            residuals, start, jac=jacobian, xtol=1e-13, ftol=1e-13, gtol=1e-13, max_nfev=500, **options
        )
        if np.isfinite(result.cost) and np.isfinite(result.x).all():
            found.append((float(result.cost), np.asarray(result.x)))
    if not found:
        return None
    objective, theta = min(found, key=lambda entry: entry[0])
    amplitude, b, beta = (float(value) for value in np.exp(np.clip(theta, -LARGE, LARGE)))
    agreeing = sum(other <= objective * (1 + SAME) + 1e-12 for other, _ in found)
    return Solved(amplitude=amplitude, b=b, beta=beta, starts=len(found), agreeing=agreeing)
