"""Reduction and smoothing: min and max survive, the average is the one that its formula says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.charts.chart import Curve, extent
from optsweep_tui.charts.reduce import NOTHING_BEFORE, column_extents, smoothed, smoothed_on


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 11), st.floats(-1e6, 1e6) | st.just(math.nan)), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_each_column_keeps_its_smallest_and_largest_value(points: list[tuple[float, float]], columns: int) -> None:
    points.sort(key=lambda point: point[0])
    x, y = np.array([x for x, _ in points]), np.array([y for _, y in points])
    edges = np.linspace(0.0, 10.0, columns + 1)
    low, high = column_extents(x, y, edges)
    for column in range(columns):
        last = column == columns - 1
        inside = (x >= edges[column]) & ((x <= edges[column + 1]) if last else (x < edges[column + 1]))
        values = y[inside & ~np.isnan(y)]
        if len(values):
            assert low[column] == values.min()
            assert high[column] == values.max()
        else:
            assert np.isnan(low[column])
            assert np.isnan(high[column])


def slow_average(steps: np.ndarray, y: np.ndarray, tau: float) -> np.ndarray:
    found = []
    for now, value in zip(steps, y, strict=True):
        if not math.isfinite(value):
            found.append(math.nan)
            continue
        weights = [(math.exp(-(now - then) / tau), past) for then, past in zip(steps, y, strict=True) if then <= now]
        weights = [(weight, past) for weight, past in weights if math.isfinite(past)]
        found.append(sum(weight * past for weight, past in weights) / sum(weight for weight, _ in weights))
    return np.array(found)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=2, max_size=40),
    st.floats(0.5, 500),
    st.data(),
)
def test_smoothing_equals_the_formula_summed_out(gaps: list[int], tau: float, data: st.DataObject) -> None:
    steps = np.cumsum(gaps).astype(float)
    values = st.floats(-100, 100) | st.sampled_from([math.nan, math.inf])
    y = np.array(data.draw(st.lists(values, min_size=len(gaps), max_size=len(gaps))))
    # A value older than 500 tau weighs less than 1e-217 of the newest one.
    result = smoothed(steps, y, tau)
    result = np.where(np.isfinite(result), result, np.nan)
    np.testing.assert_allclose(result, slow_average(steps, y, tau), rtol=1e-9, atol=1e-9)


def test_the_first_value_is_not_pulled_towards_zero() -> None:
    result = smoothed(np.arange(100.0), np.full(100, 3.0), 20.0)
    np.testing.assert_allclose(result, 3.0, rtol=1e-12)


def test_smoothing_means_the_same_number_of_steps_whatever_the_log_interval() -> None:
    steps = np.arange(0.0, 10_000.0)
    line = 5.0 - 1e-4 * steps
    fine, coarse = smoothed(steps, line, 200.0), smoothed(steps[::10], line[::10], 200.0)
    assert fine[-10] == pytest.approx(coarse[-1], abs=1e-3)


def test_a_very_long_run_neither_overflows_nor_drifts() -> None:
    steps = np.arange(0.0, 1_000_000.0, 10.0)
    y = np.sin(steps / 5000.0)
    result = smoothed(steps, y, 30.0)
    assert np.isfinite(result).all()
    assert np.abs(result - y)[100:].max() < 0.01


def test_zero_and_tiny_time_constants_leave_the_data_alone() -> None:
    y = np.array([1.0, 5.0, 2.0])
    assert smoothed(np.arange(3.0), y, 0.0) is y
    np.testing.assert_array_equal(smoothed(np.arange(3.0) * 1000, y, 0.1), y)


@given(st.lists(st.floats(-9, 9) | st.just(math.nan), min_size=2, max_size=30), st.integers(1, 29), st.floats(0.5, 50))
def test_smoothing_on_from_where_it_stopped_equals_smoothing_everything(
    values: list[float], cut: int, tau: float
) -> None:
    steps, y, cut = np.arange(3.0, 3.0 + len(values)) * 7, np.array(values), min(cut, len(values) - 1)
    first, carry = smoothed_on(steps[:cut], y[:cut], tau, NOTHING_BEFORE)
    second, _ = smoothed_on(steps[cut:], y[cut:], tau, carry)
    np.testing.assert_allclose(np.concatenate([first, second]), smoothed(steps, y, tau), rtol=1e-9, atol=1e-9)


def test_the_extent_of_curves_knows_gaps_and_positive_values() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    found = extent([Curve(x=x, y=np.array([np.inf, -1.0, 0.5, np.nan]), colour="#ffffff")])
    assert found.x == (0.0, 3.0)
    assert found.y == (-1.0, 0.5)
    assert found.positive_x == 1.0
    assert found.positive_y == 0.5
    late = extent([Curve(x=x, y=np.array([9.0, 8.0, 2.0, 1.0]), colour="#ffffff")], (1.5, 3.0))
    assert late.y == (1.0, 2.0)
    assert extent([]).empty
