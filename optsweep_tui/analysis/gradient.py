"""How log D_eff moves with each observed loss: the first-order weights behind effective degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optsweep_tui.analysis.law import Curves, Points
from optsweep_tui.analysis.noise import Floats


@dataclass(frozen=True, kw_only=True)
class BudgetGradient:
    """Derivatives of u = log(D_eff / D_min), per nat."""

    points: Floats
    """With respect to each baseline loss, shape (R, K); 0 at padding."""
    loss: Floats
    """With respect to the competitor's loss, shape (R,)."""


def budget_gradient(points: Points, curves: Curves, loss: Floats) -> BudgetGradient:
    """Implicit differentiation of f(u; theta(y)) = L with theta the weighted least-squares curve (Gauss-Newton).

    du/dL = 1 / f'(u), du/dy = -(df/dtheta) (J'WJ)^-1 J'W / f'(u). On beta = 0 the floor is held.

    Args:
        points: R curves' points.
        curves: their fits.
        loss: the losses inverted, shape (R,).
    """
    u = curves.invert(loss)

    def jacobian(at: Floats) -> Floats:
        """df/d(amplitude, beta, B) at u, shape (R, K, 3)."""
        x = np.exp(-curves.b[:, None] * at)
        floor = np.where(curves.beta > 0, 1.0, 0.0)[:, None] * np.ones_like(x)
        return np.stack([x, floor, -curves.amplitude[:, None] * at * x], axis=-1)

    j = jacobian(points.u)
    weighted = np.swapaxes(j * points.w[..., None], -1, -2)
    # The pseudo-inverse: 3 points on a straight line in log c, or a floor that is held, leave J'WJ singular.
    hat = np.linalg.pinv(weighted @ j, hermitian=True) @ weighted
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slope = -curves.b * curves.amplitude * np.exp(-curves.b * u)
        to_points = -np.squeeze(jacobian(u[:, None]) @ hat, axis=-2) / slope[:, None]
        to_loss = 1.0 / slope
    return BudgetGradient(points=np.nan_to_num(to_points), loss=np.nan_to_num(to_loss))
