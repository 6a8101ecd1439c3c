"""One validation curve on its way down to a target loss: where it first arrives, and how well that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from optsweep_tui.analysis.cells import CellLoss
from optsweep_tui.analysis.noise import Floats, Noise
from optsweep_tui.analysis.ties import TIE_WIDTH, Standing, gap_half_width, standard_error

Slack: TypeAlias = Callable[[CellLoss, CellLoss], float]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A validation curve."""

    at: Floats
    """Steps or seconds of the logged points, rising, shape (P,)."""
    loss: Floats
    """Nats, finite."""
    seeds: int
    """Runs that it is the mean of."""
    run_ids: tuple[str, ...]
    unit: str = "step"
    """What `at` counts: "step", or "s" for seconds."""

    def place(self, at: float) -> str:
        """A place on the curve in words."""
        return f"step {at:,.0f}" if self.unit == "step" else f"{at:,.1f} s"

    def read(self, at: float) -> float:
        """The loss on straight lines between the points; NaN outside."""
        return float(np.interp(at, self.at, self.loss, left=math.nan, right=math.nan))

    def first(self, target: float) -> float:
        """Where the loss is first at or below a target; the first point if it is there already, infinite if never."""
        below = np.flatnonzero(self.loss <= target)
        if not len(below):
            return math.inf
        return self._between(int(below[0]) - 1, target) if below[0] else float(self.at[0])

    def last(self, target: float) -> float:
        """Where the loss comes down to a target for good; infinite if it ends above."""
        above = np.flatnonzero(self.loss > target)
        if not len(above):
            return float(self.at[0])
        return self._between(int(above[-1]), target) if above[-1] < len(self.loss) - 1 else math.inf

    def _between(self, place: int, target: float) -> float:
        """The crossing between a point above the target and the next one."""
        (x0, x1), (y0, y1) = self.at[place : place + 2], self.loss[place : place + 2]
        return float(x0 + (x1 - x0) * (y0 - target) / (y0 - y1))


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A curve held against a target; places are NaN where it was not crossed."""

    trace: Trace
    reason: str
    """Why there is no crossing; empty when there is one."""
    at: float
    bracket_low: float
    bracket_high: float
    low: float
    """The bracket, or what noise makes of it, whichever is wider."""
    high: float
    last: float
    missed: bool
    """All logged points lie above the target."""

    @property
    def crossed(self) -> bool:
        return not self.reason

    @property
    def minimum(self) -> float:
        """Smallest logged loss, nats."""
        return float(self.trace.loss.min())

    @property
    def minimum_at(self) -> float:
        return float(self.trace.at[int(self.trace.loss.argmin())])

    @property
    def end(self) -> float:
        """The last logged point."""
        return float(self.trace.at[-1])


def passage(trace: Trace, target: float, half: float) -> Passage:
    """The first crossing of a target, and the last where the loss rose over it again.

    Args:
        trace: a curve of one point at least.
        target: nats.
        half: half the 95 % interval of the mean curve's losses, nats; NaN without sigma.
    """
    below = np.flatnonzero(trace.loss <= target)
    if not len(below):
        place = int(trace.loss.argmin())
        lowest = f"{trace.loss[place]:.4f} at {trace.place(float(trace.at[place]))}"
        reason = f"never reaches {target:g}: its minimum is {lowest}"
        return _nowhere(trace, reason, missed=True)
    if below[0] == 0:
        first = trace.place(float(trace.at[0]))
        if len(trace.at) == 1:
            reason = f"was validated once, at {first}, at or below {target:g}: a crossing needs a validation_interval"
        else:
            reason = (
                f"is at or below {target:g} already at its first validation, {first}: nothing brackets the crossing"
            )
        return _nowhere(trace, reason, missed=False)
    low, high = float(trace.at[below[0] - 1]), float(trace.at[below[0]])
    last = trace.last(target)
    # Where the curve came down for good, as its bracket's end.
    end = float(trace.at[np.flatnonzero(trace.loss > target)[-1] + 1]) if math.isfinite(last) else math.inf
    noisy = not math.isnan(half)
    return Passage(
        trace=trace,
        reason="",
        at=trace.first(target),
        bracket_low=low,
        bracket_high=high,
        low=min(low, trace.first(target + half)) if noisy else low,
        high=max(high, end, trace.last(target - half)) if noisy else max(high, end),
        last=last if math.isfinite(last) else math.nan,
        missed=False,
    )


def _nowhere(trace: Trace, reason: str, missed: bool) -> Passage:
    nan = math.nan
    return Passage(
        trace=trace,
        reason=reason,
        at=nan,
        bracket_low=nan,
        bracket_high=nan,
        low=nan,
        high=nan,
        last=nan,
        missed=missed,
    )


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A cell and its crossing."""

    cell: CellLoss
    passage: Passage


def placed(arrivals: Sequence[Arrival], noise: Noise, target: float, slack: Slack) -> dict[str, Standing]:
    """Rank, tie group and winner among crossings of one budget, by optimizer.

    A tie group starts at its first crossing and holds every next one that is no more than one logging interval later, or
    that came before the first had risen over the target again, or whose curve, where the first one crosses, lies above
    the target by less than 1.645 sigma sqrt(1/n1 + 1/n2), or that the noise of the timings does not set apart.

    Args:
        arrivals: cells that crossed.
        noise: the group's sigma.
        target: nats.
        slack: what the ratio of two places may be by the noise of timings alone; 1 for steps.
    """
    ranked = sorted(arrivals, key=lambda arrival: (arrival.passage.at, arrival.cell.optimizer))
    groups: list[list[Arrival]] = []
    for arrival in ranked:
        if groups and _tied(groups[-1][0], arrival, noise, target, slack):
            groups[-1].append(arrival)
        else:
            groups.append([arrival])
    clear = len(ranked) > 1 and noise.known and _clear(ranked[0], ranked[1], noise, target)
    return {
        arrival.cell.optimizer: Standing(
            rank=1 + sum(other.passage.at < arrival.passage.at for other in arrivals),
            tie_group=number if noise.known else None,
            winner=clear and number == 1 and len(members) == 1,
        )
        for number, members in enumerate(groups, start=1)
        for arrival in members
    }


def _tied(first: Arrival, other: Arrival, noise: Noise, target: float, slack: Slack) -> bool:
    interval = max(each.passage.bracket_high - each.passage.bracket_low for each in (first, other))
    at, later = first.passage.at, other.passage.at
    if later - at <= interval or not first.passage.last < later or later <= at * slack(first.cell, other.cell):
        return True
    sigma = float(noise.at(first.cell.tokens))
    return other.passage.trace.read(at) - target < TIE_WIDTH * sigma * standard_error(first.cell, other.cell)


def _clear(first: Arrival, second: Arrival, noise: Noise, target: float) -> bool:
    """The gap between the first two curves, where the first crosses, is resolved at 95 %."""
    gap = second.passage.trace.read(first.passage.at) - target
    return gap > gap_half_width(second.cell, first.cell, noise)
