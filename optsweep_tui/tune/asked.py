"""From what a user typed to a Tuning: every cell with its start and its lists, every rule with its value."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import schedules
from optsweep_engines.engine import engine_names
from optsweep_engines.optimizers import catalogue, user
from optsweep_engines.optimizers.base import Knob, find_knob
from optsweep_engines.optimizers.user_plan import OwnEntry
from optsweep_engines.spec import RunSpec, Scalar
from optsweep_tui import grid, gridfile, published
from optsweep_tui.core import Study
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.tune import sampling
from optsweep_tui.tune.axes import Axis, Config
from optsweep_tui.tune.search import Rules

FIRST = ("lr", "batch_size", "weight_decay")
"""Knobs in the order in which they are tried, what moves the others' optima most first; then the catalogue's order."""
BATCH = "batch_size"
BATCH_KNOB = Knob(
    name=BATCH, kind="int", default=8, doc="sequences per optimizer step", low=1, high=float(2**20), scale="log"
)
"""The one setting of a run that is tuned like a knob, as the published study does."""
SPAN = 2.0
"""Of the list of a logarithmic knob for which nobody names one: half the start, the start, twice the start."""
STUDY_SAMPLERS = ("descent", "optuna")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked for; empty fields mean "as the grid, the catalogue or the rules say"."""

    grid: str | None = None
    optimizers: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    chinchillas: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    sweeps: tuple[str, ...] = ()
    knobs: tuple[str, ...] = ()
    """Only these are tuned, in this order."""
    engine: str | None = None
    dataset: str | None = None
    around: str | None = None
    study: str | None = None
    phased: bool = False
    """The grid is tuned in three phases."""
    equal_budget: bool = False
    rules: Rules = dataclasses.field(default_factory=Rules)


@dataclass(frozen=True, kw_only=True)
class TunedCell:
    """One cell of a tuning."""

    optimizer: str
    """Name in results."""
    reference: str
    """What a user types for it; a user's own file by its whole path."""
    model: str
    chinchilla: float
    start: Config
    axes: Mapping[str, tuple[Scalar, ...]]
    """Knob -> values, in the order in which they are tried."""
    phase: int = 1
    """Of a three-phase study: 1 = all knobs, 2 = only those that the first phase found sensitive, 3 = predicted."""
    sigma: float | None = None
    """Run-to-run standard deviation that was known when the tuning began, nats."""
    sigma_source: str = "none"
    """measured, prior or none."""

    @property
    def name(self) -> str:
        return f"{self.optimizer} {self.model} {self.chinchilla:g}"

    @property
    def budget(self) -> tuple[str, float]:
        """Cells that share it are compared with each other."""
        return self.model, self.chinchilla

    def ruled(self, rules: Rules) -> Rules:
        """The rules of a tuning as they are for this cell: a sigma that was given goes before one that was known."""
        if rules.sigma is not None:
            return rules
        return dataclasses.replace(rules, sigma=self.sigma, sigma_source=self.sigma_source)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """All that decides which runs a tuning asks for, beside their results."""

    name: str
    """The study that its runs belong to."""
    baseline: str
    engine: str
    dataset: str | None
    rules: Rules
    cells: tuple[TunedCell, ...]
    equal_budget: bool = False
    """Every optimizer of a model and ratio spends as many configurations."""
    phased: bool = False
    """The cells are those of a three-phase study."""
    sampler_version: str | None = None
    """Version of Optuna, where it is used."""

    @property
    def study(self) -> Study:
        """What specs are resolved with."""
        return Study(name=self.name, baseline=self.baseline, engine=self.engine, dataset=self.dataset)


def tuning_of(request: Request, datasets: grid.Datasets) -> Tuning:
    """Resolve a request.

    Raises:
        OptsweepError: an unknown name, a list or an option that cannot be, or nothing to tune.
    """
    check_rules(request.rules)
    pair = tuple(grid.knob_name(knob, None, "--block") for knob in request.rules.block or ())
    rules = dataclasses.replace(request.rules, block=(pair[0], pair[1]) if pair else None)
    study = study_of(request)
    cells = tuple(_cell(study, request, cell, datasets) for cell in dict.fromkeys(grid.cells_of(study)))
    name = request.study or _default_name(request.grid, study.name, cells)
    gridfile.check_name(name, "--study")
    return Tuning(
        name=name,
        baseline=study.baseline,
        engine=study.engine,
        dataset=study.dataset,
        rules=dataclasses.replace(rules, seed=study.seeds[0]),
        cells=cells,
        equal_budget=request.equal_budget,
        sampler_version=sampling.version() if rules.sampler == "optuna" else None,
    )


def study_of(request: Request) -> Study:
    """The cells and lists that a request picks, from its grid or from the names alone."""
    if request.grid is not None:
        study = grid.select(gridfile.load(request.grid), request.optimizers, request.models, request.chinchillas)
    else:
        needed = (request.optimizers, "-o OPTIMIZER"), (request.models, "-m MODEL"), (request.chinchillas, "-c RATIO")
        for values, option in needed:
            if not values:
                raise OptsweepError(f"no cell is selected: {option} is missing", "give -o, -m and -c, or --grid NAME")
        study = grid.from_names(request.optimizers, request.models, request.chinchillas)
    engine = request.engine or study.engine
    if engine not in engine_names():
        raise UnknownName("engine", engine, engine_names(), hint="(optsweep doctor lists the engines)")
    if request.around not in (None, "incumbent", "start"):
        raise UnknownName("--around", str(request.around), ("incumbent", "start"))
    study = dataclasses.replace(
        study, engine=engine, dataset=request.dataset or study.dataset, around=request.around or study.around
    )
    for text in request.sweeps:
        if "*" in text:
            raise OptsweepError(f'--sweep "{text}" is a product', "give one list per knob; --block LR,KNOB tries pairs")
    return grid.with_settings(study, request.sets, request.sweeps)


def check_rules(rules: Rules) -> None:
    """Raise one clear line for a rule that cannot be."""
    if rules.threshold is not None and not 0 <= rules.threshold < math.inf:
        raise OptsweepError(
            f"--threshold {rules.threshold:g} is not a number of nats from 0", "write --threshold 0.003"
        )
    if rules.max_runs is not None and rules.max_runs < 1:
        raise OptsweepError(f"--max-runs {rules.max_runs} leaves no run", "give a positive number")
    if rules.max_extensions < 0:
        raise OptsweepError(f"--max-extensions {rules.max_extensions} is negative", "0 keeps to the lists")
    if rules.fresh_seeds < 0:
        raise OptsweepError(f"--fresh-seeds {rules.fresh_seeds} is negative", "write --fresh-seeds 3")
    if rules.seeds_for_start and rules.fresh_seeds < 1:
        raise OptsweepError("--seeds-for-start and --fresh-seeds 0 contradict each other", "leave one of them out")
    if rules.sampler not in STUDY_SAMPLERS:
        raise UnknownName("--sampler", rules.sampler, STUDY_SAMPLERS)
    if rules.block is not None and rules.block[0] == rules.block[1]:
        raise OptsweepError(f"--block {','.join(rules.block)} names one knob twice", "write --block lr,weight_decay")


def _cell(study: Study, request: Request, cell: tuple[str, str, float], datasets: grid.Datasets) -> TunedCell:
    """One cell with its start resolved and its lists checked."""
    optimizer, model, value = cell
    where = f"{optimizer} {model} {value:g}"
    spec = grid.resolve(study, *cell, grid.incumbent_of(study, *cell), study.seeds[0], datasets)
    start = config_of(spec)
    lists = grid.sweep_of(study, *cell) or default_lists(cell, start, spec)
    chosen = _chosen(request.knobs, optimizer, lists, start)
    axes = {}
    for knob in _ordered(chosen, optimizer) if not request.knobs else list(chosen):
        axis = axis_of(optimizer, knob, (*chosen[knob], start[knob]), where)
        if len(axis.values) > 1 or axis.ordered:
            axes[knob] = axis.values
    if not axes:
        raise OptsweepError(f"{where}: there is no knob to tune", "give --sweep lr=0.001,0.002, or a grid with sweeps")
    return TunedCell(
        optimizer=optimizer, reference=_reference(optimizer), model=model, chinchilla=value, start=start, axes=axes
    )


def config_of(spec: RunSpec) -> dict[str, Scalar]:
    """Every knob and setting of a run, resolved: `grid.resolve` makes the same run of it."""
    return {**spec.hyperparameters, **{setting: getattr(spec, setting) for setting in grid.SETTINGS}}


def default_lists(cell: tuple[str, str, float], start: Config, spec: RunSpec) -> dict[str, tuple[Scalar, ...]]:
    """Lists for a cell that nobody gives any: those of the published study where it has the shape, else the catalogue's.

    Catalogue lists in steps (warmup) do not go with a start that is a fraction, and `decay` is left alone under cosine,
    which the published study did not cut short.
    """
    optimizer, model, value = cell
    near = published.nearest(optimizer, model, value)
    if near is not None and near.sweep:
        return {grid.knob_name(key, [optimizer], "published"): values for key, values in near.sweep.items()}
    found: dict[str, tuple[Scalar, ...]] = {}
    for knob in catalogue.all_knobs(catalogue.optimizer(optimizer)):
        here = start[knob.name]
        if knob.name == "lr" and isinstance(here, int | float) and here not in knob.published:
            found[knob.name] = (here / SPAN, here, here * SPAN)
        elif knob.published and not _out_of_place(knob.name, here, spec.schedule):
            found[knob.name] = knob.published
    return found


def _out_of_place(knob: str, here: Scalar, schedule: str) -> bool:
    if knob == "warmup":
        return isinstance(here, int | float) and here < 1
    return knob in schedules.unread(schedule) or (knob == "decay" and schedule == "cosine")


def _chosen(
    wanted: tuple[str, ...], optimizer: str, lists: Mapping[str, tuple[Scalar, ...]], start: Config
) -> dict[str, tuple[Scalar, ...]]:
    """The lists of the knobs that are to be tuned; of a knob without one, half and twice the start."""
    if not wanted:
        return dict(lists)
    found = {}
    for name in wanted:
        knob = grid.knob_name(name, None, "--knobs")
        if knob not in start:
            continue  # another optimizer's
        here, declared = start[knob], declared_knob(optimizer, knob)
        if knob in lists:
            found[knob] = lists[knob]
        elif declared is not None and declared.kind == "bool":
            found[knob] = (False, True)
        elif declared is not None and declared.scale == "log" and isinstance(here, int | float) and here > 0:
            found[knob] = (here / SPAN, here, here * SPAN)
        else:
            raise OptsweepError(f"--knobs {name}: {optimizer} has no list of values for it", f"give --sweep {knob}=...")
    return found


def _ordered(knobs: Iterable[str], optimizer: str) -> list[str]:
    order = [*FIRST, *grid.own_knobs(optimizer)]
    return sorted(knobs, key=order.index)


def declared_knob(optimizer: str, knob: str) -> Knob | None:
    """How the catalogue declares a knob, batch_size included."""
    return BATCH_KNOB if knob == BATCH else find_knob(catalogue.all_knobs(catalogue.optimizer(optimizer)), knob)


def axis_of(optimizer: str, knob: str, values: Iterable[Scalar], where: str) -> Axis:
    """A knob's values checked and in order.

    Raises:
        OptsweepError: a value out of range or of the wrong kind, or a setting that is not tuned.
    """
    declared = declared_knob(optimizer, knob)
    if declared is None:
        raise OptsweepError(f"{where}: {knob} is a setting of the run and not tuned", f"fix it with --set {knob}=VALUE")
    try:
        checked = [declared.checked(value) for value in values]
    except ValueError as error:
        hint = f"optsweep optimizers {grid.reference_of(optimizer)} shows the ranges"
        raise OptsweepError(f"{where}: {error}", hint) from None
    kind, high = declared.kind, declared.high
    if knob in ("warmup", "t_freeze"):
        numbers = [float(value) for value in checked if isinstance(value, int | float)]
        if min(numbers) < 1 <= max(numbers) and any(0 < number < 1 for number in numbers):
            raise OptsweepError(f"{where}: {knob} mixes fractions with numbers of steps", "give one or the other")
        kind, high = ("float", 0.9) if max(numbers) < 1 else ("int", high)
        checked = [int(number) if kind == "int" else number for number in numbers]
    axis = Axis(knob=knob, values=(), kind=kind, low=declared.low, high=high, log=declared.scale == "log")
    for value in checked:
        axis = axis.with_value(value)
    return axis


def _reference(optimizer: str) -> str:
    """What a later command finds the optimizer by, wherever it is called."""
    entry = catalogue.optimizer(optimizer)
    if isinstance(entry, OwnEntry) and entry.source is not None:
        return f"{Path(entry.source.label).expanduser().resolve()}:{user.target_name(entry.name)}"
    return entry.name


def _default_name(grid_name: str | None, study_name: str, cells: tuple[TunedCell, ...]) -> str:
    """tune-adamw-bench-micro-0.1: from what is tuned, so that the same command finds its study again."""
    parts = ["tune", *([study_name] if grid_name else [])]
    parts += dict.fromkeys(cell.optimizer.replace(":", "-").partition("@")[0] for cell in cells)
    parts += dict.fromkeys(cell.model for cell in cells)
    parts += dict.fromkeys(f"{cell.chinchilla:g}" for cell in cells)
    text = re.sub(r"[^A-Za-z0-9._-]", "-", "-".join(parts))
    return text if len(text) <= 64 else f"{text[:54].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def to_dict(tuning: Tuning) -> dict[str, Any]:
    """Plain JSON types."""
    data = dataclasses.asdict(tuning)
    data["cells"] = [
        {**cell, "axes": [[knob, list(values)] for knob, values in cell["axes"].items()]} for cell in data["cells"]
    ]
    return data


def from_dict(data: Mapping[str, Any]) -> Tuning:
    """The inverse of `to_dict`.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    rules = dict(data["rules"])
    rules["block"] = None if rules["block"] is None else tuple(rules["block"])
    cells = tuple(
        TunedCell(**{**cell, "axes": {knob: tuple(values) for knob, values in cell["axes"]}}) for cell in data["cells"]
    )
    return Tuning(**{**data, "rules": Rules(**rules), "cells": cells})
