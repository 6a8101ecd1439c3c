"""A cell from its start to its winner's fresh seeds: `position` says what is to be run next, or how it ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import stdev

from optsweep_tui.tune import descent, sampling
from optsweep_tui.tune.axes import Config, Key, Side, key_of, same
from optsweep_tui.tune.finish import best_config, closed, open_edges, refine
from optsweep_tui.tune.problem import Asking, Candidate, Outcome, Problem, Results, Step
from optsweep_tui.tune.search import Search

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
            yield from _descending(search, descent.block(search, search.rules.block))
        yield from _descending(search, closed(search))
    if search.problem.equal:
        if equal_to is None:
            return
        cut, search.spent, search.budget = search.spent, False, equal_to
        yield from refine(search)
        search.spent = cut
    yield from _seeded(search)


def _descending(search: Search, stage: Asking) -> Asking:
    """A stage after the descent; where it moves the incumbent, the descent goes on from there, and ends lie open no more."""
    before = key_of(search.incumbent)
    yield from stage
    while key_of(search.incumbent) != before and not search.spent:
        before = key_of(search.incumbent)
        yield from descent.descend(search, 1 + max((step.round for step in search.steps), default=0))
        yield from closed(search)


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
