"""From what a user typed to a Tuning: every cell with its start and its lists, every rule with its value."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optsweep_engines.engine import engine_names
from optsweep_engines.optimizers import catalogue, user
from optsweep_engines.optimizers.user_plan import OwnEntry
from optsweep_engines.spec import RunSpec, Scalar
from optsweep_tui import grid, gridfile
from optsweep_tui.core import Study
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.tune import sampling
from optsweep_tui.tune.lists import axis_of, chosen, default_lists, ordered
from optsweep_tui.tune.problem import Rules
from optsweep_tui.tune.sizes import phase_of
from optsweep_tui.tune.tuning import TunedCell, Tuning

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
    fresh_seeds: int | None = None
    """None: as many as the grid's rule says, 3 without one."""
    rules: Rules = dataclasses.field(default_factory=Rules)


def tuning_of(request: Request, datasets: grid.Datasets, own_grids: Path | None = None) -> Tuning:
    """Resolve a request.

    Args:
        own_grids: the folder of the workspace's own grids.

    Raises:
        OptsweepError: an unknown name, a list or an option that cannot be, or nothing to tune.
    """
    study = study_of(request, own_grids)
    scope = list(dict.fromkeys(cell[0] for cell in grid.cells_of(study)))
    pair = tuple(_knob(knob, scope, "--block") for knob in request.rules.block or ())
    knobs = tuple(dict.fromkeys(_knob(knob, scope, "--knobs") for knob in request.knobs))
    request = dataclasses.replace(request, knobs=knobs)
    fresh = request.fresh_seeds
    if fresh is None:
        fresh = study.fresh_seeds.count if study.fresh_seeds else request.rules.fresh_seeds
    rules = dataclasses.replace(request.rules, block=(pair[0], pair[1]) if pair else None, fresh_seeds=fresh)
    if rules.sampler == "optuna" and rules.max_runs is None:
        rules = dataclasses.replace(rules, max_runs=sampling.DEFAULT_RUNS)
    check_rules(rules)
    cells = tuple(_cell(study, request, cell, datasets) for cell in dict.fromkeys(grid.cells_of(study)))
    name = request.study or _default_name(request, study.name, cells)
    gridfile.check_name(name, "--study")
    return Tuning(
        name=name,
        baseline=study.baseline,
        engine=study.engine,
        dataset=study.dataset,
        rules=dataclasses.replace(rules, seed=study.seeds[0]),
        cells=cells,
        equal_budget=request.equal_budget,
        phased=request.phased,
        sampler_version=sampling.version() if rules.sampler == "optuna" else None,
        notes=tuple(_notes(study, scope)),
        validation_sets=dict(study.validation_sets),
        validation_set=study.validation_set,
    )


def _notes(study: Study, optimizers: list[str]) -> Iterator[str]:
    """What a grid asks for and a tuning does otherwise."""
    if any(study.blocks.get(optimizer) for optimizer in optimizers):
        yield "the grid's own blocks are left out: --block names two knobs for the closing one"
    if study.runs:
        yield "the grid's runs that are listed one by one are left out: a tuning finds its own"
    if len(study.seeds) > 1:
        yield f"the search runs under seed {study.seeds[0]}, the first of the grid's; the winner gets fresh ones"


def _knob(name: str, optimizers: list[str], where: str) -> str:
    """Our name of a knob that one of the optimizers has at least."""
    for optimizer in optimizers[1:]:
        try:
            return grid.knob_name(name, [optimizer], where)
        except OptsweepError:
            continue
    return grid.knob_name(name, optimizers[:1], where)


def study_of(request: Request, own_grids: Path | None = None) -> Study:
    """The cells and lists that a request picks, from its grid or from the names alone."""
    if request.grid is not None:
        study = grid.select(
            gridfile.load(request.grid, own_grids), request.optimizers, request.models, request.chinchillas
        )
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
    picked = chosen(request.knobs, optimizer, lists, start)
    axes, given = {}, {}
    for knob in ordered(picked, optimizer) if not request.knobs else list(picked):
        axis = axis_of(optimizer, knob, (*picked[knob], start[knob]), where)
        if len(axis.values) > 1 or axis.ordered:
            axes[knob] = axis.values
            given[knob] = axis_of(optimizer, knob, picked[knob], where).values
    if not axes:
        raise OptsweepError(f"{where}: there is no knob to tune", "give --sweep lr=0.001,0.002, or a grid with sweeps")
    return TunedCell(
        optimizer=optimizer,
        reference=_reference(optimizer),
        model=model,
        chinchilla=value,
        start=start,
        axes=axes,
        given=given,
        phase=phase_of(study, optimizer, model, value) if request.phased else 1,
    )


def config_of(spec: RunSpec) -> dict[str, Scalar]:
    """Every knob and setting of a run, resolved: `grid.resolve` makes the same run of it."""
    return {**spec.hyperparameters, **{setting: getattr(spec, setting) for setting in grid.SETTINGS}}


def _reference(optimizer: str) -> str:
    """What a later command finds the optimizer by, wherever it is called."""
    entry = catalogue.optimizer(optimizer)
    if isinstance(entry, OwnEntry) and entry.source is not None:
        return f"{Path(entry.source.label).expanduser().resolve()}:{user.target_name(entry.name)}"
    return entry.name


def _default_name(request: Request, study_name: str, cells: tuple[TunedCell, ...]) -> str:
    """tune-adamw-bench-micro-0.1: from what is tuned, so that the same command finds its study again."""
    parts = ["phases" if request.phased else "tune", *([study_name] if request.grid else [])]
    if not request.phased or request.optimizers or request.models or request.chinchillas:
        parts += dict.fromkeys(cell.optimizer.replace(":", "-").partition("@")[0] for cell in cells)
        parts += dict.fromkeys(cell.model for cell in cells)
        parts += dict.fromkeys(f"{cell.chinchilla:g}" for cell in cells)
    text = re.sub(r"[^A-Za-z0-9._-]", "-", "-".join(parts))
    return text if len(text) <= 64 else f"{text[:54].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
