"""Scaling rules on planted sweeps: exponents and constants come back, what the data cannot tell is not told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.analysis import scaling_rules
from tests.unit.analysis_frames import frame, run
from tests.unit.hyperparameter_frames import RATIOS, SIZES, Declared, planted, sweep

FINE = [1e-4 * 2 ** (step / 4) for step in range(48)]
COARSE = [1e-4 * 2**step for step in range(12)]


def only(rows: list[dict[str, Any]] | pd.DataFrame, knob: str = "lr", **options: Any) -> Any:
    found = scaling_rules(rows if isinstance(rows, pd.DataFrame) else frame(rows), **options)
    (row,) = found[found.knob == knob].itertuples()
    return row


def test_a_planted_rule_is_found_with_its_exponents() -> None:
    found = only(planted(lambda n, c: 0.008 * (n / 3e8) ** -0.5 * c**-0.25, FINE))
    assert found.verdict == "trend" and found.reason == ""
    # Optima are known to a step of 2^(1/4) in each of 12 cells: sd .05 each, spread of ln N .57, of ln c .77.
    assert found.b == pytest.approx(-0.5, abs=2 * found.b_se) and found.b_se < 0.05
    assert found.d == pytest.approx(-0.25, abs=2 * found.d_se) and found.d_se < 0.05
    assert math.exp(found.a + found.b * math.log(3e8)) == pytest.approx(0.008, rel=0.05)
    assert (found.rule_b, found.rule_d) == (found.b, found.d)
    assert found.loo_rule < found.loo_constant
    assert found.n_cells == found.n_fit == 12 and found.n_edge == 0
    assert (found.n_models, found.n_ratios) == (3, 4)
    assert "N^(" in found.rule and "c^(" in found.rule


def test_an_exponent_that_is_not_there_is_taken_out() -> None:
    found = only(planted(lambda n, c: 0.008 * (n / 3e8) ** -0.6, FINE))
    assert found.verdict == "trend"
    assert found.rule_d == 0.0 and found.rule_d_se == 0.0
    assert found.rule_b == pytest.approx(-0.6, abs=0.05)
    assert abs(found.d) <= 2 * found.d_se


def test_equal_optima_have_no_trend_and_the_constant_is_their_middle() -> None:
    found = only(planted(lambda n, c: 0.0032, COARSE))
    assert found.verdict == "no trend" and found.rule_b == found.rule_d == 0.0
    assert found.constant == pytest.approx(0.0032, rel=1e-6)
    assert found.majority == 0.0032 and found.counts == [{"value": 0.0032, "n": 12}]
    assert found.loo_rule == found.loo_constant == 0.0
    assert found.se_from == "floor" and found.sigma == pytest.approx(math.log(2) / math.sqrt(12))
    assert found.rule == "lr = 0.0032 (constant)"


def test_a_value_near_best_everywhere_beats_every_trend() -> None:
    """The same optima on a curve so flat that one value is within the threshold everywhere."""
    rule = lambda n, c: 0.003 * (n / 3e8) ** -0.5 * c**-0.25  # noqa: E731
    assert only(planted(rule, FINE, curvature=0.05)).verdict == "trend"
    found = only(planted(rule, FINE, curvature=0.002))
    assert found.verdict == "no trend" and "near-best in every judged cell" in found.reason
    assert found.stable_values != [] and abs(found.b) > 2 * found.b_se


def test_one_model_size_tells_no_exponent_of_n_and_one_ratio_none_of_c() -> None:
    rule = lambda n, c: 0.003 * c**-0.4  # noqa: E731
    found = only(planted(rule, FINE, sizes=["300m"]))
    assert math.isnan(found.b) and found.d == pytest.approx(-0.4, abs=0.1) and found.n_models == 1
    found = only(planted(lambda n, c: 0.003 * (n / 3e8) ** -0.5, FINE, ratios=[2.0]))
    assert math.isnan(found.d) and found.b == pytest.approx(-0.5, abs=0.1) and found.n_ratios == 1
    rows = [row for copy in range(4) for row in planted(rule, FINE, sizes=["300m"], ratios=[1.0], tokens=6e9 + copy)]
    found = only(rows)
    assert math.isnan(found.b) and math.isnan(found.d) and "one model size and one ratio" in found.reason


def test_few_cells_and_one_sided_lists_are_not_fitted_but_counted() -> None:
    found = only(planted(lambda n, c: 0.003, COARSE, sizes=["300m"], ratios=[1.0, 2.0]))
    assert found.verdict == "not fitted" and "needs 3" in found.reason and found.majority == 0.0032
    found = only(planted(lambda n, c: 1e-6, COARSE))
    assert found.verdict == "not fitted" and "at most 0.0001" in found.reason and found.n_edge == 12
    assert "EDGE" in found.flags and pd.isna(found.constant)
    info = {"beta2": Declared(low=0.0, high=0.999999, scale="linear")}
    rows = [row for c in (1, 2, 4) for row in sweep("beta2", {0.9: 3.1, 0.95: 3.05, 0.98: 3.0}, chinchilla=c)]
    found = only(rows, "beta2", knob_info=info)
    assert "highest value tried" in found.reason and "at least 0.98" in found.reason


def test_betas_are_fitted_as_their_distance_from_one() -> None:
    info = {"beta2": Declared(low=0.0, high=0.999999, scale="linear")}
    rests = [0.001 * 2**step for step in range(9)]
    rows = []
    for model, size in SIZES.items():
        for ratio in RATIOS:
            best = math.log(0.03 * (size / 3e8) ** -0.8)
            losses = {1 - rest: 3 + 0.05 * (math.log(rest) - best) ** 2 for rest in rests}
            rows += sweep("beta2", losses, model=model, chinchilla=ratio)
    found = only(rows, "beta2", knob_info=info)
    assert found.transform == "log(1-x)" and found.verdict == "trend"
    assert found.rule_b == pytest.approx(-0.8, abs=2 * found.rule_b_se)
    assert found.rule.startswith("1 - beta2 = ")
    for cell in found.cells:
        assert cell["low"] < cell["best"] < cell["high"] and 0 < cell["predicted"] < 1
        assert cell["grid_below"] <= cell["predicted"] <= cell["grid_above"]


def test_the_interval_of_a_cell_lies_half_way_to_its_neighbours_diverged_ones_included() -> None:
    rows = [
        row
        for c in (1, 2, 4, 8)
        for row in sweep("lr", {0.001: 3.1, 0.002: 3.0, 0.008: None}, states={0.008: "diverged"}, chinchilla=c)
    ]
    found = only(rows)
    for cell in found.cells:
        assert cell["low"] == pytest.approx(math.sqrt(0.001 * 0.002))
        assert cell["high"] == pytest.approx(math.sqrt(0.002 * 0.008))
    assert found.n_edge == 0


def test_a_zero_has_no_logarithm_as_neighbour_it_opens_the_interval_as_best_value_it_leaves_the_cell_out() -> None:
    rows = [row for c in (1, 2, 4) for row in sweep("weight_decay", {0.0: 3.1, 0.1: 3.0, 0.2: 3.05}, chinchilla=c)]
    rows += sweep("weight_decay", {0.0: 3.1, 0.1: 3.05, 0.2: 3.0, 0.4: 3.1}, chinchilla=8)
    rows += sweep("weight_decay", {0.0: 3.0, 0.1: 3.1, 0.2: 3.2}, chinchilla=16)
    found = only(rows, "weight_decay")
    assert (found.n_cells, found.n_fit, found.n_zero) == (5, 4, 1)
    assert found.cells[0]["low"] is None and found.cells[0]["high"] == pytest.approx(math.sqrt(0.02))
    assert "0 (off)" in found.cells[4]["reason"] and not found.cells[4]["fitted"]
    mostly = [row for c in (1, 2, 4) for row in sweep("weight_decay", {0.0: 3.0, 0.1: 3.1, 0.2: 3.2}, chinchilla=c)]
    found = only(mostly, "weight_decay")
    assert found.verdict == "not fitted" and "0 (off) is best in 3 of 3" in found.reason and found.majority == 0


def test_categories_are_never_fitted_and_whole_numbers_stay_whole() -> None:
    rows = [row for c in (1, 2, 4) for row in sweep("nesterov", {False: 3.1, True: 3.0}, chinchilla=c)]
    found = only(rows, "nesterov")
    assert found.verdict == "not fitted" and "no order" in found.reason
    assert found.majority is True and found.stable_values == [True]
    rows = []
    for model in SIZES:
        for ratio, best in zip(RATIOS, (128, 128, 256, 256), strict=True):
            losses = {size: 3 + abs(math.log2(size / best)) / 10 for size in (64, 128, 256, 512)}
            rows += sweep("batch_size", losses, fixed={"lr": 0.01}, model=model, chinchilla=ratio)
    found = only(rows, "batch_size")
    assert found.integer and all(cell["predicted"] in (128, 256) for cell in found.cells), (
        "powers of two like all tried"
    )


def test_predictions_never_leave_the_declared_range() -> None:
    rows = planted(lambda n, c: 0.05 * (n / 3e8) ** 3.0, COARSE)
    free = only(rows)
    held = only(rows, knob_info={"lr": Declared(low=1e-7, high=0.06)})
    assert max(cell["predicted"] for cell in free.cells) > 0.06
    assert max(cell["predicted"] for cell in held.cells) == 0.06
    assert any(cell["clipped"] for cell in held.cells)


def test_a_left_out_cell_is_predicted_by_the_others() -> None:
    """Four cells of one size: the constant from three equal ones, by hand."""
    rows = planted(lambda n, c: 0.0032, COARSE, sizes=["300m"], ratios=[1.0, 2.0, 4.0])
    rows += planted(lambda n, c: 0.0256, COARSE, sizes=["300m"], ratios=[1.001])
    found = only(rows)
    # The odd one out is 3 steps above the others' middle and 2.5 above the end of its own interval.
    design_free = math.log(2.0)
    others = [cell for cell in found.cells if cell["best"] == 0.0032]
    assert len(others) == 3 and found.loo_constant >= 2.5 * design_free / 4 - 1e-9
    assert found.loo_constant_grid >= 3 * design_free / 4 - 1e-9


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([10.0, 0.001, 7.0]))
def test_the_unit_of_a_knob_moves_the_intercept_only(seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    noise = {(model, ratio): float(rng.standard_normal()) for model in SIZES for ratio in RATIOS}

    def rows(scale: float) -> list[dict[str, Any]]:
        found = []
        for (model, ratio), shift in noise.items():
            best = math.log(0.004) - 0.5 * math.log(SIZES[model] / 3e8) + 0.5 * shift
            losses = {scale * value: 3 + 0.05 * (math.log(value) - best) ** 2 for value in COARSE}
            found += sweep("lr", losses, model=model, chinchilla=ratio)
        return found

    plain, moved = only(rows(1.0)), only(rows(unit))
    assert moved.a - plain.a == pytest.approx(math.log(unit), abs=1e-4)
    for name in ("b", "d", "b_se", "d_se", "sigma", "loo_rule", "loo_constant"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name), abs=1e-4)
    assert moved.verdict == plain.verdict


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_the_rows_never_matters(seed: int) -> None:
    rows = frame(planted(lambda n, c: 0.004 * (n / 3e8) ** -0.5, COARSE, ratios=[1.0, 4.0]))
    shuffled = rows.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(scaling_rules(shuffled), scaling_rules(rows))


def test_an_unpublished_minimum_does_not_enter_the_rule() -> None:
    rows = planted(lambda n, c: 0.0032, COARSE)
    plain = only(rows)
    rows += [run(chinchilla=c, loss=2.99, hyperparameters=None) for c in RATIOS]
    found = only(rows)
    assert (found.a, found.n_fit) == (plain.a, plain.n_fit)
    assert "UNLISTED" in found.flags
