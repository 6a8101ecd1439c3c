"""The curve: variable projection, its limits, its solvers, and what makes a fit refuse or warn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from optsweep_tui.analysis import fit
from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.budget_limits import budget_limits
from optsweep_tui.analysis.columns import FIT
from optsweep_tui.analysis.intervals import exponent_limits, floor_limits
from optsweep_tui.analysis.law import Curves, Points, fitted
from tests.unit.analysis_frames import ALPHA, BETA, PARAMS, B, curve, frame, law, run


def row(found: pd.DataFrame) -> dict[str, Any]:
    assert len(found) == 1
    return {str(key): value for key, value in found.iloc[0].to_dict().items()}


@pytest.mark.parametrize("budgets", [(1, 2, 4), (1, 2, 4, 8), (0.25, 0.5, 1, 2, 4, 8, 16)])
@pytest.mark.parametrize("truth", [(ALPHA, B, BETA), (1.5, 0.1, 1.0), (0.2, 1.2, 3.0), (2.0, 0.3, 0.0)])
def test_an_exact_law_is_recovered(budgets: tuple[float, ...], truth: tuple[float, float, float]) -> None:
    alpha, b, beta = truth
    found = row(fit(frame([run(chinchilla=c, loss=law(c, alpha, b, beta)) for c in budgets])))
    assert found["b"] == pytest.approx(b, rel=1e-5)
    assert found["alpha"] == pytest.approx(alpha, rel=1e-5)
    assert found["beta"] == pytest.approx(beta, abs=1e-4)
    assert found["max_residual"] < 1e-7
    assert found["n_points"] == len(budgets) and found["state"] == "FIT"


def test_three_solvers_agree_on_noisy_points() -> None:
    rng = np.random.default_rng(4)
    found = row(fit(frame(curve((1, 2, 4, 8, 16), sigma=0.0013, rng=rng))))
    solvers = found["solvers"]
    for name in ("b", "alpha", "beta"):
        assert solvers["varpro"][name] == pytest.approx(found[name])
        assert solvers["multistart"][name] == pytest.approx(found[name], rel=1e-5)
        assert solvers["huber_log"][name] == pytest.approx(found[name], rel=0.05)
    assert solvers["multistart"]["starts"] == 16 and solvers["multistart"]["agreeing"] >= 8
    assert solvers["max_difference"] < 0.5 * 0.0013
    assert F.SOLVERS not in found["flags"]


def stacked(u: np.ndarray, y: np.ndarray, sd: np.ndarray) -> Points:
    return Points(u=u[None], y=y[None], w=1 / sd[None] ** 2)


def brute_chi2(u: np.ndarray, y: np.ndarray, sd: np.ndarray, start: Curves, hold: dict[str, float]) -> float:
    """Chi-square minimised over (log amplitude, log B, beta >= 0) by Nelder-Mead from several starts; some held."""

    def value(theta: np.ndarray) -> float:
        log_a, log_b, beta = theta
        log_b, beta = hold.get("log_b", log_b), hold.get("beta", beta)
        f = np.exp(log_a - np.exp(log_b) * u) + beta
        return float((((f - y) / sd) ** 2).sum())

    best = math.inf
    for scale in (0.6, 0.9, 1.0, 1.1, 1.6):
        b = float(start.b[0]) * scale
        x = np.exp(-b * u)
        slope, floor = np.polyfit(x, y, 1)
        if floor < 0:
            slope, floor = float((x * y).sum() / (x * x).sum()), 1e-6
        theta = np.array([math.log(max(slope, 1e-6)), math.log(b), floor])
        for _ in range(3):
            bounds: Any = [(None, None), (math.log(1e-3), math.log(10)), (0, None)]
            options: Any = {"xatol": 1e-10, "fatol": 1e-11, "maxiter": 4000, "maxfev": 4000}
            result = minimize(value, theta, method="Nelder-Mead", bounds=bounds, options=options)
            theta = result.x
        best = min(best, float(result.fun))
    return best


CASES = [
    # (alpha, B, beta, sigma, ratio at which the competitor stands, seed)
    (ALPHA, B, BETA, 0.0013, 3.0, 1),
    (ALPHA, B, BETA, 0.0025, 7.0, 2),
    (1.5, 0.10, 0.3, 0.004, 2.5, 3),  # floor within reach of 0
    (3.5, 0.05, 0.0, 0.003, 5.0, 4),  # floor at 0
]


@pytest.mark.parametrize("case", CASES)
def test_profile_limits_are_where_the_full_chi_square_has_risen_by_the_quantile(case: tuple[float, ...]) -> None:
    alpha, b, beta, sigma, at, seed = case
    rng = np.random.default_rng(int(seed))
    c = np.array([1.0, 2, 4, 8, 16])
    u, sd = np.log(c), np.full(5, sigma)
    y = alpha * c**-b + beta + sigma * rng.standard_normal(5)
    loss = law(at, alpha, b, beta)
    points, rise = stacked(u, y, sd), np.array([3.841459])
    best = fitted(points)
    limits = budget_limits(points, best, np.array([0]), np.array([loss]), np.array([sigma**2]), rise)
    base = brute_chi2(u, y, sd, best, {})
    assert base == pytest.approx(float(best.chi2[0]), abs=2e-4)
    for end in (float(limits.low[0]), float(limits.high[0])):
        assert math.isfinite(end)
        held = brute_chi2(np.append(u, end), np.append(y, loss), np.append(sd, sigma), best, {})
        assert held - base == pytest.approx(3.841459, abs=2e-3)
    exponents = exponent_limits(points, best, rise)
    for end in (float(exponents.low[0]), float(exponents.high[0])):
        assert brute_chi2(u, y, sd, best, {"log_b": math.log(end)}) - base == pytest.approx(3.841459, abs=2e-3)
    floors = floor_limits(points, best, rise, exponents)
    assert brute_chi2(u, y, sd, best, {"beta": float(floors.high[0])}) - base == pytest.approx(3.841459, abs=4e-3)
    if floors.low[0] > 0:
        assert brute_chi2(u, y, sd, best, {"beta": float(floors.low[0])}) - base == pytest.approx(3.841459, abs=4e-3)
    else:
        assert brute_chi2(u, y, sd, best, {"beta": 0.0}) - base <= 3.841459 + 2e-3


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.02, 2.0),
    st.floats(0.05, 1.5),
    st.floats(0.0, 4.0),
    st.floats(1e-4, 0.05),
    st.integers(0, 10**6),
    st.integers(3, 6),
)
def test_limits_enclose_the_estimate_for_any_law(
    alpha: float, b: float, beta: float, sigma: float, seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    c = 2.0 ** np.arange(count)
    y = alpha * c**-b + beta + sigma * rng.standard_normal(count)
    points = stacked(np.log(c), np.abs(y) + 1e-3, np.full(count, sigma))
    best, rise = fitted(points), np.array([3.84])
    exponents = exponent_limits(points, best, rise)
    floors = floor_limits(points, best, rise, exponents)
    assert exponents.low[0] <= best.b[0] <= exponents.high[0]
    assert floors.low[0] <= best.beta[0] <= floors.high[0]
    if best.falling[0]:
        loss = best.loss(np.array([math.log(3.0)]))
        ends = budget_limits(points, best, np.array([0]), loss, np.array([sigma**2]), rise)
        assert ends.low[0] <= math.log(3.0) + 1e-6 and ends.high[0] >= math.log(3.0) - 1e-6


def test_tokens_or_ratios_as_the_unit_change_nothing_but_alpha() -> None:
    rng = np.random.default_rng(0)
    c = np.array([1.0, 2, 4, 8])
    y = np.array([law(ratio) for ratio in c]) + 0.002 * rng.standard_normal(4)
    fits = []
    for scale in (1.0, 20.0 * PARAMS):
        tokens = c * scale
        fits.append(fitted(stacked(np.log(tokens / tokens[0]), y, np.full(4, 0.002))))
    assert fits[0].b[0] == pytest.approx(fits[1].b[0], rel=1e-9)
    assert fits[0].beta[0] == pytest.approx(fits[1].beta[0], rel=1e-9)


def test_the_sigma_of_each_point_and_its_seeds_decide_its_weight() -> None:
    rows = curve((1, 2, 4, 8))
    far_off = [
        *curve((16,)),
    ]
    far_off[0]["loss"] += 0.02
    alone = row(fit(frame(rows + far_off), sigma=0.001))
    seeds = [far_off[0] | {"seed": seed, "run_id": f"x{seed}"} for seed in range(1, 31)]
    many = row(fit(frame(rows + far_off + seeds), sigma=0.001))
    pulled = abs(many["points"][4]["residual"])
    assert pulled < 0.2 * abs(alone["points"][4]["residual"])
    assert many["points"][4]["n"] == 30


def test_a_curve_that_misses_its_points_is_flagged_and_widens_the_automatic_sigma() -> None:
    rows = curve((1, 2, 4, 8, 16))
    for place, step in enumerate((0.0, 0.006, -0.006, 0.006, 0.0)):
        rows[place]["loss"] += step
    found = row(fit(frame(rows)))
    assert F.MISFIT in found["flags"]
    assert found["chi2_p"] < 0.01
    assert found["sigma_scale"] == pytest.approx(math.sqrt(found["chi2"] / 2))
    given_sigma = row(fit(frame(rows), sigma=0.0013))
    assert F.MISFIT in given_sigma["flags"] and given_sigma["sigma_scale"] == 1.0
    assert given_sigma["b_high"] - given_sigma["b_low"] < found["b_high"] - found["b_low"]
    assert F.MISFIT not in row(fit(frame(curve((1, 2, 4, 8, 16)))))["flags"]


def test_the_misfit_probability_is_the_chi_square_one_and_f_where_sigma_is_measured() -> None:
    rows = curve((1, 2, 4, 8, 16), sigma=0.002, rng=np.random.default_rng(1))
    found = row(fit(frame(rows), sigma=0.002))
    residuals = np.array([point["residual"] for point in found["points"]])
    assert found["chi2"] == pytest.approx(float((residuals**2).sum() / 0.002**2))
    from scipy import stats

    assert found["chi2_p"] == pytest.approx(stats.chi2.sf(found["chi2"], 2))
    seeds = [r | {"seed": s, "run_id": f"{r['run_id']}{s}", "loss": r["loss"] + step}
             for r in (rows[0], rows[-1]) for s, step in ((1, 0.002), (2, -0.002), (3, 0.001))]  # fmt: skip
    measured = row(fit(frame(rows + seeds)))
    assert measured["sigma_dof"] == 6
    assert measured["chi2_p"] == pytest.approx(stats.f.sf(measured["chi2"] / 2, 2, 6))


def test_an_exponent_that_the_points_do_not_hold_is_said_not_to_be_identified() -> None:
    loose = row(fit(frame(curve()), sigma=0.02))
    assert loose["identified"] is False and F.NOT_IDENTIFIED in loose["flags"]
    tight = row(fit(frame(curve()), sigma=0.0005))
    assert tight["identified"] is True and F.NOT_IDENTIFIED not in tight["flags"]
    assert tight["b_low"] < B < tight["b_high"] and tight["beta_low"] < BETA < tight["beta_high"]


def test_without_sigma_there_is_a_curve_and_no_limits() -> None:
    found = row(fit(frame(curve(dataset="embedded"))))
    assert found["state"] == "FIT" and found["b"] == pytest.approx(B, rel=1e-5)
    assert math.isnan(found["b_low"]) and math.isnan(found["chi2_p"]) and found["identified"] is None
    assert F.NO_SIGMA in found["flags"]


@pytest.mark.parametrize("budgets", [(), (1,), (1, 2)])
def test_fewer_than_three_budgets_are_refused(budgets: tuple[float, ...]) -> None:
    found = row(fit(frame([*curve(budgets), run("muon", loss=3.0)])))
    assert found["state"] == "REFUSE" and found["reason"]
    assert math.isnan(found["b"]) and found["solvers"] == {}


def test_a_loss_that_rises_with_tokens_is_refused() -> None:
    found = row(fit(frame([run(chinchilla=c, loss=3.0 + 0.1 * c) for c in (1, 2, 4)])))
    assert found["state"] == "REFUSE" and "does not fall" in found["reason"]


def test_unfinished_runs_never_enter() -> None:
    rows = curve((1, 2, 4, 8))
    rows += [
        run(chinchilla=16, loss=1.0, state="running"),
        run(chinchilla=8, loss=1.0, state="running", knobs={"lr": 9}),
    ]
    found = row(fit(frame(rows)))
    assert found["n_points"] == 4
    assert found["b"] == pytest.approx(B, rel=1e-5)


def test_max_chinchilla_cuts_the_points() -> None:
    found = row(fit(frame(curve((1, 2, 4, 8, 16))), max_chinchilla=8))
    assert (found["n_points"], found["chinchilla_high"]) == (4, 8)
    short = row(fit(frame(curve((1, 2, 4, 8, 16))), max_chinchilla=2))
    assert short["state"] == "REFUSE" and "up to ratio 2" in short["reason"]


def test_leaving_a_point_out_tells_how_well_the_others_predict_it() -> None:
    rows = curve((1, 2, 4, 8, 16))
    rows[2]["loss"] += 0.01
    errors = row(fit(frame(rows)))["leave_one_out"]
    assert [entry["chinchilla"] for entry in errors] == [1, 2, 4, 8, 16]
    assert errors[2]["error"] == pytest.approx(-0.01, abs=1e-6)
    assert row(fit(frame(curve((1, 2, 4)))))["leave_one_out"] == []


def test_one_exponent_for_all_sizes_is_tested_against_separate_ones() -> None:
    def models(exponents: tuple[float, ...], noise: int) -> pd.DataFrame:
        rng = np.random.default_rng(noise)
        return frame(
            run(chinchilla=c, loss=law(c, ALPHA, b, BETA - k) + 0.0013 * rng.standard_normal(), model=f"m{k}")
            for k, b in enumerate(exponents)
            for c in (1, 2, 4, 8)
        )

    same = fit(models((B, B, B), 1))
    assert same.shared_b_p.nunique() == 1 and same.shared_b_p[0] > 0.01
    assert same.shared_b[0] == pytest.approx(B, rel=0.15)
    assert fit(models((0.2, B, 0.9), 1)).shared_b_p[0] < 1e-3


def test_sizes_whose_curves_rest_on_other_budgets_are_flagged_until_they_are_cut_alike() -> None:
    rows = curve((1, 2, 4, 8, 16)) + curve((1, 2, 4, 8), model="other")
    assert all(F.SUPPORT in flags for flags in fit(frame(rows))["flags"])
    assert not any(F.SUPPORT in flags for flags in fit(frame(rows), max_chinchilla=8)["flags"])


def test_groups_are_fitted_apart_and_their_order_does_not_matter() -> None:
    rows = curve(sigma=0.001) + curve(sigma=0.001, model="other", rng=np.random.default_rng(9))
    rows += curve(sigma=0.001, engine="jax", rng=np.random.default_rng(8))
    together = fit(frame(rows))
    assert len(together) == 3
    for part in (rows[:4], rows[4:8], rows[8:]):
        alone = row(fit(frame(part)))
        same = together[(together.model == alone["model"]) & (together.engine == alone["engine"])].iloc[0]
        assert same.b == alone["b"] and same.beta == alone["beta"]
    shuffled = fit(frame(rows).sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(shuffled, together)


def test_an_empty_frame_gives_an_empty_fit_with_all_columns() -> None:
    for empty in (pd.DataFrame(), frame([])):
        found = fit(empty)
        assert len(found) == 0 and list(found.columns) == list(FIT)


def test_limits_of_random_laws_are_where_the_profile_with_one_more_point_has_risen() -> None:
    """The closed form against its definition: the competitor as one more observation held on the curve."""
    rng = np.random.default_rng(0)
    count, budgets, rise = 400, 5, 3.84
    c = 2.0 ** np.arange(budgets)
    alpha, b = 10 ** rng.uniform(-1, 0.5, count), 10 ** rng.uniform(-1.5, 0.3, count)
    beta, sigma = rng.choice([0.0, 0.05, 0.5, 3.0], count), alpha * 10 ** rng.uniform(-3.5, -1, count)
    noise = sigma[:, None] * rng.standard_normal((count, budgets))
    y = np.abs(alpha[:, None] * c ** -b[:, None] + beta[:, None] + noise)
    w = np.repeat(1 / sigma[:, None] ** 2, budgets, axis=1)
    points = Points(u=np.tile(np.log(c), (count, 1)), y=y, w=w)
    best = fitted(points)
    loss = best.loss(rng.uniform(0, math.log(16), count))
    limits = budget_limits(points, best, np.arange(count), loss, sigma**2, np.full(count, rise))
    closed = 0
    for end in (limits.low, limits.high):
        held = Points(
            u=np.column_stack([points.u, np.where(np.isfinite(end), end, 0.0)]),
            y=np.column_stack([y, loss]),
            w=np.column_stack([w, 1 / sigma**2]),
        )
        risen = (fitted(held).chi2 - best.chi2)[np.isfinite(end) & best.falling]
        closed += len(risen)
        assert np.abs(risen - rise).max() < 1e-3
    assert closed > 1.5 * count
