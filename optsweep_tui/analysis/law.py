"""The curve f(c) = alpha c^-B + beta by variable projection: exact in alpha and beta for each B, many curves at once.

Curves of one family (`families.Families`) share B; by default each curve is a family of its own.

Shapes: R curves (or cells, or bootstrap draws), K points (padded with weight 0), G values of B. Points are held as
u = log(c / c_min) >= 0, so x = exp(-B u) lies in (0, 1] and nothing overflows; then f = amplitude x + beta and
alpha = amplitude c_min^B. Tokens in place of ratios move u by a constant and change nothing.
Source: Golub & Pereyra 1973 (variable projection); the form of the law: Hoffmann et al. 2022, arXiv 2203.15556.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import elementwise

from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.noise import Floats, Rows

RowFunction: TypeAlias = Callable[[Floats, Rows], Floats]
"""(t, row) -> values, all of one shape; `row` says which curves the entries of t belong to."""

# Exponents seen on language-model losses lie between .05 and .6. Below 1e-3 the curve is a straight line in log c,
# above 10 a step at the smallest budget: neither can be told from the bound by its points.
B_MIN, B_MAX = 1e-3, 10.0
B_GRID: Floats = np.geomspace(B_MIN, B_MAX, 241)
# Numbers worked on together: 16 MB of float64 per temporary, which stays in a large cache.
CHUNK = 2_000_000
# The bottom of a parabola is flat: nearer than this, in log B, chi-square no longer changes in its last digit.
FOUND = 1e-9


@dataclass(frozen=True, kw_only=True)
class Points:
    """Observations of R curves, each up to K points."""

    u: Floats
    """log(c / smallest c), shape (R, K)."""
    y: Floats
    """Losses, nats, shape (R, K)."""
    w: Floats
    """Weights 1 / variance, shape (R, K); 0 = no point."""

    def take(self, rows: Rows) -> Points:
        """Some of the rows, in that order."""
        return Points(u=self.u[rows], y=self.y[rows], w=self.w[rows])

    def __len__(self) -> int:
        return len(self.u)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """The best amplitude and floor for given exponents; every array has the shape of B."""

    amplitude: Floats
    """Of the free line y = amplitude x + beta, any sign."""
    beta: Floats
    chi2: Floats
    v_aa: Floats
    """Variance of the amplitude; with v_ab and v_bb the covariance of the free line."""
    v_ab: Floats
    v_bb: Floats
    amplitude0: Floats
    """Of the line through beta = 0."""
    chi2_0: Floats
    v_aa0: Floats
    chi2_flat: Floats
    """Of the constant, amplitude = 0."""
    mean: Floats
    """That constant."""

    def take(self, rows: Rows) -> Projection:
        """Some of the rows, in that order."""
        return Projection(**{name: value[rows] for name, value in vars(self).items()})

    @property
    def on_floor(self) -> npt.NDArray[np.bool_]:
        """The free line has beta < 0: the best admissible one has beta = 0."""
        return (self.beta < 0) & (self.amplitude > 0)

    @property
    def flat(self) -> npt.NDArray[np.bool_]:
        """The free line does not fall."""
        return ~(self.amplitude > 0)

    @property
    def admissible_chi2(self) -> Floats:
        """Chi-square with amplitude >= 0 and beta >= 0 (losses are positive, so one bound binds at a time)."""
        return np.where(self.flat, self.chi2_flat, np.where(self.on_floor, self.chi2_0, self.chi2))

    @property
    def admissible(self) -> tuple[Floats, Floats]:
        """(amplitude, beta) with both >= 0."""
        amplitude = np.where(self.flat, 0.0, np.where(self.on_floor, self.amplitude0, self.amplitude))
        return amplitude, np.where(self.flat, self.mean, np.where(self.on_floor, 0.0, self.beta))


def project(points: Points, b: Floats) -> Projection:
    """Weighted straight lines in x = exp(-B u), in closed form.

    Args:
        points: R curves.
        b: exponents, shape (R,) or (R, G).
    """
    grid = b.ndim == 2
    u, y, w = ((a[:, None, :] if grid else a) for a in (points.u, points.y, points.w))
    x = np.exp(-b[..., None] * u)
    total = w.sum(-1)
    y_mean = (w * y).sum(-1) / total
    x_mean = (w * x).sum(-1) / total
    dx, dy = x - x_mean[..., None], y - y_mean[..., None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        s_xx = (w * dx * dx).sum(-1)
        amplitude = (w * dx * dy).sum(-1) / s_xx
        chi2 = (w * (dy - amplitude[..., None] * dx) ** 2).sum(-1)
        raw = (w * x * x).sum(-1)
        amplitude0 = (w * x * y).sum(-1) / raw
        chi2_0 = (w * (y - amplitude0[..., None] * x) ** 2).sum(-1)
        shape = np.broadcast_shapes(b.shape, total.shape)
        return Projection(
            amplitude=amplitude,
            beta=y_mean - amplitude * x_mean,
            chi2=chi2,
            v_aa=1.0 / s_xx,
            v_ab=-x_mean / s_xx,
            v_bb=1.0 / total + x_mean**2 / s_xx,
            amplitude0=amplitude0,
            chi2_0=chi2_0,
            v_aa0=1.0 / raw,
            chi2_flat=np.broadcast_to((w * dy * dy).sum(-1), shape),
            mean=np.broadcast_to(y_mean, shape),
        )


@dataclass(frozen=True, kw_only=True)
class Curves:
    """R fitted curves; arrays of shape (R,)."""

    b: Floats
    amplitude: Floats
    beta: Floats
    chi2: Floats
    at_bound: npt.NDArray[np.bool_]
    """The exponent stopped at B_MIN or B_MAX."""

    @property
    def falling(self) -> npt.NDArray[np.bool_]:
        """The loss falls with tokens, so the curve can be inverted."""
        return self.amplitude > 0

    def loss(self, u: Floats) -> Floats:
        """f at u = log(c / c_min), shape (R,) or (R, K)."""
        b, amplitude, beta = (a if u.ndim == 1 else a[:, None] for a in (self.b, self.amplitude, self.beta))
        return np.asarray(amplitude * np.exp(-b * u) + beta)

    def invert(self, loss: Floats) -> Floats:
        """u at which the curve reaches the loss; infinite at or below the floor, NaN for a flat curve. Shape (R,)."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            u = -np.log((loss - self.beta) / self.amplitude) / self.b
        u = np.where(loss <= self.beta, np.inf, u)
        return np.where(self.falling, u, np.nan)

    def take(self, rows: Rows) -> Curves:
        """Some of the rows, in that order."""
        return Curves(
            b=self.b[rows],
            amplitude=self.amplitude[rows],
            beta=self.beta[rows],
            chi2=self.chi2[rows],
            at_bound=self.at_bound[rows],
        )


def chunks(count: int, numbers: int) -> Iterator[Rows]:
    """0 .. count - 1 in parts that hold about `CHUNK` numbers at `numbers` each."""
    size = max(1, CHUNK // max(1, numbers))
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def family_chi2(points: Points, families: Families, b: Floats, which: Rows) -> Floats:
    """Chi-square of whole families at given exponents, amplitude and beta of each curve at their best.

    Args:
        points: R curves.
        families: which of them share an exponent.
        b: exponents, shape (M,) or (M, G).
        which: families, shape (M,).
    """
    rows, starts = families.members(which)
    if families.single:
        return project(points.take(rows), b).admissible_chi2
    b = np.repeat(b, families.counts[which], axis=0)
    return np.add.reduceat(project(points.take(rows), b).admissible_chi2, starts, axis=0)


def fitted(points: Points, families: Families | None = None) -> Curves:
    """Weighted least squares over B in [B_MIN, B_MAX], amplitude >= 0, beta >= 0.

    A grid over log B finds the basin, scipy's elementwise minimiser (Chandrupatla 1998) the bottom.

    Args:
        points: R curves of at least 3 points each.
        families: which of them share an exponent; None = none.
    """
    families = families or Families.apart(len(points))
    best = np.zeros(len(families), dtype=np.intp)
    widest = int(families.counts.max(initial=1)) * points.u.shape[1]
    for part in chunks(len(families), widest * len(B_GRID)):
        chi2 = family_chi2(points, families, np.broadcast_to(B_GRID, (len(part), len(B_GRID))), part)
        best[part] = np.argmin(np.where(np.isnan(chi2), np.inf, chi2), axis=1)
    log_b = np.log(B_GRID[best])
    inner = np.flatnonzero((best > 0) & (best < len(B_GRID) - 1))
    if len(inner):
        log_b[inner] = minimised(
            lambda t, which: family_chi2(points, families, np.exp(t), which),
            np.log(B_GRID[best[inner] - 1]),
            log_b[inner],
            np.log(B_GRID[best[inner] + 1]),
            inner,
        )
    b = np.exp(log_b)[families.of]
    line = project(points, b)
    amplitude, beta = line.admissible
    return Curves(
        b=b,
        amplitude=amplitude,
        beta=beta,
        chi2=line.admissible_chi2,
        at_bound=((best == 0) | (best == len(B_GRID) - 1))[families.of],
    )


def minimised(
    function: RowFunction, low: Floats, middle: Floats, high: Floats, rows: Rows, near: float = FOUND
) -> Floats:
    """Bottom of function(t, row) inside each bracket; the middle where a bracket does not hold.

    Args:
        function: what to minimise.
        low: left ends, shape (M,).
        middle: points no higher than the ends, shape (M,).
        high: right ends, shape (M,).
        rows: what to hand to the function, shape (M,).
        near: how near to the bottom is near enough, in t.
    """
    # The stubs know functions of one argument only. scipy hands arguments on as floats.
    find: Any = elementwise.find_minimum

    def on_rows(t: Floats, row: Floats) -> Floats:
        return function(t, row.astype(np.intp))

    result = find(on_rows, (low, middle, high), args=(rows.astype(float),), tolerances={"xatol": near})
    return np.where(np.isfinite(result.x) & (result.x >= low) & (result.x <= high), result.x, middle)
