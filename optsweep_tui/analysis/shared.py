"""What the models of a study have in common: whether one exponent serves all of them, and the reach of their curves."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from optsweep_tui.analysis import tails
from optsweep_tui.analysis.baselines import Baseline, Baselines, family_of
from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.gradient import exponent_gradient
from optsweep_tui.analysis.law import fitted

# Curves of two models are "on the same support" when their end ratios agree this well.
SUPPORT_RATIO = 1.02
# Below this probability one exponent for all models is not what their losses say.
SHARED_P = 0.01


@dataclass(frozen=True, kw_only=True)
class SharedExponent:
    """One exponent for all models of a family, held against separate ones."""

    b: float
    p: float
    """Probability that separate exponents fit as much better by noise alone; NaN without sigma."""
    models: int


def shared_exponents(found: Baselines) -> dict[Hashable, SharedExponent]:
    """One exponent for every family of two fitted models or more, by `family_of`.

    chi2(shared) - sum chi2(own) is chi-square with models - 1 degrees of freedom when the exponents are equal; over
    that number it is F where sigma was measured, with the degrees of freedom of the sigmas that it is made of.
    """
    items = [item for item in found.fitted_items if not item.refusal]
    if not items:
        return {}
    points = found.points.take(np.array([item.row for item in items], dtype=np.intp))
    labels = [(family_of(item.group), item.raw_noise.known) for item in items]
    families = Families.labelled(labels)
    own, shared = fitted(points), fitted(points, families)
    excess = np.maximum(0.0, families.total(shared.chi2) - families.total(own.chi2))
    free = 1.0 - exponent_gradient(points, shared, families).shares
    answers: dict[Hashable, SharedExponent] = {}
    for number in range(len(families)):
        rows = families.members(np.array([number]))[0].tolist()
        family, known = labels[rows[0]]
        # Where some models have a sigma and others none, those with one speak for the family.
        if len(rows) > 1 and (known or family not in answers):
            p = _probability(float(excess[number]), [(float(free[row]), items[row]) for row in rows])
            answers[family] = SharedExponent(b=float(shared.b[rows[0]]), p=p, models=len(rows))
    return answers


def _probability(excess: float, members: list[tuple[float, Baseline]]) -> float:
    """Chance of a larger excess: members are (part of the models - 1 that a curve brings, its baseline)."""
    if not all(item.noise.known for _, item in members):
        return math.nan
    spread = sum(part**2 / item.noise.dof for part, item in members)
    count = len(members) - 1
    if spread <= 0:
        return float(tails.chi_square_tail(excess, count))
    return float(tails.f_tail(excess / count, count, sum(part for part, _ in members) ** 2 / spread))


def uneven_supports(found: Baselines) -> set[Hashable]:
    """Families whose curves rest on different ranges of ratios."""
    ends: dict[Hashable, list[tuple[float, float]]] = {}
    for item in found.items:
        if not item.refusal:
            ends.setdefault(family_of(item.group), []).append(item.support)
    return {
        family
        for family, supports in ends.items()
        if any(max(side) > min(side) * SUPPORT_RATIO for side in zip(*supports, strict=True))
    }
