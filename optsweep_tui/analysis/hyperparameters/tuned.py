"""Cells as the hyperparameter questions see them: an optimizer's swept cells within one comparable scope, by size and ratio."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.cells import FAR_NATS, CellLoss, Group, groups
from optsweep_tui.analysis.columns.hyperparameters import SCOPE
from optsweep_tui.analysis.edges import KnobInfo, declared_ranges, edges_of
from optsweep_tui.analysis.hyperparameters.scale import Knob, knobs_of
from optsweep_tui.analysis.lines import Line, Value, lines, near_best, settings_of
from optsweep_tui.analysis.runs import Run, sort_key
from optsweep_tui.errors import OptsweepError


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One cell with the lines of its swept knobs."""

    group: Group
    cell: CellLoss
    lines: Mapping[str, Line]
    """Knobs that were tried at two values or more under the base seed, batch size included."""
    edges: frozenset[str]
    """Knobs whose best value is an unresolved end of its list, listed runs of an unlisted minimum included."""

    @property
    def model(self) -> str:
        return str(self.group.columns["model"])

    @property
    def place(self) -> dict[str, object]:
        """The cell in an entry of a nested list."""
        return {"model": self.model, "chinchilla": self.cell.chinchilla}

    @property
    def name(self) -> str:
        """ "130m 8", for remarks."""
        return f"{self.model} {self.cell.chinchilla:g}"

    @property
    def smallest(self) -> float:
        """Smallest loss of the selection, an unlisted run's included, nats; NaN without any."""
        return min((run.loss for run in self.cell.swept if run.usable), default=math.nan)

    def near_best(self, knob: str, threshold: float) -> dict[Value, float]:
        """Values of a knob that some near-best run carries, with the smallest loss among those runs, nats."""
        found: dict[Value, float] = {}
        for run in near_best(self.cell.swept, threshold):
            value = None if run.knobs is None else settings_of(run).get(knob)
            if value is not None:
                found[value] = min(run.loss, found.get(value, math.inf))
        return found

    def best_of(self, knob: str) -> Value | None:
        """The best value on the knob's line; None where it has none, or one more than 0.5 nats above the cell's best."""
        line = self.lines.get(knob)
        if line is None or line.best is None or line.losses[line.best] > self.smallest + FAR_NATS:
            return None
        return line.best

    def best_listed(self) -> Run | None:
        """The best run of the selection whose configuration is known; ties by run id."""
        listed = [run for run in self.cell.swept if run.usable and run.knobs is not None]
        return min(listed, key=lambda run: (run.loss, run.run_id), default=None)

    def flags(self, *more: str) -> list[str]:
        """The cell's flags; UNTUNED where any of its edges is unresolved."""
        untuned = [F.UNTUNED] if self.edges or self.cell.edges else []
        return F.ordered([*self.cell.flags, *untuned, *more])


@dataclass(frozen=True, kw_only=True)
class Family:
    """The cells of one optimizer that can be judged together: same study, engine, data and length; sizes and ratios vary."""

    scope: Mapping[str, object]
    """The columns SCOPE."""
    optimizer: str
    cells: tuple[Tuned, ...]
    """By rising model size, then ratio."""
    declared: Mapping[str, Knob]

    def knob(self, name: str) -> Knob:
        """The declaration of a knob; an undeclared one is only a name."""
        return self.declared.get(name, Knob(name=name))

    @property
    def swept(self) -> list[str]:
        """Knobs that were swept in some cell, by name."""
        return sorted({knob for cell in self.cells for knob in cell.lines})

    def having(self, knob: str) -> list[Tuned]:
        """The cells in which a knob was swept."""
        return [cell for cell in self.cells if knob in cell.lines]

    @property
    def columns(self) -> dict[str, object]:
        """The family's columns of an output row."""
        return {"optimizer": self.optimizer, **self.scope}


def families(results: pd.DataFrame, knob_info: KnobInfo | None) -> list[Family]:
    """Every optimizer in every scope, by scope, then name."""
    return families_of(groups(results, knob_info), knob_info)


def families_of(comparable: Iterable[Group], knob_info: KnobInfo | None) -> list[Family]:
    """The same of groups that were formed already."""
    found: dict[tuple[object, ...], list[Tuned]] = {}
    scopes: dict[tuple[object, ...], dict[str, object]] = {}
    for group in comparable:
        scope: dict[str, object] = {name: group.columns[name] for name in SCOPE}
        for cell in group.cells:
            key = (*scope.values(), cell.optimizer)
            scopes[key] = scope
            found.setdefault(key, []).append(tuned(group, cell, knob_info))
    return [
        Family(
            scope=scopes[key],
            optimizer=str(key[-1]),
            cells=tuple(sorted(found[key], key=_size)),
            declared=knobs_of(knob_info, str(key[-1])),
        )
        for key in sorted(found, key=sort_key)
    ]


def swept_knobs(results: pd.DataFrame) -> list[str]:
    """Knobs that were tried at two values or more in some cell, by name."""
    return sorted({knob for family in families(results, None) for knob in family.swept})


def tuned(group: Group, cell: CellLoss, knob_info: KnobInfo | None) -> Tuned:
    """One cell with its lines and edges."""
    along = lines(cell.swept)
    ranges = declared_ranges(knob_info, cell.optimizer)
    ends = {line.knob for line in along.values() if edges_of(line, ranges.get(line.knob, (None, None)))}
    return Tuned(group=group, cell=cell, lines=along, edges=frozenset(ends))


def _size(item: Tuned) -> tuple[float, str, float]:
    cell = item.cell
    ratio = cell.chinchilla if math.isfinite(cell.chinchilla) else math.inf
    return (cell.params if cell.params > 0 else math.inf, item.model, ratio)


def family_flags(cells: Iterable[Tuned], knob: str) -> list[str]:
    """Flags of a row that rests on several cells: EDGE is about this knob, UNTUNED about any knob of those cells."""
    found = set()
    for cell in cells:
        kept = {F.UNLISTED, F.OTHER_SEED, F.BAD_LOSS} & set(cell.cell.flags)
        found |= kept | ({F.EDGE} if knob in cell.edges else set()) | ({F.UNTUNED} if cell.edges else set())
    return F.ordered(found)


def checked_threshold(threshold: float) -> float:
    """The near-best threshold.

    Raises:
        OptsweepError: it is not a positive finite number.
    """
    if not (math.isfinite(threshold) and threshold > 0):
        raise OptsweepError(f"--threshold {threshold:g} is not a positive number of nats", "write --threshold 0.003")
    return threshold
