"""`flips`: pairs of optimizers whose order differs between two budgets, two model sizes, or inside training.

A pair flips when its order differs between two points. It is a rank flip only when both gaps exceed the tie width
1.645 sigma sqrt(1/n1 + 1/n2) of their own point; otherwise noise may have done it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from optsweep_tui.analysis.cells import CellLoss, Group, groups
from optsweep_tui.analysis.columns import FLIPS, GROUP
from optsweep_tui.analysis.noise import Noise, checked_sigma, noise_of
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.ties import TIE_WIDTH, budgets

SAME, EQUAL, RANK, NOISE_FLIP, NO_SIGMA = "same order", "equal", "rank flip", "noise flip", "NO-SIGMA"
FLIP_VERDICTS = (RANK, NOISE_FLIP, NO_SIGMA)
# Ratios are kept to five digits: two models "at one ratio" agree this well.
SAME_RATIO = 1e-4
IN_RUN = (
    "in-run: one evaluation per point before the learning rate has decayed, which favours schedules and optimizers that "
    "are ahead early; sigma is that of final losses, so noise is understated"
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One optimizer at one place."""

    loss: float
    n: int
    run_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Place:
    """All optimizers at one budget of one model."""

    model: str
    chinchilla: float
    tokens: float
    points: Mapping[str, Point]
    sigma: float
    """Of one run there, nats; NaN when unknown."""
    source: str
    """Of sigma."""

    def gap(self, first: str, second: str) -> tuple[float, float]:
        """(loss of the first minus that of the second, their tie width), nats."""
        one, other = self.points[first], self.points[second]
        return one.loss - other.loss, TIE_WIDTH * self.sigma * math.sqrt(1.0 / one.n + 1.0 / other.n)


def flips(
    results: pd.DataFrame,
    *,
    baseline: str = "adamw",
    sigma: float | None = None,
    curves: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Every pair of optimizers at every pair of comparable points, with a verdict on their order.

    Over D: two budgets of one model. Over N: one ratio, two models that agree in everything else of their group.
    Over training: the best runs of both optimizers in one cell, each point before the end against their final losses;
    points are the numbers of tokens (of steps, where the
    batch is not known) at which both curves were evaluated.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer whose seeds give sigma.
        sigma: run-to-run standard deviation, nats; default: measured, else the prior, else none.
        curves: validation losses inside runs (run_id, step, tokens, value); None or empty: nothing over training.

    Returns:
        Columns of `columns.FLIPS`, one row per pair examined, whether it flips or not.

    Raises:
        OptsweepError: for a sigma that is no positive finite number.
    """
    checked_sigma(sigma)
    found = groups(results)
    noises = [noise_of(group, baseline, sigma) for group in found]
    placed = [_places(group, noise) for group, noise in zip(found, noises, strict=True)]
    rows: list[dict[str, Any]] = []
    families: dict[tuple[Any, ...], list[Place]] = {}
    for group, places in zip(found, placed, strict=True):
        head = {name: group.columns[name] for name in GROUP if name != "model"}
        families.setdefault(tuple(head.values()), []).extend(places)
        for a, b in itertools.combinations(places, 2):
            rows += [{**head, **row} for row in _compared("D", a, b)]
    for family, places in families.items():
        head = dict(zip((name for name in GROUP if name != "model"), family, strict=True))
        for a, b in itertools.combinations(places, 2):
            if a.model != b.model and abs(a.chinchilla - b.chinchilla) <= SAME_RATIO * max(a.chinchilla, b.chinchilla):
                rows += [{**head, **row} for row in _compared("N", a, b)]
    if curves is not None and len(curves):
        values = _curve_values(curves)
        for group, noise in zip(found, noises, strict=True):
            head = {name: group.columns[name] for name in GROUP if name != "model"}
            rows += [{**head, **row} for row in _inside(group, noise, values)]
    return addressed(pd.DataFrame(rows, columns=list(FLIPS)), "flips", baseline=baseline, sigma=sigma)


def best_run_ids(results: pd.DataFrame) -> list[str]:
    """The runs whose curves `flips` compares over training: the best one of every cell that shares its budget."""
    found = []
    for group in groups(results):
        for cells in budgets(group).values():
            best = [cell.best.run_id for cell in cells if cell.best is not None]
            found += best if len(best) > 1 else []
    return found


def _places(group: Group, noise: Noise) -> list[Place]:
    """The budgets of a group at which optimizers have losses, rising."""
    found = []
    for tokens, cells in sorted(budgets(group).items()):
        with_loss = [cell for cell in cells if cell.has_loss and tokens > 0]
        if with_loss:
            found.append(
                Place(
                    model=str(group.columns["model"]),
                    chinchilla=min(cell.chinchilla for cell in with_loss),
                    tokens=tokens,
                    points={
                        cell.optimizer: Point(loss=cell.loss, n=cell.n, run_ids=cell.run_ids) for cell in with_loss
                    },
                    sigma=float(noise.at(tokens)),
                    source=noise.source,
                )
            )
    return found


def _compared(over: str, a: Place, b: Place) -> Iterator[dict[str, Any]]:
    """Every pair of optimizers that both places hold."""
    for one, other in itertools.combinations(sorted(set(a.points) & set(b.points)), 2):
        first, second = sorted((one, other), key=lambda name: (b.points[name].loss, name))
        gap_a, width_a = a.gap(first, second)
        gap_b, width_b = b.gap(first, second)
        verdict = verdict_of(gap_a, gap_b, width_a, width_b)
        yield {
            "over": over,
            "first": first,
            "second": second,
            "model_a": a.model,
            "model_b": b.model,
            "chinchilla_a": a.chinchilla,
            "chinchilla_b": b.chinchilla,
            "tokens_a": a.tokens,
            "tokens_b": b.tokens,
            "gap_a": gap_a,
            "gap_b": gap_b,
            "width_a": width_a,
            "width_b": width_b,
            "sigma_source": a.source if a.source == "none" else b.source,
            "verdict": verdict,
            "points": 1,
            "rank_flips": int(verdict == RANK),
            "noise_flips": int(verdict == NOISE_FLIP),
            "unjudged": int(verdict == NO_SIGMA),
            "label": "",
            "run_ids": [run for place in (a, b) for name in (first, second) for run in place.points[name].run_ids],
        }


def verdict_of(gap_a: float, gap_b: float, width_a: float, width_b: float) -> str:
    """What two gaps of one pair say: same order, equal (a gap of exactly 0), or what kind of flip.

    A gap is resolved when it is not below its width: the rule by which the table ties.
    """
    if gap_a == 0 or gap_b == 0:
        return EQUAL
    if (gap_a > 0) == (gap_b > 0):
        return SAME
    if math.isnan(width_a) or math.isnan(width_b):
        return NO_SIGMA
    return RANK if abs(gap_a) >= width_a and abs(gap_b) >= width_b else NOISE_FLIP


Values = Mapping[str, tuple[Mapping[float, float], Mapping[float, float]]]
"""run id -> (validation loss by tokens trained, by step); the first is empty where the batch is not known."""


def _curve_values(curves: pd.DataFrame) -> Values:
    found: dict[str, tuple[dict[float, float], dict[float, float]]] = {}
    steps, tokens, values = (curves[name].astype(float).to_numpy() for name in ("step", "tokens", "value"))
    for run_id, step, at, value in zip(curves["run_id"], steps.tolist(), tokens.tolist(), values.tolist(), strict=True):
        if math.isfinite(value):
            by_tokens, by_step = found.setdefault(run_id, ({}, {}))
            by_step[step] = value
            if math.isfinite(at):
                by_tokens[at] = value
    return found


def _inside(group: Group, noise: Noise, values: Values) -> Iterator[dict[str, Any]]:
    """Every pair of best runs of one cell whose curves share points before the end."""
    for tokens, cells in sorted(budgets(group).items()):
        with_curve = [cell for cell in cells if cell.best is not None and cell.best.run_id in values]
        for one, other in itertools.combinations(sorted(with_curve, key=lambda cell: cell.optimizer), 2):
            row = _training_row(group, noise, tokens, (one, other), values)
            if row is not None:
                yield row


def _training_row(
    group: Group, noise: Noise, tokens: float, pair: Sequence[CellLoss], values: Values
) -> dict[str, Any] | None:
    """One pair over training; the point shown is the last rank flip, else the last other flip, else the last point."""
    runs = {cell.optimizer: cell.best for cell in pair if cell.best is not None}
    first, second = sorted(runs, key=lambda name: (runs[name].loss, name))
    by_tokens = all(values[run.run_id][0] for run in runs.values())
    own, other = (values[runs[name].run_id][0 if by_tokens else 1] for name in (first, second))
    end = min(max(own), max(other))
    common = np.array(sorted(at for at in set(own) & set(other) if 0 < at < end))  # untrained, all are equal
    if not len(common):
        return None
    gap_b = runs[first].loss - runs[second].loss
    gaps = [own[at] - other[at] for at in common.tolist()]
    widths = TIE_WIDTH * math.sqrt(2.0) * noise.at(common if by_tokens else np.full(len(common), tokens))
    width_b = TIE_WIDTH * math.sqrt(2.0) * float(noise.at(tokens))
    verdicts = [verdict_of(gap, gap_b, width, width_b) for gap, width in zip(gaps, widths.tolist(), strict=True)]
    worst = next((kind for kind in (RANK, NO_SIGMA, NOISE_FLIP) if kind in verdicts), verdicts[-1])
    shown = max(place for place, verdict in enumerate(verdicts) if verdict == worst)
    ratio = min(cell.chinchilla for cell in pair)
    return {
        "over": "training",
        "first": first,
        "second": second,
        "model_a": group.columns["model"],
        "model_b": group.columns["model"],
        "chinchilla_a": ratio,
        "chinchilla_b": ratio,
        "tokens_a": float(common[shown]) if by_tokens else math.nan,
        "tokens_b": tokens,
        "gap_a": gaps[shown],
        "gap_b": gap_b,
        "width_a": float(widths[shown]),
        "width_b": width_b,
        "sigma_source": noise.source,
        "verdict": worst,
        "points": len(verdicts),
        "rank_flips": verdicts.count(RANK),
        "noise_flips": verdicts.count(NOISE_FLIP),
        "unjudged": verdicts.count(NO_SIGMA),
        "label": IN_RUN,
        "run_ids": [runs[first].run_id, runs[second].run_id],
    }
