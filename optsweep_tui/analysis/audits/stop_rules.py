"""Stopping rules read the curves of one cell's runs: the engine's verdict of divergence at every point, and the median rule.

Divergence is `optsweep_engines.history` asked at every logged point in place of the end: a loss that is not finite, or more
than 0.5 nats above the run's earlier minimum. The median rule is Vizier's (Golovin et al. 2017, 10.1145/3097983.3098043):
stop a run whose best value so far is worse than the median of the other runs' best values at that step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd

from optsweep_engines.history import DIVERGED_ABOVE_MINIMUM, WINDOW
from optsweep_tui.analysis.cells import CellLoss
from optsweep_tui.analysis.noise import Floats
from optsweep_tui.analysis.runs import Run

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


def traces_of(curves: pd.DataFrame) -> dict[str, Traces]:
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


def divergences(runs: Sequence[Run], traces: Mapping[str, Traces]) -> Verdicts:
    found = {}
    for run in runs:
        own = traces[run.run_id]
        read = len(own.val.steps) * (len(own.val.steps) > 1) + len(own.train.steps)
        found[run.run_id] = (own.metric, read, divergence(own))
    return found


def below_median(runs: Sequence[Run], traces: Mapping[str, Traces], cell: CellLoss, after: float) -> Verdicts:
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
    first = {run.run_id: after * planned_end(run, cell, traces[run.run_id]) for run in runs}
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


def planned_end(run: Run, cell: CellLoss, traces: Traces) -> float:
    """The step at which the run was to end; the last one logged where the batch is not known."""
    if run.tokens_per_step > 0 and cell.tokens > 0:
        return float(cell.tokens // run.tokens_per_step)
    return float(max(trace.steps[-1] for trace in (traces.train, traces.val) if len(trace.steps)))
