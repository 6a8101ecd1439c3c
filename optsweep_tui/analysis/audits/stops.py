"""`stop_audit`: an early-stopping rule replayed on finished runs: what it would have saved, and whom it would have killed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import pandas as pd

from optsweep_tui.analysis.audits.stop_rules import (
    Kill,
    Traces,
    below_median,
    divergences,
    planned_end,
    traces_of,
)
from optsweep_tui.analysis.cells import CellLoss, Group, groups
from optsweep_tui.analysis.columns import SELECTIONS, STOPS
from optsweep_tui.analysis.lines import NEAR_BEST
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.runs import LOST, Run
from optsweep_tui.errors import OptsweepError

Rule: TypeAlias = Literal["divergence", "median"]
CurveSource: TypeAlias = pd.DataFrame | Callable[[Sequence[str]], pd.DataFrame]
"""Curves as a frame (run_id, key, step, value), or what reads those of some runs."""
RULES: tuple[Rule, ...] = ("divergence", "median")
RUNS_AT_ONCE = 50
"""Runs whose curves are held at a time."""


def stop_audit(
    results: pd.DataFrame,
    curves: CurveSource,
    *,
    rule: Rule = "divergence",
    threshold: float = NEAR_BEST,
    after: float = 0.0,
) -> pd.DataFrame:
    """What a rule would have done to every finished run that has a curve.

    A kill is wrong when the run, left alone, ended less than `threshold` above the best run of its cell, as that run,
    or as another seed of its configuration. The median rule is replayed on the runs that the cell's selection was over
    (one seed), the divergence rule on all. Runs that were stopped in fact are censored: nobody knows how they would
    have ended, so they are counted (`selections`) and not judged.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        curves: run_id, key ("train_loss" or "val_loss"), step, value; NaN where a loss was not finite. Or a function
            that reads them for some runs.
        rule: "divergence", or "median" over the runs of one cell.
        threshold: nats.
        after: share of a run's planned steps before which the median rule stops nothing.

    Returns:
        Columns of `columns.STOPS`, one row per run that ended done, diverged or as NaN and has a curve.

    Raises:
        OptsweepError: an unknown rule, or a threshold or share that is none.
    """
    if rule not in RULES:
        raise OptsweepError(f'--rule "{rule}" is not known', "Use divergence or median.")
    if not (math.isfinite(threshold) and threshold >= 0):
        raise OptsweepError(f"--threshold {threshold:g}: nats, 0 or more", "Try 0.003.")
    if not 0 <= after < 1:
        raise OptsweepError(f"--after {after:g}: a share of a run, at least 0 and below 1", "Try 0.2.")
    rows = []
    for group, cell, runs, traces in _with_curves(groups(results), curves, rule):
        head = {**group.columns, "rule": rule, "threshold": threshold}
        kills = divergences(runs, traces) if rule == "divergence" else below_median(runs, traces, cell, after)
        rows += [{**head, **_row(run, cell, traces[run.run_id], *kills[run.run_id], threshold)} for run in runs]
    frame = pd.DataFrame(rows, columns=list(STOPS))
    return addressed(frame, "stop-audit", rule=rule, threshold=threshold, after=after)


def _with_curves(
    found: Sequence[Group], curves: CurveSource, rule: Rule
) -> Iterator[tuple[Group, CellLoss, list[Run], Mapping[str, Traces]]]:
    """(group, cell, its runs that ended and have a curve, their curves), some cells' curves at a time."""
    asked: list[tuple[Group, CellLoss, list[Run]]] = []
    count = 0
    cells = [(group, cell) for group in found for cell in group.cells]
    for place, (group, cell) in enumerate(cells):
        candidates = cell.runs if rule == "divergence" else cell.swept
        asked.append((group, cell, [run for run in candidates if run.state in {"done", *LOST}]))
        count += len(asked[-1][2])
        if count >= RUNS_AT_ONCE or place == len(cells) - 1:
            wanted = [run.run_id for _, _, runs in asked for run in runs]
            traces = traces_of(curves if isinstance(curves, pd.DataFrame) else curves(wanted))
            for one, of_cell, runs in asked:
                known = [run for run in runs if run.run_id in traces]
                if known:
                    yield one, of_cell, known, traces
            asked, count = [], 0


def selections(results: pd.DataFrame, audit: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """How the choice of each cell's best run would have changed: cells with a kill or with stopped runs.

    Args:
        results: as for `stop_audit`.
        audit: its answer.
        options: rule, threshold and after as they were there, for the addresses.

    Returns:
        Columns of `columns.SELECTIONS`.
    """
    killed = set(audit.loc[audit["killed"].astype(bool), "run_id"])
    judged = set(audit["run_id"])
    rows = []
    for group in groups(results):
        for cell in group.cells:
            gone = [run for run in cell.runs if run.run_id in killed]
            stopped = sum(run.state == "cancelled" for run in cell.runs)
            if not gone and not stopped:
                continue
            best, kept = _best(cell.swept), _best([run for run in cell.swept if run.run_id not in killed])
            rows.append(
                {
                    **group.columns,
                    "optimizer": cell.optimizer,
                    "chinchilla": cell.chinchilla,
                    "tokens": cell.tokens,
                    "params": cell.params,
                    "runs": sum(run.run_id in judged for run in cell.runs),
                    "killed": len(gone),
                    "stopped": stopped,
                    "best_run_id": best.run_id if best else None,
                    "best_loss": best.loss if best else math.nan,
                    "kept_run_id": kept.run_id if kept else None,
                    "kept_loss": kept.loss if kept else math.nan,
                    "change": kept.loss - best.loss if kept and best else math.nan,
                }
            )
    return addressed(pd.DataFrame(rows, columns=list(SELECTIONS)), "stop-audit", **options)


def _best(runs: Sequence[Run]) -> Run | None:
    return min((run for run in runs if run.usable), key=lambda run: (run.loss, run.run_id), default=None)


def _row(
    run: Run, cell: CellLoss, traces: Traces, metric: str, points: int, kill: Kill | None, threshold: float
) -> dict[str, Any]:
    best = cell.best
    near = best is not None and run.usable and (run.loss < best.loss + threshold or run.config == best.config)
    if kill is not None and kill.step >= planned_end(run, cell, traces):
        kill = None  # at its end there is nothing left to stop
    done = kill.step * run.tokens_per_step if kill is not None else math.nan
    return {
        "run_id": run.run_id,
        "optimizer": cell.optimizer,
        "chinchilla": cell.chinchilla,
        "tokens": cell.tokens if cell.tokens > 0 else math.nan,
        "params": cell.params,
        "seed": run.seed,
        "state": run.state,
        "loss": run.loss,
        "gap": run.loss - best.loss if best is not None else math.nan,
        "metric": metric,
        "points": points,
        "killed": kill is not None,
        "step": kill.step if kill is not None else math.nan,
        "tokens_at_kill": done,
        "tokens_saved": max(0.0, cell.tokens - done) if kill is not None else 0.0,
        "why": kill.why if kill is not None else "",
        "near_best": near,
        "wrong": kill is not None and near,
        "missed": run.state in LOST and kill is None,
    }
