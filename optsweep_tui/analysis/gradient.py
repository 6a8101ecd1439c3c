"""How B and log D_eff move with each observed loss: the first-order weights behind degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.law import Curves, Points
from optsweep_tui.analysis.noise import Floats, Rows

# Information on B below this share of the largest one that its points could hold is rounding.
NOTHING = 1e-20


@dataclass(frozen=True, kw_only=True)
class ExponentGradient:
    """Derivatives of each family's exponent, by implicit differentiation of the least squares (Gauss-Newton)."""

    points: Floats
    """dB / d(loss) of every point of R curves, per nat, shape (R, K); 0 at padding."""
    shares: Floats
    """The part of what is known about a family's B that each curve holds, shape (R,); sums to 1 over a family."""
    variance: Floats
    """Of B, at the sigma of the weights, shape (R,): one value per family; NaN where no curve of it bends."""
    bend: Floats
    """df/dB at the points, what amplitude and floor can follow taken out, shape (R, K)."""


@dataclass(frozen=True, kw_only=True)
class BudgetGradient:
    """Derivatives of u = log(D_eff / D_min), per nat."""

    points: Floats
    """With respect to each loss of the own curve, B moving along, shape (M, K); 0 at padding."""
    loss: Floats
    """With respect to the competitor's loss, shape (M,)."""
    exponent: Floats
    """With respect to B, amplitude and floor following, shape (M,): how losses of other curves of the family enter."""


def exponent_gradient(points: Points, curves: Curves, families: Families) -> ExponentGradient:
    """What each loss does to the exponent of its family.

    With z the part of df/dB that is orthogonal (weights w) to df/d(amplitude, beta), dB/dy = w z / sum z w z over all
    points of the family. On beta = 0 the floor is held.
    """
    design = _design(curves, points.u)
    by_b = _by_exponent(curves, points.u)
    bend = by_b - (design @ (_solver(design, points.w) @ by_b[..., None]))[..., 0]
    held = (points.w * bend**2).sum(-1)
    # What is left of a bend that is all rounding is no information.
    held = np.where(held > NOTHING * (points.w * by_b**2).sum(-1), held, 0.0)
    total = families.total(held)[families.of]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where((held > 0)[:, None], points.w * bend / total[:, None], 0.0)
        shares = np.where(total > 0, held / total, 0.0)
        variance = np.where(total > 0, 1.0 / total, np.nan)
    return ExponentGradient(points=slopes, shares=shares, variance=variance, bend=bend)


def budget_gradient(
    points: Points, curves: Curves, exponent: ExponentGradient, owner: Rows, loss: Floats
) -> BudgetGradient:
    """Implicit differentiation of f(u; theta(y)) = L: du/dL = 1 / f'(u), du/dtheta = -(df/dtheta) / f'(u).

    Args:
        points: R curves' points.
        curves: their fits.
        exponent: how the points move the exponents.
        owner: the curve that each loss is inverted on, shape (M,).
        loss: the losses, shape (M,).
    """
    points, curves = points.take(owner), curves.take(owner)
    u = curves.invert(loss)
    follow = _solver(_design(curves, points.u), points.w)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        here = _design(curves, u[:, None]) @ follow
        slope = -curves.b * curves.amplitude * np.exp(-curves.b * u)
        followed = (here @ _by_exponent(curves, points.u)[..., None])[:, 0, 0]
        by_b = -(_by_exponent(curves, u[:, None])[:, 0] - followed) / slope
        to_points = -here[:, 0, :] / slope[:, None] + by_b[:, None] * exponent.points[owner]
        to_loss = 1.0 / slope
    return BudgetGradient(points=np.nan_to_num(to_points), loss=np.nan_to_num(to_loss), exponent=np.nan_to_num(by_b))


def floor_gradient(points: Points, curves: Curves, exponent: ExponentGradient) -> tuple[Floats, Floats]:
    """(d beta / d(loss) of the own points with B moving along, shape (R, K); d beta / dB, shape (R,))."""
    follow = _solver(_design(curves, points.u), points.w)
    by_b = -(follow @ _by_exponent(curves, points.u)[..., None])[:, 1, 0]
    return np.nan_to_num(follow[:, 1, :] + by_b[:, None] * exponent.points), np.nan_to_num(by_b)


def _design(curves: Curves, u: Floats) -> Floats:
    """df / d(amplitude, beta) at u, shape (R, K, 2)."""
    x = np.exp(-curves.b[:, None] * u)
    floor = np.where(curves.beta > 0, 1.0, 0.0)[:, None] * np.ones_like(x)
    return np.stack([x, floor], axis=-1)


def _by_exponent(curves: Curves, u: Floats) -> Floats:
    """df/dB at u, shape (R, K)."""
    return np.asarray(-curves.amplitude[:, None] * u * np.exp(-curves.b[:, None] * u))


def _solver(design: Floats, w: Floats) -> Floats:
    """(X'WX)^-1 X'W, shape (R, 2, K): what amplitude and floor do when the losses move.

    A pseudo-inverse: a floor that is held, or an exponent at the end of its range, leaves X'WX singular.
    """
    weighted = np.swapaxes(design * w[..., None], -1, -2)
    return np.asarray(np.linalg.pinv(weighted @ design, hermitian=True) @ weighted)
