"""Random tables of runs: whatever the rows hold, every verb answers with its columns, a reason or a flag."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optsweep_tui.analysis import fit, noise_ledger, speedup, table
from optsweep_tui.analysis.columns import FIT, NOISE, SPEEDUP, TABLE
from optsweep_tui.analysis.estimates import Ci
from tests.unit.analysis_frames import curve, frame, law, run

# A warning of numpy's would be a line on a user's screen that no one can act on.
pytestmark = pytest.mark.filterwarnings("error")

LOSSES = st.one_of(
    st.floats(2.5, 4.0),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -1.0, 1e14, 1e-300, None, 3.0]),
)
STATES = st.sampled_from(["done"] * 8 + ["diverged", "nan", "missing", "running", "failed", "cancelled", "oom", "?"])
KNOBS = st.sampled_from(
    ['{"lr": 0.01}', '{"lr": 0.02}', '{"lr": 0.04, "nesterov": true}', '{"lr": "x"}', "null", "[1]", "{broken", None]
)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    chinchilla = draw(st.sampled_from([0.25, 1, 1.00001, 2, 4, 8, 16, math.nan, -1.0, math.inf]))
    row = run(draw(st.sampled_from(["adamw", "muon", "lion"])), 1, draw(LOSSES), state=draw(STATES))
    changes: dict[str, Any] = {
        "chinchilla": chinchilla,
        "tokens": row["tokens"] * chinchilla,
        "hyperparameters": draw(KNOBS),
        "seed": draw(st.sampled_from([0, 0, 0, 1, 2, None])),
        "model": draw(st.sampled_from(["300m", "300m", "other", None])),
        "params": draw(st.sampled_from([3e8, 3e8, 3e8, 0, math.nan, 1e6])),
        "engine": draw(st.sampled_from(["torch", "torch", None])),
        "seconds_per_token": draw(st.sampled_from([1e-6, 2e-6, math.nan, 0.0, -1.0, math.inf])),
        "batch_size": draw(st.sampled_from([128, 256, math.nan])),
        "run_id": draw(st.sampled_from([row["run_id"], row["run_id"], "same", None])),
    }
    return row | changes


TABLES = st.lists(rows(), max_size=30).map(frame)


def check(found: pd.DataFrame, columns: dict[str, str]) -> None:
    assert list(found.columns) == list(columns)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES, st.sampled_from([None, 0.0013, 0.1]), st.sampled_from(["tokens", "flops", "time"]), st.booleans())
def test_no_table_of_runs_ends_in_a_traceback_or_in_a_number_without_a_state(
    data: pd.DataFrame, sigma: float | None, unit: Any, shared: bool
) -> None:
    cells = table(data, sigma=sigma)
    check(cells, TABLE)
    assert (cells.loss.isna() == (cells.n == 0)).all()
    assert ((cells.loss > 0) | cells.loss.isna()).all()
    check(noise_ledger(data, "adamw"), NOISE)
    found = speedup(data, sigma=sigma, unit=unit, max_chinchilla=8, shared_exponent=shared)
    check(found, SPEEDUP)
    assert found.state.isin(["INTERP", "EXTRAP", "REFUSE"]).all()
    refused = found.state == "REFUSE"
    assert found[refused][["speedup", "low", "high", "d_eff"]].isna().all(axis=None)
    assert (found.reason[refused] != "").all()
    stated = found[~refused]
    assert (stated.speedup > 0).all() and np.isfinite(stated.speedup.astype(float)).all()
    if sigma is not None:
        # 1e-6: the limits are found by a search, the value by inversion.
        assert (stated.low <= stated.speedup * (1 + 1e-6)).all()
        assert (stated.high >= stated.speedup * (1 - 1e-6)).all()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES, st.booleans())
def test_fit_answers_any_table_with_a_curve_or_a_reason(data: pd.DataFrame, shared: bool) -> None:
    found = fit(data, shared_exponent=shared)
    check(found, FIT)
    assert ((found.state == "FIT") == (found.reason == "")).all()
    assert (found.b.isna() == (found.state == "REFUSE")).all()
    json.dumps(found[["solvers", "leave_one_out", "between", "points"]].to_dict("records"), allow_nan=False)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES, st.integers(0, 10**6))
def test_the_order_of_the_rows_never_matters(data: pd.DataFrame, seed: int) -> None:
    shuffled = data.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(table(shuffled, sigma=0.01), table(data, sigma=0.01))
    pd.testing.assert_frame_equal(speedup(shuffled, sigma=0.01), speedup(data, sigma=0.01))


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.1, 3.0),
    st.floats(0.05, 1.0),
    st.floats(0.5, 3.0),
    st.floats(1.0, 1.4),
    st.sampled_from([(1, 2, 4), (1, 2, 4, 8), (0.5, 1, 2, 4, 8, 16)]),
)
def test_the_speedup_of_an_exact_law_is_exact(
    alpha: float, b: float, beta: float, truth: float, budgets: tuple[float, ...]
) -> None:
    data = [run(chinchilla=c, loss=law(c, alpha, b, beta)) for c in budgets]
    data += [run("muon", c, law(c * truth, alpha, b, beta)) for c in budgets[:-1]]
    found = speedup(frame(data), sigma=1e-4)
    assert np.allclose(found.speedup.astype(float), truth, rtol=1e-4)
    assert (found.state == "INTERP").all()


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-12, 1e6), st.integers(0, 1000), st.booleans())
def test_the_unit_of_tokens_never_matters(scale: float, seed: int, shared: bool) -> None:
    """Ratios in place of tokens (scale 1e-6), tokens and parameters multiplied alike, budgets that are fractions."""
    rng = np.random.default_rng(seed)
    rows = [
        row
        for model in ("small", "large")
        for row in curve(sigma=0.001, rng=rng, model=model)
        + curve((2, 4), optimizer="muon", speedup=1.2, sigma=0.001, rng=rng, model=model)
    ]
    data = frame(rows)
    moved = data.assign(tokens=data.chinchilla * 1e6 * scale, params=1e6 * scale / 20)
    options: dict[str, Any] = {"sigma": 0.001, "shared_exponent": shared}
    first, second = speedup(data, **options), speedup(moved, **options)
    for name in ("speedup", "low", "high"):
        # Budgets of a million and more are whole numbers of tokens, smaller ones keep nine digits.
        assert np.allclose(first[name].astype(float), second[name].astype(float), rtol=1e-5)
    assert first.state.tolist() == second.state.tolist()


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.floats(1e-6, 20.0), min_size=3, max_size=7),
    st.lists(st.floats(1e-6, 20.0), min_size=1, max_size=4),
    st.floats(1e-6, 1.0),
)
def test_any_baseline_losses_give_ordered_limits_and_a_state(
    losses: list[float], others: list[float], sigma: float
) -> None:
    """Rising, flat, convex, concave, wildly noisy: FAR plays no part, each budget holds one run."""
    data = [run(chinchilla=2.0**place, loss=loss) for place, loss in enumerate(losses)]
    data += [run("muon", 2.0**place, loss) for place, loss in enumerate(others)]
    ways: list[tuple[Ci, bool]] = [("profile", False), ("bootstrap", False), ("profile", True), ("bootstrap", True)]
    for ci, shared in ways:
        # A second model whose curve is plain: with a shared exponent the wild one has to live with it.
        both = data + [run(chinchilla=c, loss=law(c), model="plain") for c in (1, 2, 4, 8)] if shared else data
        found = speedup(frame(both), sigma=sigma, ci=ci, draws=100, shared_exponent=shared)
        stated = found[found.state != "REFUSE"]
        assert np.isfinite(stated.speedup.astype(float)).all() and (stated.speedup > 0).all()
        assert (stated.low <= stated.high).all() and (stated.low >= 0).all()
        if ci == "profile":
            assert (stated.low <= stated.speedup * (1 + 1e-6)).all()
            assert (stated.high >= stated.speedup * (1 - 1e-6)).all()
