"""`fairness_audit`: how much tuning each cell got, and whether budgets are equal enough for minima to be compared.

The smallest of k noisy losses lies below their mean, and the more so the larger k: an optimizer that was tried more
often looks better than it is. Budgets count as equal up to 1.25x in runs and in tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.columns import FAIRNESS
from optsweep_tui.analysis.fairness import BUDGET_RATIO
from optsweep_tui.analysis.lines import NEAR_BEST, settings_of
from optsweep_tui.analysis.noise import Noise, checked_sigma, noise_of
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.runs import TUNING, Run
from optsweep_tui.analysis.ties import budgets

FactsByRun = Mapping[str, tuple[float, float]]
"""run id -> (tokens trained, place in plan order); NaN where not known."""


def fairness_audit(
    results: pd.DataFrame,
    *,
    baseline: str = "adamw",
    sigma: float | None = None,
    threshold: float = NEAR_BEST,
    facts: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Tuning effort of every cell and its verdict against the baseline and over all optimizers of its budget.

    A run counts when its state says that it spent budget (done, diverged, nan, cancelled), it ran under the base seed of
    its group, and its configuration is published; equal configurations count once, their tokens every time.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        baseline: optimizer that `verdict` compares with.
        sigma: run-to-run standard deviation, nats; default: measured, else the prior, else none.
        threshold: what "near the best" means, nats.
        facts: tokens trained and plan order per run, columns of `columns.FACTS`; without, targets stand in for tokens.

    Returns:
        Columns of `columns.FAIRNESS`, by group, rising budget and optimizer.

    Raises:
        OptsweepError: for a sigma that is no positive finite number.
    """
    checked_sigma(sigma)
    known = facts_by_run(facts)
    rows: list[dict[str, Any]] = []
    for group in groups(results):
        noise = noise_of(group, baseline, sigma)
        for cells in budgets(group).values():
            efforts = [effort_of(cell, known, threshold) for cell in sorted(cells, key=lambda cell: cell.optimizer)]
            reference = next((effort for effort in efforts if effort.cell.optimizer == baseline), None)
            overall = _overall(efforts)
            rows += [
                {**group.columns, **_row(effort, reference, baseline, noise, threshold), **overall}
                for effort in efforts
            ]
            for row, effort in zip(rows[-len(efforts) :], efforts, strict=True):
                row["reason"] = _reason(effort, reference, row, efforts)
    options = {"baseline": baseline, "sigma": sigma, "threshold": threshold}
    return addressed(pd.DataFrame(rows, columns=list(FAIRNESS)), "fairness", **options)


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What was spent on one cell."""

    cell: CellLoss
    runs: tuple[Run, ...]
    """The base-seed runs that count, duplicates included."""
    unlisted: int
    missing: int
    tokens: float
    trained_known: bool
    """Tokens trained are on record for every run that counts."""
    values: Mapping[str, int]
    """Swept knob -> distinct values."""
    near: int
    best_after: tuple[float, ...] | None

    @property
    def count(self) -> int:
        """Distinct configurations."""
        return self.cell.tuning_runs


def effort_of(cell: CellLoss, known: FactsByRun, threshold: float) -> Effort:
    """The tuning effort of one cell."""
    counted = tuple(run for run in cell.swept if run.state in TUNING and run.knobs is not None)
    trained = [known.get(run.run_id, (math.nan, math.nan))[0] for run in counted]
    usable = [run.loss for run in cell.swept if run.usable]
    floor = min(usable, default=math.nan)
    distinct: dict[str, set[Any]] = {}
    for run in counted:
        for knob, value in settings_of(run).items():
            distinct.setdefault(knob, set()).add((isinstance(value, bool), value))
    return Effort(
        cell=cell,
        runs=counted,
        unlisted=sum(run.state in TUNING and run.knobs is None for run in cell.swept),
        missing=len({run.config for run in cell.swept if run.state == "missing"}),
        tokens=float(sum(cell.tokens if math.isnan(value) else value for value in trained)),
        trained_known=bool(trained) and not any(math.isnan(value) for value in trained),
        values={knob: len(values) for knob, values in sorted(distinct.items()) if len(values) > 1},
        near=sum(loss < floor + threshold for loss in usable),
        best_after=best_after(counted, known),
    )


def best_after(runs: Sequence[Run], known: FactsByRun) -> tuple[float, ...] | None:
    """Smallest loss after 1, 2, ... runs in plan order (NaN before the first loss); None where the order is not known."""
    places = [known.get(run.run_id, (math.nan, math.nan))[1] for run in runs]
    if not runs or any(math.isnan(place) for place in places) or len(set(places)) < len(places):
        return None
    best, found = math.nan, []
    for _, run in sorted(zip(places, runs, strict=True), key=lambda entry: entry[0]):
        best = run.loss if math.isnan(best) else best if math.isnan(run.loss) else min(best, run.loss)
        found.append(best)
    return tuple(found)


def facts_by_run(facts: pd.DataFrame | None) -> FactsByRun:
    """The facts by run id; a run of two studies keeps its first row (the filter of a question names one study)."""
    if facts is None:
        return {}
    columns = zip(facts["run_id"], facts["tokens_done"].astype(float), facts["place"].astype(float), strict=True)
    found: dict[str, tuple[float, float]] = {}
    for run_id, tokens, place in columns:
        found.setdefault(run_id, (tokens, place))
    return found


@lru_cache(maxsize=4096)
def expected_lowest(draws: int) -> float:
    """How many standard deviations the smallest of so many normal draws lies below their mean, on average.

    Integral of x d(Phi(x)^k), the mean of the largest order statistic: .564 for 2, 1.03 for 4, 1.87 for 20 draws.
    """
    if draws < 2:
        return 0.0 if draws == 1 else math.nan
    # Smooth and gone at both ends: equal steps are as exact as the doubles, 1e-12 against quadrature.
    x = np.linspace(-8.0, 12.0, 2001)
    density = draws * np.exp((draws - 1) * special.log_ndtr(x) - x**2 / 2) / math.sqrt(2 * math.pi)
    return float((x * density).sum() * (x[1] - x[0]))


def ratio_of(first: float, second: float) -> float:
    """Larger over smaller; infinite when one is 0, 1 when both are."""
    few, many = sorted((first, second))
    return many / few if few > 0 else (1.0 if many == 0 else math.inf)


def _row(effort: Effort, reference: Effort | None, baseline: str, noise: Noise, threshold: float) -> dict[str, Any]:
    cell = effort.cell
    sigma = float(noise.at(cell.tokens)) if noise.known and cell.tokens > 0 else math.nan
    own = reference is None or reference.cell.optimizer == cell.optimizer
    runs_ratio = math.nan if reference is None else ratio_of(effort.count, reference.count)
    tokens_ratio = math.nan if reference is None else ratio_of(effort.tokens, reference.tokens)
    return {
        "optimizer": cell.optimizer,
        "chinchilla": cell.chinchilla,
        "tokens": cell.tokens if cell.tokens > 0 else math.nan,
        "params": cell.params,
        "runs": effort.count,
        "unlisted_runs": effort.unlisted,
        "missing_runs": effort.missing,
        "near_best": effort.near,
        "threshold": threshold,
        "states": dict(cell.states),
        "tuning_tokens": effort.tokens,
        "tokens_source": "trained" if effort.trained_known else "planned",
        "knobs_swept": len(effort.values),
        "values_per_knob": dict(effort.values),
        "seeds": len(cell.replicates),
        "fresh_seeds": cell.n_fresh,
        "loss": cell.loss,
        "best_after": None if effort.best_after is None else list(effort.best_after),
        "order": None if effort.best_after is None else "plan",
        "sigma": sigma,
        "sigma_source": noise.source,
        "expected_drop": sigma * expected_lowest(effort.count),
        "expected_drop_near": sigma * expected_lowest(effort.near),
        "baseline": baseline,
        "baseline_runs": None if reference is None else reference.count,
        "runs_ratio": runs_ratio,
        "tokens_ratio": tokens_ratio,
        "verdict": None if own else _verdict(runs_ratio, tokens_ratio),
        "run_ids": [run.run_id for run in effort.runs],
    }


def _verdict(runs_ratio: float, tokens_ratio: float) -> str:
    return "FAIL" if max(runs_ratio, tokens_ratio) > BUDGET_RATIO else "PASS"


def _overall(efforts: Sequence[Effort]) -> dict[str, Any]:
    """The verdict over all optimizers of one model and budget."""
    if len(efforts) < 2:
        return {"cell_runs_ratio": math.nan, "cell_tokens_ratio": math.nan, "cell_verdict": None}
    counts, tokens = [effort.count for effort in efforts], [effort.tokens for effort in efforts]
    runs_ratio, tokens_ratio = ratio_of(min(counts), max(counts)), ratio_of(min(tokens), max(tokens))
    return {
        "cell_runs_ratio": runs_ratio,
        "cell_tokens_ratio": tokens_ratio,
        "cell_verdict": _verdict(runs_ratio, tokens_ratio),
    }


def _reason(effort: Effort, reference: Effort | None, row: Mapping[str, Any], efforts: Sequence[Effort]) -> str:
    few = min(efforts, key=lambda each: (each.count, each.cell.optimizer))
    many = max(efforts, key=lambda each: (each.count, each.cell.optimizer))
    overall = f"over all optimizers {few.count} ({few.cell.optimizer}) to {many.count} ({many.cell.optimizer}) runs"
    own = effort.cell.optimizer
    if len(efforts) < 2:
        return "the only optimizer at this budget"
    if reference is None:
        return f"no cell of {row['baseline']} at this budget; {overall}"
    if reference is effort:
        return overall
    text = f"{own} {_count(effort)} against {_count(reference)} of {reference.cell.optimizer}"
    if row["tokens_ratio"] > BUDGET_RATIO >= row["runs_ratio"]:
        text += f", {row['tokens_ratio']:.3g}x apart in tokens trained"
    if effort.count == reference.count == 1 and not effort.unlisted and not reference.unlisted:
        text += ", nothing was tuned in either"
    return f"{text}{_advantage(effort, reference, row)}; {overall}"


def _advantage(effort: Effort, reference: Effort, row: Mapping[str, Any]) -> str:
    """What unequal numbers of draws do to the two minima, where both losses are minima and sigma is known."""
    shift = row["sigma"] * (expected_lowest(effort.count) - expected_lowest(reference.count))
    if row["verdict"] == "PASS" or not math.isfinite(shift) or effort.cell.n_fresh or reference.cell.n_fresh:
        return ""
    side = "lower" if shift > 0 else "higher"
    return (
        f"; its minimum comes out up to {abs(shift):.4f} nats {side} than the baseline's by the number of draws alone"
    )


def _count(effort: Effort) -> str:
    text = f"{effort.count} run{'s'[: effort.count != 1]}"
    extra = [f"{effort.unlisted} unlisted"] if effort.unlisted else []
    extra += [f"{effort.missing} without a result"] if effort.missing else []
    return f"{text} (and {', '.join(extra)})" if extra else text
