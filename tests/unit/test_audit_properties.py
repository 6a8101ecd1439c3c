"""Random tables of runs: whatever the rows hold, every audit answers with its columns, in any order, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optsweep_tui import analysis
from optsweep_tui.analysis import columns
from optsweep_tui.analysis.audits.behind import behind, selected_from
from optsweep_tui.analysis.audits.ground import ROLES, Ground
from optsweep_tui.analysis.audits.provenance import memberships
from optsweep_tui.analysis.audits.rows import records
from optsweep_tui.analysis.audits.stops import RULES, selections
from optsweep_tui.cli import output
from tests.unit.test_analysis_properties import TABLES

CURVES = st.lists(
    st.tuples(
        st.sampled_from(["same", "other"]),
        st.sampled_from(["train_loss", "val_loss"]),
        st.integers(0, 1000),
        st.sampled_from([3.0, 3.4, 3.6, 9.0, math.nan, math.inf]),
    ),
    max_size=30,
    unique_by=lambda point: point[:3],
)


def audited(data: pd.DataFrame, curves: pd.DataFrame, sigma: float | None) -> dict[str, pd.DataFrame]:
    val = curves[curves.key == "val_loss"].drop(columns="key")
    stops = {rule: analysis.stop_audit(data, curves, rule=rule) for rule in RULES}
    return {
        "FAIRNESS": analysis.fairness_audit(data, sigma=sigma),
        "FLIPS": analysis.flips(data, sigma=sigma, curves=val),
        "NOISE": analysis.noise_ledger(data, sigma=sigma),
        "POWER": analysis.power(data, 0.05, sigma=sigma),
        "STOPS": stops["divergence"],
        "SELECTIONS": selections(data, stops["median"]),
        "PROFILE": analysis.performance_profile(data),
        "TTEST": analysis.target_test(data, 3.2),
        "PROJECTION": analysis.joint_law(data, optimizer="adamw", model="x", params=1e9, chinchilla=2.0, sigma=sigma),
    }


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES, CURVES, st.sampled_from([None, 0.0013, 0.1]), st.integers(0, 10**6))
def test_every_audit_answers_any_table_in_any_order(
    data: pd.DataFrame, points: list[tuple[Any, ...]], sigma: float | None, seed: int
) -> None:
    curves = pd.DataFrame(points, columns=["run_id", "key", "step", "value"])
    curves["tokens"] = curves["step"] * 1e6
    found = audited(data, curves, sigma)
    again = audited(data.sample(frac=1, random_state=seed), curves.sample(frac=1, random_state=seed), sigma)
    for name, answer in found.items():
        assert list(answer.columns) == list(getattr(columns, name)), name
        pd.testing.assert_frame_equal(again[name], answer, obj=name)
        json.dumps(output.records(answer), allow_nan=False)
    power = found["POWER"]
    asked = power[power.reason == ""]
    assert (asked.half_width > 0).all() and asked.state.isin(["INTERP", "EXTRAP"]).all()
    projected = found["PROJECTION"]
    assert ((projected.state == "PLAN") | (projected.reason != "")).all()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES)
def test_every_row_has_an_address_of_its_own_and_runs_that_are_in_the_table(data: pd.DataFrame) -> None:
    known = {run_id if isinstance(run_id, str) else "" for run_id in data.run_id}
    shared = {"baseline": "adamw"}
    whole = Ground.of(data, (), shared)
    profile = {**shared, "max_chinchilla": None, "among": (), "ratios": ()}
    for kind, answer, options in (
        ("table", analysis.table(data), shared),
        ("fit", analysis.fit(data), shared),
        ("speedup", analysis.speedup(data), shared),
        ("stable", analysis.stable(data), {}),
        ("hp", analysis.scaling_rules(data), {}),
        ("edges", analysis.grid_edges(data), {}),
        ("sensitivity", analysis.sensitivity(data, "lr"), shared),
        ("fairness", analysis.fairness_audit(data), shared),
        ("flips", analysis.flips(data), shared),
        ("noise", analysis.noise_ledger(data), shared),
        ("power", analysis.power(data, 0.05), shared),
        ("profile", analysis.performance_profile(data), profile),
        ("ttest", analysis.target_test(data, 3.0), {}),
    ):
        assert answer.number_id.is_unique, kind
        rows = list(records(answer))
        ground = dataclasses.replace(whole, rows=rows, options=options)
        for row in rows[:2]:
            parts = behind(ground, kind, row)
            assert {part.run_id for part in parts} <= known and {part.role for part in parts} <= set(ROLES)
            assert set(row.get("run_ids", ())) <= {part.run_id for part in parts}, kind
            assert set(selected_from(ground, kind, row)) <= known
    for run_id in list(data.run_id.dropna())[:2]:
        for found in memberships(data, run_id, baseline="adamw"):
            assert found.part and len(set(found.numbers)) == len(found.numbers)
