"""A baseline curve and one cell as an experiment: the width of the speedup's interval for other numbers of seeds.

To first order the log of D_eff moves with every observed loss by the gradient g of `gradient.budget_gradient`, so

    var(log D_eff) = sum_i g_i^2 sigma_i^2 / n_i + g_L^2 sigma_L^2 / m,    half width = sinh(t sqrt(var)),

with n_i seeds per baseline point, m of the cell, t the Student quantile at the Welch-Satterthwaite degrees of freedom
that sigma would then have, and the half width a share of the speedup: (high - low) / 2 / speedup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from optsweep_tui.analysis.baselines import Baseline
from optsweep_tui.analysis.cells import CellLoss
from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.gradient import budget_gradient, exponent_gradient
from optsweep_tui.analysis.law import Curves, Points
from optsweep_tui.analysis.noise import FRESH_SEEDS_NEEDED, Floats, Noise, end_cells, quantile_squared


@dataclass(frozen=True, kw_only=True)
class Design:
    """A baseline curve with its cell, as it is: what plans change is how often each was run."""

    item: Baseline
    cell: CellLoss
    points: Points
    curve: Curves
    """Of one row each."""

    @property
    def first(self) -> float:
        """Smallest baseline budget, tokens."""
        return float(self.item.tokens[0])

    @property
    def shown(self) -> Floats:
        """log(D / smallest D) of the baseline's points, shape (K,)."""
        return self.points.u[0, : len(self.item.points)]

    def half_widths(
        self, noises: Sequence[Noise], counts: Floats, cell_counts: Floats, added: Floats | None = None
    ) -> Floats:
        """First-order half widths of R plans as shares of the speedup, shape (R,).

        Args:
            noises: sigma of each plan, R of them.
            counts: seeds per baseline point, shape (R, K), columns of `added` last.
            cell_counts: seeds of the cell, shape (R,); infinite for the baseline's part alone.
            added: log(D / smallest D) of points beyond the K0 that are there, shape (R, K - K0).
        """
        rows = len(counts)
        u = np.broadcast_to(self.shown, (rows, len(self.shown)))
        u = u if added is None else np.concatenate([u, added], axis=1)
        tokens = self.first * np.exp(u)
        sigmas = np.stack([noise.at(row) for noise, row in zip(noises, tokens, strict=True)])
        own = np.array([float(noise.at(self.cell.tokens)) for noise in noises])
        with np.errstate(divide="ignore", invalid="ignore"):
            weighted = Points(u=u, y=np.zeros_like(u), w=counts / sigmas**2)
            curve = self.curve.take(np.zeros(rows, dtype=np.intp))
            exponent = exponent_gradient(weighted, curve, Families.apart(rows))
            loss = np.full(rows, self.cell.loss)
            slopes = budget_gradient(weighted, curve, exponent, np.arange(rows), loss)
            parts = np.concatenate([slopes.points**2 / counts, (slopes.loss**2 / cell_counts)[:, None]], axis=1)
            variance = (parts * np.concatenate([sigmas, own[:, None]], axis=1) ** 2).sum(1)
            at = np.concatenate([tokens, np.full((rows, 1), self.cell.tokens)], axis=1)
            dof = np.array([float(n.effective_dof(t, q)) for n, t, q in zip(noises, at, parts, strict=True)])
            return np.asarray(np.sinh(np.sqrt(quantile_squared(dof) * variance)))


def planned_noise(noise: Noise, item: Baseline, seeds: int) -> Noise:
    """Sigma once every baseline point has so many fresh seeds: the same size, with the degrees of freedom it then has."""
    if noise.source == "given":
        return noise
    ends = [cell.tokens for cell in end_cells(item.group, item.baseline)]
    planned = {point.tokens: float(max(seeds, point.n_fresh)) for point in item.points}
    if noise.source == "measured":
        # A base-seed run and n fresh ones have n degrees of freedom.
        dofs = tuple(max(dof, planned.get(end, 0.0)) for end, dof in zip(noise.ends, noise.dofs, strict=True))
        return replace(noise, dofs=dofs)
    if seeds < FRESH_SEEDS_NEEDED or not all(end in planned for end in ends):
        return noise
    return replace(
        noise,
        source="measured",
        ends=tuple(ends),
        sigmas=tuple(noise.sigmas[0] for _ in ends),
        dofs=tuple(planned[end] for end in ends),
    )


def with_budgets(design: Design, added: Sequence[float]) -> tuple[Noise, Floats]:
    """(sigma, seeds per point) with further budgets: one run each, but fresh seeds where a measured sigma needs them.

    Args:
        design: the experiment as it is.
        added: log(D / smallest D) of the budgets.
    """
    item, noise = design.item, design.item.noise
    ones = np.ones(len(added))
    if noise.source == "measured" and len(noise.ends) > 1:
        tokens = [design.first * math.exp(u) for u in added]
        for side, outer in ((0, min(tokens)), (1, max(tokens))):
            beyond = outer < noise.ends[0] if side == 0 else outer > noise.ends[1]
            if beyond:
                ones[tokens.index(outer)] = float(FRESH_SEEDS_NEEDED)
                ends, dofs = list(noise.ends), list(noise.dofs)
                ends[side], dofs[side] = outer, float(FRESH_SEEDS_NEEDED)
                noise = replace(noise, ends=(ends[0], ends[1]), dofs=(dofs[0], dofs[1]))
    return noise, np.concatenate([item.counts, ones])
