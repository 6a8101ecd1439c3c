"""`scaling_rules`: how the best value of each knob moves with model size and budget, or that it does not."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from optsweep_tui.analysis.columns.hyperparameters import HP
from optsweep_tui.analysis.edges import KnobInfo
from optsweep_tui.analysis.hyperparameters.choices import votes
from optsweep_tui.analysis.hyperparameters.observations import Observation, evidence
from optsweep_tui.analysis.hyperparameters.rules import KnobFit, knob_fit
from optsweep_tui.analysis.hyperparameters.scale import back, shown, shown_all
from optsweep_tui.analysis.hyperparameters.stable import judge
from optsweep_tui.analysis.hyperparameters.tuned import Family, Tuned, checked_threshold, families, family_flags
from optsweep_tui.analysis.hyperparameters.values import around, predicted, rule_text
from optsweep_tui.analysis.lines import NEAR_BEST, value_text
from optsweep_tui.analysis.number_ids import addressed


def scaling_rules(
    results: pd.DataFrame, *, threshold: float = NEAR_BEST, knob_info: KnobInfo | None = None
) -> pd.DataFrame:
    """ln h = a + b ln N + d ln c for every positive knob; ln(1 - h) for decays near 1.

    The input is the best value along each knob's own line (argmin per knob), never the incumbent. A cell says only
    between which values of its grid the optimum lies (`observations.evidence`); the rule is the maximum of that
    likelihood (`censored`). Where no exponent is resolved or the constant predicts left-out cells as well, the rule is
    the constant ("no trend"). Truth values, texts, negative values and knobs that are mostly best at 0 are never
    fitted: their majority and covers are reported.

    Args:
        results: one row per run, columns of `columns.RESULTS`.
        threshold: nats, of the near-best sets behind the stable values and covers.
        knob_info: declared knobs: ranges, kinds, scales.

    Returns:
        One row per optimizer, scope and knob, columns of `columns.HP`.
    """
    checked_threshold(threshold)
    rows = [_row(family, knob, threshold) for family in families(results, knob_info) for knob in family.swept]
    return addressed(pd.DataFrame(rows, columns=list(HP)), "hp", threshold=threshold)


def _row(family: Family, knob: str, threshold: float) -> dict[str, object]:
    cells = family.having(knob)
    near = judge(cells, knob, threshold)
    found = knob_fit(evidence(family, knob), " or ".join(value_text(value) for value in near.stable))
    counted = votes(cells, knob, threshold)
    observations = found.evidence.observations
    return {
        **family.columns,
        "knob": knob,
        "verdict": found.verdict,
        "reason": found.reason,
        "rule": _rule_text(found),
        "transform": found.evidence.transform if found.full is not None else None,
        "integer": found.evidence.integer,
        **_numbers(found),
        "n_cells": len(cells),
        "n_fit": len(observations) if found.full is not None else 0,
        "n_edge": sum(item.open for item in observations),
        "n_zero": found.evidence.n_zero,
        "n_models": len({item.cell.cell.params for item in observations}),
        "n_ratios": len({item.cell.cell.chinchilla for item in observations}),
        "majority": shown(counted.majority),
        "counts": [{"value": shown(value), "n": n} for value, n in counted.counts],
        "stable_values": shown_all(near.stable),
        "covers": [shown_all(cover.values) for cover in near.covers],
        "cells": _cells(found, knob),
        "threshold": threshold,
        "flags": family_flags(cells, knob),
    }


def _rule_text(found: KnobFit) -> str:
    transform = found.evidence.transform
    if found.chosen is None or transform is None:
        return ""
    return rule_text(found.evidence.knob.name, transform, found.chosen)


def _numbers(found: KnobFit) -> Mapping[str, object]:
    """Coefficients, errors and left-out errors; nulls where nothing was fitted."""
    full, constant, chosen = found.full, found.constant, found.chosen
    transform = found.evidence.transform
    if full is None or constant is None or chosen is None or transform is None:
        return {}
    places = {"a": 0, **{name: column for name, column in (("b", 1), ("d", 2)) if column in full.columns}}
    rule, other = found.rule_errors, found.constant_errors
    return {
        **{name: float(full.theta[place]) for name, place in places.items()},
        **{f"{name}_se": float(full.se[place]) for name, place in places.items()},
        "sigma": full.sigma,
        "sigma_floor": found.evidence.step / math.sqrt(12.0),
        "se_from": "floor" if full.at_floor else "hessian",
        "rule_a": float(chosen.theta[0]),
        "rule_b": float(chosen.theta[1]),
        "rule_d": float(chosen.theta[2]),
        "rule_b_se": float(chosen.se[1]),
        "rule_d_se": float(chosen.se[2]),
        "constant": back(transform, float(constant.theta[0])),
        "constant_se": float(constant.se[0]),
        "loo_rule": math.nan if rule is None else rule.interval,
        "loo_constant": math.nan if other is None else other.interval,
        "loo_rule_grid": math.nan if rule is None else rule.grid,
        "loo_constant_grid": math.nan if other is None else other.grid,
    }


def _cells(found: KnobFit, knob: str) -> list[dict[str, object]]:
    """Every cell in which the knob was swept: its best value, its interval, and what the rule says there."""
    reasons = {id(cell): reason for cell, reason in found.evidence.left_out}
    fitted = {id(item.cell): item for item in found.evidence.observations}
    return [
        {
            **cell.place,
            "best": shown(cell.best_of(knob)),
            "tried": shown_all(cell.lines[knob].tried),
            **_interval(found, fitted.get(id(cell))),
            **_prediction(found, cell),
            "fitted": id(cell) in fitted and found.full is not None,
            "reason": reasons.get(id(cell), ""),
        }
        for cell in found.evidence.cells
    ]


def _interval(found: KnobFit, item: Observation | None) -> dict[str, object]:
    """The interval in units of the knob; None where it is open."""
    transform = found.evidence.transform
    if item is None or transform is None:
        return {"low": None, "high": None}
    ends = [back(transform, end) if math.isfinite(end) else None for end in (item.low, item.high)]
    low, high = ends if transform == "log" else ends[::-1]
    return {"low": low, "high": high}


def _prediction(found: KnobFit, cell: Tuned) -> dict[str, object]:
    params, ratio = cell.cell.params, cell.cell.chinchilla
    if found.chosen is None or not (params > 0 and ratio > 0):
        return {"predicted": None, "grid_below": None, "grid_above": None, "clipped": None}
    value = predicted(found.evidence, found.chosen, params, ratio)
    below, above = around(found.evidence.tried, value.value)
    return {
        "predicted": shown(value.value),
        "grid_below": shown(below),
        "grid_above": shown(above),
        "clipped": value.clipped,
    }
