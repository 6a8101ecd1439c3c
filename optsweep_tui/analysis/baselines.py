"""The baseline's points of every group and the curves through them: what `fit` reports and `speedup` inverts."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from optsweep_tui.analysis import tails
from optsweep_tui.analysis.cells import CellLoss, Group
from optsweep_tui.analysis.columns import GROUP
from optsweep_tui.analysis.families import Families
from optsweep_tui.analysis.gradient import exponent_gradient
from optsweep_tui.analysis.law import Curves, Points, fitted
from optsweep_tui.analysis.noise import Floats, Noise, Rows, noise_of

MIN_BUDGETS = 3
# analysis.md: below this probability the curve does not describe the points.
MISFIT_P = 0.01
# Degrees of freedom below this are rounding: a curve through 3 points that decides its exponent alone.
LEAST_FREEDOM = 1e-3
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
    """Sum of squared residuals over the variances of the raw noise."""
    chi2_dof: float
    """Points minus the parameters that they decide, of a shared exponent a share; 0 for three points and three of them."""
    chi2_p: float
    misfit: bool

    @cached_property
    def tokens(self) -> Floats:
        return np.array([point.tokens for point in self.points])

    @cached_property
    def losses(self) -> Floats:
        return np.array([point.loss for point in self.points])

    @cached_property
    def counts(self) -> Floats:
        return np.array([float(point.n) for point in self.points])

    @cached_property
    def falls(self) -> bool:
        """Every larger budget has a smaller loss."""
        return len(self.points) > 1 and bool(np.all(np.diff(self.losses) < 0))

    @property
    def support(self) -> tuple[float, float]:
        """Smallest and largest ratio of the fit."""
        return self.points[0].chinchilla, self.points[-1].chinchilla

    @cached_property
    def _all(self) -> tuple[list[CellLoss], list[float]]:
        """(every baseline cell with a loss, fitted or cut off; log tokens of each), by rising budget."""
        cells = [cell for cell in self.group.of(self.baseline) if cell.has_loss and cell.tokens > 0]
        return cells, [math.log(cell.tokens) for cell in cells]

    def nearest(self, tokens: float) -> CellLoss | None:
        """The baseline cell with a loss at this budget, else the nearest one in log tokens; fitted or cut off."""
        cells, logs = self._all
        if not cells or not tokens > 0:
            return None
        at = math.log(tokens)
        place = bisect_left(logs, at)
        beside = range(max(0, place - 1), min(len(cells), place + 1))
        return cells[min(beside, key=lambda near: abs(logs[near] - at))]


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """All groups' baselines and their curves, stacked."""

    items: tuple[Baseline, ...]
    points: Points
    """Weights at the sigma that intervals use, MISFIT included."""
    curves: Curves
    families: Families
    """Which curves share an exponent: none, unless that was asked for."""
    shared: bool
    """One exponent for all models of a family was asked for."""

    def row(self, item: Baseline) -> Rows:
        return np.array([item.row], dtype=np.intp)

    @cached_property
    def fitted_items(self) -> list[Baseline]:
        """The baselines with a row, in the order of their rows."""
        return sorted((item for item in self.items if item.row >= 0), key=lambda item: item.row)


def baselines(
    found: list[Group], baseline: str, sigma: float | None, max_chinchilla: float | None, shared: bool = False
) -> Baselines:
    """Fit the baseline of every group at once.

    Args:
        found: comparable groups.
        baseline: optimizer name.
        sigma: given by the user, nats.
        max_chinchilla: largest ratio that enters the fits; competitors are not cut.
        shared: one exponent for all models of a family (`family_of`) in place of one per model.
    """
    items: list[Baseline] = []
    rows = itertools.count()
    for group in found:
        cells = [cell for cell in group.of(baseline) if cell.has_loss and cell.tokens > 0]
        if max_chinchilla is not None:
            cells = [cell for cell in cells if cell.chinchilla <= max_chinchilla * (1 + RATIO_SLACK)]
        noise = noise_of(group, baseline, sigma)
        items.append(
            Baseline(
                group=group,
                baseline=baseline,
                points=tuple(cells),
                noise=noise,
                raw_noise=noise,
                refusal=_refusal(group, cells, baseline, max_chinchilla, found),
                row=next(rows) if len(cells) >= MIN_BUDGETS else -1,
                chi2=math.nan,
                chi2_dof=max(0, len(cells) - 3),
                chi2_p=math.nan,
                misfit=False,
            )
        )
    curved = [item for item in items if item.row >= 0]
    # Models without a sigma cannot be weighed against models with one: they share an exponent among themselves.
    families = Families.labelled(
        [(family_of(item.group), item.raw_noise.known) if shared else item.row for item in curved]
    )
    raw = stacked([(item.points, item.raw_noise) for item in curved])
    curves = fitted(raw, families) if curved else _no_curves()
    shares = exponent_gradient(raw, curves, families).shares if shared and curved else np.ones(len(curved))
    judged = iter([_judged(item, curves, float(shares[item.row])) for item in curved])
    items = [next(judged) if item.row >= 0 else item for item in items]
    factors = np.array([item.noise.scale**2 for item in items if item.row >= 0])
    points = Points(u=raw.u, y=raw.y, w=raw.w / factors[:, None]) if curved else raw
    if families.single and curved:
        # A MISFIT multiplies all variances of a curve alike: the curve stays, its chi-square shrinks.
        curves = replace(curves, chi2=curves.chi2 / factors)
    elif (factors != 1).any():
        # One of several curves that share an exponent counts less now.
        curves = fitted(points, families)
    return Baselines(items=tuple(items), points=points, curves=curves, families=families, shared=shared)


def family_of(group: Group) -> Hashable:
    """What groups have in common that differ in the model alone."""
    place = GROUP.index("model")
    return group.key[:place] + group.key[place + 1 :]


def _judged(item: Baseline, curves: Curves, share: float) -> Baseline:
    """The baseline with its chi-square, and its sigma widened where the curve does not describe the points.

    Args:
        item: a baseline with a row.
        curves: fitted with the raw noise.
        share: the part of the exponent that this curve decides; 1 where it has one of its own.
    """
    # What is held at the end of its range is no parameter: three points can miss a curve whose floor is 0.
    decided = 1.0 + float(curves.beta[item.row] > 0) + (0.0 if curves.at_bound[item.row] else share)
    dof = len(item.points) - decided
    falling = bool(curves.falling[item.row])
    refusal = item.refusal if falling else _not_falling(item)
    if not item.raw_noise.known:
        return replace(item, refusal=refusal, chi2_dof=dof)
    chi2 = float(curves.chi2[item.row])
    p = _probability(chi2, dof, item.raw_noise.dof)
    noise = item.raw_noise
    if p < MISFIT_P and noise.source != "given":
        noise = noise.scaled(math.sqrt(chi2 / dof))
    return replace(item, refusal=refusal, noise=noise, chi2=chi2, chi2_dof=dof, chi2_p=p, misfit=p < MISFIT_P)


def _not_falling(item: Baseline) -> str:
    """That the fitted loss does not fall, and between which budgets it rises most."""
    steps = list(zip(item.points, item.points[1:], strict=False))
    low, high = max(steps, key=lambda step: step[1].loss - step[0].loss)
    text = f"the loss of the baseline {item.baseline} does not fall with tokens"
    if high.loss <= low.loss:
        return text
    return f"{text}: {low.loss:.4g} nats at {budget_text(low)}, {high.loss:.4g} at {budget_text(high)}"


def stacked(sets: Sequence[tuple[Sequence[CellLoss], Noise]]) -> Points:
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


def _probability(chi2: float, dof: float, sigma_dof: float) -> float:
    """Chance of a larger chi-square; F(dof, sigma_dof) where sigma itself was measured; NaN without freedom."""
    if dof < LEAST_FREEDOM:
        return math.nan
    return float(
        tails.chi_square_tail(chi2, dof) if math.isinf(sigma_dof) else tails.f_tail(chi2 / dof, dof, sigma_dof)
    )


def budget_text(cell: CellLoss) -> str:
    """A budget in words: its ratio, or its tokens where parameters are unknown."""
    return f"{cell.tokens:.4g} tokens" if math.isnan(cell.chinchilla) else f"{cell.chinchilla:g}"


def _refusal(
    group: Group, cells: list[CellLoss], baseline: str, max_chinchilla: float | None, found: Sequence[Group]
) -> str:
    if len(cells) >= MIN_BUDGETS:
        return ""
    cut = f" up to ratio {max_chinchilla:g}" if max_chinchilla is not None else ""
    if not group.of(baseline):
        return f"no runs of the baseline {baseline} here{_on_other_tokens(group, baseline, found)}"
    if not cells:
        return f"the baseline {baseline} has no final loss{cut}"
    ratios = ", ".join(map(budget_text, cells))
    return f"the baseline {baseline} has {len(cells)} budget{'s'[: len(cells) != 1]}{cut} ({ratios}); a curve needs 3"


def _on_other_tokens(group: Group, baseline: str, found: Sequence[Group]) -> str:
    """Whether the baseline was trained on other tokens of the same name, or saw the same dataset in another way (epochs)."""
    own = group.columns
    others = [each.columns for each in found if each is not group and each.of(baseline)]
    hashes = {
        str(other["dataset_hash"])[:12]
        for other in others
        if all(other[name] == own[name] for name in own if name != "dataset_hash") and other["dataset_hash"]
    }
    seen = sorted(
        str(other["dataset"])
        for other in others
        if other["dataset_hash"] and all(other[name] == own[name] for name in own if name != "dataset")
    )
    if seen and own["dataset_hash"]:
        return f"; it has seen {', '.join(seen)}, here {own['dataset']}: other data, whose losses do not compare"
    if not hashes or not own["dataset_hash"]:
        return ""
    text = f"; it was trained on other tokens called {own['dataset']} ({', '.join(sorted(hashes))}, "
    return f"{text}here {str(own['dataset_hash'])[:12]}), whose losses do not compare"


def _no_curves() -> Curves:
    empty = np.empty(0)
    return Curves(b=empty, amplitude=empty, beta=empty, chi2=empty, at_bound=np.empty(0, dtype=bool))
