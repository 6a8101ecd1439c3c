"""`stable`: does one value of a knob do for all sizes and budgets, and if not, which smallest sets of values do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from optsweep_tui.analysis.columns.hyperparameters import STABLE
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.hyperparameters.covers import MOST_COVERS, minimal_covers
from optsweep_tui.analysis.hyperparameters.scale import shown, shown_all
from optsweep_tui.analysis.hyperparameters.tuned import Family, Tuned, checked_threshold, families, family_flags
from optsweep_tui.analysis.lines import NEAR_BEST, Value, value_order
from optsweep_tui.analysis.number_ids import addressed


@dataclass(frozen=True, kw_only=True)
class Cover:
    """A set of values that holds a near-best one for every judged cell."""

    values: tuple[Value, ...]
    """Rising."""
    cells: int
    """Pairs of one of its values and a judged cell that has it near-best."""
    excess: float
    """Sum over the judged cells of the least excess loss of its values there, nats."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One knob over the cells of a family."""

    judged: tuple[tuple[Tuned, Mapping[Value, float]], ...]
    """Cells with the excess of each near-best value over the cell's smallest loss, nats."""
    left_out: tuple[tuple[Tuned, str], ...]
    """Cells that were not judged, with the reason."""
    covers: tuple[Cover, ...]
    """All minimal ones: most cells first, then the smaller excess, then the smaller values."""
    complete: bool
    exact: bool

    @property
    def stable(self) -> tuple[Value, ...]:
        """Values that alone cover every judged cell."""
        return tuple(cover.values[0] for cover in self.covers if len(cover.values) == 1)


def stable(results: pd.DataFrame, *, threshold: float = NEAR_BEST, knob_info: KnobInfo | None = None) -> pd.DataFrame:
    """Whether one value of each knob is near-best everywhere it was swept.

    A value is near-best in a cell when some run of the base seed carries it whose loss is below the cell's smallest
    plus the threshold. The smallest loss counts whoever holds it: where an unlisted run does and no listed one is
    near it, the cell is not judged. A knob is stable when one value is near-best in every judged cell; all such values
    are listed. Else all covering sets of fewest values are.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        threshold: nats.
        knob_info: declared knobs, for the flags EDGE and UNTUNED.

    Returns:
        One row per optimizer, scope and knob, columns of `columns.STABLE`.
    """
    checked_threshold(threshold)
    rows = [_row(family, knob, threshold) for family in families(results, knob_info) for knob in family.swept]
    return addressed(pd.DataFrame(rows, columns=list(STABLE)), "stable", threshold=threshold)


def judge(cells: Iterable[Tuned], knob: str, threshold: float) -> Judgement:
    """One knob over cells in which it was swept."""
    judged, left_out = [], []
    for cell in cells:
        near = cell.near_best(knob, threshold)
        if near:
            judged.append((cell, {value: loss - cell.smallest for value, loss in near.items()}))
        else:
            left_out.append((cell, _why_not(cell, knob)))
    order = sorted({value for _, near in judged for value in near}, key=value_order)
    if not judged:
        return Judgement(judged=(), left_out=tuple(left_out), covers=(), complete=True, exact=True)
    found = minimal_covers([near.keys() for _, near in judged], order)
    nears = [near for _, near in judged]
    covers = sorted((_cover(values, nears) for values in found.sets), key=_cover_order)
    return Judgement(
        judged=tuple(judged),
        left_out=tuple(left_out),
        covers=tuple(covers),
        complete=found.complete,
        exact=found.exact,
    )


def _cover(values: Iterable[Value], nears: Sequence[Mapping[Value, float]]) -> Cover:
    chosen = tuple(sorted(values, key=value_order))
    return Cover(
        values=chosen,
        cells=sum(value in near for near in nears for value in chosen),
        excess=math.fsum(min(near[value] for value in chosen if value in near) for near in nears),
    )


def _cover_order(cover: Cover) -> tuple[int, float, list[tuple[int, float, str]]]:
    # Losses are differences of decimals: 3.002 - 3 and 2.902 - 2.9 are the same.
    return -cover.cells, round(cover.excess, 12), [value_order(value) for value in cover.values]


def _why_not(cell: Tuned, knob: str) -> str:
    if math.isnan(cell.smallest):
        return "no run with a final loss"
    if cell.best_listed() is None:
        return "no listed run has a final loss"
    lowest = min(run.loss for run in cell.cell.swept if run.usable and run.knobs is None) if _unlisted(cell) else None
    if lowest == cell.smallest:
        return "the smallest loss is an unlisted run's, and no listed run is near it"
    return f"no near-best run says its {knob}"


def _unlisted(cell: Tuned) -> bool:
    return any(run.usable and run.knobs is None for run in cell.cell.swept)


def _row(family: Family, knob: str, threshold: float) -> dict[str, object]:
    cells = family.having(knob)
    found = judge(cells, knob, threshold)
    judged = len(found.judged)
    nears = {id(cell): near for cell, near in found.judged}
    return {
        **family.columns,
        "knob": knob,
        "verdict": "not judged" if not judged else "stable" if found.stable else "sensitive",
        "stable": bool(found.stable) if judged else None,
        "values": shown_all(found.stable),
        "covers": [shown_all(cover.values) for cover in found.covers],
        "cover_size": len(found.covers[0].values) if judged else None,
        "cover_cells": [cover.cells for cover in found.covers],
        "cover_excess": [cover.excess for cover in found.covers],
        "covers_complete": found.complete,
        "n_cells": len(cells),
        "n_judged": judged,
        "coverage": _coverage(found, knob),
        "cells": [
            {
                **cell.place,
                "tried": shown_all(cell.lines[knob].tried),
                "near_best": shown_all(sorted(nears.get(id(cell), ()), key=value_order)),
                "best": shown(cell.best_of(knob)),
                "edge": knob in cell.edges,
                "judged": id(cell) in nears,
            }
            for cell in cells
        ],
        "not_judged": [{**cell.place, "reason": reason} for cell, reason in found.left_out],
        "reason": _reason(found),
        "threshold": threshold,
        "flags": family_flags(cells, knob),
    }


def _coverage(found: Judgement, knob: str) -> list[dict[str, object]]:
    """Per value the judged cells in which it was tried and those in which it is near-best."""
    tried = [set(cell.lines[knob].tried) for cell, _ in found.judged]
    return [
        {
            "value": shown(value),
            "n_near_best": sum(value in near for _, near in found.judged),
            "n_tried": sum(value in values for values in tried),
        }
        for value in sorted(set().union(*tried), key=value_order)
    ]


def _reason(found: Judgement) -> str:
    if not found.judged:
        return "no cell could be judged"
    if not found.exact:
        return "too many values to prove that the covers are the smallest"
    if not found.complete:
        return f"more covers than the {MOST_COVERS} listed"
    return "judged on one cell: says nothing of other sizes or budgets" if len(found.judged) == 1 else ""
