"""95 % intervals hold the truth 95 % of the time: seeded simulations through the public speedup()."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

from benchmarks import coverage
from optsweep_tui.analysis import speedup

DRAWS = int(os.environ.get("OPTSWEEP_COVERAGE_DRAWS", "500"))
"""`make faults` draws 1500: there 93-97 % has to hold."""
MARGIN = 3.5 * (0.95 * 0.05 / DRAWS) ** 0.5
"""Binomial standard errors that a share may be off by chance."""


@pytest.mark.slow
@pytest.mark.parametrize("measured", [False, True], ids=["known sigma", "sigma from 4 seeds at each end"])
@pytest.mark.parametrize("sigma", [0.0013, 0.0025])
@pytest.mark.parametrize("budgets", [[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0, 16.0]], ids=["4 points", "5 points"])
def test_profile_intervals_cover_and_medians_are_unbiased(budgets: list[float], sigma: float, measured: bool) -> None:
    data = coverage.runs(DRAWS, budgets, sigma, measured, seed=11)
    found = speedup(data, sigma=None if measured else sigma)
    assert len(found) == DRAWS * len(budgets)
    for _, cells in found.groupby("chinchilla"):
        inside = (cells.low <= coverage.TRUTH) & (cells.high >= coverage.TRUTH)
        # Refused draws have no interval and count as misses.
        assert abs(inside.mean() - 0.95) <= MARGIN
        values = cells.speedup.fillna(np.inf)
        spread = float(np.log(cells.speedup.dropna()).std())
        # 0.5 %, plus what the median of so many draws is off by chance (3 standard errors).
        assert abs(float(values.median()) / coverage.TRUTH - 1) < 0.005 + 3 * 1.2533 * spread / DRAWS**0.5


def test_intervals_that_assume_half_the_noise_do_not_cover() -> None:
    """The check above can fail: the same draws at half the sigma cover far less."""
    found = speedup(coverage.runs(300, [1.0, 2.0, 4.0, 8.0], 0.0013, False, seed=1), sigma=0.00065)
    inside = (found.low <= coverage.TRUTH) & (found.high >= coverage.TRUTH)
    assert inside.mean() < 0.75


def test_known_and_measured_sigma_cover_at_a_glance() -> None:
    for measured in (False, True):
        data = coverage.runs(400, [1.0, 2.0, 4.0, 8.0], 0.0013, measured, seed=2)
        found: pd.DataFrame = speedup(data, sigma=None if measured else 0.0013)
        inside = (found.low <= coverage.TRUTH) & (found.high >= coverage.TRUTH)
        # 1600 cells, four of each draw share a baseline: about 400-1600 independent ones, standard error up to 1.1 %.
        assert 0.92 <= inside.mean() <= 0.98
