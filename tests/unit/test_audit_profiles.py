"""Performance profiles: cost ratios from exact speedups, areas by hand, and honest marks where a ratio is not known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from optsweep_tui.analysis import performance_profile
from optsweep_tui.analysis.audits.profiles import score_of
from optsweep_tui.analysis.columns import PROFILE
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import PARAMS, curve, frame, run

BUDGETS = (1, 2, 4, 8)


def data(*others: dict[str, Any], **speedups: float) -> Any:
    rows = [*curve(BUDGETS)]
    for name, truth in speedups.items():
        rows += curve((2, 4), optimizer=name, speedup=truth)
    return frame([*rows, *others])


def test_ratios_are_the_best_speedup_over_the_own_one_and_the_baselines_speedup_is_one() -> None:
    found = performance_profile(data(muon=1.25, sgd=0.8)).set_index("optimizer")
    assert ["optimizer", *found.columns] == list(PROFILE)
    expected = {"muon": 1.0, "adamw": 1.25, "sgd": 1.25 / 0.8}
    for name, ratio in expected.items():
        ratios = [entry["ratio"] for entry in found.ratios[name]]
        assert ratios == pytest.approx([ratio, ratio], rel=1e-5) and found.n_workloads[name] == 2
        assert found.score[name] == pytest.approx((4 - ratio) / 3, rel=1e-5)
    assert found.rho["adamw"]["1.2"] == 0 and found.rho["adamw"]["1.3"] == 1
    assert found.n_best.to_dict() == {"muon": 2, "adamw": 0, "sgd": 0}
    assert found.index.tolist() == ["muon", "adamw", "sgd"], "by falling score"


def test_the_score_is_the_area_under_the_step_function() -> None:
    ratios = [1.0, 1.3, 2.5, math.inf, 7.0]
    taus = np.linspace(1, 4, 300001)
    rho = np.mean([taus >= ratio for ratio in ratios], axis=0)
    assert score_of(ratios, 4.0) == pytest.approx(np.trapezoid(rho, taus) / 3, abs=1e-5)
    assert math.isnan(score_of([], 4.0))


def test_a_loss_above_the_baselines_reach_is_an_infinite_cost_and_so_is_a_cell_whose_runs_all_diverged() -> None:
    slow = curve((1,), optimizer="lion", speedup=0.5)
    lost = run("soap", 2, None, state="diverged")
    found = performance_profile(data(*slow, lost, muon=1.25)).set_index("optimizer")
    assert found.n_infinite.to_dict() == {"muon": 0, "adamw": 0, "lion": 1, "soap": 1}
    assert found.score["lion"] == found.score["soap"] == 0
    assert found.ratios["lion"][0]["mark"] == "INFINITE" and math.isinf(found.ratios["lion"][0]["ratio"])


def test_a_loss_below_the_reach_is_the_best_and_bounds_the_ratios_of_the_others() -> None:
    fast = [*curve((8,), optimizer="soap", speedup=2.0), *curve((8,), optimizer="kron", speedup=1.9)]
    found = performance_profile(data(*fast, *curve((8,), optimizer="muon", speedup=0.75))).set_index("optimizer")
    at_8 = {name: next(entry for entry in found.ratios[name] if entry["chinchilla"] == 8) for name in found.index}
    assert (at_8["soap"]["ratio"], at_8["soap"]["mark"]) == (1.0, "")
    assert (at_8["kron"]["ratio"], at_8["kron"]["mark"]) == (1.0, "BOUND"), "how far behind soap is not known"
    # "> 1.5x" is all that is known of soap: others lie at least 1.5 / S behind.
    assert at_8["adamw"]["ratio"] == pytest.approx(1.5) and at_8["adamw"]["mark"] == "BOUND"
    assert at_8["muon"]["ratio"] == pytest.approx(1.5 / 0.75, rel=1e-5) and at_8["muon"]["mark"] == "BOUND"
    assert found.n_best.to_dict() == {"soap": 1, "kron": 0, "adamw": 0, "muon": 0}


def test_what_cannot_be_placed_is_left_out_and_counted() -> None:
    waiting = run("lion", 2, None, state="running")
    big = [run(name, 1, 3.0, model="big", params=2 * PARAMS) for name in ("adamw", "muon")]
    found = performance_profile(data(waiting, *big, muon=1.25)).set_index("optimizer")
    assert "lion" not in found.index and found.n_excluded["muon"] == 1
    assert found.n_workloads.to_dict() == {"muon": 2, "adamw": 2}


def test_scores_over_common_cells_and_over_chosen_optimizers_and_ratios() -> None:
    rows = data(*curve((2,), optimizer="soap", speedup=1.5), muon=1.25)
    found = performance_profile(rows).set_index("optimizer")
    assert (found.n_common == 1).all() and found.score_common["muon"] == pytest.approx((4 - 1.2) / 3, rel=1e-5)
    among = performance_profile(rows, among=["adamw", "muon"]).set_index("optimizer")
    assert sorted(among.index) == ["adamw", "muon"] and among.score["muon"] == pytest.approx(1)
    at_4 = performance_profile(rows, ratios=[4.0]).set_index("optimizer")
    assert (at_4.n_workloads == 1).all() and "soap" not in at_4.index


def test_extrapolated_speedups_are_marked_and_wrong_arguments_refused() -> None:
    rows = data(*curve((8,), optimizer="soap", speedup=1.2), muon=1.25)
    found = performance_profile(rows).set_index("optimizer")
    assert found.n_extrap.to_dict() == {"muon": 0, "soap": 1, "adamw": 1}
    for wrong in (1.0, 0.0, math.nan, math.inf):
        with pytest.raises(OptsweepError):
            performance_profile(rows, tau_max=wrong)
    assert performance_profile(frame([])).empty and performance_profile(frame(curve())).empty
