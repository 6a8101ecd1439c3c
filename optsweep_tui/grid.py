"""Grid files to run specs: `expand(study, datasets)` pairs every configuration of every cell with its own step count."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from optsweep_engines import epochs, families, models, schedules
from optsweep_engines.optimizers import catalogue, user, user_plan
from optsweep_engines.optimizers.base import OptimizerEntry, find_knob, unsuited
from optsweep_engines.spec import RunSpec, Scalar
from optsweep_tui import heldout, published
from optsweep_tui.core import Block, CellSelection, Override, Study
from optsweep_tui.core import DatasetFacts as DatasetFacts
from optsweep_tui.errors import OptsweepError, UnknownName

DTYPES = ("fp32", "bf16")
SETTINGS = (
    "batch_size", "seq_len", "schedule", "dtype", "validation_tokens", "validation_interval", "accumulation",
    "simulate_epochs",
)  # fmt: skip
"""Fields of a RunSpec that a grid may set beside the knobs."""
FEATURES = tuple(models.FEATURES)
"""What a grid may change of a model's shape: the run then is of another model, `olmo-150m+qk_norm=false`."""
USUAL_SCHEDULE = "cosine"
"""What an optimizer's entry names when any schedule serves it."""
OPTIONS = {
    "seed": "--seeds", "seeds": "--seeds", "engine": "--engine", "dataset": "--dataset", "optimizer": "-o",
    "model": "-m", "chinchilla": "-c", "around": "--around",
}  # fmt: skip
"""What is no knob because it has an option of its own."""
MOST_RUNS = 100_000
"""Of one study: beyond it a grid has exploded by mistake (a month of a large cluster is some ten thousand runs)."""


Datasets = Callable[[str], DatasetFacts]
"""Looks a dataset up by name; raises OptsweepError for an unknown one."""


# ---------------------------------------------------------------- names


def optimizer_name(name: str, where: str = "") -> str:
    """Catalogue name of an optimizer, from any alias or case; a user's own file is looked at and gets a name."""
    try:
        return catalogue.optimizer(name).name
    except LookupError:
        if user.is_own(name):
            return _own_name(name, where)
        known = [alias for entry in catalogue.optimizers().values() for alias in (entry.name, *entry.aliases)]
        raise UnknownName("optimizer", name, known, where, "(optsweep optimizers lists all)") from None


def _own_name(reference: str, where: str) -> str:
    place = f"{where}: " if where else ""
    if user.split_reference(reference) is None and not user.is_package(reference):
        hint = f"name its file, ./{reference.partition(':')[0]}.py:{user.target_name(reference)}"
        raise OptsweepError(f'{place}optimizer "{reference}" is of a file that is not named here', hint)
    with own_errors(place):
        return user_plan.planned(reference, HERE).name


@contextlib.contextmanager
def own_errors(place: str = "") -> Iterator[None]:
    """What is wrong with a user's optimizer, as a line of this program."""
    try:
        yield
    except user.OwnOptimizerError as error:
        raise OptsweepError(f"{place}{error}", error.hint) from None


def result_name(name: str) -> str:
    """The name of an optimizer in results; a user's file is read for its hash, not executed, where NAME is given."""
    parts = user.split_reference(name)
    if parts is not None and parts[1] is not None:
        with own_errors():
            source = user.read(Path(parts[0]).expanduser(), parts[0])
        return user.own_name(source.stem, parts[1], source.sha256)
    if user.is_own(name) and parts is None:
        return name
    return optimizer_name(name)


HERE = Path()
"""What a path on the command line starts from."""

same_optimizer = user.matches
"""Whether a name of results is the one asked for; `mine:MyOptimizer` asks for every content of that file."""


def reference_of(optimizer: str) -> str:
    """What a user types for it: the name, or the file of their own."""
    entry = catalogue.optimizer(optimizer)
    source = entry.source if isinstance(entry, user_plan.OwnEntry) else None
    return f"{source.label}:{user.target_name(entry.name)}" if source else entry.name


def model_name(name: str, where: str = "") -> str:
    """Catalogue name of a model, from any case."""
    try:
        return models.model(name).name
    except families.NoSuchFeature as error:
        at = f"{where}: " if where else ""
        raise OptsweepError(f'{at}model "{name}": {error}', "optsweep models lists what each has") from None
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
        raise OptsweepError(
            f'{place}chinchilla ratio "{value}" is not a positive number below 1e6', "write 0.25, 1/4 or 8"
        )
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


def own_knobs(optimizer: str) -> list[str]:
    """Everything that a grid may set for an optimizer: its knobs, those of the run, and the fields of a spec."""
    return [*(knob.name for knob in catalogue.all_knobs(catalogue.optimizer(optimizer))), *SETTINGS, *FEATURES]


def knob_name(name: str, optimizers: Iterable[str] | None, where: str) -> str:
    """Our name of a knob or setting, from a published alias; known for every optimizer in scope (None: for any one)."""
    ours = catalogue.published_alias(name)
    if name in OPTIONS and where.startswith("--"):
        raise OptsweepError(f"{where} {name}: this is no knob, it has its own option", f"give {OPTIONS[name]}")
    scope = sorted(catalogue.known() if optimizers is None else optimizers)
    lacking = [
        optimizer for optimizer in scope if _find(optimizer, name) is None and ours not in (*SETTINGS, *FEATURES)
    ]
    if lacking and (optimizers is not None or len(lacking) == len(scope)):
        of = "" if optimizers is None else f" of {lacking[0]}"
        hint = f"(optsweep optimizers {reference_of(lacking[0])} lists its knobs)"
        raise UnknownName(f"knob{of}", name, own_knobs(lacking[0]), where, hint)
    if ours in (*SETTINGS, *FEATURES):
        return ours
    return next(found for optimizer in scope if (found := _find(optimizer, name)) is not None)


def _find(optimizer: str, name: str) -> str | None:
    knob = find_knob(catalogue.all_knobs(catalogue.optimizer(optimizer)), name)
    return None if knob is None else knob.name


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
    wanted_optimizers = [optimizer_name(published.study_name(study.published, name)) for name in optimizers]
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
    runs = tuple(
        run
        for run in study.runs
        if (not wanted_optimizers or run.optimizer in wanted_optimizers)
        and (not wanted_models or run.model in wanted_models)
        and (not wanted_ratios or any(same_ratio(run.chinchilla, want) for want in wanted_ratios))
    )
    if not cells and not runs:
        raise OptsweepError(
            f"grid {study.name} has no such cell: the selection is empty",
            "run --grid with --dry-run and nothing else lists its cells",
        )
    return dataclasses.replace(study, cells=tuple(cells), runs=runs)


def of_cells(cells: Iterable[tuple[str, str, float]]) -> Study:
    """A study without a file from single cells (optimizer, model, ratio), each with its incumbent only."""
    return Study(name="default", cells=tuple(_single(*cell) for cell in cells))


def only(study: Study, cells: Iterable[tuple[str, str, float]]) -> Study:
    """A study cut down to some of its cells (optimizer, model, ratio); what it says about them stays.

    Raises:
        OptsweepError: it has no such cell.
    """
    wanted = [(optimizer_name(optimizer), model_name(model), value) for optimizer, model, value in cells]

    def chosen(cell: tuple[str, str, float]) -> bool:
        return any(cell[:2] == want[:2] and same_ratio(cell[2], want[2]) for want in wanted)

    kept = tuple(_single(*cell) for cell in dict.fromkeys(cells_of(study)) if chosen(cell))
    runs = tuple(run for run in study.runs if chosen(run.cell))
    if not kept and not runs:
        optimizer, model, value = wanted[0] if wanted else ("", "", 0.0)
        raise OptsweepError(
            f"grid {study.name} has no cell {optimizer} {model} {value:g}",
            "run --grid with --dry-run and nothing else lists its cells",
        )
    return dataclasses.replace(study, cells=kept, runs=runs)


def _single(optimizer: str, model: str, value: float) -> CellSelection:
    return CellSelection(optimizer=(optimizer_name(optimizer),), model=(model_name(model),), chinchilla=(ratio(value),))


def same_ratio(first: float, second: float) -> bool:
    """Equal up to the rounding of a budget to whole tokens."""
    return abs(first - second) <= 1e-4 * max(first, second)


def with_settings(study: Study, sets: Iterable[str], sweeps: Iterable[str]) -> Study:
    """Apply `--set k=v` and `--sweep k=v1,v2` (`k=..*k2=..` is a Cartesian block; `adamw.k` names one optimizer).

    Raises:
        OptsweepError: a malformed or unknown assignment.
    """
    overrides, blocks = list(study.overrides), dict(study.blocks)
    selected = sorted({optimizer for optimizer, _, _ in all_cells(study)})
    if sweeps and not study.cells:
        raise OptsweepError(
            f"grid {study.name} lists its runs one by one: there is nothing to sweep around", "leave --sweep out"
        )
    given: set[tuple[tuple[str, ...], str]] = set()
    for text in sets:
        scope, knob, value = _assignment(study, text, "--set", selected)
        if (scope, knob) in given:
            raise OptsweepError(f'--set "{text}": {knob} is given twice', "keep one of them")
        given.add((scope, knob))
        overrides.append(Override(optimizer=scope, set={knob: scalar(value)}))
    for text in sweeps:
        parts = [_assignment(study, part, "--sweep", selected) for part in text.split("*")]
        if any(part[0] != parts[0][0] for part in parts):
            raise OptsweepError(f'--sweep "{text}": the factors of a product name different optimizers')
        lists = {knob: tuple(scalar(value) for value in values.split(",")) for _, knob, values in parts}
        if len(lists) < len(parts):
            raise OptsweepError(f'--sweep "{text}": a knob is given twice', "write its values as one list")
        if len(lists) == 1:
            overrides.append(Override(optimizer=parts[0][0], sweep=lists))
        else:
            for name in parts[0][0] or selected:
                blocks[name] = (*blocks.get(name, ()), lists)
    return dataclasses.replace(study, overrides=tuple(overrides), blocks=blocks)


def _assignment(study: Study, text: str, option: str, selected: list[str]) -> tuple[tuple[str, ...], str, str]:
    left, equals, value = text.partition("=")
    if not equals or not left.strip() or not value.strip():
        raise OptsweepError(f'{option} "{text}" is not of the form knob=value', f"write {option} lr=0.003")
    first, dot, rest = left.strip().rpartition(".")  # a file's name may hold dots, a knob's holds none
    named = published.study_name(study.published, first)
    scope: tuple[str, ...] = (optimizer_name(named, option),) if dot else ()
    if scope and scope[0] not in selected:
        raise OptsweepError(
            f'{option} "{text}": the plan has no cell of {scope[0]}, only of {", ".join(selected)}', "leave it out"
        )
    knob = knob_name(rest, scope or selected, option)
    return scope, knob, value.strip()


# ---------------------------------------------------------------- expansion


def expand(study: Study, datasets: Datasets, limit: int | None = None) -> list[RunSpec]:
    """Every run of a study, or its first ones; cell by cell, the incumbent of a cell first, no run twice.

    Raises:
        OptsweepError: a value out of range, a cell too small for one step, or more than MOST_RUNS runs without a limit.
    """
    wanted = _count(study)
    if limit is None and wanted > MOST_RUNS:
        raise OptsweepError(
            f"grid {study.name} asks for {wanted:,} runs, more than {MOST_RUNS:,}",
            "sweep fewer values at once, or take its first ones with --limit N",
        )
    specs: dict[str, RunSpec] = {}
    for cell in cells_of(study):
        for knobs in _configurations(study, *cell):
            for seed in study.seeds:
                spec = resolve(study, *cell, knobs, seed, datasets)
                specs.setdefault(spec.run_id, spec)
                if len(specs) == limit:
                    return list(specs.values())
    for run in study.runs:
        knobs = incumbent_of(study, *run.cell, listed=run.set)
        for seed in study.seeds if run.seed is None else (run.seed,):
            spec = resolve(study, *run.cell, knobs, seed, datasets)
            specs.setdefault(spec.run_id, spec)
            if len(specs) == limit:
                return list(specs.values())
    return list(specs.values())


def all_cells(study: Study) -> Iterator[tuple[str, str, float]]:
    """`cells_of`, and the cells of the runs that are listed one by one."""
    yield from cells_of(study)
    yield from (run.cell for run in study.runs)


def cells_of(study: Study) -> Iterator[tuple[str, str, float]]:
    """(optimizer, model, Chinchilla ratio) of every cell, in plan order."""
    for cell in study.cells:
        for model, value, optimizer in itertools.product(cell.model, cell.chinchilla, cell.optimizer):
            yield optimizer, model, value


def _count(study: Study) -> int:
    """Configurations times seeds of all cells, those met twice counted twice; nothing is resolved for it."""
    count = 0
    for cell in cells_of(study):
        swept = sum(len(values) for values in sweep_of(study, *cell).values())
        blocks = sum(math.prod(len(values) for values in block.values()) for block in study.blocks.get(cell[0], ()))
        count += 1 + swept + blocks
    return (count + len(study.runs)) * len(study.seeds)


def overrides(item: Override, cell: tuple[str, str, float]) -> bool:
    """Whether an override is about a cell."""
    optimizer, model, value = cell
    return (
        (not item.optimizer or optimizer in item.optimizer)
        and (not item.model or model in item.model)
        and (not item.chinchilla or any(same_ratio(value, want) for want in item.chinchilla))
    )


def _matching(study: Study, optimizer: str, model: str, value: float) -> Iterator[Override]:
    return (item for item in study.overrides if overrides(item, (optimizer, model, value)))


def _configurations(study: Study, optimizer: str, model: str, value: float) -> Iterator[dict[str, Scalar]]:
    """The knobs and settings of each configuration of one cell: incumbent, one-at-a-time changes, blocks."""
    incumbent = incumbent_of(study, optimizer, model, value)
    yield incumbent
    for knob, values in sweep_of(study, optimizer, model, value).items():
        for entry in values:
            yield incumbent | {knob: entry}
    for block in study.blocks.get(optimizer, ()):
        yield from (incumbent | change for change in _product(block))


def _product(block: Block) -> Iterator[dict[str, Scalar]]:
    for values in itertools.product(*block.values()):
        yield dict(zip(block, values, strict=True))


def incumbent_of(
    study: Study, optimizer: str, model: str, value: float, listed: Mapping[str, Scalar] | None = None
) -> dict[str, Scalar]:
    """What a cell's sweep goes around: published (or catalogue) values, then the grid's, then its overrides'.

    Args:
        listed: of a run that is listed by itself: they come before the overrides, so that `--set` has the last word.
    """
    knobs: dict[str, Scalar] = {}
    cell = published.nearest(optimizer, model, value)
    if cell is not None:
        figures = cell.incumbent if study.around == "incumbent" else cell.incumbent | cell.start
        where = f"published {optimizer} {model} {cell.chinchilla:g}"
        knobs = {knob_name(key, [optimizer], where): entry for key, entry in figures.items()}
    own = own_knobs(optimizer)
    explicit = dict(study.start.get(optimizer, {})) | dict(listed or {})
    for item in _matching(study, optimizer, model, value):
        explicit |= {key: entry for key, entry in item.set.items() if key in own}
    defaults = {key: entry for key, entry in study.defaults.items() if key in own}
    if "schedule" not in knobs | defaults | explicit and catalogue.optimizer(optimizer).schedule != USUAL_SCHEDULE:
        knobs["schedule"] = catalogue.optimizer(optimizer).schedule  # its own, where nobody named another
    chosen = str((knobs | defaults | explicit).get("schedule", models.model(model).schedule))
    unread = schedules.unread(chosen) if chosen.lower() in schedules.SCHEDULES else frozenset()
    return knobs | {key: entry for key, entry in defaults.items() if key not in unread} | explicit


def sweep_of(study: Study, optimizer: str, model: str, value: float) -> dict[str, tuple[Scalar, ...]]:
    """Values per knob of a cell, one at a time around its incumbent: published, then the grid's, then its overrides'."""
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
    entry = with_features(models.model(model), knobs, where)
    rule = catalogue.optimizer(optimizer)
    if isinstance(rule, user_plan.OwnEntry) and rule.engines and study.engine not in rule.engines:
        raise OptsweepError(
            f"{where}: {optimizer} is a torch.optim class, engine {study.engine} cannot run it",
            f"use --engine {rule.engines[0]}, or write it as a rule function",
        )
    dataset = datasets(study.dataset or entry.dataset)
    settings: dict[str, Any] = {
        "batch_size": entry.batch_size,
        "seq_len": entry.seq_len,
        "schedule": entry.schedule,
        "dtype": entry.dtype,
    } | {key: _whole(knobs[key]) for key in SETTINGS if key in knobs}
    _check_settings(settings, where)
    shape = trained_shape(entry, dataset, settings["seq_len"])
    suited(rule, shape, where)
    rest = {"z_loss": entry.z_loss} | {key: value for key, value in knobs.items() if key not in (*SETTINGS, *FEATURES)}
    try:
        hyperparameters = catalogue.resolve_knobs(optimizer, rest, settings["schedule"])
    except ValueError as error:
        hint = f"optsweep optimizers {reference_of(optimizer)} shows the ranges"
        if isinstance(error, catalogue.WrongSchedule):
            hint = f"give --set {reference_of(optimizer)}.schedule={rule.schedule}, or leave the schedule to it"
        raise OptsweepError(f"{where}: {error}", hint) from None
    spec = RunSpec(
        engine=study.engine,
        optimizer=optimizer,
        optimizer_file_hash=rule.file_hash if isinstance(rule, user_plan.OwnEntry) else None,
        hyperparameters=hyperparameters,
        model=entry.name,
        shape=shape,
        dataset=dataset.name,
        dataset_hash=dataset.sha256,
        tokens=round(value * 20 * shape.non_embedding_params),
        seed=seed,
        validation_set=study.validation_set,
        validation_sets=heldout.sets_of(study.validation_sets, dataset, datasets, where),
        **settings,
    )
    if spec.steps < 1:
        each = f" for {spec.simulate_epochs} whole epochs" if spec.simulate_epochs > 1 else ""
        raise OptsweepError(
            f"{where}: {spec.tokens:,} tokens are less than one step of {spec.batch_size} x {spec.seq_len}{each}",
            "take a larger ratio or a smaller batch",
        )
    if dataset.train_tokens is not None:
        try:
            epochs.require(spec, dataset.train_tokens)
        except ValueError as error:
            raise OptsweepError(f"{where}: {error}", "take more epochs or a smaller ratio") from None
    windows = spec.validation_tokens // spec.seq_len
    if windows < 1 or (dataset.held_out is not None and windows * spec.seq_len >= dataset.held_out):
        held = "" if dataset.held_out is None else f"; dataset {dataset.name} holds out {dataset.held_out:,} tokens"
        raise OptsweepError(
            f"{where}: validation_tokens = {spec.validation_tokens:,} in windows of seq_len {spec.seq_len}{held}",
            f"take {spec.seq_len} or more, and fewer than are held out",
        )
    heldout.require_windows(spec, datasets, where)
    try:
        schedules.check(spec.schedule, hyperparameters)
    except ValueError as error:
        raise OptsweepError(f"{where}: {error}", f"the run has {spec.steps} steps: write 0.1 or 500") from None
    return spec


def with_features(entry: models.ModelEntry, knobs: Mapping[str, Scalar], where: str) -> models.ModelEntry:
    """A model with the features that are set among some knobs.

    Raises:
        OptsweepError: a feature cannot have that value, or no such model can be built.
    """
    features = {key: knobs[key] for key in FEATURES if key in knobs}
    if not features:
        return entry
    try:
        found = models.varied(entry, features)
        models.check(found.shape)
    except ValueError as error:
        raise OptsweepError(f"{where}: {error}", "optsweep models lists what can be set") from None
    return found


def trained_shape(entry: models.ModelEntry, dataset: DatasetFacts, seq_len: int) -> models.ModelShape:
    """The shape of a run: as many rows as the data have tokens (the entry's own, padded or not, on its own dataset), as many
    learned positions as a sequence has tokens."""
    own = dataset.name == entry.dataset and entry.shape.vocab_size >= dataset.vocab_size
    vocab = entry.shape.vocab_size if own else dataset.vocab_size
    positions = seq_len if entry.shape.positions else 0
    return dataclasses.replace(entry.shape, vocab_size=vocab, positions=positions)


def suited(rule: OptimizerEntry, shape: models.ModelShape, where: str) -> None:
    """Refuse an optimizer on a model that it cannot train.

    Raises:
        OptsweepError: with the reason.
    """
    if not shape.mup_base_width and not rule.keeps_norms:
        return
    for tensor in models.parameter_table(shape):
        reason = unsuited(rule, tensor)
        if reason is not None:
            known = [name for name, entry in catalogue.optimizers().items() if entry.mup_power is not None]
            hint = (
                f"muP is defined for {', '.join(sorted(known))}"
                if "muP" in reason
                else "take another optimizer or model"
            )
            raise OptsweepError(f"{where}: {reason}", hint)


def _whole(value: Scalar) -> Scalar:
    """1e3 as 1000: settings are counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
        raise OptsweepError(
            f"{where}: batch_size {settings['batch_size']} does not divide by accumulation", "choose a divisor of it"
        )
