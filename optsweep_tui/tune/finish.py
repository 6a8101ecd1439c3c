"""The end of a search: no end of a list is left best, and a budget is spent to its last run on finer steps."""

from __future__ import annotations

import math

from optsweep_engines.spec import Scalar, canonical_json
from optsweep_tui.grid import SETTINGS
from optsweep_tui.tune import descent
from optsweep_tui.tune.axes import SIDES, Axis, Config, Side, key_of
from optsweep_tui.tune.problem import Asking
from optsweep_tui.tune.search import Search


def best_config(search: Search) -> Config | None:
    """The configuration of the smallest loss under the base seed, of equal ones the one that every table picks."""
    usable = [candidate.config for candidate in search.tuning if math.isfinite(search.loss(candidate.config))]
    return min(usable, key=lambda config: (search.loss(config), _table_order(config)), default=None)


def _table_order(config: Config) -> str:
    """How `analysis.cells` breaks a tie: values that change nothing (an eps of 1e-25 or 1e-20) do give equal losses."""
    knobs = {knob: value for knob, value in config.items() if knob not in SETTINGS}
    batch = config.get("batch_size")
    return repr(
        (canonical_json(knobs), batch if batch is None else float(batch), config.get("schedule"), config.get("dtype"))
    )


def closed(search: Search) -> Asking:
    """Go beyond the ends at which the smallest loss of the cell lies, the incumbent's or not."""
    while not search.spent:
        best = best_config(search)
        if best is None:
            return
        before = len(search.asked)
        for knob, side in open_edges(search, best).items():
            value = _beyond(search, knob, side, best)
            if value is None:
                continue
            base = search.incumbent
            config = {**best, knob: value}
            yield search.ask("extend", [config])
            gain, moved, why = search.consider(config)
            if len(search.asked) > before:
                found = search.loss(config)
                search.tell(
                    "extend",
                    knobs=(knob,),
                    tried=search.tried([config], base),
                    best={knob: value if found < search.loss(best) else best[knob]},
                    loss=min(found, search.loss(best)),
                    gain=gain,
                    moved=moved,
                    why=why,
                )
                break
        if len(search.asked) == before:
            return


def _beyond(search: Search, knob: str, side: Side, config: Config) -> Scalar:
    """The next value on a side: one of the list that was not tried yet, else one beyond its end; None without."""
    axis = search.axes[knob]
    at = axis.place(config[knob]) + (1 if side == "high" else -1)
    if 0 <= at < len(axis.values):
        value = axis.values[at]
        return None if key_of({**config, knob: value}) in search.refusals else value
    return search.axes[knob].end(side) if descent.extend(search, knob, side) else None


def open_edges(search: Search, config: Config) -> dict[str, Side]:
    """Knobs of which a configuration has the lowest or highest value that the cell was run at, with more beyond it."""
    found: dict[str, Side] = {}
    for knob, axis in search.axes.items():
        if not axis.ordered:
            continue
        tried = sorted({axis.number(candidate.config[knob]) for candidate in search.tuning})
        value = axis.number(config[knob])
        for side, end in zip(SIDES, (tried[0], tried[-1]), strict=True):
            if value == end and len(tried) > 1 and not _bound(search, axis, config, side):
                found[knob] = side
    return found


def _bound(search: Search, axis: Axis, config: Config, side: Side) -> bool:
    """Nothing lies beyond: the catalogue's range ends, or what comes next cannot be run."""
    at = axis.place(config[axis.knob]) + (1 if side == "high" else -1)
    value = axis.values[at] if 0 <= at < len(axis.values) else search.problem.proposed(axis, side)
    if value is None:
        return True
    config = {**config, axis.knob: value}
    return key_of(config) in search.refusals or search.problem.refused(config) is not None


def refine(search: Search) -> Asking:
    """Spend a budget to its last run on ever finer steps around the incumbent.

    Round by round, lr first and then the knobs by how much the loss varied along them: the values halfway to the
    neighbours of the incumbent's, for switches and choices what was not tried yet around it.
    """
    assert search.budget is not None
    order = sorted(search.axes, key=lambda knob: (knob != descent.SPREAD, -_variation(search, knob)))
    while len(search.tuning) < search.budget:
        before = len(search.tuning)
        for knob in order:
            axis, here = search.axes[knob], search.incumbent[knob]
            values = list(axis.neighbours(here))
            if axis.ordered:
                halves = (axis.halfway(here, value) for value in values)
                values = [value for value in halves if value is not None]
                for value in values:
                    search.axes[knob] = search.axes[knob].with_value(value)
            yield from descent.stage(search, knob, 0, "refine", values)
            if search.spent:
                return
        if len(search.tuning) == before:
            why = f"{search.budget - before} of its equal budget are not spent: there is nothing finer to try"
            search.tell("refine", why=why)
            return


def _variation(search: Search, knob: str) -> float:
    """How far the losses of the last step along a knob lie apart, nats."""
    for step in reversed(search.steps):
        losses = [tried.outcome.loss for tried in step.tried if tried.outcome.loss is not None]
        if step.knobs == (knob,) and len(losses) > 1:
            return max(losses) - min(losses)
    return 0.0
