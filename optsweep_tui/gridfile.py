"""Grid files: `load("quickstart")` reads grids/*.toml into a Study; every name and key is checked here, once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from optsweep_engines import models
from optsweep_engines.folder import write_atomic
from optsweep_engines.optimizers import catalogue, user
from optsweep_engines.spec import OWN_SET
from optsweep_tui import heldout, published
from optsweep_tui.core import CellSelection, FreshSeeds, ListedRun, Override, Phases, Scalar, Study, listed
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.grid import all_cells, knob_name, model_name, optimizer_name, overrides, ratio, same_ratio
from optsweep_tui.resources import shipped

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOP_KEYS = (
    "name", "description", "baseline", "engine", "dataset", "validation_sets", "metric_set", "seeds", "around", "published",
    "defaults", "cells", "optimizer", "override", "run", "fresh_seeds", "phases",
)  # fmt: skip

PHASES = ("small", "middle", "large")


def names() -> list[str]:
    """The grids that ship with the program."""
    return sorted(path.stem for path in shipped("grids").glob("*.toml"))


def keep(path: Path, text: str) -> Path:
    """Write a grid file that was made by the program; one that says the same stays.

    Raises:
        OptsweepError: another file is there, a shipped grid has its name, or it cannot be written.
    """
    if path.stem.lower() in (name.lower() for name in names()):
        raise OptsweepError(f"{path.stem} is the name of a shipped grid", "give another with --study NAME")
    try:
        if path.exists():
            if path.read_bytes() == text.encode():
                return path
            raise OptsweepError(
                f"{path} exists and holds another grid", "delete it, or name another with --out FILE.toml"
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    except OSError as error:
        raise OptsweepError(
            f"{path} cannot be written: {error.strerror}", "name another with --out FILE.toml"
        ) from None
    return path


def load(name: str, own: Path | None = None) -> Study:
    """A shipped grid by name, a grid of the workspace by name, or a grid file by path.

    Args:
        own: the folder of the workspace's grids.

    Raises:
        OptsweepError: not found, not TOML, or with a mistake in it (the message says where).
    """
    path = Path(name)
    if path.suffix != ".toml" and "/" not in name:
        folders = [shipped("grids"), *([own] if own is not None else [])]
        known = {path.stem.lower(): path for place in reversed(folders) for path in sorted(place.glob("*.toml"))}
        if name.lower() not in known:
            listed_names = [path.stem for path in known.values()]
            raise UnknownName(
                "grid", name, listed_names, hint="(optsweep grids lists the shipped ones; a path ends in .toml)"
            )
        path = known[name.lower()]
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except FileNotFoundError:
        raise OptsweepError(f"grid file {path} does not exist", "optsweep grids lists the shipped ones") from None
    except UnicodeDecodeError:
        raise OptsweepError(
            f"{path} is not TOML: it is not UTF-8 text", "optsweep grids quickstart shows one"
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptsweepError(f"{path} is not TOML: {error}", "mend that line") from None
    except IsADirectoryError:
        raise OptsweepError(f"{path} is a folder, not a grid file", "name a .toml file in it") from None
    except OSError as error:
        raise OptsweepError(f"{path} cannot be read: {error.strerror}", "check its permissions") from None
    return parse(_beside(data, path.parent), str(path), default_name=path.stem)


def _beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tables with the files of users' own optimizers relative to the grid file's folder."""

    def placed(name: Any) -> Any:
        parts = user.split_reference(name) if isinstance(name, str) else None
        if parts is None or parts[0].startswith("~"):
            return name
        return f"{folder / parts[0]}" + (f":{parts[1]}" if parts[1] else "")

    def inside(table: Any) -> Any:
        if not isinstance(table, dict) or "optimizer" not in table:
            return table
        names = table["optimizer"]
        return {**table, "optimizer": [placed(name) for name in names] if isinstance(names, list) else placed(names)}

    result = dict(data)
    for key in ("cells", "override", "run"):
        if isinstance(data.get(key), list):
            result[key] = [inside(item) for item in data[key]]
    if "fresh_seeds" in data:
        result["fresh_seeds"] = inside(data["fresh_seeds"])
    if isinstance(data.get("optimizer"), dict):
        result["optimizer"] = {placed(name): table for name, table in data["optimizer"].items()}
    if "baseline" in data:
        result["baseline"] = placed(data["baseline"])
    return result


def check_name(name: str, where: str) -> None:
    """Raise one clear line for what cannot name a study (it is a file's name too)."""
    if not _STUDY_NAME.fullmatch(name):
        hint = 'up to 64 ASCII letters, digits, ".", "_" and "-", a letter or digit first'
        raise OptsweepError(f'{where} "{name}" cannot name a study', f"write {hint}")


def parse(data: Mapping[str, Any], where: str, default_name: str) -> Study:
    """A Study from the tables of a grid file; every name and key is checked here, once."""
    _known(data, _TOP_KEYS, where)
    name = str(data.get("name", default_name))
    check_name(name, f"{where}: name =")
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
    study = Study(
        name=name,
        description=str(data.get("description", "")),
        baseline=optimizer_name(str(data.get("baseline", "adamw")), f"{where}: baseline"),
        engine=str(data.get("engine", "torch")),
        dataset=data.get("dataset"),
        validation_sets=heldout.checked(
            _table(data.get("validation_sets", {}), f"{where}: validation_sets"), f"{where}: validation_sets"
        ),
        validation_set=_metric(data, where),
        cells=_cells_or_published(data, source, where),
        defaults=_knobs(data.get("defaults", {}), f"{where}: defaults", None),
        start=start,
        sweep=sweep,
        blocks=blocks,
        overrides=tuple(
            _override(item, f"{where}: override[{index}]") for index, item in enumerate(data.get("override", []))
        ),
        runs=_runs(data.get("run", []), where),
        seeds=_seeds(data.get("seeds", [0]), where),
        fresh_seeds=_fresh(data.get("fresh_seeds"), where),
        phases=_phases(data.get("phases"), where),
        published=source,
        around=around,
    )
    _reaches_a_cell(study, where)
    return study


def _metric(data: Mapping[str, Any], where: str) -> str:
    name, known = data.get("metric_set", OWN_SET), (OWN_SET, *data.get("validation_sets", {}))
    if name not in known:
        raise UnknownName("validation set", str(name), known, f"{where}: metric_set")
    return str(name)


def _reaches_a_cell(study: Study, where: str) -> None:
    """An override or a rule that no cell of the file can ever meet is a mistake in it."""
    for index, item in enumerate(study.overrides):
        if not any(overrides(item, cell) for cell in all_cells(study)):
            raise OptsweepError(
                f"{where}: override[{index}] meets no cell", "compare its names and ratios with [[cells]]"
            )
    fresh = study.fresh_seeds.optimizer if study.fresh_seeds else ()
    listed_here = {optimizer for optimizer, _, _ in all_cells(study)}
    for name in fresh:
        if name not in listed_here:
            raise OptsweepError(f"{where}: fresh_seeds: {name} has no cell", "name an optimizer of [[cells]]")
    for name in study.start:
        if name not in listed_here:
            raise OptsweepError(f"{where}: optimizer.{name} has no cell", "name an optimizer of [[cells]]")
    if study.phases is not None:
        _phases_are_the_cells(study, study.phases, where)


def _phases_are_the_cells(study: Study, phases: Phases, where: str) -> None:
    """Every model and ratio of the cells is in one phase, and no other is."""
    named = [(name, place) for name in PHASES for place in getattr(phases, name)]
    here = {(model, value) for _, model, value in all_cells(study)}
    for index, (name, (model, value)) in enumerate(named):
        if not any(model == other and same_ratio(value, ratio_) for other, ratio_ in here):
            raise OptsweepError(f"{where}: phases.{name}: {model} {value:g} has no cell", "name cells of [[cells]]")
        for other, (model_, value_) in named[:index]:
            if model == model_ and same_ratio(value, value_):
                raise OptsweepError(f"{where}: phases: {model} {value:g} is in {other} and {name}", "keep one")
    for model, value in sorted(here):
        if not any(model == other and same_ratio(value, ratio_) for _, (other, ratio_) in named):
            raise OptsweepError(f"{where}: phases: {model} {value:g} is in none of them", "add it to one of the lists")


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise OptsweepError(f"{where} is not a table", "optsweep grids quickstart shows the form")
    return value


def _known(table: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    for key in table:
        if key not in tuple(keys):
            raise UnknownName("key", key, keys, where, "(optsweep grids quickstart shows the form)")


def _cells(value: Any, where: str) -> tuple[CellSelection, ...]:
    form = "optsweep grids quickstart shows the form"
    if value is not None and not isinstance(value, list):
        raise OptsweepError(f"{where}: cells = {value!r} is not a list of tables: write [[cells]]", form)
    if not value:
        raise OptsweepError(f"{where}: there are no [[cells]]", form)
    cells = []
    for index, item in enumerate(value):
        place = f"{where}: cells[{index}]"
        _known(_table(item, place), ("optimizer", "model", "chinchilla", "steps"), place)
        budget = "steps" if "steps" in item else "chinchilla"
        if "steps" in item and "chinchilla" in item:
            raise OptsweepError(f"{place}: chinchilla and steps both say how long", "keep one of them")
        for key in ("optimizer", "model", budget):
            if not listed(item.get(key, [])):
                raise OptsweepError(f"{place}: {key} is missing or empty", f"list at least one {key}")
        optimizers = tuple(
            optimizer_name(str(name), f"{place}: optimizer[{position}]")
            for position, name in enumerate(listed(item["optimizer"]))
        )
        named = tuple(model_name(str(name), f"{place}: model") for name in listed(item["model"]))
        if budget == "chinchilla":
            ratios = tuple(ratio(value, f"{place}: chinchilla") for value in listed(item["chinchilla"]))
            cells.append(CellSelection(optimizer=optimizers, model=named, chinchilla=ratios))
            continue
        for name in named:  # a step count is another ratio for each size
            ratios = tuple(_ratio_of_steps(name, value, place) for value in listed(item["steps"]))
            cells.append(CellSelection(optimizer=optimizers, model=(name,), chinchilla=ratios))
    return tuple(cells)


def _ratio_of_steps(model: str, steps: Any, place: str) -> float:
    """The Chinchilla ratio of so many steps of the batch that the model's catalogue entry names."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise OptsweepError(f"{place}: steps = {steps!r} is not a positive whole number", "write steps = [5100]")
    entry = models.model(model)
    return float(Fraction(steps * entry.batch_size * entry.seq_len, 20 * entry.shape.non_embedding_params))


def _cells_or_published(data: Mapping[str, Any], source: str | None, where: str) -> tuple[CellSelection, ...]:
    if "cells" in data:
        return _cells(data["cells"], where)
    if source is not None:
        return _published_cells()
    return () if data.get("run") else _cells(None, where)


def _runs(value: Any, where: str) -> tuple[ListedRun, ...]:
    if not isinstance(value, list):
        raise OptsweepError(f"{where}: run = {value!r} is not a list of tables", "write [[run]]")
    runs = []
    for index, item in enumerate(value):
        place = f"{where}: run[{index}]"
        _known(_table(item, place), ("optimizer", "model", "chinchilla", "set", "seed"), place)
        for key in ("optimizer", "model", "chinchilla"):
            if key not in item or isinstance(item[key], list | Mapping):
                raise OptsweepError(f"{place}: {key} is missing or no single value", "a run is of one cell")
        optimizer = optimizer_name(str(item["optimizer"]), place)
        runs.append(
            ListedRun(
                optimizer=optimizer,
                model=model_name(str(item["model"]), place),
                chinchilla=ratio(item["chinchilla"], place),
                set=_knobs(item.get("set", {}), f"{place}.set", [optimizer]),
                seed=_seeds([item["seed"]], place)[0] if "seed" in item else None,
            )
        )
    return tuple(runs)


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


def _phases(value: Any, where: str) -> Phases | None:
    if value is None:
        return None
    place = f"{where}: phases"
    _known(_table(value, place), PHASES, place)
    found: dict[str, tuple[tuple[str, float], ...]] = {}
    for name in PHASES:
        cells: list[tuple[str, float]] = []
        for item in listed(value.get(name, [])):
            _known(_table(item, f"{place}.{name}"), ("model", "chinchilla"), f"{place}.{name}")
            models = [model_name(str(each), f"{place}.{name}: model") for each in listed(item.get("model", []))]
            ratios = [ratio(each, f"{place}.{name}: chinchilla") for each in listed(item.get("chinchilla", []))]
            if not models or not ratios:
                hint = f'write {name} = [{{ model = ["130m"], chinchilla = [1, 2] }}]'
                raise OptsweepError(f"{place}.{name}: model or chinchilla is missing", hint)
            cells += [(model, each) for model in models for each in ratios]
        found[name] = tuple(cells)
    if not found["small"]:
        raise OptsweepError(f"{place}: small is missing or empty", "the first phase tunes at least one cell")
    return Phases(**found)


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
