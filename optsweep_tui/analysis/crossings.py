"""`speedup --target-loss`: steps or seconds until the validation loss inside a run first reaches a target.

Such crossings are read while the learning rate has not ended its schedule: the run that crosses earlier is read at a
higher rate, so its lead comes out too small. Every row is labelled so, and none is mixed with speedups by final losses.
The curve of a cell is the mean over the seeds of its best configuration (by final loss), at the steps that all logged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.cells import CellLoss, Group, groups
from optsweep_tui.analysis.columns.crossings import CROSSINGS
from optsweep_tui.analysis.costs import LOADED_SD, same_place, timing
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.fairness import comparison_flags
from optsweep_tui.analysis.noise import Noise, checked_sigma, noise_of
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.passage import Arrival, Passage, Trace, passage, placed
from optsweep_tui.analysis.ties import budgets, half_width
from optsweep_tui.errors import OptsweepError

X: TypeAlias = Literal["steps", "time"]
Curves: TypeAlias = Mapping[str, tuple[list[int], list[float], list[float]]]
"""Run id -> steps, losses, seconds."""


def crossing_runs(results: pd.DataFrame) -> list[str]:
    """Ids of the runs whose validation curves `in_run_crossings` needs: those of each cell's best configuration."""
    return sorted({run_id for group in groups(results) for cell in group.cells for run_id in cell.run_ids})


def in_run_crossings(
    results: pd.DataFrame,
    curves: pd.DataFrame,
    *,
    targets: Sequence[float],
    x: X = "steps",
    baseline: str = "adamw",
    sigma: float | None = None,
    knob_info: KnobInfo | None = None,
) -> pd.DataFrame:
    """Where each cell first reaches each target loss inside its runs, over where the baseline of its budget does.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        curves: validation losses of the runs that `crossing_runs` names, columns of `columns.CURVES`.
        targets: validation losses, nats per token.
        x: "steps" or "time"; the latter is withheld unless both were timed on one device at one batch.
        baseline: optimizer compared with.
        sigma: run-to-run standard deviation, nats; used exactly as given. Default: measured, else the prior, else none.
        knob_info: declared knobs with their ranges (`edges.KnobInfo`); a best value at a declared bound is no edge.

    Returns:
        Columns of `columns.CROSSINGS`, by target, group, budget and rank.

    Raises:
        OptsweepError: for an unknown x, no target, a target that is no positive number, or such a sigma.
    """
    if x not in ("steps", "time"):
        raise OptsweepError(f'--x "{x}" is not known', "Use steps or time.")
    wrong = [target for target in targets if not (math.isfinite(target) and target > 0)]
    if wrong or not targets:
        raise OptsweepError(
            f"--target-loss {wrong[0] if wrong else '(none)'}: a loss in nats is positive and finite", "Try 3.3."
        )
    checked_sigma(sigma)
    logged = _by_run(curves)
    found = groups(results, knob_info)
    noises = [noise_of(group, baseline, sigma) for group in found]
    rows: list[dict[str, Any]] = []
    for target in dict.fromkeys(targets):
        for group, noise in zip(found, noises, strict=True):
            for cells in budgets(group).values():
                field = _Field.of(group, cells, logged, target, x, baseline, noise)
                head = {**group.columns, "label": F.IN_RUN, "x": x, "baseline": baseline, "target_loss": float(target)}
                rows += [head | row for row in field.rows()]
    frame = addressed(pd.DataFrame(rows, columns=list(CROSSINGS)), "crossings", x=x, baseline=baseline, sigma=sigma)
    return frame.astype({"rank": "Int64", "tie_group": "Int64", "winner": bool})


def _by_run(curves: pd.DataFrame) -> Curves:
    found: dict[str, tuple[list[int], list[float], list[float]]] = {}
    columns = [curves[name].tolist() if name in curves else [] for name in ("run_id", "step", "loss", "seconds")]
    for run_id, step, loss, seconds in sorted(zip(*columns, strict=True), key=lambda point: (str(point[0]), point[1])):
        steps, losses, times = found.setdefault(str(run_id), ([], [], []))
        if math.isfinite(step) and loss is not None and math.isfinite(loss):
            steps.append(int(step))
            losses.append(float(loss))
            times.append(math.nan if seconds is None else float(seconds))
    return found


def _trace(cell: CellLoss, logged: Curves, x: X) -> Trace | str:
    """The mean curve of a cell's seeds, or why there is none."""
    if not cell.has_loss:
        return f"no final loss: {cell.account}"
    if x == "time" and F.BRANCH in cell.flags:
        return "withheld: its runs are branches, whose seconds leave out those of their trunk"
    timed = {run.run_id for run in cell.runs if cell.best is not None and run.timed_like(cell.best)}
    chosen = [run_id for run_id in cell.run_ids if x == "steps" or run_id in timed]
    if not chosen:
        return "withheld: its runs have no measured seconds"
    seeds = [dict(zip(steps, zip(losses, times, strict=True), strict=True)) for steps, losses, times in
             (logged.get(run_id, ([], [], [])) for run_id in chosen)]  # fmt: skip
    common = sorted(set.intersection(*(set(seed) for seed in seeds)))
    if not common:
        return "its runs logged no validation loss" + (" at common steps" if len(seeds) > 1 and all(seeds) else "")
    losses = np.array([[seed[step][0] for step in common] for seed in seeds]).mean(axis=0)
    at = np.array(common, dtype=float)
    if x == "time":
        at = np.array([[seed[step][1] for step in common] for seed in seeds]).mean(axis=0)
        known = np.isfinite(at)
        if not known.any():
            return "withheld: its validations were logged without seconds"
        at, losses = at[known], losses[known]
        if (np.diff(at) <= 0).any():
            return "withheld: its seconds do not rise from validation to validation"
    unit = "step" if x == "steps" else "s"
    return Trace(at=at, loss=losses, seeds=len(chosen), run_ids=tuple(chosen), unit=unit)


@dataclass(frozen=True, kw_only=True)
class _Field:
    """The cells of one budget on their way to one target."""

    group: Group
    cells: Sequence[CellLoss]
    target: float
    x: X
    noise: Noise
    name: str
    """The baseline."""
    baseline: CellLoss | None
    passages: Mapping[str, Passage | str]
    """Optimizer -> its way, or why nothing is known of it."""

    @classmethod
    def of(
        cls, group: Group, cells: Sequence[CellLoss], logged: Curves, target: float, x: X, baseline: str, noise: Noise
    ) -> _Field:
        reference = next((cell for cell in cells if cell.optimizer == baseline), None)
        passages: dict[str, Passage | str] = {}
        for cell in cells:
            trace = _trace(cell, logged, x)
            apart = reference is None or not same_place(cell, reference)
            if not isinstance(trace, str) and x == "time" and cell is not reference and apart:
                trace = f"withheld: not timed on one device, batch and compute type with the baseline {baseline}"
            half = half_width(cell, noise) if noise.known and cell.has_loss else math.nan
            passages[cell.optimizer] = trace if isinstance(trace, str) else passage(trace, target, half)
        return cls(group=group, cells=cells, target=target, x=x, noise=noise, name=baseline, baseline=reference,
                   passages=passages)  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One row per cell, those that cross first, in their order."""
        arrivals = []
        for cell in self.cells:
            found = self.passages[cell.optimizer]
            if isinstance(found, Passage) and found.crossed:
                arrivals.append(Arrival(cell=cell, passage=found))
        places = placed(arrivals, self.noise, self.target, self._slack)
        rows = []
        for cell in self.cells:
            standing = places.get(cell.optimizer)
            rows.append(
                self._row(cell)
                | {
                    "rank": standing.rank if standing else None,
                    "tie_group": standing.tie_group if standing else None,
                    "winner": standing.winner if standing else False,
                }
            )
        return sorted(rows, key=lambda row: (row["rank"] or math.inf, row["optimizer"]))

    def _slack(self, first: CellLoss, other: CellLoss) -> float:
        """What the ratio of two places may be by the noise of timings alone; 1 for steps and where it is not known."""
        half = timing(first, self.group, other.optimizer).half_width if self.x == "time" else 0.0
        return 1.0 if math.isnan(half) else math.exp(half)

    def _row(self, cell: CellLoss) -> dict[str, Any]:
        found = self.passages[cell.optimizer]
        base = self.passages.get(self.name)
        state, reason, bound = self._state(found, base)
        reference = self.baseline if self.baseline is not None and self.baseline.has_loss else None
        marks = {F.IN_RUN, *cell.flags} | comparison_flags(cell, reference)
        marks |= set() if self.noise.known else {F.NO_SIGMA}
        row: dict[str, Any] = {
            "optimizer": cell.optimizer,
            "chinchilla": cell.chinchilla,
            "tokens": cell.tokens if cell.tokens > 0 else math.nan,
            "params": cell.params,
            "state": state,
            "reason": reason,
            "bound": bound,
            "n_seeds": 0,
            "sigma": float(self.noise.at(cell.tokens)),
            "sigma_source": self.noise.source,
            "run_ids": [],
        }
        if isinstance(found, Passage):
            row |= _passage_columns(found)
            marks |= {F.RECROSSED} if found.crossed and found.last != found.at else set()
        if state != "REFUSE" and isinstance(found, Passage) and isinstance(base, Passage):
            row["speedup"] = base.at / found.at
            if cell is not self.baseline:
                low, high, more = self._ends(cell, base, found)
                row |= {"low": low, "high": high}
                marks |= more
        return row | {"flags": F.ordered(marks)}

    def _ends(self, cell: CellLoss, base: Passage, found: Passage) -> tuple[float, float, set[str]]:
        """(low, high, flags) of a speedup: both crossings at their worst, and the noise of the timings on top."""
        marks, slack = set(), 1.0
        if self.x == "time":
            timed = timing(cell, self.group, self.name)
            slack = self._slack(cell, self.baseline) if self.baseline else 1.0
            marks |= {F.TIMED_ONCE} if math.isnan(timed.sd) else set()
            marks |= {F.LOADED} if timed.worst > LOADED_SD else set()
        low = base.low / found.high / slack
        high = base.high / found.low * slack if found.low > 0 else math.inf
        marks |= {F.NOT_RESOLVED} if low <= 1 <= high else set()
        marks |= {F.OPEN} if low == 0 or math.isinf(high) else set()
        return low, high, marks

    def _state(self, found: Passage | str, base: Passage | str | None) -> tuple[str, str, str]:
        """(state, reason, bound)."""
        if isinstance(found, str):
            return "REFUSE", found, ""
        if base is None:
            return "REFUSE", f"the baseline {self.name} has no run at this budget", ""
        if isinstance(base, str):
            return "REFUSE", f"the baseline {self.name}: {base}", ""
        if not found.crossed:
            # The last point of a curve that never arrives bounds the ratio on the other side; one at step 0 says nothing.
            bounded = base.crossed and found.missed and found.end > 0
            bound = f"< {base.bracket_high / found.end:.3g}x" if bounded else ""
            return "REFUSE", "; ".join(filter(None, (found.reason, bound))), bound
        if not base.crossed:
            bound = f"> {base.end / found.bracket_high:.3g}x" if base.missed else ""
            return "REFUSE", "; ".join(filter(None, (f"the baseline {self.name} {base.reason}", bound))), bound
        return "INTERP", "", ""


def _passage_columns(found: Passage) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "n_seeds": found.trace.seeds,
        "run_ids": list(found.trace.run_ids),
        "min_loss": found.minimum,
        "min_at": found.minimum_at,
    }
    if found.crossed:
        columns |= {
            "crossing": found.at,
            "bracket_low": found.bracket_low,
            "bracket_high": found.bracket_high,
            "crossing_low": found.low,
            "crossing_high": found.high,
            "last_crossing": found.last,
        }
    return columns
