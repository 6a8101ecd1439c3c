"""The words of the program: Cell, Host, Study, Filter, and RunSpec and RunRecord passed on from the engine contract."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optsweep_engines.spec import BRANCH, OWN_SET, WEIGHTS, RunRecord, RunSpec, Scalar

__all__ = [
    "Block",
    "Cell",
    "CellSelection",
    "DatasetFacts",
    "Filter",
    "FreshSeeds",
    "Host",
    "ListedRun",
    "Override",
    "Phases",
    "RunRecord",
    "RunSpec",
    "Scalar",
    "Study",
]


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """The unit of comparison: many specs (hyperparameters x seeds) fall in one cell."""

    optimizer: str
    model: str
    tokens: int
    """Target training tokens D."""
    dataset: str
    """What its runs have seen, by `dataset_key`."""
    dataset_hash: str | None
    validation_set: str
    """name:tokens of the held-out set."""
    seq_len: int
    engine: str
    branches: bool = False
    """Its runs go on from a trunk: never in one cell with whole runs."""

    @classmethod
    def of(cls, spec: RunSpec) -> Cell:
        """The cell that a run falls in."""
        return cls(
            optimizer=spec.optimizer,
            model=spec.model,
            tokens=spec.tokens,
            dataset=dataset_key(spec),
            dataset_hash=spec.dataset_hash,
            validation_set=validation_key(spec),
            seq_len=spec.seq_len,
            engine=spec.engine,
            branches=spec.start is not None and spec.start.mode == BRANCH,
        )


def dataset_key(spec: RunSpec) -> str:
    """What a run has seen as one word: the name of its dataset, how often it was repeated ("embedded x4 epochs"), and the
    run whose weights it began with ("embedded from 1a2b3c4d@300"). A branch has seen what the whole run would have."""
    repeated = f" x{spec.simulate_epochs} epochs" if spec.simulate_epochs > 1 else ""
    started = spec.start is not None and spec.start.mode == WEIGHTS
    return f"{spec.dataset}{repeated}{f' from {spec.start.run_id[:8]}@{spec.start.step}' if started and spec.start else ''}"


def dataset_parts(key: str) -> tuple[str, int, str | None]:
    """(name of the dataset, epochs, ID@STEP of the run whose weights came first) of a `dataset_key`."""
    match = re.fullmatch(r"(.*?)(?: x([1-9][0-9]*) epochs)?(?: from ([0-9a-f]{8}@[0-9]+))?", key)
    assert match is not None
    return match.group(1), int(match.group(2) or 1), match.group(3)


def read_by(specs: Iterable[RunSpec]) -> set[tuple[str, str]]:
    """(name, hash) of every dataset that some runs train on or are measured on: what a machine needs for them."""
    return {(name, sha256) for spec in specs for name, sha256 in spec.datasets if sha256}


def validation_key(spec: RunSpec) -> str:
    """The metric of a run as one word: its validation set, where that is no split of the run's own dataset with what it is
    made of, and how many of its tokens count ("validation:65536", "books=tinystories@0123456789ab:65536")."""
    item = spec.validation_sets.get(spec.validation_set)
    if item is None:
        return f"{spec.validation_set}:{spec.validation_tokens}"
    split = "" if item.split == OWN_SET else f":{item.split}"
    return f"{spec.validation_set}={item.dataset}{split}@{str(item.dataset_hash)[:12]}:{spec.validation_tokens}"


def validation_parts(key: str) -> tuple[str, str | None, int | None]:
    """(name, "DATASET[:SPLIT]" where it is a further set, tokens) of a `validation_key`; another text is a name."""
    match = re.fullmatch(r"([^=:]+)(?:=(.+)@[0-9a-fNone]{4,12})?:([1-9][0-9]*)", key)
    return (match.group(1), match.group(2), int(match.group(3))) if match else (key, None, None)


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What planning needs to know of a dataset."""

    name: str
    sha256: str | None
    """None while unprepared."""
    vocab_size: int
    held_out: int | None = None
    """Tokens of the validation split; None while unprepared."""
    train_tokens: int | None = None
    """Tokens of the training split; None while unprepared."""
    tokenizer: str = ""
    """Name of what made the tokens; empty where the manifest does not tell."""
    tokenizer_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where a run can go."""

    name: str
    backend: str
    """Registered dispatcher: "local"."""
    slots: int
    """Runs at a time: CPU cores or GPUs."""
    device: str
    """"cpu", "cuda" or "tpu"."""
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class CellSelection:
    """A rectangle of cells: every optimizer x model x ratio of it."""

    optimizer: tuple[str, ...]
    model: tuple[str, ...]
    chinchilla: tuple[float, ...]


Block = Mapping[str, tuple[Scalar, ...]]
"""Values per knob whose Cartesian product is run."""


@dataclass(frozen=True, kw_only=True)
class Override:
    """Changes for the cells that match; an empty field matches every cell."""

    optimizer: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    chinchilla: tuple[float, ...] = ()
    set: Mapping[str, Scalar] = field(default_factory=dict)
    sweep: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """One configuration of one cell that a grid lists by itself: nothing is added around it."""

    optimizer: str
    model: str
    chinchilla: float
    set: Mapping[str, Scalar] = field(default_factory=dict)
    """Knobs and settings, over those of the grid."""
    seed: int | None = None
    """None: each seed of the grid."""

    @property
    def cell(self) -> tuple[str, str, float]:
        """(optimizer, model, ratio)."""
        return self.optimizer, self.model, self.chinchilla


@dataclass(frozen=True, kw_only=True)
class FreshSeeds:
    """New seeds for the best configuration of some cells, decided when their sweeps have ended."""

    optimizer: tuple[str, ...]
    count: int
    """Fresh seeds per cell, counted up from above the highest seed of the sweep."""
    budgets: str = "ends"
    """"ends" = smallest and largest ratio, "all", or "largest"."""


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Which (model, Chinchilla ratio) `tune --phases` tunes whole, in its sensitive knobs only, and not at all."""

    small: tuple[tuple[str, float], ...]
    middle: tuple[tuple[str, float], ...]
    large: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid with a name: cells, baselines, sweep values, and the rules by which results are compared."""

    name: str
    description: str = ""
    baseline: str = "adamw"
    """Optimizer that speedups are measured against."""
    cells: tuple[CellSelection, ...] = ()
    defaults: Mapping[str, Scalar] = field(default_factory=dict)
    """Knobs for every optimizer that has them, and settings of the run (batch_size, seq_len, schedule, ...)."""
    start: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Per optimizer: its baseline configuration, over the published one or the catalogue's defaults."""
    sweep: Mapping[str, Mapping[str, tuple[Scalar, ...]]] = field(default_factory=dict)
    """Per optimizer: one-at-a-time values per knob."""
    blocks: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    """Per optimizer: Cartesian blocks."""
    overrides: tuple[Override, ...] = ()
    runs: tuple[ListedRun, ...] = ()
    """Configurations that are listed one by one, after the cells."""
    seeds: tuple[int, ...] = (0,)
    fresh_seeds: FreshSeeds | None = None
    phases: Phases | None = None
    """None: thirds of the cells by training FLOPs."""
    published: str | None = None
    """Name of a shipped study whose published configurations and sweep values are used cell by cell."""
    around: str = "incumbent"
    """"incumbent" = the published tuned configuration, "start" = the value the published sweep began from."""
    engine: str = "torch"
    dataset: str | None = None
    """None: the dataset that the model's catalogue entry names."""
    validation_sets: Mapping[str, str] = field(default_factory=dict)
    """Further validation sets: name -> "DATASET" or "DATASET:SPLIT"."""
    validation_set: str = OWN_SET
    """Name of the one whose loss is compared; "validation" is the dataset's own held-out split."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which results a question is about; empty fields keep everything."""

    study: str | None = None
    models: tuple[str, ...] = ()
    optimizers: tuple[str, ...] = ()
    chinchillas: tuple[float, ...] = ()
    datasets: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    where: str | None = None
    """An SQL predicate over the columns of v_run."""


def listed(value: Any) -> tuple[Any, ...]:
    """A scalar or a list, as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)
