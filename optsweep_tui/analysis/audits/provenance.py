"""Which runs a printed number rests on, and in which numbers a run enters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from optsweep_tui.analysis.audits.rows import budget, group_key, records
from optsweep_tui.analysis.baselines import baselines
from optsweep_tui.analysis.cells import CellLoss, Group, groups
from optsweep_tui.analysis.curve import fit
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.noise import end_cells
from optsweep_tui.analysis.runs import LOST, TUNING, Run
from optsweep_tui.analysis.speedups import speedup
from optsweep_tui.analysis.tables import table


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one run does for a number."""

    run_id: str
    role: str
    """loss: in the cell's mean; selected: the base-seed run that chose the configuration; baseline: the loss that a gap
    refers to; curve: a point of the baseline's curve; sigma: a replicate behind the run-to-run noise."""
    cell: str
    """ "muon 130m 8"."""


def behind(
    results: pd.DataFrame,
    kind: str,
    row: Mapping[str, Any],
    *,
    baseline: str,
    sigma: float | None = None,
    max_chinchilla: float | None = None,
    knob_info: KnobInfo | None = None,
) -> list[Part]:
    """The runs behind one row of `table`, `fit` or `speedup`; a run has a line for each role.

    Args:
        results: what the row was computed from.
        kind: table, fit or speedup.
        row: the row.
        baseline: as for the row, like the options that follow.
    """
    key = group_key(row)
    items = baselines(groups(results, knob_info), baseline, sigma, max_chinchilla).items
    item = next(item for item in items if item.group.key == key)
    parts: list[Part] = []
    if kind != "fit":
        tokens = budget(row)
        cell = next(cell for cell in item.group.cells if cell.optimizer == row["optimizer"] and cell.tokens == tokens)
        parts += _of_cell(cell, item.group, "loss")
        if kind == "table" and cell.optimizer != baseline:
            parts += [
                part
                for other in item.group.of(baseline)
                if other.tokens == tokens and other.has_loss
                for part in _of_cell(other, item.group, "baseline")
            ]
    if kind != "table":
        parts += [part for point in item.points for part in _of_cell(point, item.group, "curve")]
    if item.raw_noise.source == "measured":
        for end in end_cells(item.group, baseline):
            parts += [Part(run_id=run.run_id, role="sigma", cell=_name(end, item.group)) for run in replicates(end)]
    return list(dict.fromkeys(parts))


def selected_from(results: pd.DataFrame, row: Mapping[str, Any], knob_info: KnobInfo | None = None) -> list[str]:
    """The base-seed runs among which the configuration of a row of `table` or `speedup` was chosen."""
    key, tokens = group_key(row), budget(row)
    for group in groups(results, knob_info):
        for cell in group.of(row["optimizer"]) if group.key == key else ():
            if cell.tokens == tokens:
                return [run.run_id for run in cell.swept if run.state in TUNING]
    return []


def _of_cell(cell: CellLoss, group: Group, role: str) -> list[Part]:
    name = _name(cell, group)
    found = [Part(run_id=run_id, role=role, cell=name) for run_id in cell.run_ids]
    if cell.best is not None and cell.best.run_id not in cell.run_ids:
        found.append(Part(run_id=cell.best.run_id, role="selected", cell=name))
    return found


def _name(cell: CellLoss, group: Group) -> str:
    return f"{cell.optimizer} {group.columns['model']} {cell.chinchilla:g}"


def replicates(cell: CellLoss) -> list[Run]:
    """The runs of the best configuration that ended with a loss, base seed included."""
    return [run for run in cell.runs if cell.best is not None and run.usable and run.config == cell.best.config]


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What a run is in its cell, and the numbers that it enters."""

    study: str
    cell: str
    part: str
    """What became of it in the cell's loss, in words."""
    numbers: tuple[tuple[str, str], ...]
    """(number id, role); each number once per role."""


def memberships(
    results: pd.DataFrame, run_id: str, *, baseline: str, knob_info: KnobInfo | None = None
) -> list[Membership]:
    """In which cells of one study a run lies, and which numbers of `table`, `fit` and `speedup` rest on it.

    Args:
        results: every run of the study.
        run_id: the whole id.
        baseline: of the study.
        knob_info: declared knobs.
    """
    answers = {
        "table": list(records(table(results, baseline=baseline, knob_info=knob_info))),
        "fit": list(records(fit(results, baseline=baseline))),
        "speedup": list(records(speedup(results, baseline=baseline, knob_info=knob_info))),
    }
    found = []
    for item in baselines(groups(results, knob_info), baseline, None, None).items:
        mine = [cell for cell in item.group.cells if any(run.run_id == run_id for run in cell.runs)]
        if not mine:
            continue
        rows = {
            kind: [row for row in found_rows if group_key(row) == item.group.key]
            for kind, found_rows in answers.items()
        }
        on_curve = any(run_id in point.run_ids for point in item.points)
        in_sigma = item.raw_noise.source == "measured" and any(
            run.run_id == run_id for end in end_cells(item.group, baseline) for run in replicates(end)
        )
        for cell in mine:
            numbers: list[tuple[str, str]] = []
            for kind, of_kind in rows.items():
                for row in of_kind:
                    own = kind != "fit" and row["optimizer"] == cell.optimizer and row["tokens"] == cell.tokens
                    if own and run_id in cell.run_ids:
                        numbers.append((row["number_id"], "loss"))
                    if kind == "table" and not own and cell.optimizer == baseline and run_id in cell.run_ids:
                        numbers += [(row["number_id"], "baseline")] * (row["tokens"] == cell.tokens)
                    if kind != "table" and on_curve:
                        numbers.append((row["number_id"], "curve"))
                    if in_sigma:
                        numbers.append((row["number_id"], "sigma"))
            found.append(
                Membership(
                    study=str(item.group.columns["study"]),
                    cell=_name(cell, item.group),
                    part=_part(cell, run_id),
                    numbers=tuple(dict.fromkeys(numbers)),
                )
            )
    return found


def _part(cell: CellLoss, run_id: str) -> str:
    """What became of a run in its cell."""
    run = next(run for run in cell.runs if run.run_id == run_id)
    best = cell.best
    if run.state in LOST:
        return "diverged: counts as tuning, has no loss"
    if not run.usable:
        return f"{run.state}: no final loss, does not enter"
    if best is None:
        return "its cell has no loss"
    if run_id in cell.run_ids and cell.n_fresh:
        return f"one of the {cell.n_fresh} fresh seeds whose mean is the cell's loss"
    if run_id in cell.run_ids:
        return f"the smallest loss of {cell.tuning_runs} configurations: the cell's loss, n = 1"
    if run_id == best.run_id:
        return "chose the configuration (smallest base-seed loss); left out of the mean over fresh seeds"
    if run.config == best.config:
        return "another run of the best configuration; not in the mean"
    gap = f"{run.loss - best.loss:+.4f} nats from the best"
    return f"one of the {cell.tuning_runs} configurations the best was chosen among ({gap})"
