"""The parametric bootstrap of baseline curves: whole families fitted again to points drawn around their curves."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optsweep_tui.analysis.baselines import Baseline, Baselines
from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.law import Curves, Points, fitted
from optsweep_tui.analysis.noise import Floats


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One baseline's curves over the draws of a bootstrap, and what draws the losses held against them."""

    curves: Curves
    stretch: Floats
    """Drawn over stated sigma, shape (draws,)."""
    rng: np.random.Generator

    def budgets(self, loss: Floats, sd: Floats) -> Floats:
        """u of M losses over the draws, shape (M, draws); infinite below a drawn floor."""
        renewed = loss[:, None] + self.stretch * sd[:, None] * self.rng.standard_normal((len(loss), len(self.stretch)))
        return np.stack([self.curves.invert(row) for row in renewed])


def drawn(found: Baselines, items: Sequence[Baseline], draws: int, rng_seed: int) -> list[Drawn]:
    """The curves of one family, all fitted again to every draw of their points.

    Points are drawn around the fitted curve; where sigma is measured, each draw has one: sigma sqrt(dof / chi2_dof).
    """
    rngs, stretches, losses = [], [], []
    rows = np.array([item.row for item in items], dtype=np.intp)
    points, best = found.points.take(rows), found.curves.take(rows)
    width = max(len(item.points) for item in items)
    points = Points(u=points.u[:, :width], y=points.y[:, :width], w=points.w[:, :width])
    centre = best.loss(points.u)
    for place, item in enumerate(items):
        # Seeded by the group's name and not by its place, so that neither row order nor other groups matter.
        rng = np.random.default_rng([rng_seed, zlib.crc32(item.group.name.encode())])
        dof, k = item.noise.dof if item.noise.known else math.inf, len(item.points)
        stretch = np.ones(draws) if math.isinf(dof) else np.sqrt(dof / rng.chisquare(dof, draws))
        new = np.zeros((draws, width))
        new[:, :k] = centre[place, :k] + stretch[:, None] * rng.standard_normal((draws, k)) / np.sqrt(
            points.w[place, :k]
        )
        rngs.append(rng)
        stretches.append(stretch)
        losses.append(new)
    several = Points(
        u=np.repeat(points.u, draws, axis=0), y=np.concatenate(losses), w=np.repeat(points.w, draws, axis=0)
    )
    curves = fitted(several, Families.numbered(np.tile(np.arange(draws), len(items))))
    return [
        Drawn(curves=curves.take(np.arange(place * draws, (place + 1) * draws)), stretch=stretch, rng=rng)
        for place, (stretch, rng) in enumerate(zip(stretches, rngs, strict=True))
    ]
