"""Grid files to run specs: `expand(study, datasets)` pairs every configuration of every cell with its own step count."""

from __future__ import annotations

import dataclasses
import itertools
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from optsweep_engines import models, schedules
from optsweep_engines.optimizers import catalogue
from optsweep_engines.optimizers.base import find_knob
from optsweep_engines.spec import RunSpec, Scalar
from optsweep_tui import published
from optsweep_tui.core import Block, CellSelection, FreshSeeds, Override, Study, listed
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.resources import shipped

DTYPES = ("fp32", "bf16")
SETTINGS = ("batch_size", "seq_len", "schedule", "dtype", "validation_tokens", "validation_interval", "accumulation")
"""Fields of a RunSpec that a grid may set beside the knobs."""

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOP_KEYS = (
    "name", "description", "baseline", "engine", "dataset", "seeds", "around", "published",
    "defaults", "cells", "optimizer", "override", "fresh_seeds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What planning needs to know of a dataset."""

    name: str
    sha256: str | None
    """None while unprepared."""
    vocab_size: int


Datasets = Callable[[str], DatasetFacts]
"""Looks a dataset up by name; raises OptsweepError for an unknown one."""


# ---------------------------------------------------------------- names


def optimizer_name(name: str, where: str = "") -> str:
    """Catalogue name of an optimizer, from any alias or case."""
    try:
        return catalogue.optimizer(name).name
    except LookupError:
        known = [alias for entry in catalogue.optimizers().values() for alias in (entry.name, *entry.aliases)]
        raise UnknownName("optimizer", name, known, where, "(optsweep optimizers lists all)") from None


def model_name(name: str, where: str = "") -> str:
    """Catalogue name of a model, from any case."""
    try:
        return models.model(name).name
    except LookupError:
        raise UnknownName("model", name, models.MODELS, where, "(optsweep models lists all)") from None


def ratio(value: Any, where: str = "") -> float:
    """A Chinchilla ratio from 0.25, 1, "0.25" or "1/4".

    Raises:
        OptsweepError: not a positive number.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        result = float(Fraction(str(value)))
    except (ValueError, ZeroDivisionError, OverflowError):
        result = 0.0
    if not 0 < result < 1e6:
        place = f"{where}: " if where else ""
        raise OptsweepError(f'{place}chinchilla ratio "{value}" is not a positive number', "write 0.25, 1/4 or 8")
    return result


def scalar(text: str) -> Scalar:
    """A knob's value as typed on a command line: a number, true, false, or a word."""
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for kind in (int, float):
        try:
            return kind(lowered)
        except ValueError:
            continue
    return text.strip()


# ---------------------------------------------------------------- reading a file


def names() -> list[str]:
    """The grids that ship with the program."""
    return sorted(path.stem for path in shipped("grids").glob("*.toml"))


def load(name: str) -> Study:
    """A shipped grid by name, or a grid file by path.

    Raises:
        OptsweepError: not found, not TOML, or with a mistake in it (the message says where).
    """
    path = Path(name)
    if path.suffix != ".toml" and "/" not in name:
        shipped_names = {entry.lower(): entry for entry in names()}
        if name.lower() not in shipped_names:
            raise UnknownName(
                "grid", name, names(), hint="(optsweep grids lists the shipped ones; a path ends in .toml)"
            )
        path = shipped("grids") / f"{shipped_names[name.lower()]}.toml"
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise OptsweepError(f"grid file {path} does not exist", "optsweep grids lists the shipped ones") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptsweepError(f"{path} is not TOML: {error}", "mend that line") from None
    except OSError as error:
        raise OptsweepError(f"{path} cannot be read: {error.strerror}", "check its permissions") from None
    return parse(data, str(path), default_name=path.stem)


def parse(data: Mapping[str, Any], where: str, default_name: str) -> Study:
    """A Study from the tables of a grid file; every name and key is checked here, once."""
    _known(data, _TOP_KEYS, where)
    name = str(data.get("name", default_name))
    if not _STUDY_NAME.fullmatch(name):
        raise OptsweepError(f'{where}: name = "{name}" may hold letters, digits, ".", "_" and "-" only')
    per_optimizer = _table(data.get("optimizer", {}), f"{where}: optimizer")
    start, sweep, blocks = {}, {}, {}
    for key, table in per_optimizer.items():
        place = f"{where}: optimizer.{key}"
        optimizer = optimizer_name(key, f"{where}: optimizer")
        _known(_table(table, place), ("set", "sweep", "block"), place)
        start[optimizer] = _knobs(table.get("set", {}), f"{place}.set", [optimizer])
        sweep[optimizer] = _lists(table.get("sweep", {}), f"{place}.sweep", [optimizer])
        blocks[optimizer] = tuple(
            _lists(block, f"{place}.block[{index}]", [optimizer])
            for index, block in enumerate(listed(table.get("block", [])))
        )
    around = data.get("around", "incumbent")
    if around not in ("incumbent", "start"):
        raise UnknownName("around", str(around), ("incumbent", "start"), where)
    source = data.get("published")
    if source not in (None, "reference"):
        raise UnknownName("published study", str(source), ("reference",), where)
    return Study(
        name=name,
        description=str(data.get("description", "")),
        baseline=optimizer_name(str(data.get("baseline", "adamw")), f"{where}: baseline"),
        engine=str(data.get("engine", "torch")),
        dataset=data.get("dataset"),
        cells=_cells(data.get("cells"), where) if source is None or "cells" in data else _published_cells(),
        defaults=_knobs(data.get("defaults", {}), f"{where}: defaults", None),
        start=start,
        sweep=sweep,
        blocks=blocks,
        overrides=tuple(
            _override(item, f"{where}: override[{index}]") for index, item in enumerate(data.get("override", []))
        ),
        seeds=_seeds(data.get("seeds", [0]), where),
        fresh_seeds=_fresh(data.get("fresh_seeds"), where),
        published=source,
        around=around,
    )


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OptsweepError(f"{where} is not a table", "optsweep grids quickstart shows the form")
    return value


def _known(table: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    for key in table:
        if key not in tuple(keys):
            raise UnknownName("key", key, keys, where, "(optsweep grids quickstart shows the form)")


def _cells(value: Any, where: str) -> tuple[CellSelection, ...]:
    if not isinstance(value, list) or not value:
        raise OptsweepError(f"{where}: there are no [[cells]]", "optsweep grids quickstart shows the form")
    cells = []
    for index, item in enumerate(value):
        place = f"{where}: cells[{index}]"
        _known(_table(item, place), ("optimizer", "model", "chinchilla"), place)
        for key in ("optimizer", "model", "chinchilla"):
            if not listed(item.get(key, [])):
                raise OptsweepError(f"{place}: {key} is missing or empty", f"list at least one {key}")
        cells.append(
            CellSelection(
                optimizer=tuple(
                    optimizer_name(str(name), f"{place}: optimizer[{position}]")
                    for position, name in enumerate(listed(item["optimizer"]))
                ),
                model=tuple(model_name(str(name), f"{place}: model") for name in listed(item["model"])),
                chinchilla=tuple(ratio(value, f"{place}: chinchilla") for value in listed(item["chinchilla"])),
            )
        )
    return tuple(cells)


def _published_cells() -> tuple[CellSelection, ...]:
    known = catalogue.optimizers()
    return tuple(
        CellSelection(optimizer=(cell.optimizer,), model=(cell.model,), chinchilla=(cell.chinchilla,))
        for cell in published.reference().values()
        if cell.optimizer in known
    )


def _override(item: Any, where: str) -> Override:
    _known(_table(item, where), ("optimizer", "model", "chinchilla", "set", "sweep"), where)
    optimizers = tuple(optimizer_name(str(name), where) for name in listed(item.get("optimizer", [])))
    scope = list(optimizers) or None
    return Override(
        optimizer=optimizers,
        model=tuple(model_name(str(name), where) for name in listed(item.get("model", []))),
        chinchilla=tuple(ratio(value, where) for value in listed(item.get("chinchilla", []))),
        set=_knobs(item.get("set", {}), f"{where}.set", scope),
        sweep=_lists(item.get("sweep", {}), f"{where}.sweep", scope),
    )


def _fresh(value: Any, where: str) -> FreshSeeds | None:
    if value is None:
        return None
    place = f"{where}: fresh_seeds"
    _known(_table(value, place), ("optimizer", "count", "budgets"), place)
    budgets = value.get("budgets", "ends")
    if budgets not in ("ends", "all", "largest"):
        raise UnknownName("budgets", str(budgets), ("ends", "all", "largest"), place)
    count = value.get("count", 3)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise OptsweepError(f"{place}: count = {count!r} is not a positive whole number", "write count = 3")
    optimizers = tuple(optimizer_name(str(name), place) for name in listed(value.get("optimizer", ["adamw"])))
    return FreshSeeds(optimizer=optimizers, count=count, budgets=budgets)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds = listed(value)
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise OptsweepError(
                f"{where}: seed {seed!r} is not a whole number from 0 to 4294967295", "write seeds = [0, 1]"
            )
    if not seeds or len(set(seeds)) != len(seeds):
        raise OptsweepError(f"{where}: seeds = {list(seeds)} is empty or names one twice", "write seeds = [0, 1]")
    return seeds


def own_knobs(optimizer: str) -> list[str]:
    """Everything that a grid may set for an optimizer: its knobs, those of the run, and the fields of a spec."""
    return [*(knob.name for knob in catalogue.all_knobs(catalogue.optimizer(optimizer))), *SETTINGS]


def knob_name(name: str, optimizers: Iterable[str] | None, where: str) -> str:
    """Our name of a knob or setting, from a published alias; known for every optimizer in scope (None: for any one)."""
    ours = catalogue.published_alias(name)
    scope = sorted(catalogue.optimizers() if optimizers is None else optimizers)
    lacking = [optimizer for optimizer in scope if _find(optimizer, name) is None and ours not in SETTINGS]
    if lacking and (optimizers is not None or len(lacking) == len(scope)):
        of = "" if optimizers is None else f" of {lacking[0]}"
        hint = f"(optsweep optimizers {lacking[0]} lists its knobs)"
        raise UnknownName(f"knob{of}", name, own_knobs(lacking[0]), where, hint)
    if ours in SETTINGS:
        return ours
    return next(found for optimizer in scope if (found := _find(optimizer, name)) is not None)


def _find(optimizer: str, name: str) -> str | None:
    knob = find_knob(catalogue.all_knobs(catalogue.optimizer(optimizer)), name)
    return None if knob is None else knob.name


def _knobs(table: Any, where: str, optimizers: list[str] | None) -> dict[str, Scalar]:
    result: dict[str, Scalar] = {}
    for key, value in _table(table, where).items():
        if isinstance(value, list | Mapping):
            raise OptsweepError(f"{where}: {key} = {value!r} is not a single value", "lists belong under sweep")
        result[knob_name(key, optimizers, where)] = value
    return result


def _lists(table: Any, where: str, optimizers: list[str] | None) -> dict[str, tuple[Scalar, ...]]:
    result = {}
    for key, value in _table(table, where).items():
        values = listed(value)
        if not values or any(isinstance(entry, list | Mapping) for entry in values):
            raise OptsweepError(f"{where}: {key} = {value!r} is not a list of values", f"write {key} = [0.001, 0.002]")
        result[knob_name(key, optimizers, where)] = values
    return result


# ---------------------------------------------------------------- changes from the command line


def from_names(optimizers: Iterable[str], model_names: Iterable[str], ratios: Iterable[Any]) -> Study:
    """A study without a file: the rectangle of cells, each with its incumbent only."""
    selection = CellSelection(
        optimizer=tuple(optimizer_name(name) for name in optimizers),
        model=tuple(model_name(name) for name in model_names),
        chinchilla=tuple(ratio(value) for value in ratios),
    )
    return Study(name="default", cells=(selection,))


def select(study: Study, optimizers: Iterable[str], model_names: Iterable[str], ratios: Iterable[Any]) -> Study:
    """The cells of a study that the names pick; an empty list picks all.

    Raises:
        OptsweepError: nothing is left.
    """
    wanted_optimizers = [optimizer_name(name) for name in optimizers]
    wanted_models = [model_name(name) for name in model_names]
    wanted_ratios = [ratio(value) for value in ratios]
    cells = []
    for cell in study.cells:
        kept = CellSelection(
            optimizer=tuple(name for name in cell.optimizer if not wanted_optimizers or name in wanted_optimizers),
            model=tuple(name for name in cell.model if not wanted_models or name in wanted_models),
            chinchilla=tuple(
                value
                for value in cell.chinchilla
                if not wanted_ratios or any(same_ratio(value, want) for want in wanted_ratios)
            ),
        )
        if kept.optimizer and kept.model and kept.chinchilla:
            cells.append(kept)
    if not cells:
        raise OptsweepError(
            f"grid {study.name} has no such cell: the selection is empty",
            f"optsweep grids {study.name} lists its cells",
        )
    return dataclasses.replace(study, cells=tuple(cells))


def same_ratio(first: float, second: float) -> bool:
    """Equal up to the rounding of a budget to whole tokens."""
    return abs(first - second) <= 1e-4 * max(first, second)


def with_settings(study: Study, sets: Iterable[str], sweeps: Iterable[str]) -> Study:
    """Apply `--set k=v` and `--sweep k=v1,v2` (`k=..*k2=..` is a Cartesian block; `adamw.k` names one optimizer).

    Raises:
        OptsweepError: a malformed or unknown assignment.
    """
    overrides, blocks = list(study.overrides), dict(study.blocks)
    selected = sorted({name for cell in study.cells for name in cell.optimizer})
    for text in sets:
        scope, knob, value = _assignment(text, "--set", selected)
        overrides.append(Override(optimizer=scope, set={knob: scalar(value)}))
    for text in sweeps:
        parts = [_assignment(part, "--sweep", selected) for part in text.split("*")]
        if any(part[0] != parts[0][0] for part in parts):
            raise OptsweepError(f'--sweep "{text}": the factors of a product name different optimizers')
        lists = {knob: tuple(scalar(value) for value in values.split(",")) for _, knob, values in parts}
        if len(lists) == 1:
            overrides.append(Override(optimizer=parts[0][0], sweep=lists))
        else:
            for name in parts[0][0] or selected:
                blocks[name] = (*blocks.get(name, ()), lists)
    return dataclasses.replace(study, overrides=tuple(overrides), blocks=blocks)


def _assignment(text: str, option: str, selected: list[str]) -> tuple[tuple[str, ...], str, str]:
    left, equals, value = text.partition("=")
    if not equals or not left.strip() or not value.strip():
        raise OptsweepError(f'{option} "{text}" is not of the form knob=value', f"write {option} lr=0.003")
    first, dot, rest = left.strip().partition(".")
    scope: tuple[str, ...] = (optimizer_name(first, option),) if dot else ()
    knob = knob_name(rest if dot else first, scope or selected, option)
    return scope, knob, value.strip()


# ---------------------------------------------------------------- expansion


def expand(study: Study, datasets: Datasets) -> list[RunSpec]:
    """Every run of a study, cell by cell, the incumbent of a cell first, no run twice.

    Raises:
        OptsweepError: a value out of range, or a cell too small for one step.
    """
    specs: dict[str, RunSpec] = {}
    for cell in study.cells:
        for model, value, optimizer in itertools.product(cell.model, cell.chinchilla, cell.optimizer):
            for knobs in _configurations(study, optimizer, model, value):
                for seed in study.seeds:
                    spec = resolve(study, optimizer, model, value, knobs, seed, datasets)
                    specs.setdefault(spec.run_id, spec)
    return list(specs.values())


def _matching(study: Study, optimizer: str, model: str, value: float) -> Iterator[Override]:
    for item in study.overrides:
        if (
            (not item.optimizer or optimizer in item.optimizer)
            and (not item.model or model in item.model)
            and (not item.chinchilla or any(same_ratio(value, want) for want in item.chinchilla))
        ):
            yield item


def _configurations(study: Study, optimizer: str, model: str, value: float) -> Iterator[dict[str, Scalar]]:
    """The knobs and settings of each configuration of one cell: incumbent, one-at-a-time changes, blocks."""
    incumbent = incumbent_of(study, optimizer, model, value)
    yield incumbent
    for knob, values in _sweep_of(study, optimizer, model, value).items():
        for entry in values:
            yield incumbent | {knob: entry}
    for block in study.blocks.get(optimizer, ()):
        yield from (incumbent | change for change in _product(block))


def _product(block: Block) -> Iterator[dict[str, Scalar]]:
    for values in itertools.product(*block.values()):
        yield dict(zip(block, values, strict=True))


def incumbent_of(study: Study, optimizer: str, model: str, value: float) -> dict[str, Scalar]:
    """What a cell's sweep goes around: published (or catalogue) values, then the grid's, then its overrides'."""
    knobs: dict[str, Scalar] = {}
    cell = published.nearest(optimizer, model, value)
    if cell is not None:
        figures = cell.incumbent if study.around == "incumbent" else cell.incumbent | cell.start
        where = f"published {optimizer} {model} {cell.chinchilla:g}"
        knobs = {knob_name(key, [optimizer], where): entry for key, entry in figures.items()}
    own = own_knobs(optimizer)
    knobs |= {key: entry for key, entry in study.defaults.items() if key in own}
    knobs |= study.start.get(optimizer, {})
    for item in _matching(study, optimizer, model, value):
        knobs |= {key: entry for key, entry in item.set.items() if key in own}
    return knobs


def _sweep_of(study: Study, optimizer: str, model: str, value: float) -> dict[str, tuple[Scalar, ...]]:
    sweep: dict[str, tuple[Scalar, ...]] = {}
    if study.published:
        cell = published.nearest(optimizer, model, value)
        if cell is not None and same_ratio(cell.chinchilla, value):
            sweep = {knob_name(key, [optimizer], "published"): entries for key, entries in cell.sweep.items()}
    sweep |= study.sweep.get(optimizer, {})
    own = own_knobs(optimizer)
    for item in _matching(study, optimizer, model, value):
        sweep |= {key: entries for key, entries in item.sweep.items() if key in own}
    return sweep


def resolve(
    study: Study, optimizer: str, model: str, value: float, knobs: Mapping[str, Scalar], seed: int, datasets: Datasets
) -> RunSpec:
    """One configuration of one cell as a spec: settings to their fields, knobs checked and filled up by the catalogue."""
    where = f"{optimizer} {model} {value:g}"
    entry = models.model(model)
    dataset = datasets(study.dataset or entry.dataset)
    shape = dataclasses.replace(entry.shape, vocab_size=dataset.vocab_size)
    settings: dict[str, Any] = {
        "batch_size": entry.batch_size,
        "seq_len": entry.seq_len,
        "schedule": entry.schedule,
        "dtype": entry.dtype,
    } | {key: knobs[key] for key in SETTINGS if key in knobs}
    _check_settings(settings, where)
    rest = {key: entry for key, entry in knobs.items() if key not in SETTINGS}
    try:
        hyperparameters = catalogue.resolve_knobs(optimizer, rest, settings["schedule"])
    except ValueError as error:
        raise OptsweepError(f"{where}: {error}", f"optsweep optimizers {optimizer} shows the ranges") from None
    spec = RunSpec(
        engine=study.engine,
        optimizer=optimizer,
        hyperparameters=hyperparameters,
        model=entry.name,
        shape=shape,
        dataset=dataset.name,
        dataset_hash=dataset.sha256,
        tokens=round(value * 20 * shape.non_embedding_params),
        seed=seed,
        **settings,
    )
    if spec.steps < 1:
        raise OptsweepError(
            f"{where}: {spec.tokens:,} tokens are less than one step of {spec.batch_size} x {spec.seq_len}",
            "take a larger ratio or a smaller batch",
        )
    return spec


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    for key, value in settings.items():
        if key == "schedule":
            if value not in schedules.SCHEDULES:
                raise UnknownName("schedule", str(value), schedules.SCHEDULES, where)
        elif key == "dtype":
            if value not in DTYPES:
                raise UnknownName("dtype", str(value), DTYPES, where)
        else:
            least = 0 if key == "validation_interval" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise OptsweepError(
                    f"{where}: {key} = {value!r} is not a whole number from {least}", f"write {key} = 8"
                )
    if settings["batch_size"] % settings.get("accumulation", 1):
        raise OptsweepError(f"{where}: batch_size {settings['batch_size']} does not divide by accumulation")
