"""`stop_audit`: an early-stopping rule replayed on finished runs: what it would have saved, and whom it would have killed.

The default rule is the engine's own verdict of divergence (`optsweep_engines.history`), asked at every logged point in
place of the end: a loss that is not finite, or more than 0.5 nats above the run's earlier minimum. The other one is the
median rule of Vizier (Golovin et al. 2017, 10.1145/3097983.3098043): stop a run whose best value so far is worse than
the median of the other runs' best values at that step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from optsweep_engines.history import DIVERGED_ABOVE_MINIMUM, WINDOW
from optsweep_tui.analysis.cells import CellLoss, Group, groups
from optsweep_tui.analysis.columns import SELECTIONS, STOPS
from optsweep_tui.analysis.lines import NEAR_BEST
from optsweep_tui.analysis.noise import Floats
from optsweep_tui.analysis.runs import LOST, Run
from optsweep_tui.errors import OptsweepError

Rule: TypeAlias = Literal["divergence", "median"]
CurveSource: TypeAlias = pd.DataFrame | Callable[[Sequence[str]], pd.DataFrame]
"""Curves as a frame (run_id, key, step, value), or what reads those of some runs."""
RULES: tuple[Rule, ...] = ("divergence", "median")
RUNS_AT_ONCE = 200
"""Runs whose curves are held at a time."""
# A median of fewer says little.
LEAST_OTHERS = 2


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The losses of one run as a rule reads them, by rising step."""

    steps: Floats
    values: Floats
    """Nats; NaN where a loss was not finite."""


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Both curves of one run."""

    train: Trace
    val: Trace

    @property
    def metric(self) -> str:
        """What the divergence rule can read here: validation losses count once there are two."""
        return "val_loss, train_loss" if len(self.val.steps) > 1 else "train_loss"


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Where a rule stops a run, and what it saw."""

    step: float
    why: str


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
        kills = _divergences(runs, traces) if rule == "divergence" else _below_median(runs, traces, cell, after)
        rows += [{**head, **_row(run, cell, traces[run.run_id], *kills[run.run_id], threshold)} for run in runs]
    return pd.DataFrame(rows, columns=list(STOPS))


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
            traces = _traces(curves if isinstance(curves, pd.DataFrame) else curves(wanted))
            for one, of_cell, runs in asked:
                known = [run for run in runs if run.run_id in traces]
                if known:
                    yield one, of_cell, known, traces
            asked, count = [], 0


def selections(results: pd.DataFrame, audit: pd.DataFrame) -> pd.DataFrame:
    """How the choice of each cell's best run would have changed: cells with a kill or with stopped runs.

    Args:
        results: as for `stop_audit`.
        audit: its answer.

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
    return pd.DataFrame(rows, columns=list(SELECTIONS))


def _best(runs: Sequence[Run]) -> Run | None:
    return min((run for run in runs if run.usable), key=lambda run: (run.loss, run.run_id), default=None)


def _traces(curves: pd.DataFrame) -> dict[str, Traces]:
    """Curves by run id, steps rising."""
    found: dict[str, dict[str, Trace]] = {}
    for (run_id, key), part in curves.groupby(["run_id", "key"], sort=False):
        ordered = part.sort_values("step", kind="stable")
        trace = Trace(steps=ordered["step"].to_numpy(dtype=float), values=ordered["value"].to_numpy(dtype=float))
        found.setdefault(str(run_id), {})[str(key)] = trace
    empty = Trace(steps=np.empty(0), values=np.empty(0))
    return {
        run_id: Traces(train=keys.get("train_loss", empty), val=keys.get("val_loss", empty))
        for run_id, keys in found.items()
    }


def divergence(traces: Traces) -> Kill | None:
    """The first logged point at which the engine's verdict would have been "diverged".

    Not finite; or a validation loss more than 0.5 above the smallest one before it; or the mean of the last 10 logged
    training losses more than 0.5 above the smallest such mean so far.
    """
    found = [_not_finite(traces.train), _not_finite(traces.val), _val_rise(traces.val), _train_rise(traces.train)]
    return min((kill for kill in found if kill is not None), key=lambda kill: kill.step, default=None)


def _not_finite(trace: Trace) -> Kill | None:
    bad = np.flatnonzero(~np.isfinite(trace.values))
    return Kill(step=float(trace.steps[bad[0]]), why="the loss is not finite") if len(bad) else None


def _val_rise(trace: Trace) -> Kill | None:
    if len(trace.values) < 2:
        return None
    least = np.fmin.accumulate(trace.values)[:-1]
    return _first_rise(trace.steps[1:], trace.values[1:], least, "the validation loss")


def _train_rise(trace: Trace) -> Kill | None:
    means = smoothed(trace)
    if not len(means.values):
        return None
    return _first_rise(
        means.steps, means.values, np.fmin.accumulate(means.values), f"the mean of {WINDOW} training losses"
    )


def _first_rise(steps: Floats, values: Floats, least: Floats, what: str) -> Kill | None:
    with np.errstate(invalid="ignore"):
        over = np.flatnonzero(values - least > DIVERGED_ABOVE_MINIMUM)
    if not len(over):
        return None
    place = int(over[0])
    rise = values[place] - least[place]
    return Kill(step=float(steps[place]), why=f"{what} is {rise:.2f} nats above its earlier minimum {least[place]:.3f}")


def smoothed(trace: Trace) -> Trace:
    """Means over the last 10 finite logged values, at the step of the last of them; empty below 10."""
    keep = np.isfinite(trace.values)
    steps, values = trace.steps[keep], trace.values[keep]
    if len(values) < WINDOW:
        return Trace(steps=np.empty(0), values=np.empty(0))
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW)
    return Trace(steps=steps[WINDOW - 1 :], values=windows.mean(axis=1))


Verdicts: TypeAlias = Mapping[str, tuple[str, int, Kill | None]]
"""run id -> (metric, values read, where it would have been stopped)."""


def _divergences(runs: Sequence[Run], traces: Mapping[str, Traces]) -> Verdicts:
    found = {}
    for run in runs:
        own = traces[run.run_id]
        read = len(own.val.steps) * (len(own.val.steps) > 1) + len(own.train.steps)
        found[run.run_id] = (own.metric, read, divergence(own))
    return found


def _below_median(runs: Sequence[Run], traces: Mapping[str, Traces], cell: CellLoss, after: float) -> Verdicts:
    """First step of each run at which its best so far is worse than the median of the others' best by then.

    The others are all other runs of the cell with a value by then, with their whole curves: those that the rule itself
    would have killed count on, as completed trials do in Vizier. A run needs two of them. Runs are compared over one
    metric: validation losses where every run has two or more, else smoothed training losses.
    """
    use_val = bool(runs) and all(len(traces[run.run_id].val.steps) > 1 for run in runs)
    metric = "val_loss" if use_val else "train_loss"
    read = {run.run_id: traces[run.run_id].val if use_val else smoothed(traces[run.run_id].train) for run in runs}
    best = {run_id: np.fmin.accumulate(trace.values) for run_id, trace in read.items()}
    found: dict[str, tuple[str, int, Kill | None]] = {}
    first = {run.run_id: after * _planned_end(run, cell, traces[run.run_id]) for run in runs}
    for run_id, trace in read.items():
        found[run_id] = (metric, len(trace.steps), None)
        others = [name for name in read if name != run_id and len(read[name].steps)]
        if len(others) < LEAST_OTHERS or not len(trace.steps):
            continue
        table = np.stack([_held(read[name].steps, best[name], trace.steps) for name in others])
        enough = np.isfinite(table).sum(axis=0) >= LEAST_OTHERS
        median = np.full(len(trace.steps), np.nan)
        median[enough] = np.nanmedian(table[:, enough], axis=0)
        worse = np.flatnonzero((best[run_id] > median) & (trace.steps >= first[run_id]))
        if len(worse):
            place = int(worse[0])
            why = f"its best so far {best[run_id][place]:.4f} is worse than the others' median {median[place]:.4f}"
            found[run_id] = (metric, len(trace.steps), Kill(step=float(trace.steps[place]), why=why))
    return found


def _held(steps: Floats, values: Floats, at: Floats) -> Floats:
    """The last value at or before each step; NaN before the first."""
    place = np.searchsorted(steps, at, side="right") - 1
    return np.where(place >= 0, values[np.maximum(place, 0)], np.nan)


def _row(
    run: Run, cell: CellLoss, traces: Traces, metric: str, points: int, kill: Kill | None, threshold: float
) -> dict[str, Any]:
    best = cell.best
    near = best is not None and run.usable and (run.loss < best.loss + threshold or run.config == best.config)
    if kill is not None and kill.step >= _planned_end(run, cell, traces):
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


def _planned_end(run: Run, cell: CellLoss, traces: Traces) -> float:
    """The step at which the run was to end; the last one logged where the batch is not known."""
    if run.tokens_per_step > 0 and cell.tokens > 0:
        return float(cell.tokens // run.tokens_per_step)
    return float(max(trace.steps[-1] for trace in (traces.train, traces.val) if len(trace.steps)))
