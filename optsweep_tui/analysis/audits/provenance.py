"""In which numbers of `table`, `fit` and `speedup` a run enters, and what it is in its cell."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from optsweep_tui.analysis.audits.ground import cell_name, replicates
from optsweep_tui.analysis.audits.rows import group_key, records
from optsweep_tui.analysis.baselines import baselines
from optsweep_tui.analysis.cells import CellLoss, groups
from optsweep_tui.analysis.curve import fit
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.noise import end_cells
from optsweep_tui.analysis.runs import LOST
from optsweep_tui.analysis.speedups import speedup
from optsweep_tui.analysis.tables import table


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
                    cell=cell_name(cell, item.group),
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
