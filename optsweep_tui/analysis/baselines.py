"""The baseline's points of every group and the curves through them: what `fit` reports and `speedup` inverts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from optsweep_tui.analysis.cells import CellLoss, Group
from optsweep_tui.analysis.law import Curves, Points, fitted
from optsweep_tui.analysis.noise import Floats, Noise, noise_of

MIN_BUDGETS = 3
# analysis.md: below this probability the curve does not describe the points.
MISFIT_P = 0.01
# chinchilla ratios are kept to five digits, so "up to 8" has to let 8.0001 pass.
RATIO_SLACK = 1e-4


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The baseline's points of one group with their curve."""

    group: Group
    baseline: str
    """Optimizer name."""
    points: tuple[CellLoss, ...]
    """Baseline cells with a loss, by rising budget, after the cut."""
    noise: Noise
    """MISFIT factor included."""
    raw_noise: Noise
    """The sigma as measured, taken from the prior, or given."""
    refusal: str
    """Why there is no curve; empty when there is one."""
    row: int
    """Place in the stacked curves; -1 without a curve."""
    chi2: float
    chi2_dof: int
    chi2_p: float
    misfit: bool

    @property
    def tokens(self) -> Floats:
        return np.array([point.tokens for point in self.points])

    @property
    def losses(self) -> Floats:
        return np.array([point.loss for point in self.points])

    @property
    def counts(self) -> Floats:
        return np.array([float(point.n) for point in self.points])

    @property
    def support(self) -> tuple[float, float]:
        """Smallest and largest ratio of the fit."""
        return self.points[0].chinchilla, self.points[-1].chinchilla

    def nearest(self, tokens: float) -> CellLoss | None:
        """The baseline cell with a loss at this budget, else the nearest one in log tokens; fitted or cut off."""
        cells = [cell for cell in self.group.of(self.baseline) if cell.has_loss and cell.tokens > 0]
        if not cells or not tokens > 0:
            return None
        return min(cells, key=lambda cell: (abs(math.log(cell.tokens / tokens)), cell.tokens))


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """All groups' baselines and their curves, stacked."""

    items: tuple[Baseline, ...]
    points: Points
    """Weights at the sigma that intervals use, MISFIT included."""
    curves: Curves

    def row(self, item: Baseline) -> npt.NDArray[np.intp]:
        return np.array([item.row], dtype=np.intp)


def baselines(found: list[Group], baseline: str, sigma: float | None, max_chinchilla: float | None) -> Baselines:
    """Fit the baseline of every group at once.

    Args:
        found: comparable groups.
        baseline: optimizer name.
        sigma: given by the user, nats.
        max_chinchilla: largest ratio that enters the fits; competitors are not cut.
    """
    chosen = []
    for group in found:
        cells = [cell for cell in group.of(baseline) if cell.has_loss and cell.tokens > 0]
        if max_chinchilla is not None:
            cells = [cell for cell in cells if cell.chinchilla <= max_chinchilla * (1 + RATIO_SLACK)]
        chosen.append((group, cells, noise_of(group, baseline, sigma)))
    fittable = [place for place, (_, cells, _) in enumerate(chosen) if len(cells) >= MIN_BUDGETS]
    raw = stacked([(chosen[place][1], chosen[place][2]) for place in fittable])
    curves = fitted(raw) if fittable else _no_curves()
    rows = {place: row for row, place in enumerate(fittable)}

    items, noises = [], []
    for place, (group, cells, noise) in enumerate(chosen):
        row = rows.get(place, -1)
        refusal = _refusal(group, cells, baseline, max_chinchilla)
        chi2, dof, p = math.nan, max(0, len(cells) - 3), math.nan
        scaled = noise
        if row >= 0:
            if not curves.falling[row]:
                refusal = f"the loss of the baseline {baseline} does not fall with tokens"
            if noise.known:
                chi2 = float(curves.chi2[row])
                p = _probability(chi2, dof, noise.dof)
                if p < MISFIT_P and noise.source != "given":
                    scaled = noise.scaled(math.sqrt(chi2 / dof))
            noises.append(scaled)
        items.append(
            Baseline(
                group=group,
                baseline=baseline,
                points=tuple(cells),
                noise=scaled,
                raw_noise=noise,
                refusal=refusal,
                row=row,
                chi2=chi2,
                chi2_dof=dof,
                chi2_p=p,
                misfit=p < MISFIT_P,
            )
        )
    # A MISFIT multiplies all variances of a curve alike: the curve stays, its chi-square shrinks.
    factors = np.array([noise.scale**2 for noise in noises])
    points = Points(u=raw.u, y=raw.y, w=raw.w / factors[:, None]) if fittable else raw
    curves = Curves(
        b=curves.b,
        amplitude=curves.amplitude,
        beta=curves.beta,
        chi2=curves.chi2 / factors if fittable else curves.chi2,
        at_bound=curves.at_bound,
    )
    return Baselines(items=tuple(items), points=points, curves=curves)


def stacked(sets: list[tuple[list[CellLoss], Noise]]) -> Points:
    """Points of several curves in arrays of one width; without sigma the weights are the numbers of seeds."""
    width = max((len(cells) for cells, _ in sets), default=0)
    u, y, w = (np.zeros((len(sets), width)) for _ in range(3))
    for row, (cells, noise) in enumerate(sets):
        tokens = np.array([cell.tokens for cell in cells])
        counts = np.array([float(cell.n) for cell in cells])
        keep = slice(0, len(cells))
        u[row, keep] = np.log(tokens / tokens[0])
        y[row, keep] = [cell.loss for cell in cells]
        w[row, keep] = counts / noise.at(tokens) ** 2 if noise.known else counts
    return Points(u=u, y=y, w=w)


def _probability(chi2: float, dof: int, sigma_dof: float) -> float:
    """Chance of a larger chi-square; F(dof, sigma_dof) where sigma itself was measured; NaN without freedom."""
    if dof < 1:
        return math.nan
    return float(stats.chi2.sf(chi2, dof) if math.isinf(sigma_dof) else stats.f.sf(chi2 / dof, dof, sigma_dof))


def _refusal(group: Group, cells: list[CellLoss], baseline: str, max_chinchilla: float | None) -> str:
    if len(cells) >= MIN_BUDGETS:
        return ""
    cut = f" up to ratio {max_chinchilla:g}" if max_chinchilla is not None else ""
    if not group.of(baseline):
        return f"no runs of the baseline {baseline} here"
    if not cells:
        return f"the baseline {baseline} has no final loss{cut}"
    ratios = ", ".join(f"{cell.chinchilla:g}" for cell in cells)
    return f"the baseline {baseline} has {len(cells)} budget{'s'[: len(cells) != 1]}{cut} ({ratios}); a curve needs 3"


def _no_curves() -> Curves:
    empty = np.empty(0)
    return Curves(b=empty, amplitude=empty, beta=empty, chi2=empty, at_bound=np.empty(0, dtype=bool))
