"""`grid_edges`: every best value that lies at the end of its swept list, what the last step gained, and what to try next."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.columns.hyperparameters import EDGES
from optsweep_tui.analysis.edges import Edge, KnobInfo, edges_of
from optsweep_tui.analysis.hyperparameters.scale import FRACTION_OR_STEPS, Knob, numbers, shown, shown_all
from optsweep_tui.analysis.hyperparameters.spacing import Next, next_beyond
from optsweep_tui.analysis.hyperparameters.tuned import Family, Tuned, checked_threshold, families
from optsweep_tui.analysis.lines import BATCH, NEAR_BEST
from optsweep_tui.analysis.number_ids import addressed
from optsweep_tui.analysis.runs import Run


def grid_edges(
    results: pd.DataFrame, *, threshold: float = NEAR_BEST, knob_info: KnobInfo | None = None
) -> pd.DataFrame:
    """Knobs whose best value is the lowest or highest that was tried in its cell, with the next value.

    The best value is that of the knob's own line (`lines.lines`), whoever holds the cell's smallest loss: in a cell of
    an unlisted minimum the listed runs' edges are reported and carry the flag. The list is every value that a
    base-seed run of the cell reports on, diverged and missing ones included. A best value at a declared bound, or at
    one that cannot be crossed (0 = off, decay 1, batch 1), is no edge; nor is one that an inner value equals to the last
    digit. Spacing and next value: `spacing.next_beyond`.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        threshold: nats; an edge whose last step gained less is `flat`.
        knob_info: declared knobs: ranges, kinds, scales.

    Returns:
        One row per cell and knob, columns of `columns.EDGES`.
    """
    checked_threshold(threshold)
    rows = []
    for family in families(results, knob_info):
        found = [(cell, edge) for cell in family.cells for edge in _edges(family, cell)]
        counts: dict[str, int] = {}
        for _, edge in found:
            counts[edge.knob] = counts.get(edge.knob, 0) + 1
        for cell, edge in found:
            row = _row(family, cell, edge, next_value(cell, edge, family.knob(edge.knob)), threshold)
            rows.append(row | {"n_cells": len(family.having(edge.knob)), "n_edges": counts[edge.knob]})
    return addressed(pd.DataFrame(rows, columns=list(EDGES)), "edges", threshold=threshold)


def _edges(family: Family, cell: Tuned) -> list[Edge]:
    return [
        edge
        for line in cell.lines.values()
        for edge in edges_of(line, (family.knob(line.knob).low, family.knob(line.knob).high))
    ]


def next_value(cell: Tuned, edge: Edge, knob: Knob) -> Next:
    """What to try beyond an edge; nothing where the run would have no step after its warmup, or no step at all."""
    proposal = next_beyond(numbers(cell.lines[edge.knob].tried) or [], edge.side, knob)
    most = _most(edge.knob, cell)
    kept = tuple(value for value in proposal.values if value <= most)
    if len(kept) == len(proposal.values):
        return proposal
    what = "every step would be warmup" if edge.knob in FRACTION_OR_STEPS else "there would be no whole step"
    note = f"{proposal.note}; {proposal.values[0]:g} is too large for this budget: {what}"
    return Next(values=kept, spacing=proposal.spacing, step=proposal.step, clipped=proposal.clipped, note=note)


def _most(knob: str, cell: Tuned) -> float:
    """The largest value of a knob that a run of so many tokens has room for."""
    run = cell.best_listed()
    if run is None or not (run.tokens_per_step > 0 and cell.cell.tokens > 0):
        return math.inf
    if knob == BATCH:
        return cell.cell.tokens / run.tokens_per_step * run.batch_size
    return cell.cell.tokens // run.tokens_per_step - 1.0 if knob in FRACTION_OR_STEPS else math.inf


def _row(family: Family, cell: Tuned, edge: Edge, proposal: Next, threshold: float) -> dict[str, object]:
    line = cell.lines[edge.knob]
    below, above = line.neighbours(edge.value)
    neighbour = above if edge.side == "low" else below
    assert neighbour is not None, "a swept list has two values"
    loss = line.losses[edge.value]
    gain = line.losses[neighbour] - loss if neighbour in line.losses else math.nan
    run = next((run for run in cell.cell.swept if run.run_id == line.run_ids[edge.value]), None)
    low, high = family.knob(edge.knob).bounds(numbers(line.tried) or [])
    return {
        **cell.group.columns,
        "optimizer": cell.cell.optimizer,
        "chinchilla": cell.cell.chinchilla,
        "params": cell.cell.params,
        "tokens": cell.cell.tokens,
        "knob": edge.knob,
        "value": shown(edge.value),
        "side": edge.side,
        "tried": shown_all(line.tried),
        "loss": loss,
        "excess": loss - cell.smallest,
        "neighbour": shown(neighbour),
        "neighbour_loss": line.losses.get(neighbour, math.nan),
        "neighbour_state": "done" if neighbour in line.losses else line.states.get(neighbour, "not on this line"),
        "gain": gain,
        "flat": None if math.isnan(gain) else gain < threshold,
        "proposed": shown_all(proposal.values),
        "spacing": proposal.spacing,
        "step": proposal.step,
        "note": proposal.note,
        "clipped": proposal.clipped,
        "low": low,
        "high": high,
        "base": None if run is None else base_of(run, edge.knob),
        "base_seed": None if run is None else run.seed,
        "run_id": line.run_ids[edge.value],
        "threshold": threshold,
        "flags": cell.flags(F.EDGE, F.UNTUNED),
    }


def base_of(run: Run, knob: str) -> dict[str, object]:
    """What a run holds fixed along a knob: its other knobs, batch size, schedule and compute type."""
    settings: Mapping[str, object] = {
        BATCH: None if math.isnan(run.batch_size) else int(run.batch_size),
        "schedule": run.schedule,
        "dtype": run.dtype,
        **(run.knobs or {}),
    }
    return {name: value for name, value in sorted(settings.items()) if name != knob and value is not None}
