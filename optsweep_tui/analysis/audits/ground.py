"""What a row of an answer was computed from, and what runs and cells do for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import pandas as pd

from optsweep_tui.analysis.audits.rows import budget, group_key
from optsweep_tui.analysis.baselines import Baseline, baselines
from optsweep_tui.analysis.cells import FAR_NATS, CellLoss, Group, groups
from optsweep_tui.analysis.columns import SCOPE
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.hyperparameters.tuned import Family, Tuned, families_of
from optsweep_tui.analysis.noise import end_cells
from optsweep_tui.analysis.runs import GroupKey, Run

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one run does for a number."""

    run_id: str
    role: str
    """One of ROLES."""
    cell: str
    """ "muon 130m 8"."""


Parts: TypeAlias = Iterator[Part]
ROLES: Mapping[str, str] = {
    "loss": "in the cell's loss",
    "selected": "chose the configuration, not in the mean",
    "baseline": "the baseline's loss that the gap refers to",
    "curve": "a point of the baseline's curve",
    "sigma": "a replicate behind sigma",
    "replicate": "a replicate of the test",
    "trace": "its validation curve was read",
    "swept": "swept this knob in its cell",
    "best": "best along the knob's line",
    "tried": "tried a value of this knob, not on its line",
    "near-best": "near-best of its cell",
    "smallest": "smallest loss of its cell",
    "listed": "best known configuration of its cell",
    "tuning": "counted as tuning of the cell",
    "rival": "counted as tuning of another optimizer here",
    "workload": "loss of a cell of the profile",
    "rival-loss": "another optimizer's loss in such a cell",
    "lost": "diverged: an infinite cost",
    "law": "a cell that the law goes through",
    "replayed": "the rule was replayed on it",
    "median": "in the median that the rule held it against",
    "cell-best": "best run of its cell, with or without the rule",
    "stopped": "stopped in fact: its end is not known",
}
"""Role of a run behind a number -> in words."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What a row was computed from."""

    results: pd.DataFrame
    """The runs that the answer read."""
    groups: Sequence[Group]
    """Their comparable groups."""
    items: tuple[Baseline, ...]
    """Every comparable group of the runs that measured its noise, with the baseline's points."""
    rows: Sequence[Row]
    """The whole answer."""
    options: Mapping[str, Any]
    """What it was computed with."""
    knob_info: KnobInfo | None = None

    @classmethod
    def of(
        cls,
        results: pd.DataFrame,
        rows: Sequence[Row],
        options: Mapping[str, Any],
        knob_info: KnobInfo | None = None,
        noise_from: pd.DataFrame | None = None,
    ) -> Ground:
        """The ground of an answer.

        Args:
            results: what it read.
            rows: the answer.
            options: what it was computed with, defaults included.
            knob_info: declared knobs.
            noise_from: the runs that measured its noise, where those are others.
        """
        found = groups(results, knob_info)
        shared = (options.get("baseline", "adamw"), options.get("sigma"), options.get("max_chinchilla"))
        items = baselines(found if noise_from is None else groups(noise_from, knob_info), *shared).items
        return cls(results=results, groups=found, items=items, rows=rows, options=options, knob_info=knob_info)

    @property
    def baseline(self) -> str:
        return str(self.options["baseline"])

    @cached_property
    def by_key(self) -> dict[GroupKey, Baseline]:
        return {item.group.key: item for item in self.items}

    @cached_property
    def families(self) -> list[Family]:
        return families_of(self.groups, self.knob_info)

    def item(self, row: Row) -> Baseline:
        """The group of a row."""
        return self.by_key[group_key(row)]

    def cells(self, row: Row) -> list[CellLoss]:
        """The cell of a row, in a list."""
        found = self.item(row).group.of(row["optimizer"])
        return [cell for cell in found if cell.tokens == budget(row)]

    def rivals(self, row: Row) -> list[CellLoss]:
        """The other cells of its budget."""
        cells = self.item(row).group.cells
        return [cell for cell in cells if cell.tokens == budget(row) and cell.optimizer != row["optimizer"]]

    def family(self, row: Row) -> Family:
        """The cells of a row's optimizer and scope."""
        (found,) = [each for each in self.families if _of_family(row, each)]
        return found

    def tuned(self, row: Row) -> list[Tuned]:
        """The cells in which the knob of a row was swept: its own, or all of its optimizer and scope."""
        family = self.family(row)
        if "knob" not in row:
            return [cell for cell in family.cells if cell.lines]
        own = row.get("model") is not None and row["model"] == row["model"]
        return [
            cell
            for cell in family.having(row["knob"])
            if not own or (cell.group.key == group_key(row) and cell.cell.tokens == budget(row))
        ]


def _of_family(row: Row, family: Family) -> bool:
    def plain(value: Any) -> Any:
        return None if value is None or value != value else value

    same_scope = all(plain(row[name]) == plain(family.scope[name]) for name in SCOPE)
    return same_scope and family.optimizer == row["optimizer"]


def noise_parts(item: Baseline) -> Parts:
    """The replicates of a measured sigma."""
    if item.raw_noise.source == "measured":
        for end in end_cells(item.group, item.baseline):
            for run in replicates(end):
                yield Part(run_id=run.run_id, role="sigma", cell=cell_name(end, item.group))


def cell_parts(cell: CellLoss, group: Group, role: str) -> Parts:
    """The runs that a cell's loss is made of, and the one that chose its configuration where it is not among them."""
    name = cell_name(cell, group)
    for run_id in cell.run_ids:
        yield Part(run_id=run_id, role=role, cell=name)
    if cell.best is not None and cell.best.run_id not in cell.run_ids:
        yield Part(run_id=cell.best.run_id, role="selected", cell=name)


def named_parts(row: Row, run_ids: Iterable[str], role: str) -> Parts:
    """Runs of the cell of a row."""
    name = f"{row['optimizer']} {row['model']} {row['chinchilla']:g}"
    return (Part(run_id=run_id, role=role, cell=name) for run_id in run_ids)


def cell_name(cell: CellLoss, group: Group) -> str:
    """A cell in words."""
    return f"{cell.optimizer} {group.columns['model']} {cell.chinchilla:g}"


def replicates(cell: CellLoss) -> list[Run]:
    """The runs of the best configuration whose losses count as replicates, base seed included."""
    if cell.best is None:
        return []
    most = min(run.loss for run in cell.runs if run.usable) + FAR_NATS
    return [run for run in cell.runs if run.usable and run.loss <= most and run.config == cell.best.config]
