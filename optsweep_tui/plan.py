"""From specs to run folders, whole or to be finished by `resume`; and the fresh seeds that a study's results ask for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optsweep_tui import rundir, studies
from optsweep_tui.core import Cell, FreshSeeds, RunSpec, Study
from optsweep_tui.settings import Workspace


def plant(workspace: Workspace, study: Study, specs: Sequence[RunSpec]) -> None:
    """Make the run folders of a study and remember it. The intent is on disk first: see `finish_planting`.

    Raises:
        OptsweepError: the workspace cannot be written.
    """
    rules = studies.rules_of(study)
    if all(os.path.exists(f"{workspace.runs}/{spec.run_id}/{rundir.SPEC}") for spec in specs):
        rundir.write(workspace.runs, specs, study.name)
        studies.remember(workspace.studies, rules, (spec.run_id for spec in specs))
        return
    try:
        intent = studies.intend(workspace.studies, rules, specs)
    except OSError as error:
        raise rundir.unwritable(workspace.studies, error) from None
    _planted(workspace, intent, rules, specs)
    finish_planting(workspace)


def finish_planting(workspace: Workspace) -> int:
    """Plant what was begun and not ended, by whomever; returns the number of runs. Twice, or by two at once, is once."""
    count = 0
    for intent, rules, specs in studies.intended(workspace.studies):
        _planted(workspace, intent, rules, specs)
        count += len(specs)
    return count


def _planted(workspace: Workspace, intent: Path, rules: Mapping[str, Any], specs: Sequence[RunSpec]) -> None:
    """Do what an intention says, then take it away."""
    rundir.write(workspace.runs, specs, rules["name"], durable=False)
    os.sync()  # all of them at once, before the intention goes: a sync per file is a minute for ten thousand runs
    studies.remember(workspace.studies, rules, (spec.run_id for spec in specs))
    intent.unlink(missing_ok=True)


def fresh_seed_cells(study: Study, specs: Iterable[RunSpec]) -> dict[Cell, list[RunSpec]]:
    """The cells that get fresh seeds, each with the specs of its sweep."""
    rule = study.fresh_seeds
    if rule is None:
        return {}
    by_cell: dict[Cell, list[RunSpec]] = {}
    for spec in specs:
        if spec.optimizer in rule.optimizer:
            by_cell.setdefault(Cell.of(spec), []).append(spec)

    def line(cell: Cell) -> tuple[str, ...]:
        return (cell.optimizer, cell.model, cell.dataset, cell.engine, cell.validation_set, str(cell.seq_len))

    chosen = {}
    for _, group in itertools.groupby(sorted(by_cell, key=lambda cell: (line(cell), cell.tokens)), key=line):
        for cell in _budgets(rule, list(group)):
            chosen[cell] = by_cell[cell]
    return chosen


def _budgets(rule: FreshSeeds, cells: list[Cell]) -> list[Cell]:
    if rule.budgets == "all" or len(cells) == 1:
        return cells
    return [cells[-1]] if rule.budgets == "largest" else [cells[0], cells[-1]]


def fresh_seed_count(study: Study, specs: Iterable[RunSpec]) -> int:
    """How many runs `fresh_seeds` will add in the end."""
    return len(fresh_seed_cells(study, specs)) * (study.fresh_seeds.count if study.fresh_seeds else 0)


def fresh_seeds(study: Study, specs: Iterable[RunSpec], losses: Mapping[str, float | None]) -> list[RunSpec]:
    """The best configuration of each ended sweep under new seeds.

    Args:
        losses: run_id -> final validation loss of every finished run; None for one that ended without (diverged, failed).
            A cell with a run missing here has not ended and gets nothing yet.
    """
    rule = study.fresh_seeds
    if rule is None:
        return []
    added = []
    for sweep in fresh_seed_cells(study, specs).values():
        if any(spec.run_id not in losses for spec in sweep):
            continue
        ranked = [(loss, spec.run_id, spec) for spec in sweep if (loss := losses[spec.run_id]) is not None]
        if not ranked:
            continue
        best = min(ranked, key=lambda item: item[:2])[2]
        first = max(spec.seed for spec in sweep) + 1
        added += [best.replace(seed=seed) for seed in range(first, first + rule.count)]
    return added
