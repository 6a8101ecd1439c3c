"""Random tables of runs: whatever the rows hold, the hyperparameter questions answer with their columns or a reason."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optsweep_tui.analysis import grid_edges, predict, scaling_rules, sensitivity, stable, swept_knobs
from optsweep_tui.analysis.columns import EDGES, HP, SENSITIVITY, STABLE
from optsweep_tui.cli.output import clean, records
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import frame, run
from tests.unit.hyperparameter_frames import Declared

LOSSES = st.one_of(
    st.floats(2.9, 3.1),
    st.sampled_from([3.0, 3.0, 3.001, math.nan, math.inf, 0.0, -1.0, 1e14, None]),
)
STATES = st.sampled_from(["done"] * 9 + ["diverged", "nan", "missing", "running", "failed", "?"])
KNOBS = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([0.001, 0.002, 0.004, 0.008, 0]),
        "beta2": st.sampled_from([0.9, 0.95, 0.98, 0.0]),
    },
    optional={
        "nesterov": st.booleans(),
        "scheme": st.sampled_from(["a", "b", None]),
        "gain": st.sampled_from([-1.0, 0.0, 2.0, 1e300, "x"]),
        "warmup": st.sampled_from([0.1, 100, 1000]),
        "odd": st.sampled_from([True, 1, 1.0, 2.5, [1, 2]]),
    },
)
INFO = {"lr": Declared(low=1e-7, high=10.0), "beta2": Declared(low=0.0, high=0.999999, scale="linear")}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    ratio = draw(st.sampled_from([1.0, 1.0, 2.0, 4.0, math.nan]))
    model, params = draw(st.sampled_from([("300m", 3e8), ("300m", 3e8), ("520m", 5e8), ("odd", math.nan)]))
    row = run(draw(st.sampled_from(["adamw", "muon"])), 1.0, draw(LOSSES), knobs=draw(KNOBS), state=draw(STATES))
    changes: dict[str, Any] = {
        "chinchilla": ratio,
        "tokens": ratio * 20 * params,
        "model": model,
        "params": params,
        "seed": draw(st.sampled_from([0, 0, 0, 1, None])),
        "batch_size": draw(st.sampled_from([128, 128, 256, math.nan])),
    }
    if draw(st.integers(0, 9)) == 0:
        changes["hyperparameters"] = draw(st.sampled_from([None, "null", "{broken", "[1]"]))
    return row | changes


def listed(found: pd.DataFrame) -> list[Any]:
    return list(found.itertuples())


TABLES = st.lists(rows(), max_size=40).map(frame)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES, st.integers(0, 10**6))
def test_every_question_answers_any_table_the_same_for_any_order_of_its_rows(data: pd.DataFrame, seed: int) -> None:
    shuffled = data.sample(frac=1, random_state=seed)
    for ask, columns in ((stable, STABLE), (grid_edges, EDGES), (scaling_rules, HP)):
        found = ask(data, knob_info=INFO)
        assert list(found.columns) == list(columns)
        assert (found.threshold == 0.003).all()
        json.dumps(records(found), allow_nan=False)
        pd.testing.assert_frame_equal(ask(shuffled, knob_info=INFO), found)
    for knob in swept_knobs(data):
        found = sensitivity(data, knob, sigma=0.01, knob_info=INFO)
        assert list(found.columns) == list(SENSITIVITY)
        assert set(found.level) == {"cell", "optimizer"}
        known = found.width.dropna().astype(float)
        assert (known >= 0).all()
        json.dumps(records(found), allow_nan=False)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES)
def test_answers_hold_together(data: pd.DataFrame) -> None:
    for row in listed(stable(data, knob_info=INFO)):
        assert row.n_judged + len(row.not_judged) == row.n_cells
        assert (row.verdict == "not judged") == (row.n_judged == 0) == (row.covers == [])
        near = [set(map(repr, cell["near_best"])) for cell in row.cells if cell["judged"]]
        for cover in row.covers:
            assert all(each & set(map(repr, cover)) for each in near)
        for value in row.values:
            assert all(repr(value) in each for each in near)
    for row in listed(grid_edges(data, knob_info=INFO)):
        assert row.value == (row.tried[0] if row.side == "low" else row.tried[-1])
        assert not set(row.proposed) & set(row.tried)
        assert row.low <= row.value <= row.high or row.knob not in INFO
    for row in listed(scaling_rules(data, knob_info=INFO)):
        assert row.verdict in ("trend", "no trend", "not fitted")
        assert (row.verdict == "trend") == (row.reason == "")
        assert (row.n_fit == 0) == (row.verdict == "not fitted") == (row.rule == "")
        if row.verdict == "trend":
            assert row.loo_rule < row.loo_constant


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES, st.sampled_from([1e6, 3e8, 1e12]), st.sampled_from([0.01, 2.0, 1000.0]))
def test_a_prediction_is_a_configuration_or_a_reason(data: pd.DataFrame, params: float, ratio: float) -> None:
    try:
        found = predict(data, optimizer="adamw", model="m", params=params, chinchilla=ratio, knob_info=INFO)
    except OptsweepError:
        return
    json.dumps(clean(found), allow_nan=False)
    assert found["state"] in ("INTERP", "EXTRAP", "REFUSE")
    assert (found["reason"] == "") == (found["state"] == "INTERP")
    for entry in found["knobs"]:
        assert entry["basis"] in ("trend", "constant", "stable", "choice", "fixed", "nearest cell")
        if entry["knob"] in INFO and isinstance(entry["value"], float):
            declared = INFO[entry["knob"]]
            assert declared.low is not None and declared.high is not None
            assert declared.low <= entry["value"] <= declared.high
