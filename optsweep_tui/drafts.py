"""Runs that an answer proposes, written as a grid file: each is resolved first, and what cannot run is left out.

`optsweep edges --propose --out FILE` and `optsweep predict --out FILE` call this; `optsweep run --grid FILE` reads it.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import data, models
from optsweep_engines.spec import RunSpec
from optsweep_tui import grid, gridfile
from optsweep_tui.core import ListedRun, Scalar, Study, dataset_parts, validation_parts
from optsweep_tui.datasets import DatasetLookup
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One run that an answer proposes, under the names of the results."""

    optimizer: str
    model: str
    chinchilla: float
    tokens: float | None = None
    """Of the cell that it belongs to; decides over the ratio where their rounding differs."""
    settings: Mapping[str, Scalar]
    """Knobs, batch_size, schedule, dtype, seq_len; a null is left out."""
    validation_set: str | None = None
    """"name:tokens" of the cell; another form (a published one) is left to the model's entry."""
    engine: str | None = None
    dataset: str | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A grid that lists runs one by one."""

    study: Study
    specs: tuple[RunSpec, ...]
    """What `optsweep run --grid` makes of it, in order; ids are provisional while the dataset is not prepared."""
    left_out: tuple[tuple[int, str], ...]
    """(position in the list that was asked for, why it cannot run)."""

    def text(self, comment: str) -> str:
        """The file."""
        return grid_text(self.study, comment)


def draft(workspace: Workspace, name: str, baseline: str, wanted: Sequence[Wanted]) -> Draft:
    """Resolve runs into a grid.

    Raises:
        OptsweepError: they need more than one engine or dataset, which one grid cannot name, or none of them can run.
    """
    gridfile.check_name(name, "the grid's name")
    engine = _one("engine", {item.engine or "torch" for item in wanted})
    dataset = _one("dataset", {_dataset(item.dataset, workspace) for item in wanted})
    metric, own = _one("validation set", {validation_parts(item.validation_set or "")[:2] for item in wanted})
    bare = Study(name=name, baseline=baseline, engine=engine, dataset=dataset, cells=(), seeds=(0,))
    if own is not None:
        bare = dataclasses.replace(bare, validation_set=metric, validation_sets={metric: own})
    lookup = DatasetLookup(workspace, prepare=False)
    runs: list[ListedRun] = []
    specs: dict[str, RunSpec] = {}
    left_out: list[tuple[int, str]] = []
    for place, item in enumerate(wanted):
        try:
            run = _listed(item)
            (spec,) = grid.expand(dataclasses.replace(bare, runs=(run,)), lookup)
        except OptsweepError as error:
            left_out.append((place, error.message))
            continue
        if spec.run_id in specs:
            left_out.append((place, "the same run as another of the list"))
            continue
        specs[spec.run_id] = spec
        runs.append(run)
    if not runs:
        why = left_out[0][1] if left_out else "nothing is proposed"
        raise OptsweepError(f"none of {len(wanted)} proposed runs can be planned here: {why}", "--json shows them all")
    study = dataclasses.replace(bare, runs=tuple(runs), baseline=_baseline(baseline, runs))
    _reread(study, specs, lookup)
    return Draft(study=study, specs=tuple(specs.values()), left_out=tuple(left_out))


def write(path: Path, text: str) -> None:
    """Write a grid file where none is yet.

    Raises:
        OptsweepError: the file exists, or cannot be written.
    """
    try:
        with open(path, "x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError:
        raise OptsweepError(f"{path} exists already", "name another file with --out") from None
    except OSError as error:
        raise OptsweepError(f"{path} cannot be written: {error.strerror}", "name another file with --out") from None


def checked_path(path: Path) -> Path:
    """A path that `run --grid` takes for a file and whose stem can name a study.

    Raises:
        OptsweepError: it does not end in .toml, or exists.
    """
    if path.suffix != ".toml":
        raise OptsweepError(f"--out {path} is no grid file: its name has to end in .toml", f"write --out {path}.toml")
    gridfile.check_name(path.stem, "--out:")
    if path.exists():
        raise OptsweepError(f"{path} exists already", "name another file with --out")
    return path


def _one(what: str, values: Iterable[Any]) -> Any:
    found = sorted(set(values), key=str)
    if len(found) > 1:
        names = ", ".join("one that is not here" if value is None else str(value) for value in found)
        raise OptsweepError(f"the proposed runs need {len(found)} {what}s ({names}); a grid has one",
                            f"narrow with --{what}")  # fmt: skip
    return found[0] if found else None


def _dataset(name: str | None, workspace: Workspace) -> str | None:
    """The dataset where this program has it; None leaves it to the model's entry."""
    try:
        return None if name is None else data.dataset(dataset_parts(name)[0], workspace.data).name
    except LookupError:
        return None


def _listed(item: Wanted) -> ListedRun:
    where = f"{item.optimizer} {item.model} {item.chinchilla:g}"
    optimizer = grid.optimizer_name(item.optimizer, where)
    model = grid.model_name(item.model, where)
    settings = {
        grid.knob_name(key, [optimizer], where): value for key, value in item.settings.items() if value is not None
    }
    _, epochs, parent = dataset_parts(item.dataset or "")
    if parent is not None:
        raise OptsweepError(f"{where}: it begins with the weights of run {parent}, which a grid cannot say")
    if epochs > 1:
        settings["simulate_epochs"] = epochs
    _, _, tokens = validation_parts(item.validation_set or "")
    if tokens is not None:
        settings["validation_tokens"] = tokens
    ratio = grid.ratio(item.chinchilla, where)
    params = models.model(model).shape.non_embedding_params
    if item.tokens is not None and round(ratio * 20 * params) != round(item.tokens):
        ratio = item.tokens / (20 * params)
    return ListedRun(optimizer=optimizer, model=model, chinchilla=ratio, set=settings, seed=item.seed)


def _baseline(asked: str, runs: Sequence[ListedRun]) -> str:
    try:
        return grid.optimizer_name(asked)
    except OptsweepError:
        return runs[0].optimizer


def _reread(study: Study, specs: Mapping[str, RunSpec], lookup: grid.Datasets) -> None:
    """The file says what was resolved, to the last digit: a program that writes one that does not is wrong."""
    again = gridfile.parse(tomllib.loads(grid_text(study, "")), "the draft", study.name)
    assert [spec.run_id for spec in grid.expand(again, lookup)] == list(specs), "the grid's text is another grid"


# ---------------------------------------------------------------- text


def grid_text(study: Study, comment: str, notes: Sequence[str] = ()) -> str:
    """A study of listed runs as TOML: what all runs share under [defaults], then a table per run.

    Args:
        notes: a line to stand above each run; none or one per run.
    """
    shared = dict(study.runs[0].set) if study.runs else {}
    for run in study.runs:
        shared = {key: value for key, value in shared.items() if key in run.set and _same(run.set[key], value)}
    if len(study.runs) < 2:
        shared = {}
    lines = [f"# {line}" for line in comment.splitlines()]
    lines += [f"name = {value_text(study.name)}", f"baseline = {value_text(study.baseline)}"]
    lines.append(f"engine = {value_text(study.engine)}")
    if study.dataset is not None:
        lines.append(f"dataset = {value_text(study.dataset)}")
    if study.validation_sets:
        sets = ", ".join(f"{json.dumps(name)} = {value_text(text)}" for name, text in study.validation_sets.items())
        lines += [f"metric_set = {value_text(study.validation_set)}", f"validation_sets = {{ {sets} }}"]
    if shared:
        lines += ["", "[defaults]", *(f"{key} = {value_text(value)}" for key, value in sorted(shared.items()))]
    for place, run in enumerate(study.runs):
        lines += ["", *(f"# {note}" for note in notes[place : place + 1])]
        lines += ["[[run]]", f"optimizer = {value_text(run.optimizer)}", f"model = {value_text(run.model)}"]
        lines.append(f"chinchilla = {value_text(run.chinchilla)}")
        if run.seed is not None:
            lines.append(f"seed = {run.seed}")
        own = [f"{key} = {value_text(value)}" for key, value in sorted(run.set.items()) if key not in shared]
        if own:
            lines.append(f"set = {{ {', '.join(own)} }}")
    return "\n".join(lines) + "\n"


def _same(first: Scalar, second: Scalar) -> bool:
    return isinstance(first, bool) == isinstance(second, bool) and first == second


def value_text(value: Scalar) -> str:
    """A TOML value; JSON spells texts, truth values and most numbers alike."""
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return json.dumps(value, ensure_ascii=False)
