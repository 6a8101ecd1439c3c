"""The baseline's band: held against a solver that knows nothing of projections, and against draws from a known law."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from scipy import optimize, stats

from optsweep_tui import analysis
from optsweep_tui.analysis.bands import bands, curve_limits
from optsweep_tui.analysis.law import Points, fitted
from tests.unit.analysis_frames import ALPHA, BETA, B, curve, frame, law, run

BUDGETS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


def points(y: np.ndarray, sigma: float) -> Points:
    u = np.log(BUDGETS[: len(y)])[None, :]
    return Points(u=u, y=y[None, :], w=np.full((1, len(y)), sigma**-2))


def pinned_chi2(y: np.ndarray, sigma: float, at: float, value: float) -> float:
    """Smallest chi-square of curves with f(at) = value, alpha and beta not negative: alpha is eliminated by hand."""
    c = BUDGETS[: len(y)]

    def residuals(theta: np.ndarray) -> np.ndarray:
        b, beta = math.exp(theta[0]), theta[1]
        alpha = (value - beta) / at**-b
        return np.asarray((alpha * c**-b + beta - y) / sigma)

    best = math.inf
    for start in (0.1, 0.4, 1.5):
        for floor in (0.0, 0.9 * min(value, y.min())):
            found = optimize.least_squares(
                residuals, (math.log(start), floor), bounds=([math.log(1e-3), 0.0], [math.log(10.0), value]), xtol=1e-12
            )
            best = min(best, 2 * found.cost)
    return best


@pytest.mark.parametrize(
    ("y", "sigma"),
    [
        (law(1.0) * 0 + ALPHA * BUDGETS**-B + BETA, 0.002),
        (ALPHA * BUDGETS[:4] ** -B + BETA + np.array([0.003, -0.002, 0.002, -0.001]), 0.004),
        (1.3 * BUDGETS**-0.17 + np.array([0.004, -0.006, 0.002, 0.003, -0.004]), 0.01),  # the floor reaches 0
    ],
    ids=["exact", "four noisy", "floor open"],
)
def test_a_curve_pinned_to_the_bands_edge_has_just_the_chi_square_that_is_allowed(y: np.ndarray, sigma: float) -> None:
    observed = points(y, sigma)
    best = fitted(observed)
    at = np.array([0.7, 2.8, 20.0])
    rise = stats.chi2.ppf(0.95, 1)
    limits = curve_limits(observed, best, np.log(at), np.full(len(at), rise))
    for place, ratio in enumerate(at):
        for value in (limits.low[place], limits.high[place]):
            excess = pinned_chi2(y, sigma, float(ratio), float(value)) - float(best.chi2[0])
            # The band takes its exponents from a grid: that costs a per cent of the quantile at most.
            assert excess == pytest.approx(rise, rel=0.01)


def test_the_band_covers_the_true_curve_as_often_as_it_says() -> None:
    rng = np.random.default_rng(11)
    sigma, draws = 0.002, int(os.environ.get("OPTSWEEP_BAND_DRAWS", "80"))
    truth = ALPHA * BUDGETS**-B + BETA
    at = np.array([1.5, 6.0])
    wanted = ALPHA * at**-B + BETA
    rise = np.full(2, stats.chi2.ppf(0.95, 1))
    hits = np.zeros(2)
    for _ in range(draws):
        observed = points(truth + sigma * rng.standard_normal(len(BUDGETS)), sigma)
        limits = curve_limits(observed, fitted(observed), np.log(at), rise)
        hits += (limits.low <= wanted) & (wanted <= limits.high)
    assert np.all(np.abs(hits / draws - 0.95) < 3 * math.sqrt(0.95 * 0.05 / draws))  # binomial, three deviations


def test_the_band_follows_the_fit_and_opens_outside_the_budgets() -> None:
    results = frame(curve((1, 2, 4, 8), sigma=0.001))
    found = bands(results)
    row = analysis.fit(results).iloc[0]
    expected = row["alpha"] * found["chinchilla"] ** -row["b"] + row["beta"]
    assert np.allclose(found["loss"], expected, atol=1e-9)
    assert (found["low"] < found["loss"]).all() and (found["loss"] < found["high"]).all()
    inside = found[found["inside"]]
    assert inside["chinchilla"].min() == pytest.approx(1, rel=1e-4)
    assert inside["chinchilla"].max() == pytest.approx(8, rel=1e-4)
    assert found["chinchilla"].min() == pytest.approx(1 / 1.5, rel=1e-4)
    assert found["chinchilla"].max() == pytest.approx(8 * 1.5, rel=1e-4)
    width = (found["high"] - found["low"]).to_numpy()
    assert width[0] > width[len(width) // 2] and width[-1] > width[len(width) // 2]


def test_a_measured_sigma_widens_the_band_by_students_quantile() -> None:
    rows = curve((1, 2, 4, 8))
    for budget in (1.0, 8.0):  # three fresh seeds at both ends, spread so that sd = 0.002 at each
        base = law(budget)
        rows += [run("adamw", budget, base + off, seed=seed) for seed, off in ((1, 0.002), (2, -0.002), (3, 0.0))]
    measured = bands(frame(rows))
    sigma = float(np.std([0.0, 0.002, -0.002, 0.0], ddof=1))
    given = bands(frame(rows), sigma=sigma)
    place = len(measured) // 2
    ratio = (measured["high"] - measured["low"]).iloc[place] / (given["high"] - given["low"]).iloc[place]
    # Two ends of 3 degrees of freedom each: the effective number lies between 3 and 6.
    assert stats.t.ppf(0.975, 6) / 1.96 - 0.05 < ratio < stats.t.ppf(0.975, 3) / 1.96 + 0.05


def test_without_sigma_there_is_a_curve_and_no_band_and_a_refused_fit_has_no_rows() -> None:
    unknown = bands(frame(curve((1, 2, 4, 8), dataset="embedded")))
    assert len(unknown) and unknown["low"].isna().all() and unknown["high"].isna().all()
    assert len(bands(frame(curve((1, 2))))) == 0
    assert len(bands(frame([]))) == 0
