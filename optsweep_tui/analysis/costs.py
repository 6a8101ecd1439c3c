"""What a token costs under two optimizers: FLOPs, seconds, memory; and why a ratio of them is withheld."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

from optsweep_tui.analysis.cells import CellLoss, Group
from optsweep_tui.analysis.noise import quantile_squared
from optsweep_tui.analysis.runs import Run

# Equal runs on a quiet machine repeat to a few per cent.
LOADED_SD = 0.1
# FLOPs of a cell's runs differ by batch size and update frequency alone: most of them are the model's.
SAME_FLOPS = 1.01


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Spread of repeated timings, both sides together.

    A machine's load drifts, and drifts for all runs of an hour alike: the spread is therefore not divided by the number
    of runs, and an interval in seconds is never narrower than one timing allows.
    """

    sd: float
    """Standard deviation of log(seconds per token of the one / of the other); NaN without repeated timings."""
    dof: float
    worst: float
    """The larger of the two sides' own standard deviations; NaN without repeated timings."""

    @property
    def half_width(self) -> float:
        """Half the 95 % interval of the log ratio by the noise of the timings; NaN where that is not known."""
        return self.sd * math.sqrt(float(quantile_squared(self.dof)))


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of a cell relative to the baseline's; NaN where not known."""

    flops_ratio: float
    """FLOPs per token, update rule included, over the baseline's."""
    time_ratio: float
    """Seconds per token over the baseline's, same device, batch and model."""
    state_bytes_per_param: float
    no_flops: str
    """Why the FLOPs ratio is withheld; empty when it is known."""
    no_time: str
    """Why the time ratio is withheld; empty when it is known."""

    @property
    def step_overhead(self) -> float:
        return self.time_ratio - 1.0

    @property
    def flops_overhead(self) -> float:
        return self.flops_ratio - 1.0

    def factor(self, unit: str) -> float:
        """What a token speedup is multiplied by to be one in this unit."""
        return {"tokens": 1.0, "flops": 1.0 / self.flops_ratio, "time": 1.0 / self.time_ratio}[unit]

    def withheld(self, unit: str) -> str:
        """Why a speedup in this unit is withheld; empty when it is not."""
        return {"tokens": "", "flops": self.no_flops, "time": self.no_time}[unit]


def costs(cell: CellLoss, reference: CellLoss | None, group: Group, baseline: str) -> Costs:
    """Costs of the best configuration of a cell against the baseline's.

    Args:
        cell: the competitor.
        reference: the baseline's cell of the same or nearest budget.
        group: where other timed cells of the baseline may be found.
        baseline: optimizer name.
    """
    flops, no_flops = _flops_ratio(cell, reference)
    time, no_time = _time_ratio(cell, reference, group, baseline)
    best = cell.best
    state = best.state_bytes / best.total_params if best and best.total_params > 0 else math.nan
    return Costs(
        flops_ratio=flops,
        time_ratio=time,
        state_bytes_per_param=state,
        no_flops=no_flops,
        no_time=no_time,
    )


def timing(cell: CellLoss, group: Group, baseline: str) -> Timing:
    """How far two timings of the same thing lie apart: of both optimizers, within cells timed in the same place."""
    own, own_dof = _spread(other for other in group.of(cell.optimizer) if same_place(cell, other))
    theirs, their_dof = _spread(other for other in group.of(baseline) if same_place(cell, other))
    if not own_dof or not their_dof:
        return Timing(sd=math.nan, dof=0.0, worst=math.nan)
    total = own + theirs
    # Welch-Satterthwaite: https://doi.org/10.2307/3002019
    dof = total**2 / (own**2 / own_dof + theirs**2 / their_dof) if total > 0 else own_dof + their_dof
    return Timing(sd=math.sqrt(total), dof=dof, worst=math.sqrt(max(own, theirs)))


def _spread(cells: Iterable[CellLoss]) -> tuple[float, float]:
    """(pooled variance of log seconds per token within cells, its degrees of freedom)."""
    squares, dof = 0.0, 0.0
    for cell in cells:
        logs = [math.log(value) for value in cell.timings]
        if len(logs) > 1:
            centre = fmean(logs)
            squares += sum((value - centre) ** 2 for value in logs)
            dof += len(logs) - 1
    return (squares / dof if dof else math.nan), dof


def flops_per_token(run: Run) -> float:
    """Model FLOPs per token plus the update rule's FLOPs per step spread over the tokens of a step; NaN if unknown."""
    return (
        run.flops_per_token + run.optimizer_flops_per_step / run.tokens_per_step
        if run.tokens_per_step > 0
        else math.nan
    )


def cell_flops(cell: CellLoss) -> float:
    """FLOPs per token of the best configuration; where it is unpublished, of the cell's runs if they agree to 1 %."""
    own = flops_per_token(cell.best) if cell.best is not None else math.nan
    if own > 0:
        return own
    others = [flops for flops in map(flops_per_token, cell.runs) if flops > 0]
    return median(others) if others and max(others) <= SAME_FLOPS * min(others) else math.nan


def _flops_ratio(cell: CellLoss, reference: CellLoss | None) -> tuple[float, str]:
    if cell.best is None or reference is None or reference.best is None:
        return math.nan, "withheld: no pair of finished runs to compare FLOPs of"
    own, other = cell_flops(cell), cell_flops(reference)
    if own > 0 and other > 0:
        return own / other, ""
    who = cell.optimizer if not own > 0 else reference.optimizer
    return math.nan, f"withheld: the FLOPs of {who}'s runs are not known"


def _time_ratio(cell: CellLoss, reference: CellLoss | None, group: Group, baseline: str) -> tuple[float, str]:
    if cell.best is None or not cell.seconds_per_token > 0:
        return math.nan, f"withheld: {cell.optimizer}'s runs have no measured seconds per token"
    if cell.best.device is None:
        return math.nan, f"withheld: {cell.optimizer}'s runs do not say on which device they were timed"
    if reference is not None and same_place(cell, reference):
        return cell.seconds_per_token / reference.seconds_per_token, ""
    # Seconds per token do not depend on the budget: another budget's baseline on this device and batch serves as well.
    others = [other.seconds_per_token for other in group.of(baseline) if same_place(cell, other)]
    if others:
        return cell.seconds_per_token / median(others), ""
    batch = "" if math.isnan(cell.best.batch_size) else f" at batch {cell.best.batch_size:g}"
    return math.nan, f"withheld: {baseline} was not timed on {cell.best.device}{batch}"


def same_place(cell: CellLoss, other: CellLoss) -> bool:
    """Timed on the same device with the same batch and compute type."""
    if cell.best is None or other.best is None or not other.seconds_per_token > 0:
        return False
    mine, theirs = cell.best, other.best
    return (mine.device, mine.batch_size, mine.dtype) == (theirs.device, theirs.batch_size, theirs.dtype)
