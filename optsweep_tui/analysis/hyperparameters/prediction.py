"""`predict`: the configuration that the rules give at a model size and ratio, each knob with its interval and its basis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.hyperparameters.choices import votes
from optsweep_tui.analysis.hyperparameters.observations import evidence
from optsweep_tui.analysis.hyperparameters.rules import MIN_CELLS, knob_fit
from optsweep_tui.analysis.hyperparameters.scale import FRACTION_OR_STEPS, shown, shown_all
from optsweep_tui.analysis.hyperparameters.stable import judge
from optsweep_tui.analysis.hyperparameters.tuned import Family, Tuned, checked_threshold, families, family_flags
from optsweep_tui.analysis.hyperparameters.values import around, predicted, rule_text
from optsweep_tui.analysis.lines import BATCH, NEAR_BEST, Value, settings_of, value_text
from optsweep_tui.analysis.number_ids import number_ids
from optsweep_tui.errors import OptsweepError

# Sizes and ratios are kept to five digits.
SLACK = 1e-4
FIELDS = ("schedule", "dtype")
"""Of a run, beside its knobs and its batch size."""


def predict(
    results: pd.DataFrame,
    *,
    optimizer: str,
    model: str,
    params: float,
    chinchilla: float,
    threshold: float = NEAR_BEST,
    knob_info: KnobInfo | None = None,
) -> dict[str, Any]:
    """The configuration of an optimizer at a size and a ratio, measured or not.

    Per knob: the rule where `scaling_rules` finds a trend. Else a value that is near-best in every judged cell, for that
    one was trained; else the constant. Where nothing is fitted (categories, one-sided lists, too few cells), the value that
    was best in most cells. A knob that was never swept keeps its one value, or that of the nearest measured cell where
    cells differ; nearest in ln N and ln c.

    Args:
        results: one row per run, columns of `columns.RESULTS`; one scope (study, engine, data, length).
        optimizer: name as it is in the results.
        model: catalogue name, carried through.
        params: N of that model, non-embedding parameters.
        chinchilla: D / (20 N).
        threshold: nats, of near-best sets.
        knob_info: declared knobs: ranges, kinds, scales.

    Returns:
        state INTERP, EXTRAP (outside the sizes or ratios of the cells, with the factors) or REFUSE (with the reason);
        `knobs`: a list with one entry per knob; `hyperparameters`, `batch_size`, `schedule`, `tokens`, `steps`;
        `number_id`: the address that `optsweep why` takes.

    Raises:
        OptsweepError: no run of the optimizer, or runs of several scopes.
    """
    checked_threshold(threshold)
    family = _family(results, optimizer, knob_info)
    cells = [cell for cell in family.cells if cell.best_listed() is not None and _placed(cell)]
    swept = [cell for cell in cells if cell.lines]
    target = {
        "optimizer": optimizer,
        "model": model,
        "chinchilla": chinchilla,
        "params": params,
        "tokens": round(chinchilla * 20.0 * params),
        **{name: int(value) if isinstance(value, float) else value for name, value in family.scope.items()},
        "threshold": threshold,
        "n_cells": len(swept),
    }
    target["number_id"] = number_ids("predict", [target], threshold=threshold)[0]
    if len(swept) < MIN_CELLS:
        count = f"{len(swept)} {'cell' if len(swept) == 1 else 'cells'}"
        reason = f"{optimizer} has {count} here in which a knob was swept; a prediction needs {MIN_CELLS}"
        return target | {"state": "REFUSE", "reason": reason, "hyperparameters": {}, "knobs": [], "flags": []}
    nearest = min(cells, key=lambda cell: (_distance(cell, params, chinchilla), cell.cell.params))
    entries = [_entry(family, cells, nearest, knob, params, chinchilla, threshold) for knob in _knobs(family, cells)]
    return target | _answer(swept, nearest, entries, params, chinchilla)


def _placed(cell: Tuned) -> bool:
    return cell.cell.params > 0 and cell.cell.chinchilla > 0


def _family(results: pd.DataFrame, optimizer: str, knob_info: KnobInfo | None) -> Family:
    found = [
        family
        for family in families(results, knob_info)
        if family.optimizer == optimizer and any(cell.best_listed() for cell in family.cells)
    ]
    if not found:
        raise OptsweepError(f"{optimizer} has no finished run here", "optsweep table lists what has")
    if len(found) > 1:
        varying = [name for name in found[0].scope if len({str(family.scope[name]) for family in found}) > 1]
        values = "; ".join(", ".join(f"{name} {family.scope[name]}" for name in varying) for family in found)
        raise OptsweepError(
            f"{optimizer} was tuned in {len(found)} scopes that do not compare: {values}",
            "narrow with --study, --engine, --dataset or --where",
        )
    return found[0]


def _knobs(family: Family, cells: Sequence[Tuned]) -> list[str]:
    """Every knob of the best runs; lr and the batch first."""
    names = set(family.swept)
    for cell in cells:
        names |= set(_settings(cell))
    return sorted(names, key=lambda name: (name != "lr", name != BATCH, name))


def _settings(cell: Tuned) -> dict[str, Value]:
    best = cell.best_listed()
    return {} if best is None else settings_of(best)


def _distance(cell: Tuned, params: float, chinchilla: float) -> float:
    return math.hypot(math.log(cell.cell.params / params), math.log(cell.cell.chinchilla / chinchilla))


def _entry(
    family: Family,
    cells: Sequence[Tuned],
    nearest: Tuned,
    knob: str,
    params: float,
    chinchilla: float,
    threshold: float,
) -> dict[str, Any]:
    """One knob of the configuration."""
    swept = family.having(knob)
    entry: dict[str, Any] = {"knob": knob, "value": None, "low": None, "high": None, "rule": "", "reason": ""}
    entry |= {"grid_below": None, "grid_above": None, "clipped": False, "off_grid": False, "n_cells": len(swept)}
    if not swept:
        return entry | _unswept(cells, nearest, knob) | {"stable_values": [], "covers": [], "flags": []}
    near = judge(swept, knob, threshold)
    fitted = knob_fit(evidence(family, knob), " or ".join(value_text(value) for value in near.stable))
    entry |= {
        "stable_values": shown_all(near.stable),
        "covers": [shown_all(cover.values) for cover in near.covers],
        "flags": family_flags(swept, knob),
        "reason": fitted.reason,
        **_factors(swept, params, chinchilla),
    }
    if fitted.chosen is None or fitted.evidence.transform is None:
        counted = votes(swept, knob, threshold)
        first = counted.counts[0][1] if counted.counts else 0
        value = counted.majority if counted.counts else _settings(nearest).get(knob)
        rule = f"best in {first} of {sum(n for _, n in counted.counts)} cells"
        return entry | {"value": shown(value), "basis": "choice", "rule": rule}
    answer = predicted(fitted.evidence, fitted.chosen, params, chinchilla)
    rule = rule_text(knob, fitted.evidence.transform, fitted.chosen)
    value, basis, clipped = answer.value, "trend" if fitted.verdict == "trend" else "constant", answer.clipped
    if basis == "constant" and near.stable and isinstance(near.stable[0], float):
        value, basis, clipped = near.stable[0], "stable", False
        rule = f"near-best in all {len(near.judged)} judged cells; {rule}"
    below, above = around(fitted.evidence.tried, value)
    return entry | {
        "value": shown(value),
        "low": answer.low,
        "high": answer.high,
        "basis": basis,
        "rule": rule,
        "grid_below": shown(below),
        "grid_above": shown(above),
        "clipped": clipped,
        "off_grid": below is None or above is None,
    }


def _unswept(cells: Sequence[Tuned], nearest: Tuned, knob: str) -> dict[str, Any]:
    values = {value for cell in cells if (value := _settings(cell).get(knob)) is not None}
    if len(values) == 1:
        return {"value": shown(values.pop()), "basis": "fixed", "rule": "the same in every cell, never swept"}
    having = [cell for cell in cells if knob in _settings(cell)]
    source = nearest if knob in _settings(nearest) else having[0]
    return {
        "value": shown(_settings(source)[knob]),
        "basis": "nearest cell",
        "rule": f"never swept, differs between cells: that of {source.name}",
    }


def _factors(cells: Sequence[Tuned], params: float, chinchilla: float) -> dict[str, float]:
    """How far outside the cells a size and a ratio are; 1 inside."""
    sizes = [cell.cell.params for cell in cells if cell.cell.params > 0]
    ratios = [cell.cell.chinchilla for cell in cells if cell.cell.chinchilla > 0]
    return {"params_factor": _outside(sizes, params), "chinchilla_factor": _outside(ratios, chinchilla)}


def _outside(known: Sequence[float], value: float) -> float:
    if not known:
        return math.nan
    factor = max(value / max(known), min(known) / value, 1.0)
    return 1.0 if factor < 1.0 + SLACK else factor


def _answer(
    cells: Sequence[Tuned], nearest: Tuned, entries: Sequence[dict[str, Any]], params: float, chinchilla: float
) -> dict[str, Any]:
    """What follows from the knobs together."""
    factors = _factors(cells, params, chinchilla)
    values = {entry["knob"]: entry["value"] for entry in entries if entry["value"] is not None}
    batch = values.pop(BATCH, None)
    seq_len = nearest.group.columns["seq_len"]
    tokens = round(chinchilla * 20.0 * params)
    steps = int(tokens // (batch * seq_len)) if batch and isinstance(seq_len, float) and seq_len > 0 else None
    parts = [
        f"{name} {factors[key]:.3g}x outside the swept cells"
        for key, name in (("params_factor", "N"), ("chinchilla_factor", "ratio"))
        if factors[key] > 1.0
    ]
    best = nearest.best_listed()
    assert best is not None
    flags = F.ordered({flag for entry in entries for flag in entry["flags"]})
    return {
        "state": "EXTRAP" if parts else "INTERP",
        "reason": ", ".join(parts),
        **factors,
        "hyperparameters": values,
        "batch_size": batch,
        **{name: getattr(best, name) for name in FIELDS},
        "steps": steps,
        "knobs": list(entries),
        "nearest_cell": {
            **nearest.place,
            "loss": best.loss,
            "run_id": best.run_id,
            "batch_size": shown(_settings(nearest).get(BATCH)),
            "hyperparameters": dict(best.knobs or {}),
        },
        "base_seed": nearest.group.base_seed,
        "notes": _notes(values, steps, entries),
        "flags": flags,
    }


def _notes(values: Mapping[str, Any], steps: int | None, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a careful reader would remark."""
    notes = []
    if steps is not None and steps < 1:
        notes.append("the budget is less than one step of this batch size")
    for knob in sorted(FRACTION_OR_STEPS & set(values)):
        if steps is not None and isinstance(values[knob], int | float) and values[knob] >= max(steps, 1):
            notes.append(
                f"{knob} {values[knob]:g} is all of the {steps} steps: the learning rate never reaches its peak"
            )
    outside = [entry["knob"] for entry in entries if entry["off_grid"]]
    if outside:
        notes.append(f"outside every value tried: {', '.join(outside)}")
    clipped = [entry["knob"] for entry in entries if entry["clipped"]]
    if clipped:
        notes.append(f"clipped: {', '.join(clipped)}")
    return notes
