"""In-run crossings: where a validation curve first reaches a target, its brackets, ties, bounds and refusals."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.analysis import crossing_runs, in_run_crossings
from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis.columns import CROSSINGS, CURVES
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import frame, run

SPEEDRUN = Path(__file__).parents[2] / "grids" / "reference" / "speedrun-2024-10.csv"
Points = Sequence[tuple[float, float]]


def study(curves: Mapping[str, Points], seconds: Mapping[str, float] | None = None, **other: Any) -> Any:
    """(results, curves): one run per optimizer; `seconds` = per step."""
    rows = [run(name, 1, points[-1][1] if points else 3.0, **other) for name, points in curves.items()]
    lines = [
        {"run_id": row["run_id"], "step": step, "loss": loss, "seconds": step * (seconds or {}).get(name, 1.0)}
        for row, (name, points) in zip(rows, curves.items(), strict=True)
        for step, loss in points
    ]
    return frame(rows), pd.DataFrame(lines, columns=list(CURVES))


def crossings(curves: Mapping[str, Points], target: float, **options: Any) -> dict[str, dict[str, Any]]:
    """Optimizer -> row, with a tiny sigma unless one is given."""
    data = study(curves)
    found = in_run_crossings(*data, targets=[target], **{"sigma": 1e-6} | options)
    assert list(found.columns) == list(CROSSINGS)
    return by_optimizer(found)


def by_optimizer(found: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {row["optimizer"]: {str(name): value for name, value in row.items()} for row in found.to_dict("records")}


def speedrun() -> Any:
    """The four public curves, with the device and the size that the importer knows."""
    points: dict[str, list[tuple[int, float, float]]] = {}
    with open(SPEEDRUN, newline="") as handle:
        for row in csv.DictReader(handle):
            points.setdefault(row["optimizer"], []).append(
                (int(row["step"]), float(row["val_loss"]), float(row["train_time_ms"]) / 1000)
            )
    names = {"Adam": "adam", "Muon": "muon", "SOAP": "soap", "DistributedShampoo": "shampoo"}
    rows = [
        run(names[name], 1.57, lines[-1][1], params=84_934_656, total_params=123_568_128, dataset="fineweb",
            tokens=5100 * 512 * 1024, seconds_per_token=1e-7, seed=None)
        for name, lines in points.items()
    ]  # fmt: skip
    lines = [
        {"run_id": row["run_id"], "step": step, "loss": loss, "seconds": seconds}
        for row, name in zip(rows, points, strict=True)
        for step, loss, seconds in points[name]
    ]
    return frame(rows), pd.DataFrame(lines)


def test_the_speedrun_reaches_335_where_a_pencil_says_and_muon_and_soap_are_tied() -> None:
    rows = by_optimizer(in_run_crossings(*speedrun(), targets=[3.35], baseline="adam"))
    # By hand, from the two lines of the CSV around 3.35.
    pencil = {
        "muon": 4125 + 125 * (3.3593 - 3.35) / (3.3593 - 3.3467),
        "soap": 4250 + 125 * (3.3518 - 3.35) / (3.3518 - 3.3363),
        "shampoo": 4375 + 125 * (3.3504 - 3.35) / (3.3504 - 3.3381),
        "adam": 4875 + 125 * (3.3548 - 3.35) / (3.3548 - 3.3452),
    }
    for name, step in pencil.items():
        assert rows[name]["crossing"] == pytest.approx(step)
        assert rows[name]["speedup"] == pytest.approx(pencil["adam"] / step)
        assert (rows[name]["state"], rows[name]["label"]) == ("INTERP", "in-run, biased low")
        assert F.IN_RUN in rows[name]["flags"] and rows[name]["sigma_source"] == "prior"
    assert (rows["muon"]["bracket_low"], rows["muon"]["bracket_high"]) == (4125, 4250)
    assert (rows["muon"]["low"], rows["muon"]["high"]) == pytest.approx((4875 / 4250, 5000 / 4125))
    # 47 steps apart, validated every 125: nobody won.
    assert [rows[name]["tie_group"] for name in ("muon", "soap", "shampoo", "adam")] == [1, 1, 2, 3]
    assert not any(row["winner"] for row in rows.values())


def test_the_speedrun_never_reaches_330_with_adam_and_says_so() -> None:
    rows = by_optimizer(in_run_crossings(*speedrun(), targets=[3.30], baseline="adam"))
    assert rows["adam"]["state"] == "REFUSE"
    assert rows["adam"]["reason"] == "never reaches 3.3: its minimum is 3.3406 at step 5,100"
    assert (rows["adam"]["min_loss"], rows["adam"]["min_at"]) == (3.3406, 5100)
    assert math.isnan(rows["adam"]["crossing"]) and pd.isna(rows["adam"]["rank"])
    muon = rows["muon"]
    assert muon["crossing"] == pytest.approx(4625 + 125 * (3.3095 - 3.30) / (3.3095 - 3.2978))
    # Adam needs more than its 5,100 steps, Muon at most 4,750.
    assert muon["state"] == "REFUSE" and muon["bound"] == "> 1.07x" and math.isnan(muon["speedup"])
    assert "adam" in muon["reason"] and "3.3406" in muon["reason"]
    assert not any(row["winner"] for row in rows.values())


def test_the_speedrun_in_seconds_has_a_winner_and_soap_pays_for_its_steps() -> None:
    found = in_run_crossings(*speedrun(), targets=[3.35, 3.30], baseline="adam", x="time")
    rows = by_optimizer(found[found.target_loss == 3.35])
    muon = 584.516 + (602.364 - 584.516) * (3.3593 - 3.35) / (3.3593 - 3.3467)
    adam = 674.350 + (691.758 - 674.350) * 0.5
    assert rows["muon"]["crossing"] == pytest.approx(muon)
    assert rows["muon"]["speedup"] == pytest.approx(adam / muon)
    assert rows["soap"]["speedup"] == pytest.approx(0.533, abs=1e-3)
    assert rows["muon"]["winner"] and rows["muon"]["rank"] == 1 and rows["soap"]["rank"] == 4
    assert F.TIMED_ONCE in rows["muon"]["flags"]
    assert by_optimizer(found[found.target_loss == 3.30])["adam"]["reason"].endswith("at 705.5 s")


LINE = [(0, 10.0), (100, 4.0), (200, 3.0), (300, 2.0)]


def later(points: Points, steps: float) -> list[tuple[float, float]]:
    return [(step + steps if step else step, loss) for step, loss in points]


def test_a_target_met_exactly_at_a_logged_point_is_crossed_there() -> None:
    row = crossings({"adamw": LINE}, 3.0)["adamw"]
    assert (row["crossing"], row["bracket_low"], row["bracket_high"]) == (200, 100, 200)
    assert (row["speedup"], row["rank"], row["winner"]) == (1.0, 1, False)


def test_seconds_of_branches_are_withheld_and_their_steps_are_not() -> None:
    """A branch's seconds begin where it does: its trunk's are no part of them."""
    results, logged = study({"adamw": LINE, "muon": LINE})
    results.loc[results["optimizer"] == "muon", "start_mode"] = "branch"
    options: dict[str, Any] = {"targets": [2.5], "sigma": 1e-6}
    timed = by_optimizer(in_run_crossings(results, logged, x="time", **options))
    assert math.isfinite(timed["adamw"]["crossing"])
    assert math.isnan(timed["muon"]["crossing"]) and pd.isna(timed["muon"]["rank"])
    assert "its runs are branches, whose seconds leave out those of their trunk" in timed["muon"]["reason"]
    steps = by_optimizer(in_run_crossings(results, logged, x="steps", **options))
    assert steps["muon"]["crossing"] == steps["adamw"]["crossing"] == timed["adamw"]["crossing"]


def test_the_first_crossing_counts_and_the_last_one_is_beside_it() -> None:
    bumpy = [(0, 10.0), (100, 4.0), (200, 2.0), (300, 4.0), (400, 1.0)]
    row = crossings({"adamw": LINE, "muon": bumpy}, 3.0)["muon"]
    assert (row["crossing"], row["last_crossing"]) == pytest.approx((150, 300 + 100 / 3))
    assert F.RECROSSED in row["flags"] and row["crossing_high"] == 400
    ends_above = [(0, 10.0), (100, 2.0), (200, 4.0)]
    row = crossings({"adamw": LINE, "muon": ends_above}, 3.0)["muon"]
    assert row["crossing"] == pytest.approx(87.5) and math.isnan(row["last_crossing"])
    assert math.isinf(row["crossing_high"]) and row["low"] == 0 and F.OPEN in row["flags"]


def test_who_crosses_within_one_logging_interval_is_tied_and_who_crosses_later_is_not() -> None:
    rows = crossings({"adamw": LINE, "near": later(LINE, 100), "far": later(LINE, 101)}, 2.5)
    assert [rows[name]["tie_group"] for name in ("adamw", "near", "far")] == [1, 1, 2]
    assert not rows["adamw"]["winner"]
    rows = crossings({"adamw": LINE, "far": later(LINE, 101)}, 2.5)
    assert rows["adamw"]["winner"] and rows["adamw"]["rank"] == 1


def test_who_lies_within_noise_of_the_target_where_the_first_crosses_is_tied() -> None:
    fine = [(step, 4 - step / 100) for step in range(301)]
    curves = {"adamw": fine, "muon": [(step, loss + 0.05) for step, loss in fine]}
    # 1.645 sigma sqrt(2) is the width of a tie: sigma .0215 makes .0500.
    assert crossings(curves, 2.5, sigma=0.0216)["adamw"]["tie_group"] == 1
    assert crossings(curves, 2.5, sigma=0.0216)["muon"]["tie_group"] == 1
    apart = crossings(curves, 2.5, sigma=0.0214)
    assert apart["muon"]["tie_group"] == 2
    # A winner needs its gap clear at 95 %: sigma .0180.
    assert not apart["adamw"]["winner"] and crossings(curves, 2.5, sigma=0.0179)["adamw"]["winner"]


def test_noise_widens_the_bracket_and_without_sigma_there_is_no_tie_group_and_no_winner() -> None:
    fine = [(step, 4 - step / 100) for step in range(301)]
    wide = crossings({"adamw": fine}, 2.5, sigma=0.05)["adamw"]
    half = 100 * 1.959964 * 0.05
    assert (wide["crossing_low"], wide["crossing_high"]) == pytest.approx((150 - half, 150 + half))
    rows = by_optimizer(
        in_run_crossings(*study({"adamw": LINE, "muon": later(LINE, 200)}, dataset="embedded"), targets=[2.5])
    )
    assert rows["adamw"]["rank"] == 1 and pd.isna(rows["adamw"]["tie_group"]) and not rows["adamw"]["winner"]
    assert F.NO_SIGMA in rows["adamw"]["flags"]
    assert (rows["muon"]["low"], rows["muon"]["high"]) == pytest.approx((200 / 500, 300 / 400))


def test_what_never_arrives_is_bounded_from_the_other_side() -> None:
    rows = crossings({"adamw": LINE, "slow": [(0, 10.0), (600, 2.6)]}, 2.5)
    assert rows["slow"]["reason"] == "never reaches 2.5: its minimum is 2.6000 at step 600; < 0.5x"
    assert rows["slow"]["bound"] == "< 0.5x"


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([], "its runs logged no validation loss"),
        ([(500, 2.0)], "was validated once, at step 500, at or below 2.5"),
        ([(100, 2.4), (200, 2.0)], "already at its first validation, step 100"),
        ([(100, math.nan), (200, math.inf)], "its runs logged no validation loss"),
    ],
)
def test_a_crossing_that_nothing_brackets_is_refused_with_the_reason(points: Points, reason: str) -> None:
    results, curves = study({"adamw": LINE, "muon": points})
    row = by_optimizer(in_run_crossings(results.assign(loss=2.0), curves, targets=[2.5], sigma=0.001))["muon"]
    assert row["state"] == "REFUSE" and reason in row["reason"]
    assert math.isnan(row["crossing"]) and math.isnan(row["speedup"]) and row["bound"] == ""


def test_points_that_are_not_finite_are_left_out() -> None:
    holes = [(0, 10.0), (100, 4.0), (150, math.nan), (200, 3.0), (250, math.inf), (300, 2.0)]
    assert crossings({"adamw": LINE, "muon": holes}, 2.5)["muon"]["crossing"] == 250


def test_a_run_without_a_final_loss_and_a_baseline_without_a_run_are_refused() -> None:
    results, curves = study({"adamw": LINE, "muon": LINE})
    results.loc[1, ["state", "loss"]] = ["running", None]
    rows = by_optimizer(in_run_crossings(results, curves, targets=[2.5], sigma=0.001))
    assert rows["muon"]["reason"] == "no final loss: 1 running"
    rows = by_optimizer(in_run_crossings(results, curves, targets=[2.5], sigma=0.001, baseline="lion"))
    assert rows["adamw"]["reason"] == "the baseline lion has no run at this budget"
    assert rows["adamw"]["crossing"] == 250


def test_seconds_are_withheld_unless_both_were_timed_in_one_place_and_they_rise() -> None:
    def reason(change: Mapping[str, Any], seconds: Any = None) -> str:
        results, curves = study({"adamw": LINE, "muon": LINE})
        for name, value in change.items():
            results.loc[1, name] = value
        if seconds is not None:
            curves.loc[curves.run_id == results.run_id[1], "seconds"] = seconds
        rows = by_optimizer(in_run_crossings(results, curves, targets=[2.5], sigma=0.001, x="time"))
        assert rows["adamw"]["state"] == "INTERP"
        return str(rows["muon"]["reason"])

    assert reason({}) == ""
    for change in ({"device": "A100"}, {"batch_size": 256}, {"dtype": "fp32"}):
        assert reason(change).startswith("withheld: not timed on one device")
    assert reason({"seconds_per_token": None}).startswith("withheld: its runs have no measured seconds")
    assert reason({}, [math.nan] * 4) == "withheld: its validations were logged without seconds"
    assert reason({}, [0.0, 5.0, 4.0, 6.0]) == "withheld: its seconds do not rise from validation to validation"


def test_the_curve_of_a_cell_is_the_mean_over_its_fresh_seeds_at_common_steps() -> None:
    results, curves = study({"adamw": LINE})
    rows, lines = [results], [curves]
    for seed, shift in ((1, 0.2), (2, 0.4)):
        more, points = study(
            {"adamw": [*[(step, loss + shift) for step, loss in LINE], (350, 1.0)][:: 1 if seed == 1 else -1]}
        )
        rows.append(more.assign(seed=seed, loss=2.0))
        lines.append(points)
    found = in_run_crossings(pd.concat(rows), pd.concat(lines), targets=[2.8], sigma=0.001).to_dict("records")[0]
    # The mean of 3.2 and 3.4 at 200 is 3.3, of 2.2 and 2.4 at 300 is 2.3: 2.8 lies halfway.
    assert (found["crossing"], found["n_seeds"]) == (pytest.approx(250), 2)
    assert len(found["run_ids"]) == 2


def test_crossing_runs_are_those_behind_the_losses() -> None:
    rows = [
        run(loss=3.0),
        run(loss=2.9, knobs={"lr": 1}),
        run("muon", loss=2.8),
        run("lion", loss=None, state="failed"),
    ]
    assert crossing_runs(frame(rows)) == sorted([rows[1]["run_id"], rows[2]["run_id"]])


@pytest.mark.parametrize(
    "options", [{"x": "epochs"}, {"targets": []}, {"targets": [-1.0]}, {"targets": [math.nan]}, {"sigma": 0.0}]
)
def test_wrong_arguments_are_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(OptsweepError):
        in_run_crossings(*study({"adamw": LINE}), **{"targets": [2.5]} | options)


def test_empty_frames_give_no_rows_and_all_columns() -> None:
    found = in_run_crossings(pd.DataFrame(), pd.DataFrame(), targets=[3.0])
    assert len(found) == 0 and list(found.columns) == list(CROSSINGS)


def test_a_run_that_has_only_begun_bounds_nothing() -> None:
    results, points = study({"adamw": [(0.0, 3.0), (10.0, 1.0)], "muon": [(0.0, 3.0)]})
    found = by_optimizer(in_run_crossings(results, points, targets=[2.0]))["muon"]
    assert (found["state"], found["bound"]) == ("REFUSE", "") and "3.0000 at step 0" in found["reason"]


CURVE = st.lists(
    st.one_of(st.floats(1.0, 5.0), st.sampled_from([math.nan, math.inf, 3.0])), min_size=0, max_size=12
).map(lambda losses: [(10.0 * place, loss) for place, loss in enumerate(losses)])


@settings(max_examples=30, deadline=None)
@given(st.lists(CURVE, min_size=1, max_size=4), st.sampled_from([2.0, 3.0, 4.5]), st.sampled_from([None, 0.01, 1.0]))
def test_any_curves_have_crossings_where_a_fine_comb_finds_them(
    curves: list[Points], target: float, sigma: float | None
) -> None:
    names = ["adamw", "muon", "lion", "soap"][: len(curves)]
    results, points = study(dict(zip(names, curves, strict=True)))
    results = results.assign(loss=2.0, dataset="embedded")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = in_run_crossings(results, points, targets=[target], sigma=sigma)
        shuffled = in_run_crossings(
            results.sample(frac=1, random_state=1), points.sample(frac=1, random_state=2), targets=[target], sigma=sigma
        )
    pd.testing.assert_frame_equal(found, shuffled)
    for name, row in by_optimizer(found).items():
        known = [(step, loss) for step, loss in curves[names.index(name)] if math.isfinite(loss)]
        below = [place for place, (_, loss) in enumerate(known) if loss <= target]
        assert (row["state"] == "REFUSE") == math.isnan(row["speedup"]) == (row["reason"] != "")
        if not below or below[0] == 0:
            assert math.isnan(row["crossing"]) and row["state"] == "REFUSE"
            continue
        comb = np.linspace(0, known[-1][0], 4001)
        losses = np.interp(comb, [step for step, _ in known], [loss for _, loss in known])
        assert row["crossing"] == pytest.approx(float(comb[losses <= target + 1e-9][0]), abs=0.04)
        assert (
            row["crossing_low"] <= row["bracket_low"] <= row["crossing"] <= row["bracket_high"] <= row["crossing_high"]
        )
        if row["state"] == "INTERP" and name != "adamw":
            assert row["low"] <= row["speedup"] <= row["high"]
