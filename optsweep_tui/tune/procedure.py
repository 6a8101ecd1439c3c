"""A cell from its start to its winner's fresh seeds: `position` says what is to be run next, or how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import stdev

from optsweep_engines.spec import Scalar, canonical_json
from optsweep_tui.grid import SETTINGS
from optsweep_tui.tune import descent, sampling
from optsweep_tui.tune.axes import SIDES, Axis, Config, Key, Side, key_of, same
from optsweep_tui.tune.search import Asking, Candidate, Outcome, Problem, Results, Search, Step

UNSOUND = ("failed", "cancelled", "lost")
"""States that say nothing of a configuration: the search waits for a retry instead of going on without the run."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where the tuning of a cell is."""

    state: str
    """running (runs are pending), waiting (for the other optimizers of an equal budget), stuck, or ended."""
    pending: tuple[Candidate, ...] = ()
    """Runs that have not ended and are needed next."""
    runs: tuple[tuple[Candidate, str, Outcome | None], ...] = ()
    """Every run asked for, in order, with the kind of the step that asked first and its outcome."""
    steps: tuple[Step, ...] = ()
    start: Config = field(default_factory=dict)
    incumbent: Config = field(default_factory=dict)
    """What the last move led to."""
    winner: Config | None = None
    """The configuration of the smallest loss, which has the fresh seeds; None before the end, or without any loss."""
    start_losses: tuple[float, ...] = ()
    """The start's, base seed first, nats."""
    winner_losses: tuple[float, ...] = ()
    """The winner's, base seed first (the smallest of many), then its fresh seeds."""
    edges: Mapping[str, Side] = field(default_factory=dict)
    """Knobs whose winning value is the last one tried on a side, with more allowed beyond it."""
    used: int = 0
    """Configurations that the search ran."""
    spent: bool = False
    """It wanted more than its budget."""
    threshold: float = math.nan
    sigma: float | None = None
    sigma_source: str = "none"
    sigma_dof: float = math.inf
    refusals: Mapping[Key, str] = field(default_factory=dict)
    """Configuration -> why it could not be run."""
    reason: str = ""
    """Why it is stuck."""


def position(problem: Problem, results: Results, equal_to: int | None = None) -> Position:
    """Replay the tuning of a cell over the results that are there.

    Args:
        results: outcome of each run that has ended.
        equal_to: configurations that the cell has to spend in all; None: as many as it needs.
    """
    search = Search(problem, results)
    for batch in _procedure(search, equal_to):
        missing = tuple(candidate for candidate in batch if results(candidate) is None)
        if missing:
            return _described(search, "running", pending=missing)
        bad = [found for candidate in batch if (found := results(candidate)) and found.state in UNSOUND]
        if bad and not problem.rules.skip_failed:
            runs = ", ".join(f"{outcome.run_id[:8]} {outcome.state}" for outcome in bad[:3])
            return _described(search, "stuck", reason=runs)
    return _described(search, "waiting" if problem.equal and equal_to is None else "ended")


def _procedure(search: Search, equal_to: int | None) -> Asking:
    yield from _start(search)
    if search.rules.sampler == "optuna":
        yield from sampling.sample(search)
    else:
        yield from descent.descend(search)
        if search.rules.block is not None and not search.spent:
            before = key_of(search.incumbent)
            yield from descent.block(search, search.rules.block)
            if key_of(search.incumbent) != before:
                rounds = max((step.round for step in search.steps), default=0)
                yield from descent.descend(search, rounds + 1)
        yield from _closed(search)
    if search.problem.equal:
        if equal_to is None:
            return
        cut, search.spent, search.budget = search.spent, False, equal_to
        yield from refine(search)
        search.spent = cut
    yield from _seeded(search)


def _start(search: Search) -> Asking:
    """The start, its seeds where they are wanted before the search, and at once the first knob's list around it."""
    start = search.problem.start
    batch = search.ask("start", [start])
    if search.rules.sampler == "descent":
        for knob, axis in list(search.axes.items())[:1]:
            values = axis.nearest_first(axis.values, start[knob])
            batch += search.ask("sweep", ({**start, knob: value} for value in values))
    if search.rules.seeds_for_start:
        batch += search.ask_seeds(start)
    yield batch
    losses = [loss for loss in (search.loss(start), *search.seed_losses(start)) if math.isfinite(loss)]
    why = ""
    if search.rules.seeds_for_start and search.sigma_source != "given":
        if len(losses) > 1 and stdev(losses) > 0:
            search.sigma, search.sigma_source, search.sigma_dof = stdev(losses), "start", len(losses) - 1.0
            why = f"run-to-run noise {search.sigma:.4f} from {len(losses)} seeds"
        else:
            why = "its seeds do not measure the noise"
    tried = search.tried([start], {})
    for seed in search.seeds if search.rules.seeds_for_start else ():
        tried += search.tried([start], start, seed)
    search.tell("start", tried=tried, loss=descent.finite(search.loss(start)), why=why)


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


def _closed(search: Search) -> Asking:
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


def _seeded(search: Search) -> Asking:
    """Settle on the smallest loss of the cell and run it under the fresh seeds."""
    best = best_config(search)
    if best is None:
        search.tell("settle", why="no configuration of the cell has a loss")
        return
    loss = search.loss(best)
    if key_of(best) != key_of(search.incumbent):
        gain = search.loss(search.incumbent) - loss
        change = {knob: value for knob, value in best.items() if not same(value, search.incumbent[knob])}
        why = (
            f"the smallest loss of the cell, {gain:.4f} below the incumbent and within the threshold: it gets the seeds"
        )
        search.tell("settle", knobs=tuple(change), best=change, loss=loss, gain=gain, why=why)
    yield search.ask_seeds(best)
    tried = tuple(entry for seed in search.seeds for entry in search.tried([best], best, seed))
    losses = search.seed_losses(best)
    if search.rules.fresh_seeds:
        lost = len(tried) - len(losses)
        why = f"{lost} of {len(tried)} without a loss" if lost else ""
        mean = sum(losses) / len(losses) if losses else None
        search.tell("seeds", tried=tried, loss=mean, why=why)


def _described(search: Search, state: str, pending: tuple[Candidate, ...] = (), reason: str = "") -> Position:
    ended = state == "ended"
    winner = best_config(search) if ended else None
    start = search.problem.start
    first = [loss for loss in [search.loss(start)] if math.isfinite(loss)]
    return Position(
        state=state,
        pending=pending,
        runs=tuple(
            (candidate, search.roles[key], search.results(candidate)) for key, candidate in search.asked.items()
        ),
        steps=tuple(search.steps),
        start=start,
        incumbent=search.incumbent,
        winner=winner,
        start_losses=(*first, *search.seed_losses(start)),
        winner_losses=() if winner is None else (search.loss(winner), *search.seed_losses(winner)),
        edges={} if winner is None else open_edges(search, winner),
        used=len(search.tuning),
        spent=search.spent,
        threshold=search.threshold,
        sigma=search.sigma,
        sigma_source=search.sigma_source,
        sigma_dof=search.sigma_dof,
        refusals=search.refusals,
        reason=reason,
    )
