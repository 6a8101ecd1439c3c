"""Sigma: its sources, its degrees of freedom, and what the ledger says about them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from optsweep_tui.analysis import fit, noise_ledger, table
from optsweep_tui.analysis.noise import Noise, quantile_squared
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import curve, frame, run

SMALL = [0.01, -0.01, 0.02, 0.0]
LARGE = [0.001, -0.001, 0.003, 0.0]


def replicated(ends: dict[float, list[float]], **other: Any) -> list[dict[str, Any]]:
    """A baseline at 1, 2, 4, 8 with the given deviations of its seeds at some budgets."""
    rows = []
    for row in curve(**other):
        for seed, step in enumerate(ends.get(row["chinchilla"], [0.0])):
            rows.append(row | {"seed": seed, "loss": row["loss"] + step, "run_id": f"{row['run_id']}-{seed}"})
    return rows


def test_sigma_is_pooled_over_base_and_fresh_seeds_at_both_ends_and_linear_in_log_tokens() -> None:
    data = frame(replicated({1: SMALL, 8: LARGE}, dataset="embedded"))
    found = table(data)
    small, large = np.std(SMALL, ddof=1), np.std(LARGE, ddof=1)
    assert found.sigma_source.tolist() == ["measured"] * 4
    assert found.sigma.tolist() == pytest.approx(
        [small, small + (large - small) / 3, small + 2 * (large - small) / 3, large]
    )
    fitted = fit(data).iloc[0]
    assert (fitted.sigma_small, fitted.sigma_large) == pytest.approx((small, large))
    assert fitted.sigma == pytest.approx(math.sqrt((small**2 + large**2) / 2))
    assert fitted.sigma_dof == 6


def test_two_fresh_seeds_at_one_end_are_not_enough() -> None:
    data = frame(replicated({1: SMALL, 8: LARGE[:3]}, dataset="embedded"))
    assert set(table(data).sigma_source) == {"none"}
    ledger = noise_ledger(data, "adamw")
    assert ledger.used.tolist() == [False, False, False]
    assert ledger.source.tolist() == ["measured", "measured", "none"]
    assert "has 2 at ratio 8" in ledger.reason[2]


def test_the_prior_speaks_for_large_subword_models_only() -> None:
    def source(**other: Any) -> str:
        return str(table(frame([run(loss=3.0, **other)])).sigma_source[0])

    assert source() == "prior"
    assert source(dataset="embedded") == "none"
    assert source(dataset="enwik8-bytes") == "none"
    assert source(dataset=None) == "none"
    assert source(params=90_000_000, total_params=99_000_000) == "none"
    # GPT-2 small: 85M without its embedding, 124M with it, which is the model that the prior comes from.
    assert source(params=85_000_000, total_params=124_000_000) == "prior"


def test_measured_seeds_win_over_the_prior_and_a_given_sigma_over_both() -> None:
    data = frame(replicated({1: SMALL, 8: LARGE}))
    assert set(table(data).sigma_source) == {"measured"}
    given = table(data, sigma=0.00177)
    assert set(given.sigma_source) == {"given"} and set(given.sigma) == {0.00177}
    assert all(math.isinf(dof) for dof in given.sigma_dof)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_a_given_sigma_has_to_be_positive_and_finite(sigma: float) -> None:
    for verb in (table, fit):
        with pytest.raises(OptsweepError, match="positive and finite"):
            verb(frame([run()]), sigma=sigma)


def test_replicates_equal_to_the_last_digit_are_no_measurement() -> None:
    data = frame(replicated({1: [0.0] * 4, 8: LARGE}, dataset="embedded"))
    assert set(table(data).sigma_source) == {"none"}
    assert "equal to the last digit" in noise_ledger(data, "adamw").reason.iloc[-1]


def test_seeds_of_other_optimizers_are_shown_and_not_used() -> None:
    rows = replicated({1: SMALL, 8: LARGE}) + replicated({1: [0.05, -0.02]}, optimizer="muon")
    ledger = noise_ledger(frame(rows), "adamw")
    muon = ledger[ledger.optimizer == "muon"]
    assert muon.used.tolist() == [False] and muon.n_seeds.tolist() == [2]
    assert ledger[ledger.optimizer == "adamw"].end.tolist() == ["smallest", "largest"]
    assert ledger.used.sum() == 2


def test_one_seed_per_configuration_is_not_a_replicate_of_another() -> None:
    rows = [run(loss=3.0, knobs={"lr": k}, seed=k) for k in range(5)]
    assert "measured" not in noise_ledger(frame(rows), "adamw").source.tolist()


def test_known_sigma_uses_the_normal_and_measured_sigma_the_student_quantile() -> None:
    assert float(quantile_squared(math.inf)) == pytest.approx(stats.chi2.ppf(0.95, 1))
    assert quantile_squared([2, 6]).tolist() == pytest.approx([stats.f.ppf(0.95, 1, 2), stats.f.ppf(0.95, 1, 6)])


def test_the_sigma_interval_of_the_ledger_is_the_chi_square_one() -> None:
    ledger = noise_ledger(frame(replicated({1: SMALL, 8: LARGE})), "adamw")
    row = ledger[ledger.end == "smallest"].iloc[0]
    assert row.sigma_high == pytest.approx(row.sigma * math.sqrt(3 / stats.chi2.ppf(0.025, 3)))
    assert row.sigma_low == pytest.approx(row.sigma * math.sqrt(3 / stats.chi2.ppf(0.975, 3)))


def test_effective_degrees_of_freedom_are_those_of_one_end_or_up_to_their_sum() -> None:
    noise = Noise(source="measured", ends=(1e9, 8e9), sigmas=(0.01, 0.01), dofs=(3.0, 5.0))
    assert float(noise.effective_dof([1e9], [2.0])) == pytest.approx(3)
    assert float(noise.effective_dof([8e9], [2.0])) == pytest.approx(5)
    assert float(noise.effective_dof([1e9, 8e9], [3.0, 5.0])) == pytest.approx(8)
    uneven = Noise(source="measured", ends=(1e9, 8e9), sigmas=(0.1, 0.001), dofs=(3.0, 5.0))
    assert float(uneven.effective_dof([1e9, 8e9], [1.0, 1.0])) == pytest.approx(3, rel=1e-3)


def test_effective_degrees_of_freedom_match_the_spread_of_simulated_variances() -> None:
    """dof = 2 mean^2 / variance of the estimated variance, by its definition."""
    rng = np.random.default_rng(3)
    tokens, q = np.array([1e9, 2e9, 8e9]), np.array([1.0, 2.0, 0.5])
    ends = 0.01 * np.sqrt(rng.chisquare([400.0, 600.0], (20000, 2)) / [400.0, 600.0])
    variances = [float(q @ Noise(source="measured", ends=(1e9, 8e9), sigmas=tuple(pair), dofs=(1.0, 1.0)).at(tokens) ** 2)
                 for pair in ends.tolist()]  # fmt: skip
    empirical = 2 * np.mean(variances) ** 2 / np.var(variances)
    noise = Noise(source="measured", ends=(1e9, 8e9), sigmas=(0.01, 0.01), dofs=(400.0, 600.0))
    # 20,000 draws give a variance to about 1 %; 5 % is 5 of its standard errors.
    assert float(noise.effective_dof(tokens, q)) == pytest.approx(empirical, rel=0.05)


def test_sigma_is_constant_outside_the_measured_ends() -> None:
    noise = Noise(source="measured", ends=(1e9, 8e9), sigmas=(0.02, 0.01), dofs=(3.0, 3.0))
    assert noise.at([1e8, 1e9, 8e9, 1e11]).tolist() == pytest.approx([0.02, 0.02, 0.01, 0.01])
