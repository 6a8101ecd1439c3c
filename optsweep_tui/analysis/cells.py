"""The loss of each cell: which configuration was best, over which seeds it counts, and what is wrong with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean, median

import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.columns import GROUP
from optsweep_tui.analysis.edges import Edge, KnobInfo, Ranges, declared_ranges, edges
from optsweep_tui.analysis.runs import FINISHED, LOST, TUNING, Config, GroupKey, Run, grouped, sort_key

# analysis.md: a finished run this far above the best of its cell is FAR, nats.
FAR_NATS = 0.5


@dataclass(frozen=True, kw_only=True)
class CellLoss:
    """One cell: optimizer x model x tokens under one dataset and engine, reduced to a loss over n seeds."""

    optimizer: str
    tokens: float
    """D, target training tokens; 0 = unknown."""
    chinchilla: float
    """D / (20 N)."""
    params: float
    loss: float
    """Mean over the fresh seeds of the best configuration; without fresh seeds its one base-seed loss; NaN = none."""
    n: int
    """Seeds in the mean."""
    best: Run | None
    """The base-seed run that was best and so chose the configuration."""
    replicates: tuple[float, ...]
    """Losses of the best configuration, one per seed, base seed first."""
    n_fresh: int
    """Fresh seeds of the best configuration that ended with a loss."""
    tuning_runs: int
    """Base-seed runs that ended, diverged and stopped ones included: the selection was over so many."""
    states: Mapping[str, int]
    """Runs per state."""
    edges: tuple[Edge, ...] = ()
    flags: tuple[str, ...] = ()
    seconds_per_token: float = math.nan
    """Median over the runs of the best configuration on its device."""
    timings: tuple[float, ...] = field(default=(), repr=False)
    """Seconds per token of every run of the cell that was timed as the best one was: device, batch, compute type."""
    run_ids: tuple[str, ...] = field(default=(), repr=False)
    """The runs that the loss is made of."""
    runs: tuple[Run, ...] = field(default=(), repr=False)
    """Every run of the cell, in any state."""
    swept: tuple[Run, ...] = field(default=(), repr=False)
    """The base-seed runs that the selection was over, FAR, diverged, stopped and never published ones included."""

    @property
    def has_loss(self) -> bool:
        return not math.isnan(self.loss)

    @property
    def tuning_tokens(self) -> float:
        """Tokens planned for the tuning runs."""
        return self.tuning_runs * self.tokens

    @property
    def account(self) -> str:
        """The states in words: "2 diverged, 1 running"."""
        return ", ".join(f"{count} {state}" for state, count in sorted(self.states.items())) or "no runs"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells that may be compared with each other: same study, engine, model, dataset, validation set, length."""

    key: GroupKey
    base_seed: int | None
    cells: tuple[CellLoss, ...]

    @cached_property
    def _by_optimizer(self) -> dict[str, list[CellLoss]]:
        found: dict[str, list[CellLoss]] = {}
        for cell in self.cells:
            found.setdefault(cell.optimizer, []).append(cell)
        return found

    def of(self, optimizer: str) -> list[CellLoss]:
        """Cells of one optimizer by rising budget."""
        return list(self._by_optimizer.get(optimizer, ()))

    @property
    def columns(self) -> dict[str, str | float | None]:
        """The group's columns of an output row."""
        return dict(zip(GROUP, self.key, strict=True))

    @property
    def name(self) -> str:
        return "/".join(str(part) for part in self.key if part is not None)


def groups(results: pd.DataFrame, knob_info: KnobInfo | None = None) -> list[Group]:
    """Every comparable group with the losses of its cells, by rising model size.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        knob_info: declared knobs (`edges.KnobInfo`); a best value at a declared bound is no edge.
    """
    found = []
    for key, cells in grouped(results).items():
        entering = {where: _one_kind(runs)[0] for where, runs in cells.items()}
        seed = base_seed([run for runs in entering.values() for run in runs], entering)
        losses = [
            cell_loss(optimizer, tokens, runs, seed, declared_ranges(knob_info, optimizer))
            for (optimizer, tokens), runs in cells.items()
        ]
        losses.sort(key=lambda cell: (cell.tokens, cell.optimizer))
        found.append(Group(key=key, base_seed=seed, cells=tuple(losses)))

    def size(group: Group) -> float:
        return max((cell.params for cell in group.cells if not math.isnan(cell.params)), default=math.inf)

    place = GROUP.index("model")
    found.sort(key=lambda group: (sort_key(group.key[:place] + group.key[place + 1 :]), size(group), group.key[place]))
    return found


def base_seed(runs: list[Run], cells: Mapping[tuple[str, float], list[Run]] | None = None) -> int | None:
    """The seed under which most distinct configurations were run; the smaller one of equals.

    Args:
        runs: runs of one group or one cell.
        cells: the same runs by cell; configurations of different cells are then distinct.
    """
    parts = cells if cells is not None else {("", 0.0): runs}
    configs = {(run.seed, cell, run.config) for cell, members in parts.items() for run in members}
    counts = Counter(seed for seed, _, _ in configs)
    return min(counts, key=lambda seed: (-counts[seed], seed is None, seed or 0), default=None)


def cell_loss(
    optimizer: str,
    tokens: float,
    runs: list[Run],
    seed: int | None,
    ranges: Ranges,
) -> CellLoss:
    """Reduce the runs of one cell.

    The best configuration is the one with the smallest loss under the base seed. Its base-seed loss was chosen for
    being small, so the cell's loss is the mean over its *other* seeds; without any it is that loss, flagged.

    Args:
        optimizer: catalogue name.
        tokens: D.
        runs: every run of the cell, in any state, in a fixed order.
        seed: base seed of the group.
        ranges: declared range per knob.
    """
    runs, kind = _one_kind(runs)
    floor = min((run.loss for run in runs if run.usable), default=math.nan)
    near = [run for run in runs if run.usable and run.loss <= floor + FAR_NATS]
    marks = _state_flags(runs) | kind
    if len(near) < sum(run.usable for run in runs):
        marks.add(F.FAR)
    if near and not any(run.seed == seed for run in near):
        seed = base_seed(near)
        marks.add(F.OTHER_SEED)
    swept = tuple(run for run in runs if run.seed == seed and (run.state in TUNING or run.state == "missing"))
    tuning = {run.config for run in swept if run.state in TUNING and run.knobs is not None}
    cell = CellLoss(
        optimizer=optimizer,
        tokens=tokens,
        chinchilla=_ratio(runs, tokens),
        params=_first(run.params for run in runs),
        loss=math.nan,
        n=0,
        best=None,
        replicates=(),
        n_fresh=0,
        tuning_runs=len(tuning),
        states=dict(Counter(run.state for run in runs)),
        flags=tuple(F.ordered({*marks, F.NO_LOSS})),
        runs=tuple(runs),
        swept=swept,
    )
    return _with_best(cell, runs, near, seed, marks, ranges) if near else cell


def _with_best(
    cell: CellLoss,
    runs: list[Run],
    near: list[Run],
    seed: int | None,
    marks: set[str],
    ranges: Ranges,
) -> CellLoss:
    """The cell with its best configuration chosen among the runs near its smallest loss."""
    by_config: dict[Config, dict[int | None, list[Run]]] = {}
    for run in near:
        by_config.setdefault(run.config, {}).setdefault(run.seed, []).append(run)
    chosen = min(
        (config for config, seeds in by_config.items() if seed in seeds),
        key=lambda config: (fmean(run.loss for run in by_config[config][seed]), repr(config)),
    )
    seeds = by_config[chosen]
    best = seeds[seed][0]
    others = sorted((other for other in seeds if other != seed), key=lambda other: (other is None, other or 0))
    base = fmean(run.loss for run in seeds[seed])
    fresh = [fmean(run.loss for run in seeds[other]) for other in others]
    ends = tuple(edges(best, cell.swept, ranges))
    started = {run.seed for run in runs if run.config == chosen and run.state in TUNING}
    found = {
        F.DUPLICATE: any(len(members) > 1 for members in seeds.values()),
        F.SEED_LOST: bool(started - set(seeds)),
        F.SELECTED_MIN: not fresh,
        F.UNLISTED: best.knobs is None,
        F.EDGE: bool(ends),
    }
    times = [run.seconds_per_token for members in seeds.values() for run in members if run.timed_like(best)]
    return replace(
        cell,
        loss=fmean(fresh) if fresh else base,
        n=len(fresh) or 1,
        best=best,
        replicates=(base, *fresh),
        n_fresh=len(fresh),
        edges=ends,
        flags=tuple(F.ordered(marks | {flag for flag, holds in found.items() if holds})),
        seconds_per_token=median(times) if times else math.nan,
        timings=tuple(run.seconds_per_token for run in runs if run.usable and run.timed_like(best)),
        run_ids=tuple(run.run_id for other in (others or [seed]) for run in seeds[other]),
    )


def _one_kind(runs: list[Run]) -> tuple[list[Run], set[str]]:
    """Whole runs or branches of a trunk, never both, and the flag that says so: whole ones where one of them has a loss."""
    branches = [run for run in runs if run.branch]
    whole = [run for run in runs if not run.branch]
    if not branches:
        return runs, set()
    if any(run.usable for run in whole) or (not any(run.usable for run in branches) and whole):
        return whole, {F.BRANCHES_OUT}
    return branches, {F.BRANCH}


def _state_flags(runs: list[Run]) -> set[str]:
    found = {
        F.DIVERGED: any(run.state in LOST for run in runs),
        F.UNFINISHED: any(run.state not in FINISHED for run in runs),
        F.BAD_LOSS: any(run.bad_loss for run in runs),
    }
    return {flag for flag, holds in found.items() if holds}


def _ratio(runs: list[Run], tokens: float) -> float:
    """The ratio that was asked for; computed where it is missing."""
    ratio = _first(run.chinchilla for run in runs)
    params = _first(run.params for run in runs)
    return tokens / (20.0 * params) if math.isnan(ratio) and params > 0 and tokens > 0 else ratio


def _first(values: Iterable[float]) -> float:
    """The smallest finite positive number, so that the order of the rows does not matter; NaN without any."""
    numbers = [value for value in values if math.isfinite(value) and value > 0]
    return min(numbers, default=math.nan)
