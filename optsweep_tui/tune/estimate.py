"""How much of a tuning is still to come if nothing moves any more: runs, FLOPs, seconds at the pace so far."""

from __future__ import annotations

import math
import time

from optsweep_tui.dispatch.lines import RunLine
from optsweep_tui.tune.axes import same
from optsweep_tui.tune.problem import Candidate, Rules
from optsweep_tui.tune.procedure import Position
from optsweep_tui.tune.sampling import DEFAULT_RUNS
from optsweep_tui.tune.whole import Placed

CORNERS, NEW_AXIS = 4, 2
"""New runs of a 3 x 3 block whose centre and axes were swept before, and two more for a knob that was not."""
SURE_SECONDS = 3.0
"""Before so much time has passed the pace is not known."""


def to_come(placed: Placed, rules: Rules) -> int:
    """Further runs of a cell, those pending included, if no value beats the incumbent and no list is extended."""
    position, cell = placed.position, placed.cell
    if position.state in ("ended", "stuck"):
        return 0
    told = {step.kind for step in position.steps}
    kinds = {kind for candidate, kind, outcome in position.runs if outcome is None and candidate in position.pending}
    now = [candidate for candidate in position.pending if candidate.seed == rules.seed]
    seeds = len(position.pending) - len(now)
    if "seeds" not in told and ("start" not in told or "seeds" not in kinds):
        seeds += rules.fresh_seeds
    left = math.inf if rules.max_runs is None else rules.max_runs - position.used
    if rules.sampler != "descent":
        return len(now) + int(max(0, min(left, DEFAULT_RUNS))) + seeds
    swept = {knob for step in position.steps if step.kind == "sweep" for knob in step.knobs}
    swept |= {knob for candidate in now for knob in cell.axes if not _same(candidate, position, knob)}
    axes = cell.axes if cell.phase < 3 else {}
    later = sum(len(values) - 1 for knob, values in axes.items() if knob not in swept)
    if not {"block", "seeds"} & (told | (kinds if "start" in told else set())) and rules.block and cell.phase < 3:
        later += CORNERS + NEW_AXIS * sum(knob not in cell.axes for knob in rules.block)
    start = 1 if position.state == "waiting" and not position.runs else 0
    return len(now) + int(min(left, later)) + start + seeds


def _same(candidate: Candidate, position: Position, knob: str) -> bool:
    return same(candidate.config[knob], position.incumbent[knob])


class Pace:
    """Seconds to go, from the FLOPs done since the first look."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def seconds(self, done: float, total: float) -> float | None:
        """At the pace since the first look; None before it is known.

        Args:
            done: FLOPs of everything so far, runs that go on in part.
            total: FLOPs of everything, what is to come included.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        since, base = self._first
        if done <= base or now - since < SURE_SECONDS:
            return None
        return max(0.0, total - done) * (now - since) / (done - base)


def share_done(line: RunLine, over: bool) -> float:
    """How much of a run is done, from 0 to 1."""
    return 1.0 if over else min(1.0, line.step / max(1, line.steps))
