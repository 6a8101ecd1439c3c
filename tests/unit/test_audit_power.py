"""Power: what a plan promises to first order is what the profile interval then shows; what no plan reaches says why."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from optsweep_tui.analysis import power, speedup
from optsweep_tui.analysis.columns import POWER
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import PARAMS, curve, frame, law, run

BUDGETS = (1, 2, 4, 8)
SIGMA = 0.002


def study(**other: Any) -> pd.DataFrame:
    return frame([*curve(BUDGETS, **other), *curve((2, 4), optimizer="muon", speedup=1.25, **other)])


def seeded(optimizer: str, budget: float, truth: float, seeds: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A base-seed run and so many fresh ones."""
    return [
        run(optimizer, budget, law(budget * truth) + SIGMA * rng.standard_normal(), seed=seed)
        for seed in range(seeds + 1)
    ]


def row_of(found: pd.DataFrame, ratio: float, optimizer: str = "muon") -> dict[str, Any]:
    (row,) = found[(found.optimizer == optimizer) & (found.chinchilla == ratio)].to_dict("records")
    return {str(key): value for key, value in row.items()}


def half_width(found: pd.DataFrame, ratio: float) -> float:
    row = row_of(found, ratio)
    return float((row["high"] - row["low"]) / 2 / row["speedup"])


def test_the_width_now_is_that_of_the_profile_interval_and_first_order_comes_close_to_it() -> None:
    data = study()
    found = power(data, 0.02, sigma=SIGMA)
    assert list(found.columns) == list(POWER)
    for ratio in (2, 4):
        row = row_of(found, ratio)
        assert row["half_width"] == pytest.approx(half_width(speedup(data, sigma=SIGMA), ratio))
        assert row["delta_half_width"] == pytest.approx(row["half_width"], rel=0.03)


def test_equal_seeds_reach_the_target_as_computed_and_one_seed_less_does_not() -> None:
    """Simulated: the profile interval of studies that were run with so many fresh seeds; 5 % for its second order."""
    rng = np.random.default_rng(7)
    row = row_of(power(study(), 0.04, sigma=SIGMA), 4)
    n = row["equal_seeds"]
    assert 1 < n < 12 and row["equal_half_width"] <= 0.04
    for seeds, narrow in ((n, True), (n - 1, False)):
        widths = []
        for _ in range(8):
            rows = [each for budget in BUDGETS for each in seeded("adamw", budget, 1.0, seeds, rng)]
            rows += seeded("muon", 4, 1.25, seeds, rng)
            widths.append(half_width(speedup(frame(rows), sigma=SIGMA), 4))
        assert np.median(widths) <= 0.04 * 1.05 if narrow else np.median(widths) > 0.04 * 0.98
    # Every cell was run once: n fresh seeds are n new runs of it, and of each baseline budget.
    assert (row["equal_cell_runs"], row["equal_baseline_runs"]) == (n, n * len(BUDGETS))
    tokens = n * 20 * PARAMS * (4 + sum(BUDGETS))
    assert row["equal_tokens"] == pytest.approx(tokens, rel=1e-9)
    assert row["equal_flops"] == pytest.approx(tokens * 6.0 * PARAMS, rel=1e-9)


def test_seeds_of_the_cell_alone_reach_the_target_until_the_curve_is_what_is_left() -> None:
    rng = np.random.default_rng(8)
    data = study()
    row = row_of(power(data, 0.05, sigma=SIGMA), 4)
    n = row["cell_seeds"]
    assert row["cell_runs"] == n and row["cell_tokens"] == pytest.approx(n * 20 * PARAMS * 4)
    for seeds, narrow in ((n, True), (n - 1, False)):
        widths = []
        for _ in range(8):
            rows = [run("adamw", budget, law(budget) + SIGMA * rng.standard_normal()) for budget in BUDGETS]
            widths.append(half_width(speedup(frame([*rows, *seeded("muon", 4, 1.25, seeds, rng)]), sigma=SIGMA), 4))
        assert np.median(widths) <= 0.05 * 1.05 if narrow else np.median(widths) > 0.05 * 0.98
    out = row_of(power(data, 0.01, sigma=SIGMA), 4)
    assert pd.isna(out["cell_seeds"]) and "the baseline's curve alone leaves" in out["cell_reason"]
    assert out["cell_half_width"] > 0.01, "the part that no seed of the cell removes"


def test_further_budgets_of_the_baseline_reach_the_target_as_computed() -> None:
    data = study()
    now = row_of(power(data, 0.02, sigma=SIGMA), 4)["half_width"]
    row = row_of(power(data, 0.93 * now, sigma=SIGMA), 4)
    assert row["budgets"] and row["budgets_half_width"] <= 0.93 * now
    more = pd.concat([data, frame(curve(row["budgets"]))])
    assert half_width(speedup(more, sigma=SIGMA), 4) == pytest.approx(row["budgets_half_width"], rel=0.05)
    assert row["budgets_runs"] == len(row["budgets"]), "the baseline's cells were tuned over one run each"
    assert row["budgets_tokens"] == pytest.approx(20 * PARAMS * sum(row["budgets"]), rel=0.01)
    assert "more budgets of the baseline still leave" in row_of(power(data, 0.01, sigma=SIGMA), 4)["budgets_reason"]


def test_measured_noise_is_planned_with_the_degrees_of_freedom_it_will_have() -> None:
    rng = np.random.default_rng(9)
    rows = [each for budget in (1, 8) for each in seeded("adamw", budget, 1.0, 3, rng)]
    data = frame([*rows, *curve((2, 4)), *curve((4,), optimizer="muon", speedup=1.25)])
    found = power(data, 0.05)
    row = row_of(found, 4)
    assert row["sigma_source"] == "measured"
    assert row["delta_half_width"] == pytest.approx(row["half_width"], rel=0.1)
    n = row["equal_seeds"]
    # The ends have three fresh seeds each; the two other budgets and the cell have none.
    assert row["equal_baseline_runs"] == 2 * max(0, n - 3) + 2 * n and row["equal_cell_runs"] == n
    known = row_of(power(data, 0.05, sigma=row["sigma"]), 4)
    assert known["half_width"] < row["half_width"] and known["equal_seeds"] <= n


def test_a_target_that_is_met_needs_nothing() -> None:
    row = row_of(power(study(), 0.5, sigma=SIGMA), 2)
    assert row["reached"] and row["equal_seeds"] == row["cell_seeds"] == 1 and row["budgets"] == []
    for name in ("equal_cell_runs", "equal_baseline_runs", "cell_runs", "budgets_runs", "equal_tokens", "cell_flops"):
        assert row[name] == 0


def test_out_of_reach_says_why() -> None:
    lifted = [run(chinchilla=1, loss=law(1)), run(chinchilla=2, loss=law(2) + 0.05), run(chinchilla=4, loss=law(4))]
    misfit = frame([*lifted, *curve((8, 16)), *curve((4,), optimizer="muon", speedup=1.3)])
    row = row_of(power(misfit, 0.01), 4)
    assert row["state"] != "REFUSE" and "MISFIT" in row["equal_reason"] and pd.isna(row["equal_seeds"])
    far = frame([*curve(BUDGETS), *curve((8,), optimizer="muon", speedup=1.3)])
    row = row_of(power(far, 0.01, sigma=SIGMA), 8)
    assert row["state"] == "EXTRAP" and "it is extrapolated there" in row["cell_reason"]
    refused = frame([*curve(BUDGETS), *curve((8,), optimizer="muon", speedup=3.0), *curve((1,), optimizer="lion")])
    row = row_of(power(refused, 0.01, sigma=SIGMA), 8)
    assert row["state"] == "REFUSE" and "beyond 1.5x" in row["reason"] and math.isnan(row["half_width"])
    unknown = row_of(power(study(dataset="embedded"), 0.05), 4)
    assert "NO-SIGMA" in unknown["reason"] and "3 fresh seeds of adamw at ratio 1 and ratio 8" in unknown["reason"]


def test_a_target_that_is_no_share_is_refused_and_an_empty_frame_has_no_rows() -> None:
    for target in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(OptsweepError):
            power(study(), target)
    assert power(frame([]), 0.05).empty
