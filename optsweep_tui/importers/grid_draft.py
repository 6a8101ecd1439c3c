"""Runs of a foreign sweep as the text of a grid file: each is resolved once, and what cannot run is listed instead."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from optsweep_engines import data
from optsweep_tui import grid
from optsweep_tui.core import ListedRun, Study
from optsweep_tui.errors import OptsweepError
from optsweep_tui.grid import DatasetFacts
from optsweep_tui.importers.protocol import Draft

ENGINE = "torch"


def drafted(
    study: str, source: str, runs: Iterable[tuple[int, ListedRun]], constants: Mapping[str, Any]
) -> tuple[Draft, dict[str, list[int]]]:
    """The grid of some numbered runs; and reason -> numbers of those that are left out: they cannot run, or are others again.

    Args:
        source: what is written above it.
        constants: engine and dataset, where somebody names them.
    """
    engine, dataset = str(constants.get("engine", ENGINE)), constants.get("dataset")
    bare = Study(name=study, engine=engine, dataset=None if dataset is None else str(dataset))
    seen: dict[str, int] = {}
    kept: list[tuple[int, ListedRun]] = []
    left: dict[str, list[int]] = {}
    for index, run in runs:
        try:
            named = _named(run)
            (spec,) = grid.expand(dataclasses.replace(bare, runs=(named,)), _facts)
        except OptsweepError as error:
            left.setdefault(error.message, []).append(index)
            continue
        before = seen.setdefault(spec.run_id, index)
        if before == index:
            kept.append((index, named))
        else:
            left.setdefault(f"the same run as {before}: nothing that decides a run here is different", []).append(index)
    return Draft(text=_text(bare, source, kept), runs=len(kept)), left


def _named(run: ListedRun) -> ListedRun:
    """The run with every knob under our name."""
    where = f"{run.optimizer} {run.model}"
    return dataclasses.replace(
        run, set={grid.knob_name(key, [run.optimizer], where): value for key, value in run.set.items()}
    )


def _facts(name: str) -> DatasetFacts:
    """What planning needs of a dataset, whether or not it is prepared here.

    Raises:
        OptsweepError: no such dataset.
    """
    try:
        entry = data.dataset(name)
    except LookupError:
        raise OptsweepError(f'dataset "{name}" is not known', "optsweep datasets lists all") from None
    return DatasetFacts(name=entry.name, sha256=None, vocab_size=entry.vocab_size)


def _text(study: Study, source: str, runs: list[tuple[int, ListedRun]]) -> str:
    """TOML: what all runs share in [defaults], then a table for each run with the number it has in its source."""
    shared = dict(runs[0][1].set) if runs else {}
    for _, run in runs:
        shared = {key: value for key, value in shared.items() if key in run.set and run.set[key] == value}
    lines = [
        f"# {_comment(source)}",
        "# Written by optsweep import; the number above each run is its array task there.",
        f"name = {_value(study.name)}",
        f"engine = {_value(study.engine)}",
    ]
    if study.dataset is not None:
        lines.append(f"dataset = {_value(study.dataset)}")
    seeds = {run.seed for _, run in runs}
    if len(seeds) == 1 and None not in seeds:
        lines.append(f"seeds = [{seeds.pop()}]")
        runs = [(index, dataclasses.replace(run, seed=None)) for index, run in runs]
    baseline = (
        "adamw" if any(run.optimizer == "adamw" for _, run in runs) else runs[0][1].optimizer if runs else "adamw"
    )
    lines.append(f"baseline = {_value(baseline)}")
    if shared:
        lines += ["", "[defaults]", *(f"{key} = {_value(value)}" for key, value in shared.items())]
    for index, run in runs:
        own = {key: value for key, value in run.set.items() if key not in shared}
        lines += ["", f"# {index}", "[[run]]", f"optimizer = {_value(run.optimizer)}", f"model = {_value(run.model)}"]
        lines.append(f"chinchilla = {_value(run.chinchilla)}")
        if run.seed is not None:
            lines.append(f"seed = {run.seed}")
        if own:
            lines.append(f"set = {{ {', '.join(f'{key} = {_value(value)}' for key, value in own.items())} }}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A TOML value; JSON spells texts, numbers and truth values alike."""
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")
    return json.dumps(value, ensure_ascii=not str(value).isprintable())


def _comment(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:200]
