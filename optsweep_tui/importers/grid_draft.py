"""Runs of a foreign sweep as the text of a grid file: each is resolved once, and what cannot run is listed instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from optsweep_engines import data
from optsweep_tui import drafts, grid
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
    """The grid file, with the number that each run has in its source above it."""
    names = [run.optimizer for _, run in runs]
    baseline = "adamw" if not names or "adamw" in names else names[0]
    study = dataclasses.replace(study, baseline=baseline, runs=tuple(run for _, run in runs))
    origin = "".join(character if character.isprintable() else "?" for character in source)[:200]
    comment = f"{origin}\nWritten by optsweep import; the number above each run is its array task there."
    return drafts.grid_text(study, comment, [str(index) for index, _ in runs])
