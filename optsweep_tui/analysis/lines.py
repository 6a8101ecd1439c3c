"""Along one knob of one cell: the values that were tried, what each gave, and which was best.

Two runs lie on one line of a knob when they agree in everything else. A one-at-a-time sweep has one line per knob, through
its incumbent; a product has many. The line that counts is the one that reaches the smallest loss.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from optsweep_tui.analysis.runs import LOST, Run

Value: TypeAlias = float | bool | str
"""A knob's value: numbers as floats, booleans and texts as they are."""

# One threshold for every near-best set, nats (analysis.md); stored with every output that rests on it.
NEAR_BEST = 3e-3
# The reference study tunes the batch size like a knob.
BATCH = "batch_size"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One knob of one cell."""

    knob: str
    tried: tuple[Value, ...]
    """Every value that a run of the cell reports on, diverged ones included; rising, texts last."""
    losses: Mapping[Value, float]
    """Smallest loss of each value on the line that counts, nats; values without a loss are left out."""
    run_ids: Mapping[Value, str]
    """The run behind each loss."""
    best: Value | None
    """The value of the smallest loss; None when no line of this knob has two values, one of them with a loss."""
    states: Mapping[Value, str] = field(default_factory=dict)
    """How the values ended that have no loss on the line that counts: "diverged", "missing", ...; one that was only
    tried on other lines is left out."""

    @property
    def numeric(self) -> bool:
        """All values are ordered numbers."""
        return all(isinstance(value, float) for value in self.tried)

    @property
    def swept(self) -> bool:
        """More than one value was tried."""
        return len(self.tried) > 1

    def neighbours(self, value: Value) -> tuple[Value | None, Value | None]:
        """The values tried next below and next above one of the list; None beyond its ends."""
        place = self.tried.index(value)
        below = self.tried[place - 1] if place > 0 else None
        return below, self.tried[place + 1] if place + 1 < len(self.tried) else None


def lines(runs: Sequence[Run]) -> dict[str, Line]:
    """Every knob of a cell that was tried at two values or more, batch size included, by name.

    Args:
        runs: runs of one cell under one seed that were part of the selection, whatever their state.
    """
    settings = [settings_of(run) for run in runs]
    tried: dict[str, set[Value]] = {}
    for values in settings:
        for knob, value in values.items():
            tried.setdefault(knob, set()).add(value)
    # A run's line of a knob is named by what it has beside that knob: one number per run and knob, not one text.
    marks = [{knob: hash((knob, type(value), value)) for knob, value in values.items()} for values in settings]
    totals = [hash((run.schedule, run.dtype)) + sum(own.values()) for own, run in zip(marks, runs, strict=True)]
    found = {}
    for knob in sorted(knob for knob, values in tried.items() if len(values) > 1):
        by_line: dict[int, list[tuple[Value, Run]]] = {}
        for run, values, own, total in zip(runs, settings, marks, totals, strict=True):
            if run.knobs is not None and knob in values:
                by_line.setdefault(total - own[knob], []).append((values[knob], run))
        found[knob] = _line(knob, tried[knob], by_line.values())
    return found


def _line(knob: str, tried: Iterable[Value], candidates: Iterable[list[tuple[Value, Run]]]) -> Line:
    """The candidate that reaches the smallest loss with two values or more; of equal ones that with more values."""
    chosen: dict[Value, tuple[float, str]] = {}
    counted: list[tuple[Value, Run]] = []
    rank: tuple[float, int, str] | None = None
    for members in candidates:
        best: dict[Value, tuple[float, str]] = {}
        for value, run in members:
            if run.usable and (value not in best or (run.loss, run.run_id) < best[value]):
                best[value] = (run.loss, run.run_id)
        if len({value for value, _ in members}) < 2 or not best:
            continue
        top = min(best.values())
        mine = (top[0], -len(best), top[1])
        if rank is None or mine < rank:
            chosen, counted, rank = best, members, mine
    ordered = tuple(sorted(tried, key=value_order))
    return Line(
        knob=knob,
        tried=ordered,
        losses={value: chosen[value][0] for value in ordered if value in chosen},
        run_ids={value: chosen[value][1] for value in ordered if value in chosen},
        best=_argmin({value: loss for value, (loss, _) in chosen.items()}, ordered),
        states=_states(counted, chosen),
    )


def _states(members: Iterable[tuple[Value, Run]], known: Mapping[Value, object]) -> dict[Value, str]:
    """State of each value without a loss; of several runs a diverged one speaks."""
    found: dict[Value, list[str]] = {}
    for value, run in members:
        if value not in known:
            found.setdefault(value, []).append(run.state)
    return {value: min(states, key=lambda state: (state not in LOST, state)) for value, states in found.items()}


def _argmin(losses: Mapping[Value, float], ordered: Sequence[Value]) -> Value | None:
    """The value of the smallest loss; of equal ones an inner one, then the smaller."""
    if not losses:
        return None
    ends = {ordered[0], ordered[-1]}
    return min(losses, key=lambda value: (losses[value], value in ends, value_order(value)))


def settings_of(run: Run) -> dict[str, Value]:
    """The run's knobs and its batch size; nulls and lists are left out."""
    values: dict[str, Any] = {} if math.isnan(run.batch_size) else {BATCH: run.batch_size}
    values.update(run.knobs or {})
    return {knob: plain(value) for knob, value in values.items() if isinstance(value, bool | int | float | str)}


def plain(value: bool | int | float | str) -> Value:
    """Numbers as floats, so that 1 and 1.0 are one value; booleans and texts as they are."""
    return value if isinstance(value, bool | str) else float(value)


def value_order(value: Value) -> tuple[int, float, str]:
    """Numbers by size, then booleans, then texts."""
    if isinstance(value, bool):
        return 1, float(value), ""
    return (2, 0.0, value) if isinstance(value, str) else (0, value, "")


def value_text(value: Value | None) -> str:
    """A value as it is written in a grid: 0.01, 1e-20, true, "linear"."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return "null" if value is None else json.dumps(value)


def near_best(runs: Iterable[Run], threshold: float = NEAR_BEST) -> list[Run]:
    """The runs of a cell whose loss is below its smallest plus the threshold."""
    usable = [run for run in runs if run.usable]
    smallest = min((run.loss for run in usable), default=math.nan)
    return [run for run in usable if run.loss < smallest + threshold]
