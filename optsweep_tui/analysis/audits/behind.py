"""Which runs stand behind one row of each answer: one table of kinds, with what every run does for the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optsweep_tui.analysis.audits import behind_knobs
from optsweep_tui.analysis.audits.ground import (
    Ground,
    Part,
    Parts,
    Row,
    cell_name,
    cell_parts,
    named_parts,
    noise_parts,
    replicates,
)
from optsweep_tui.analysis.audits.profiles import competing, family_of_workload, standings
from optsweep_tui.analysis.audits.rows import budget, group_key
from optsweep_tui.analysis.baselines import Baseline
from optsweep_tui.analysis.cells import CellLoss
from optsweep_tui.analysis.runs import LOST, TUNING, GroupKey

# ---------------------------------------------------------------- the verdict


def _losses(ground: Ground, row: Row) -> Parts:
    """The cell's loss, and the noise of its group."""
    item = ground.item(row)
    for cell in ground.cells(row):
        yield from cell_parts(cell, item.group, "loss")
    yield from noise_parts(item)


def _table(ground: Ground, row: Row) -> Parts:
    yield from _losses(ground, row)
    for cell in ground.rivals(row):
        if cell.optimizer == ground.baseline:
            yield from cell_parts(cell, ground.item(row).group, "baseline")


def _fit(ground: Ground, row: Row) -> Parts:
    item = ground.item(row)
    for point in item.points:
        yield from cell_parts(point, item.group, "curve")
    yield from noise_parts(item)


def _speedup(ground: Ground, row: Row) -> Parts:
    yield from _losses(ground, row)
    yield from _fit(ground, row)


def _crossings(ground: Ground, row: Row) -> Parts:
    """The curves of the cell and of the baseline at its budget, and the noise."""
    same = [other for other in ground.rows if group_key(other) == group_key(row) and budget(other) == budget(row)]
    for other in same:
        if other["optimizer"] in (row["optimizer"], ground.baseline):
            yield from named_parts(other, other["run_ids"], "trace")
    yield from noise_parts(ground.item(row))


def _noise(ground: Ground, row: Row) -> Parts:
    """The replicates of the cell, and the curve whose MISFIT widens sigma."""
    if isinstance(row["optimizer"], str):
        for cell in ground.cells(row):
            for run in replicates(cell):
                yield Part(run_id=run.run_id, role="sigma", cell=cell_name(cell, ground.item(row).group))
    yield from _fit(ground, row)


# ---------------------------------------------------------------- audits


def _fairness(ground: Ground, row: Row) -> Parts:
    """The runs counted in the cell, its loss, and those counted for the other optimizers of its budget."""
    yield from named_parts(row, row["run_ids"], "tuning")
    yield from _losses(ground, row)
    for other in ground.rows:
        same = group_key(other) == group_key(row) and budget(other) == budget(row)
        if same and other["optimizer"] != row["optimizer"]:
            yield from named_parts(other, other["run_ids"], "rival")


def _flips(ground: Ground, row: Row) -> Parts:
    for item, cell in pair_cells(ground, row):
        if row["over"] == "training":
            assert cell.best is not None
            yield Part(run_id=cell.best.run_id, role="trace", cell=cell_name(cell, item.group))
        else:
            yield from cell_parts(cell, item.group, "loss")
    for key in dict.fromkeys(item.group.key for item, _ in pair_cells(ground, row)):
        yield from noise_parts(ground.by_key[key])


def pair_cells(ground: Ground, row: Row) -> list[tuple[Baseline, CellLoss]]:
    """Both optimizers' cells at both points of a pair."""
    found = []
    for side in ("b",) if row["over"] == "training" else ("a", "b"):
        item = ground.item({**row, "model": row[f"model_{side}"]})
        for name in (row["first"], row["second"]):
            found += [(item, cell) for cell in item.group.of(name) if cell.tokens == row[f"tokens_{side}"]]
    return found


def _profile(ground: Ground, row: Row) -> Parts:
    """The optimizer's own losses before all others."""
    yield from sorted(_of_workloads(ground, row), key=lambda part: part.role != "workload")


def _of_workloads(ground: Ground, row: Row) -> Parts:
    """In every workload the optimizer's loss and its rivals', and the baseline's curve that speedups are read from."""
    for key, tokens, names in workloads(ground, row):
        item = ground.by_key[key]
        for cell in item.group.cells:
            if cell.tokens == tokens and cell.optimizer in names:
                role = "workload" if cell.optimizer == row["optimizer"] else "rival-loss"
                yield from cell_parts(cell, item.group, role)
                lost = [run for run in cell.runs if run.state in LOST] if not cell.has_loss else []
                for run in lost:
                    yield Part(run_id=run.run_id, role="lost", cell=cell_name(cell, item.group))
        for point in item.points:
            yield from cell_parts(point, item.group, "curve")
        yield from noise_parts(item)


def workloads(ground: Ground, row: Row) -> list[tuple[GroupKey, float, frozenset[str]]]:
    """(group, tokens, optimizers that compete there) of every workload of a row of `profile`."""
    options = ground.options
    placed, _ = standings(ground.results, ground.baseline, options["max_chinchilla"], ground.knob_info)
    asked = {key: competing(entry, options["among"], options["ratios"]) for key, entry in placed.items()}
    own = family_of_workload((group_key({**row, "model": None}), 0.0))
    return [
        (key, tokens, frozenset(entry))
        for (key, tokens), entry in asked.items()
        if len(entry) > 1 and row["optimizer"] in entry and family_of_workload((key, tokens)) == own
    ]


def _ttest(ground: Ground, row: Row) -> Parts:
    for cell in ground.cells(row):
        yield from cell_parts(cell, ground.item(row).group, "replicate")


def _project(ground: Ground, row: Row) -> Parts:
    """Every cell of the optimizer that the law goes through, in all sizes of one family."""
    for item in _of_scope(ground, row):
        for cell in item.group.of(row["optimizer"]):
            if cell.has_loss and cell.tokens > 0 and cell.params > 0:
                yield from cell_parts(cell, item.group, "law")
        yield from noise_parts(item)


def _of_scope(ground: Ground, row: Row) -> list[Baseline]:
    """The groups that differ from a row in the model alone."""
    keys = {item.group.key: group_key({**row, "model": item.group.columns["model"]}) for item in ground.items}
    return [item for item in ground.items if keys[item.group.key] == item.group.key]


def _stops(ground: Ground, row: Row) -> Parts:
    """Of a run: itself, the best of its cell, and the others whose median stopped it; of a cell: those stopped, and the best."""
    one = isinstance(row.get("run_id"), str)
    (cell,) = ground.cells(row)
    if one:
        yield from named_parts(row, [row["run_id"]], "replayed")
        best = [] if cell.best is None else [cell.best.run_id]
    else:
        best = [row[name] for name in ("best_run_id", "kept_run_id") if isinstance(row[name], str)]
        stopped = [run.run_id for run in cell.runs if run.state == "cancelled"]
        yield from named_parts(row, stopped, "stopped")
    yield from named_parts(row, best, "cell-best")
    for other in ground.rows:
        if isinstance(other.get("run_id"), str) and ground.cells(other) == [cell]:
            if other["killed"] and not one:
                yield from named_parts(other, [other["run_id"]], "replayed")
            elif one and row["rule"] == "median" and other["run_id"] != row["run_id"]:
                yield from named_parts(other, [other["run_id"]], "median")


# ---------------------------------------------------------------- the table


def _own(ground: Ground, row: Row) -> list[CellLoss]:
    return ground.cells(row)


def _tuned_cells(ground: Ground, row: Row) -> list[CellLoss]:
    return [cell.cell for cell in ground.tuned(row)]


def _none(ground: Ground, row: Row) -> list[CellLoss]:
    return []


@dataclass(frozen=True, kw_only=True)
class Behind:
    """How the runs of a kind's rows are found."""

    runs: Callable[[Ground, Row], Parts]
    chosen: Callable[[Ground, Row], list[CellLoss]] = _none
    """The cells whose configuration, or whose line of a knob, was selected for the row."""


BEHIND: Mapping[str, Behind] = {
    "table": Behind(runs=_table, chosen=_own),
    "fit": Behind(runs=_fit),
    "speedup": Behind(runs=_speedup, chosen=_own),
    "crossings": Behind(runs=_crossings, chosen=_own),
    "stable": Behind(runs=behind_knobs.swept, chosen=_tuned_cells),
    "hp": Behind(runs=behind_knobs.swept, chosen=_tuned_cells),
    "edges": Behind(runs=behind_knobs.edge, chosen=_tuned_cells),
    "sensitivity": Behind(runs=behind_knobs.curve_of_knob, chosen=_tuned_cells),
    "predict": Behind(runs=behind_knobs.predicted, chosen=_tuned_cells),
    "fairness": Behind(runs=_fairness),
    "flips": Behind(runs=_flips),
    "noise": Behind(runs=_noise),
    "power": Behind(runs=_speedup, chosen=_own),
    "profile": Behind(runs=_profile),
    "ttest": Behind(runs=_ttest, chosen=_own),
    "project": Behind(runs=_project),
    "stop-audit": Behind(runs=_stops),
}
"""Kind of `number_ids.KINDS` -> the runs behind one of its rows."""


def behind(ground: Ground, kind: str, row: Row) -> list[Part]:
    """The runs behind one row; a run has a line for each role."""
    return list(dict.fromkeys(BEHIND[kind].runs(ground, row)))


def selected_from(ground: Ground, kind: str, row: Row) -> list[str]:
    """The base-seed runs among which the row's configurations, or lines of a knob, were chosen."""
    cells = BEHIND[kind].chosen(ground, row)
    return list(dict.fromkeys(run.run_id for cell in cells for run in cell.swept if run.state in TUNING))


def group_keys(ground: Ground, kind: str, row: Row) -> frozenset[GroupKey]:
    """The comparable groups whose noise a row rests on."""
    if kind == "flips":
        return frozenset(item.group.key for item, _ in pair_cells(ground, row))
    if kind == "project":
        return frozenset(item.group.key for item in _of_scope(ground, row))
    if kind == "sensitivity":
        return frozenset(cell.group.key for cell in ground.tuned(row))
    return frozenset([group_key(row)])
