"""Coordinate descent around an incumbent: one knob at a time, beyond the end of its list where that is best, then a block.

A move needs a gain of more than the threshold, so the losses of the incumbents fall and no configuration is incumbent
twice: the descent ends, however the losses lie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from optsweep_engines.spec import Scalar
from optsweep_tui.tune.axes import SIDES, Axis, Config, Key, Side, key_of, same
from optsweep_tui.tune.problem import Asking
from optsweep_tui.tune.search import Search

SPREAD = "lr"
"""The knob whose lower values are tried when nothing of its list has a loss: a smaller learning rate diverges last."""


def descend(search: Search, first_round: int = 1) -> Asking:
    """Pass over the knobs until a whole pass makes no move, or the budget is spent."""
    settled: dict[str, Key] = {}
    for number in itertools.count(first_round):
        moved = False
        for knob in search.axes:
            before = key_of(search.incumbent)
            if settled.get(knob) == before:
                continue  # nothing has moved since this knob was looked at
            yield from along(search, knob, number)
            moved |= key_of(search.incumbent) != before
            settled[knob] = key_of(search.incumbent)
            if search.spent:
                return
        if not moved:
            return


def along(search: Search, knob: str, number: int) -> Asking:
    """Try one knob around the incumbent: its whole list in the first pass, later the neighbours, and beyond its ends.

    Later passes follow the neighbours as long as the last one tried is best.
    """
    here = search.incumbent[knob]
    values = search.axes[knob].values if number == 1 else search.axes[knob].neighbours(here)
    yield from stage(search, knob, number, "sweep", values)
    while not search.spent:
        here = search.incumbent[knob]
        axis, line = search.axes[knob], search.line(search.incumbent, knob)
        best = search.best_of(line, axis, here)
        if axis.ordered and math.isfinite(line[best]):
            open_ = [value for value in axis.neighbours(best) if not _known(search, {**search.incumbent, knob: value})]
            if open_:
                yield from stage(search, knob, number, "sweep", open_)
                continue
        side = end_of_list(axis, best) if math.isfinite(line[best]) else "low" if knob == SPREAD else None
        if side is None or not extend(search, knob, side):
            return
        yield from stage(search, knob, number, "extend", [search.axes[knob].end(side)])
        if not _known(search, {**search.incumbent, knob: search.axes[knob].end(side)}):
            return


def _known(search: Search, config: Config) -> bool:
    """Whether a configuration was run, or cannot be."""
    return search.outcome(config) is not None or key_of(config) in search.refusals


def stage(search: Search, knob: str, number: int, kind: str, values: Iterable[Scalar]) -> Asking:
    """Run some values of a knob around the incumbent, move if one is better, and write the step down."""
    base = search.incumbent
    axis = search.axes[knob]
    wanted = axis.nearest_first(values, base[knob])
    before = len(search.asked)
    yield search.ask(kind, ({**base, knob: value} for value in wanted))
    line = search.line(base, knob)
    best = search.best_of(line, axis, base[knob])
    gain, moved, why = search.consider({**base, knob: best})
    if search.spent:
        why = f"{why}; the budget of {search.budget} configurations is spent"
    if moved or search.spent or number == 1 or len(search.asked) > before:
        search.tell(
            kind,
            knobs=(knob,),
            round=number,
            tried=search.tried([{**base, knob: value} for value in wanted], base),
            best={knob: best},
            loss=finite(line[best]),
            gain=gain,
            moved=moved,
            why=why,
        )


def end_of_list(axis: Axis, best: Scalar) -> Side | None:
    """The end of its list at which the best value lies; of a list of one value the upper end, then the lower."""
    if not axis.ordered:
        return None
    for side in reversed(SIDES):
        if same(best, axis.end(side)):
            return side
    return None


def extend(search: Search, knob: str, side: Side) -> bool:
    """Put the next value beyond an end on a knob's list; False at a bound or after too many."""
    axis = search.axes[knob]
    if search.extensions[knob, side] >= search.rules.max_extensions:
        return False
    value = search.problem.proposed(axis, side)
    if value is None or axis.holds(value):
        return False
    search.extensions[knob, side] += 1
    search.axes[knob] = axis.with_value(value)
    return True


def block(search: Search, names: tuple[str, str]) -> Asking:
    """All nine combinations of three values of two knobs around the incumbent: what one knob at a time cannot see."""
    base = search.incumbent
    windows = {knob: _window(search, knob) for knob in names}
    if any(len(window) < 2 for window in windows.values()):
        lacking = next(knob for knob, window in windows.items() if len(window) < 2)
        search.tell("block", knobs=names, why=f"left out: {lacking} has no other values here")
        return
    configs = [{**base, **dict(zip(names, values, strict=True))} for values in itertools.product(*windows.values())]
    yield search.ask("block", configs)
    best = min(configs, key=lambda config: (search.loss(config), key_of(config) != key_of(base)))
    gain, moved, why = search.consider(best)
    search.tell(
        "block",
        knobs=names,
        tried=search.tried(configs, base),
        best={knob: best[knob] for knob in names},
        loss=finite(search.loss(best)),
        gain=gain,
        moved=moved,
        why=why,
    )


def _window(search: Search, knob: str) -> tuple[Scalar, ...]:
    """Three values around the incumbent's; a list that is too short is filled up by the rule of its ends."""
    axis = search.axes.get(knob) or search.problem.spare.get(knob)
    if axis is None:
        return ()
    for side in SIDES:
        if len(axis.values) < 3 and axis.ordered:
            value = search.problem.proposed(axis, side)
            axis = axis if value is None else axis.with_value(value)
    search.axes[knob] = axis
    return axis.window(search.incumbent[knob], 3)


def finite(loss: float) -> float | None:
    """The loss, or None where there is none."""
    return loss if math.isfinite(loss) else None
