"""One knob's curve: widths and costs of parabolas and of broken lines, by hand and in closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.analysis import sensitivity
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import frame, run
from tests.unit.hyperparameter_frames import Declared, planted, sweep


def cell(rows: list[dict[str, Any]], knob: str = "lr", **options: Any) -> Any:
    found = sensitivity(frame(rows), knob, **options)
    (row,) = found[found.level == "cell"].itertuples()
    return row


def test_widths_and_costs_are_read_off_straight_lines_in_log2() -> None:
    found = cell(sweep("lr", {0.001: 3.06, 0.002: 3.01, 0.004: 3.0, 0.008: 3.04, 0.016: 3.2}))
    # Below: 3.02 lies .2 of the way from .002 to .001; above: half way from .004 to .008.
    assert found.width == pytest.approx(1.2 + 0.5)
    assert found.interval_low == pytest.approx(0.004 * 2**-1.2)
    assert found.interval_high == pytest.approx(0.004 * 2**0.5)
    assert not found.width_open and found.width_text == "1.70"
    assert (found.cost_double, found.cost_half) == (pytest.approx(0.04), pytest.approx(0.01))
    assert found.best == 0.004 and found.best_loss == 3.0 and found.n == 1
    assert [point["excess"] for point in found.curve] == pytest.approx([0.06, 0.01, 0.0, 0.04, 0.2])


def test_costs_between_the_values_tried_are_interpolated_and_null_outside() -> None:
    found = cell(sweep("lr", {0.001: 3.03, 0.004: 3.0, 0.016: 3.08, 0.032: 3.3}))
    assert (found.cost_double, found.cost_half) == (pytest.approx(0.04), pytest.approx(0.015))
    found = cell(sweep("lr", {0.002: 3.0, 0.003: 3.1}))
    assert math.isnan(found.cost_double) and math.isnan(found.cost_half)


def test_an_end_of_what_was_measured_makes_the_width_a_lower_bound() -> None:
    found = cell(sweep("lr", {0.001: 3.015, 0.002: 3.0, 0.004: 3.04}))
    assert found.width_open and found.open_low and not found.open_high
    assert found.width == pytest.approx(1.5) and found.width_text == ">= 1.50"


def test_nothing_is_interpolated_towards_a_value_that_diverged() -> None:
    found = cell(sweep("lr", {0.001: 3.1, 0.002: 3.0, 0.004: None, 0.008: 3.3}, states={0.004: "diverged"}))
    assert found.open_high and found.interval_high == pytest.approx(0.002)
    assert math.isnan(found.cost_double) and found.cost_half == pytest.approx(0.1)
    assert [point["state"] for point in found.curve] == ["done", "done", "diverged", "done"]
    missing = cell(sweep("lr", {0.001: 3.1, 0.002: 3.0, 0.004: None, 0.008: 3.2}, states={0.004: "missing"}))
    assert missing.cost_double == pytest.approx(0.1), "a missing value says nothing: the line runs over it"


def test_a_decay_near_one_is_measured_in_its_distance_from_one() -> None:
    info = {"beta2": Declared(low=0.0, high=0.999999, scale="linear")}
    found = cell(sweep("beta2", {0.92: 3.05, 0.96: 3.01, 0.98: 3.0, 0.99: 3.04}), "beta2", knob_info=info)
    assert found.transform == "log(1-x)"
    # 1 - x doubles from .02 to .04 at a cost of .01 and halves at .04.
    assert (found.cost_double, found.cost_half) == (pytest.approx(0.01), pytest.approx(0.04))
    assert found.width == pytest.approx(1.25 + 0.5)
    assert found.interval_low == pytest.approx(1 - 0.02 * 2**1.25)
    assert found.interval_high == pytest.approx(1 - 0.02 * 2**-0.5)


def test_a_zero_stays_outside_the_scale_and_as_the_best_value_it_has_no_width() -> None:
    found = cell(sweep("weight_decay", {0.0: 3.02, 0.1: 3.0, 0.2: 3.04}), "weight_decay")
    assert found.open_low and found.width == pytest.approx(0.5)
    found = cell(sweep("weight_decay", {0.0: 3.0, 0.1: 3.01, 0.2: 3.04}), "weight_decay")
    assert math.isnan(found.width) and "no logarithm" in found.reason
    found = cell(sweep("nesterov", {False: 3.0, True: 3.01}), "nesterov")
    assert math.isnan(found.width) and "no order" in found.reason


@settings(max_examples=8, deadline=None)
@given(st.floats(0.02, 0.5), st.floats(-0.4, 0.4))
def test_a_fine_parabola_has_the_width_of_its_formula(curvature: float, shift: float) -> None:
    grid = [0.01 * 2 ** (step / 8) for step in range(-80, 81)]
    rows = planted(lambda n, c: 0.01 * math.exp(shift), grid, sizes=["300m"], ratios=[1.0], curvature=curvature)
    found = cell(rows, within=0.02)
    width = 2 * math.sqrt(0.02 / curvature) / math.log(2)
    # Points 1/8 apart: the best is off by 1/16 at most, lines run above a parabola by less than curvature (ln2/16)^2.
    assert found.width == pytest.approx(width, abs=0.13)


def test_the_noise_band_is_that_of_two_single_runs_and_the_summary_takes_medians() -> None:
    rows = [
        row
        for c, up in ((1, 0.04), (2, 0.05), (4, 0.08))
        for row in sweep("lr", {0.5: 3.1, 1.0: 3.0, 2.0: 3.0 + up}, chinchilla=c)
    ]
    found = sensitivity(frame(rows), "lr", sigma=0.002)
    cells, (summary,) = found[found.level == "cell"], found[found.level == "optimizer"].itertuples()
    assert (cells.sigma == 0.002).all() and (cells.sigma_source == "given").all()
    assert cells.noise_band.tolist() == pytest.approx([1.645 * 0.002 * math.sqrt(2)] * 3)
    first = cells.curve.iloc[0][1]
    assert first["high"] - first["low"] == pytest.approx(2 * 1.959964 * 0.002)
    assert summary.cost_double == pytest.approx(0.05)
    assert summary.cost_double_min == pytest.approx(0.04) and summary.cost_double_max == pytest.approx(0.08)
    assert summary.n_cells == 3 and summary.n_double == 3 and summary.n_open == 0
    assert summary.width == pytest.approx(np.median([0.2 + 0.02 / up for up in (0.04, 0.05, 0.08)]))


def test_bad_options_are_refused_and_an_unswept_knob_has_no_rows() -> None:
    rows = frame(sweep("lr", {0.001: 3.0, 0.002: 3.1}))
    assert len(sensitivity(rows, "beta1")) == 0
    assert len(sensitivity(frame([run()]), "lr")) == 0
    bad: list[dict[str, Any]] = [{"within": 0.0}, {"within": math.nan}, {"threshold": -1.0}, {"sigma": math.inf}]
    for options in bad:
        with pytest.raises(OptsweepError):
            sensitivity(rows, "lr", **options)


def test_without_any_final_loss_a_cell_says_so() -> None:
    rows = sweep("lr", {0.1: None, 0.2: None}, states={0.1: "diverged", 0.2: "nan"})
    found = cell(rows)
    assert math.isnan(found.best_loss) and "no line" in found.reason and pd.isna(found.best)
    assert isinstance(sensitivity(frame(rows), "lr"), pd.DataFrame)
