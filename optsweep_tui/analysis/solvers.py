"""Two independent solvers that check the curves: Huber on log loss, and least squares from many starts.

Both solve one curve, or all curves of a family that share the exponent, in all parameters at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from optsweep_tui.analysis.noise import Floats, Rows

# Hoffmann et al. 2022 (arXiv 2203.15556, appendix D.3): delta of the Huber loss on residuals of log loss.
HUBER_DELTA = 1e-3
EXPONENTS = (0.05, 0.15, 0.4, 1.0)
FLOORS = (0.1, 0.5, 0.8, 0.95)
"""Starts of the least squares: exponents x floors as shares of the smallest loss."""
HUBER_EXPONENTS = (0.2, 0.4, 0.8, 1.6)
# Starts whose objectives differ by less (relative) found the same bottom.
SAME = 1e-4
# exp(60) is far outside every loss and far inside a float.
LARGE = 60.0


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The points of one curve."""

    u: Floats
    """log(c / c_min), shape (K,)."""
    y: Floats
    """Losses, nats."""
    w: Floats
    """Weights 1 / variance."""


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


def huber_log(curves: Sequence[Observed]) -> list[Solved] | None:
    """Minimise the sum of Huber(log f - log y), the objective of Hoffmann et al., by a trust region from 4 starts.

    It ignores the variances: it asks whether a robust loss on another scale tells the same story.
    """
    u, y, _, of = _joined(curves)
    logs = np.log(y)

    def residuals(theta: Floats) -> Floats:
        return np.asarray(np.log(_curve(theta, u, of)[0]) - logs)

    def jacobian(theta: Floats) -> Floats:
        f, slopes = _curve(theta, u, of)
        return np.asarray(slopes / f[:, None])

    starts = [_on_lines(b, curves) for b in HUBER_EXPONENTS]
    return _best(residuals, jacobian, starts, method="trf", loss="huber", f_scale=HUBER_DELTA)


def multistart(curves: Sequence[Observed]) -> list[Solved] | None:
    """Weighted least squares in all parameters at once (MINPACK), from 16 starts over exponent and floor."""
    u, y, w, of = _joined(curves)
    root = np.sqrt(w)

    def residuals(theta: Floats) -> Floats:
        return np.asarray(root * (_curve(theta, u, of)[0] - y))

    def jacobian(theta: Floats) -> Floats:
        return np.asarray(root[:, None] * _curve(theta, u, of)[1])

    starts = [_on_floors(b, share, curves) for b, share in itertools.product(EXPONENTS, FLOORS)]
    return _best(residuals, jacobian, starts, method="lm")


def _on_floors(b: float, share: float, curves: Sequence[Observed]) -> Floats:
    """A start whose floors are a share of the smallest losses."""
    lowest = np.array([curve.y.min() for curve in curves])
    drop = np.maximum([curve.y.max() - curve.y.min() for curve in curves], 1e-6)
    return np.asarray(np.log(np.concatenate([[b], drop + (1 - share) * lowest, share * lowest])))


def _on_lines(b: float, curves: Sequence[Observed]) -> Floats:
    """A start on the straight lines in exp(-b u): the trust region is slow far from its end."""
    lines = [np.polyfit(np.exp(-b * curve.u), curve.y, 1) for curve in curves]
    return np.asarray(np.log(np.maximum(np.concatenate([[b], *np.transpose(lines)]), 1e-6)))


def _joined(curves: Sequence[Observed]) -> tuple[Floats, Floats, Floats, Rows]:
    """(u, y, w, curve) of all points, shape (n,)."""
    of = np.repeat(np.arange(len(curves)), [len(curve.u) for curve in curves])
    u, y, w = (np.concatenate([getattr(curve, name) for curve in curves]) for name in ("u", "y", "w"))
    return u, y, w, of


def _curve(theta: Floats, u: Floats, of: Rows) -> tuple[Floats, Floats]:
    """(f, df/dtheta) of shapes (n,) and (n, 1 + 2R); theta = (log B, R log amplitudes, R log floors).

    Clipped where exp would overflow.
    """
    theta = np.clip(theta, -LARGE, LARGE)
    count = (len(theta) - 1) // 2
    b, rows = np.exp(theta[0]), np.arange(len(u))
    power, beta = np.exp(theta[1 + of] - b * u), np.exp(theta[1 + count + of])
    slopes = np.zeros((len(u), len(theta)))
    slopes[:, 0] = -b * u * power
    slopes[rows, 1 + of] = power
    slopes[rows, 1 + count + of] = beta
    return power + beta, slopes


def _best(
    residuals: Callable[[Floats], Floats],
    jacobian: Callable[[Floats], Floats],
    starts: Sequence[Floats],
    **options: Any,
) -> list[Solved] | None:
    """The best of all starts, a curve each; None when none of them came to an end."""
    found: list[tuple[float, Floats]] = []
    for start in starts:
        result: Any = least_squares(
            residuals, start, jac=jacobian, xtol=1e-13, ftol=1e-13, gtol=1e-13, max_nfev=500, **options
        )
        if np.isfinite(result.cost) and np.isfinite(result.x).all():
            found.append((float(result.cost), np.asarray(result.x)))
    if not found:
        return None
    objective, theta = min(found, key=lambda entry: entry[0])
    agreeing = sum(other <= objective * (1 + SAME) + 1e-12 for other, _ in found)
    values, count = np.exp(np.clip(theta, -LARGE, LARGE)), (len(theta) - 1) // 2
    return [
        Solved(
            amplitude=float(values[1 + row]),
            b=float(values[0]),
            beta=float(values[1 + count + row]),
            starts=len(found),
            agreeing=agreeing,
        )
        for row in range(count)
    ]
