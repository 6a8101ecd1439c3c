"""One exponent for all models: its fit, its intervals against brute force and simulation, its test, its flags."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq, least_squares

from optsweep_tui.analysis import fit, speedup
from optsweep_tui.analysis import flags as F
from tests.unit.analysis_frames import ALPHA, BETA, B, curve, frame, law, run

RISE = 3.841458820694124  # chi-square quantile, 95 %, 1 degree of freedom
SIGMA = 0.002
BUDGETS = (1.0, 2.0, 4.0, 8.0)
LAWS = {"small": (0.45, 3.07), "middle": (ALPHA, BETA), "large": (0.25, 2.65)}


def study(
    seed: int, exponents: tuple[float, float, float] = (B, B, B), name: str = "s", sigma: float = SIGMA
) -> list[Any]:
    """Three models of one study, a competitor that needs 1/1.2 of the tokens beside each."""
    rng = np.random.default_rng(seed)
    rows = []
    for (model, (alpha, beta)), b in zip(LAWS.items(), exponents, strict=True):
        for c in BUDGETS:
            for optimizer, factor in (("adamw", 1.0), ("muon", 1.2)):
                loss = law(c * factor, alpha, b, beta) + sigma * float(rng.standard_normal())
                rows.append(run(optimizer, c, loss, model=model, study=name))
    return rows


def by_model(found: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["model"]: {str(name): value for name, value in row.items()} for row in found.to_dict("records")}


def test_the_limits_are_where_the_joint_chi_square_has_risen_by_the_quantile() -> None:
    data = frame(study(3))
    found = speedup(data, sigma=SIGMA, shared_exponent=True)
    c = np.array(BUDGETS)
    y = {model: np.array([data[(data.model == model) & (data.optimizer == "adamw") & (data.chinchilla == x)].loss.iloc[0]
                          for x in BUDGETS]) for model in LAWS}  # fmt: skip

    def least(held: tuple[str, float, float] | None = None) -> tuple[np.ndarray[Any, Any], float]:
        """(B, alphas, betas), chi-square of all points of all models; `held` = (model, ratio, loss) taken in."""

        def residuals(theta: Any) -> Any:
            parts = []
            for place, model in enumerate(LAWS):
                alpha, beta = theta[1 + place], theta[4 + place]
                parts.append(alpha * c ** -theta[0] + beta - y[model])
                if held and held[0] == model:
                    parts.append(np.array([alpha * held[1] ** -theta[0] + beta - held[2]]))
            return np.concatenate(parts) / SIGMA

        start = np.array([B, *(alpha for alpha, _ in LAWS.values()), *(beta for _, beta in LAWS.values())])
        result = least_squares(residuals, start, xtol=1e-14, ftol=1e-14, gtol=1e-14)
        return np.asarray(result.x), 2 * float(result.cost)

    theta, base = least()
    for model, at in (("small", 2.0), ("large", 8.0)):
        row = found[(found.model == model) & (found.chinchilla == at)].iloc[0]
        place = list(LAWS).index(model)
        centre = math.log(((row.loss - theta[4 + place]) / theta[1 + place]) ** (-1 / theta[0]))
        ends = []
        for side in (-0.5, 0.5):

            def excess(u: float, model: str = model, loss: float = float(row.loss)) -> float:
                return least((model, math.exp(u), loss))[1] - base - RISE

            ends.append(math.exp(brentq(excess, centre, centre + side, xtol=1e-7)) / at)
        assert (row.low, row.high) == pytest.approx(ends, abs=1e-4)
        assert row.speedup == pytest.approx(math.exp(centre) / at, abs=1e-5)
    fits = fit(data, sigma=SIGMA, shared_exponent=True)
    assert fits.b.tolist() == pytest.approx([theta[0]] * 3, abs=1e-6)
    assert float(fits.chi2.sum()) == pytest.approx(base, abs=1e-4)
    # 12 points, 3 alphas, 3 betas, 1 exponent.
    assert float(fits.chi2_dof.sum()) == pytest.approx(5)


@pytest.fixture(scope="module")
def simulated() -> pd.DataFrame:
    """200 studies of three models that do share an exponent."""
    return frame(row for seed in range(200) for row in study(seed, name=f"s{seed}"))


@pytest.fixture(scope="module")
def shared(simulated: pd.DataFrame) -> pd.DataFrame:
    return speedup(simulated, sigma=SIGMA, shared_exponent=True)


def test_intervals_cover_the_truth_and_are_narrower_than_with_an_exponent_each(
    simulated: pd.DataFrame, shared: pd.DataFrame
) -> None:
    own = speedup(simulated, sigma=SIGMA)
    inside = (shared.low <= 1.2) & (shared.high >= 1.2)
    # 200 studies x 3 models x 4 budgets; cells of one model share a baseline: standard error below 1 %.
    assert 0.93 <= inside.mean() <= 0.97
    narrower = pd.Series(np.log(shared.high / shared.low) / np.log(own.high / own.low)).groupby(own.chinchilla).median()
    # Between the budgets the points hold the curve; at the largest one the exponent does.
    assert (narrower < 1.01).all() and narrower[8.0] < 0.92
    assert float(shared.speedup.median()) == pytest.approx(1.2, rel=0.005)


def test_the_test_of_one_exponent_rejects_at_its_level_and_sees_a_real_difference(shared: pd.DataFrame) -> None:
    p = shared.drop_duplicates("study").shared_b_p
    # 200 studies: the standard error of 5 % is 1.5 %, of 50 % 3.5 %.
    assert 0.01 <= (p < 0.05).mean() <= 0.1
    assert 0.39 <= (p < 0.5).mean() <= 0.61
    found = speedup(frame(study(1, (0.2, B, 0.9))), sigma=SIGMA, shared_exponent=True)
    assert (found.shared_b_p < 1e-3).all() and all(F.EXPONENTS in flags for flags in found["flags"])
    assert not any(
        F.EXPONENTS in flags for flags in speedup(frame(study(1)), sigma=SIGMA, shared_exponent=True)["flags"]
    )


def test_one_model_alone_shares_with_nobody() -> None:
    rows = frame([row for row in study(2) if row["model"] == "middle"])
    for one, other in (
        (speedup(rows, shared_exponent=True), speedup(rows)),
        (fit(rows, shared_exponent=True), fit(rows)),
    ):
        assert one.exponent.tolist() == ["shared"] * len(one) and other.exponent.tolist() == ["own"] * len(other)
        for name in {"speedup", "low", "high", "b", "b_low", "beta_high", "chi2_p"} & set(one.columns):
            assert one[name].tolist() == pytest.approx(other[name].tolist(), rel=1e-7, nan_ok=True)


def test_engines_and_studies_never_share() -> None:
    rows = study(4) + [row | {"engine": "jax", "run_id": f"j{row['run_id']}"} for row in study(5, (0.2, 0.2, 0.2))]
    found = fit(frame(rows), sigma=SIGMA, shared_exponent=True)
    assert found.groupby("engine").b.nunique().tolist() == [1, 1] and found.b.nunique() == 2
    alone = fit(frame(study(4)), sigma=SIGMA, shared_exponent=True)
    assert found[found.engine == "torch"].b.tolist() == alone.b.tolist()


def test_bootstrap_and_profile_agree_with_a_shared_exponent() -> None:
    rows = frame(study(6, sigma=0.0005))
    profile, bootstrap = (
        speedup(rows, sigma=0.0005, ci=ci, draws=4000, shared_exponent=True) for ci in ("profile", "bootstrap")
    )
    for name in ("low", "high"):
        # 4000 draws leave a tail quantile about 2.5 % of the half width off; half widths here are below 8 %.
        assert bootstrap[name].tolist() == pytest.approx(profile[name].tolist(), rel=0.01)


def test_a_misfit_of_one_model_widens_its_own_sigma_and_lets_the_others_lead() -> None:
    rows = study(7, sigma=1e-5)
    for row in rows:
        if row["model"] == "small" and row["optimizer"] == "adamw":
            row["loss"] += {1.0: 0.02, 2.0: -0.02, 4.0: 0.02, 8.0: -0.02}[row["chinchilla"]]
    found = by_model(fit(frame(rows), shared_exponent=True))
    assert F.MISFIT in found["small"]["flags"] and found["small"]["sigma_scale"] > 5
    assert F.MISFIT not in found["large"]["flags"] and found["large"]["sigma_scale"] == 1
    alone = fit(frame(row for row in rows if row["model"] != "small"), shared_exponent=True)
    assert found["large"]["b"] == pytest.approx(float(alone.b.iloc[0]), rel=0.02)


def test_leaving_a_point_out_keeps_the_exponent_of_the_other_models() -> None:
    rows = [row for row in study(8, sigma=0.0) if not (row["model"] == "small" and row["chinchilla"] == 8.0)]
    for row in rows:
        if (row["model"], row["optimizer"], row["chinchilla"]) == ("small", "adamw", 2.0):
            row["loss"] += 0.01
    found = by_model(fit(frame(rows), sigma=SIGMA, shared_exponent=True))
    errors = {entry["chinchilla"]: entry["error"] for entry in found["small"]["leave_one_out"]}
    # Three points are too few to leave one out alone; with the others' exponent two of them predict the third.
    assert errors[2.0] == pytest.approx(-0.01, abs=1e-5)
    assert by_model(fit(frame(rows)))["small"]["leave_one_out"] == []


def test_models_without_a_sigma_do_not_weigh_on_those_with_one() -> None:
    rows = study(9)
    for row in rows:
        if row["model"] == "small":
            row |= {"params": 1e6, "total_params": 2e6, "tokens": round(row["chinchilla"] * 20e6)}
    found = by_model(fit(frame(rows), shared_exponent=True))
    assert found["small"]["sigma_source"] == "none"
    assert found["middle"]["b"] == found["large"]["b"] != found["small"]["b"]


def test_measured_sigmas_give_degrees_of_freedom_between_the_ends_own_and_those_of_all_models() -> None:
    steps = (0.0, 0.0013, -0.0013, 0.0007)
    rows = [
        row | {"seed": seed, "run_id": f"{row['run_id']}{seed}", "loss": row["loss"] + (step if seed else 0.0)}
        for row in study(10) if row["optimizer"] == "adamw"
        for seed, step in enumerate(steps) if seed == 0 or row["chinchilla"] in (1.0, 8.0)
    ]  # fmt: skip
    rows += [row for row in study(10) if row["optimizer"] == "muon"]
    shared, own = (speedup(frame(rows), shared_exponent=flag) for flag in (True, False))
    assert own.sigma_dof.between(3, 6).all() and shared.sigma_dof.between(3, 18).all()
    assert float(shared.sigma_dof.max()) > 6
    assert set(shared.sigma_source) == {"measured"}


def test_the_order_of_the_rows_does_not_matter() -> None:
    data = frame(study(11))
    for verb in (fit, speedup):
        expected = verb(data, sigma=SIGMA, shared_exponent=True)
        pd.testing.assert_frame_equal(
            verb(data.sample(frac=1, random_state=5), sigma=SIGMA, shared_exponent=True), expected
        )


def test_refused_models_are_no_part_of_the_family() -> None:
    short = [row | {"model": "short"} for row in curve((1, 2), sigma=0.5)]
    rising = [run(chinchilla=c, loss=3 + 0.1 * c, model="rising") for c in BUDGETS]
    found = by_model(fit(frame(study(12) + short + rising), sigma=SIGMA, shared_exponent=True))
    alone = by_model(fit(frame(study(12)), sigma=SIGMA, shared_exponent=True))
    assert found["short"]["state"] == found["rising"]["state"] == "REFUSE"
    assert found["large"]["b"] == pytest.approx(alone["large"]["b"], rel=1e-7)
    assert found["large"]["b_high"] == pytest.approx(alone["large"]["b_high"], rel=1e-6)
