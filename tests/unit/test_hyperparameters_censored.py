"""The interval-censored likelihood against lifelines' figures, against another optimizer, and where no maximum exists."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from optsweep_tui.analysis.hyperparameters.censored import SQRT_12, fit, identified, log_normal_mass

Floats = npt.NDArray[np.float64]
STEP = math.log(2.0)
FLOOR = STEP / SQRT_12


def cells(
    theta: tuple[float, float, float], sigma: float, seed: int, offset: float = 0.0
) -> tuple[Floats, Floats, Floats]:
    """12 cells of 3 sizes and 4 ratios; optima read off a grid of factor 2, open at its ends."""
    sizes = np.repeat([134217728.0, 301989888.0, 536870912.0], 4)
    ratios = np.tile([1.0, 2.0, 4.0, 8.0], 3)
    design = np.column_stack([np.ones(12), np.log(sizes / 3e8), np.log(ratios)])
    z = design @ theta + sigma * np.random.default_rng(seed).standard_normal(12)
    middles = math.log(0.0005) + STEP * (np.arange(7) + 0.5) + offset
    place = np.searchsorted(middles, z)
    return design, np.append(-np.inf, middles)[place], np.append(middles, np.inf)[place]


ONE = np.ones((1, 12))
LIFELINES: dict[str, Any] = {
    "theta": [-5.2290750, 0.2060742, -0.1001465],
    "se": [0.4306077, 0.4512419, 0.3313007],
    "log_sigma": -0.1434363,
    "log_likelihood": -20.0185244,
}


def test_the_maximum_and_its_errors_are_those_of_lifelines() -> None:
    """Figures of lifelines 0.30.3, LogNormalAFTFitter.fit_interval_censoring on exp of these intervals."""
    design, low, high = cells((-5.3, -0.25, 0.1), 0.6, 3)
    found = fit(design, low, high, ONE, STEP)
    assert found.theta[0] == pytest.approx(LIFELINES["theta"], abs=2e-4)
    assert math.log(found.sigma[0]) == pytest.approx(LIFELINES["log_sigma"], abs=2e-4)
    assert np.sqrt(np.diag(found.covariance[0])) == pytest.approx(LIFELINES["se"], abs=2e-4)
    assert found.log_likelihood[0] == pytest.approx(LIFELINES["log_likelihood"], abs=1e-5)
    assert not found.at_floor[0] and not found.unbounded[0]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.3, 0.8]), st.floats(0.0, 0.69))
def test_no_other_point_is_likelier(seed: int, sigma: float, offset: float) -> None:
    design, low, high = cells((-5.3, -0.4, -0.2), sigma, seed, offset)
    if not identified(design, low, high):
        return
    found = fit(design, low, high, ONE, STEP)

    def minus_log_likelihood(point: Floats) -> float:
        spread = max(FLOOR, math.exp(point[3]))
        mass = stats.norm.cdf((high - design @ point[:3]) / spread) - stats.norm.cdf(
            (low - design @ point[:3]) / spread
        )
        return float(-np.sum(np.log(np.maximum(mass, 1e-300))))

    here = np.append(found.theta[0], math.log(found.sigma[0]))
    assert minus_log_likelihood(here) == pytest.approx(-found.log_likelihood[0], abs=1e-6)
    rng = np.random.default_rng(seed)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(10):
            other = here + scale * rng.standard_normal(4)
            assert minus_log_likelihood(other) >= -found.log_likelihood[0] - 1e-7


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5]))
def test_many_weightings_at_once_are_the_same_as_one_by_one(seed: int, sigma: float) -> None:
    design, low, high = cells((-5.3, -0.4, -0.2), sigma, seed)
    weights = 1.0 - np.eye(12)
    kept = [
        place
        for place in range(12)
        if identified(design[weights[place] > 0], low[weights[place] > 0], high[weights[place] > 0])
    ]
    together = fit(design, low, high, weights[kept], STEP)
    for row, place in enumerate(kept):
        others = weights[place] > 0
        alone = fit(design[others], low[others], high[others], np.ones((1, 11)), STEP)
        assert together.theta[row] == pytest.approx(alone.theta[0], abs=1e-5)
        assert together.sigma[row] == pytest.approx(alone.sigma[0], abs=1e-5)


def test_twelve_equal_optima_give_the_middle_a_zero_slope_and_errors_as_wide_as_the_grid() -> None:
    design, _, _ = cells((0.0, 0.0, 0.0), 0.0, 0)
    low, high = np.full(12, -STEP / 2), np.full(12, STEP / 2)
    found = fit(design, low, high, ONE, STEP)
    assert found.theta[0] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert found.at_floor[0] and found.sigma[0] == pytest.approx(FLOOR)
    # With sigma held, the information of one cell at its middle is 2 k phi(k) / (sigma^2 (2 Phi(k) - 1)), k = sqrt 3.
    k = STEP / 2 / FLOOR
    information = 2 * k * stats.norm.pdf(k) / (2 * stats.norm.cdf(k) - 1) / FLOOR**2
    expected = np.linalg.inv(information * design.T @ design)
    assert found.covariance[0] == pytest.approx(expected, rel=1e-6)


def test_optima_read_off_one_list_of_two_values_tell_no_spread() -> None:
    """All ends are one point: only the share on either side is known, so sigma is held at its floor."""
    low = np.array([-np.inf] * 8 + [0.0] * 4)
    high = np.array([0.0] * 8 + [np.inf] * 4)
    found = fit(np.ones((12, 1)), low, high, ONE, STEP)
    assert found.at_floor[0]
    assert found.theta[0, 0] == pytest.approx(FLOOR * stats.norm.ppf(4 / 12), abs=1e-6)


def test_intervals_that_contradict_each_other_are_called_unbounded() -> None:
    low, high = np.array([-np.inf, 1.0]), np.array([0.0, np.inf])
    assert fit(np.ones((2, 1)), low, high, np.ones((1, 2)), STEP).unbounded[0]


def test_best_values_at_one_end_identify_nothing() -> None:
    design, _, _ = cells((0.0, 0.0, 0.0), 0.0, 0)
    assert not identified(design[:, :1], np.full(12, -np.inf), np.zeros(12))
    assert identified(design[:, :1], np.append(np.full(11, -np.inf), -1.0), np.zeros(12))
    # Small models closed, the largest size open upwards: its exponent may rise for ever.
    low, high = np.full(12, -1.0), np.full(12, 1.0)
    high[8:] = np.inf
    assert identified(design, low, high)
    high[4:] = np.inf
    low[4:] = 0.5
    assert not identified(design[:, :2], low, high)
    assert not identified(np.ones((12, 2)), np.full(12, -1.0), np.full(12, 1.0)), "one model size: no exponent"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_identification_agrees_with_a_linear_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 4))
    count = int(rng.integers(size, 8))
    design = np.column_stack([np.ones(count), rng.integers(-2, 3, (count, size - 1))]).astype(float)
    side = rng.integers(0, 3, count)
    low, high = np.where(side == 0, -np.inf, 0.0), np.where(side == 1, np.inf, 1.0)
    assert identified(design, low, high) == by_linear_program(design, low, high)


def by_linear_program(design: Floats, low: Floats, high: Floats) -> bool:
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return False
    closed = np.isfinite(low) & np.isfinite(high)
    away = (np.where(np.isfinite(low), 1.0, -1.0)[:, None] * design)[~closed]
    if not len(away):
        return True
    answer = optimize.linprog(
        -away.sum(axis=0),
        A_ub=-away,
        b_ub=np.zeros(len(away)),
        A_eq=design[closed] if closed.any() else None,
        b_eq=np.zeros(int(closed.sum())) if closed.any() else None,
        bounds=(-1.0, 1.0),
        method="highs",
    )
    return bool(answer.status == 0 and float(answer.fun or 0.0) > -1e-7)


def test_the_mass_of_an_interval_is_exact_in_both_tails() -> None:
    a = np.array([-1.0, 30.0, -31.0, -np.inf, 5.0])
    b = np.array([1.0, 31.0, -30.0, -20.0, np.inf])
    expected = [
        math.log(stats.norm.cdf(1) - stats.norm.cdf(-1)),
        stats.norm.logsf(30.0) + math.log1p(-math.exp(stats.norm.logsf(31.0) - stats.norm.logsf(30.0))),
        stats.norm.logsf(30.0) + math.log1p(-math.exp(stats.norm.logsf(31.0) - stats.norm.logsf(30.0))),
        stats.norm.logcdf(-20.0),
        stats.norm.logsf(5.0),
    ]
    assert log_normal_mass(a, b) == pytest.approx(expected, rel=1e-12)
