"""What figures hold: the analysis' own numbers, solid only where measured, everything refused said in words."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui import analysis, drawings
from optsweep_tui.analysis.rank_curves import contenders, rank_curves
from optsweep_tui.analysis.strips import strips
from optsweep_tui.charts import static
from optsweep_tui.charts.figure import Figure, Series, as_data
from optsweep_tui.charts.kinds import KINDS, common
from optsweep_tui.cli import output
from tests.unit.analysis_frames import PARAMS, curve, frame, run

FROM_RESULTS = [kind for kind in KINDS if kind != "loss"]


def drawn(results: pd.DataFrame, kind: str, **options: Any) -> Figure:
    return drawings.drawing(results, drawings.Choice(kind=kind, **options))


def series(figure: Figure) -> list[Series]:
    return [one for panel in figure.panels for one in panel.series]


def study() -> pd.DataFrame:
    """INTERP, EXTRAP and REFUSE in one: a speedup of 1.2, of 1.7 (beyond reach at 8x) and of 0.4."""
    rows = curve((1, 2, 4, 8))
    for name, gain in (("soap", 1.2), ("muon", 1.7), ("sgd", 0.4)):
        rows += curve((1, 2, 4, 8), optimizer=name, speedup=gain)
    return frame(rows)


def test_speedups_are_the_analysis_own_with_state_and_interval() -> None:
    results = study()
    rows = output.records(analysis.speedup(results))
    figure = drawn(results, "speedup")
    found = {
        (one.name, x): (y, low, high, one.marks, one.data["state"])
        for one in series(figure)
        if one.data.get("state") in ("INTERP", "EXTRAP") and one.low is not None and one.high is not None
        for x, y, low, high in zip(one.x.tolist(), one.y.tolist(), one.low.tolist(), one.high.tolist(), strict=True)
    }
    expected = {
        (row["optimizer"], row["chinchilla"]): (
            row["speedup"], row["low"], row["high"], "solid" if row["state"] == "INTERP" else "hollow", row["state"],
        )
        for row in rows
        if row["state"] != "REFUSE"
    }  # fmt: skip
    assert found == expected
    assert {row["state"] for row in rows} == {"INTERP", "EXTRAP", "REFUSE"}


def test_a_bound_is_hollow_with_an_arrow_at_the_value_that_the_table_prints() -> None:
    for kind, factor in (("speedup", 1.0), ("deff", 20.0 * PARAMS * 8)):
        bounds = [one for one in series(drawn(study(), kind)) if one.data.get("state") == "REFUSE"]
        assert {(one.name, one.arrow, one.marks) for one in bounds} == {
            ("muon", "up", "hollow"),
            ("sgd", "down", "hollow"),
        }
        top = next(one for one in bounds if one.arrow == "up")
        # The largest budget is 8, the cell is at 8: D_eff beyond 1.5 x 8.
        assert top.y.tolist() == pytest.approx([1.5 * factor])


def test_lines_join_measured_points_only() -> None:
    for one in series(drawn(study(), "speedup")):
        if one.line == "guide" and one.look.letter == "m":
            assert np.isfinite(one.y).tolist() == [True, True, True, False]
    assert all(one.line != "curve" for one in series(drawn(study(), "speedup")))


def test_against_size_each_budget_has_a_panel_and_models_stand_at_their_parameters() -> None:
    rows = []
    for model, params in (("300m", PARAMS), ("1.2b", 4 * PARAMS)):
        rows += curve((1, 2, 4, 8), model=model, params=params)
        rows += curve((1, 2), optimizer="muon", speedup=1.3, model=model, params=params)
    figure = drawn(frame(rows), "speedup")
    assert [panel.title for panel in figure.panels] == ["Chinchilla ratio 1", "Chinchilla ratio 2"]
    ticks = figure.panels[0].x.ticks
    assert ticks is not None and list(ticks) == [(float(PARAMS), "300m"), (4.0 * PARAMS, "1.2b")]
    assert [panel.title for panel in drawn(frame(rows), "speedup", x="ratio").panels] == ["300m", "1.2b"]


def test_d_eff_over_d_is_the_speedup() -> None:
    results = study()
    wanted = {(row["optimizer"], row["tokens"]): row["d_eff"] for row in output.records(analysis.speedup(results))}
    for one in series(drawn(results, "deff")):
        if one.data.get("state") in ("INTERP", "EXTRAP"):
            for x, y in zip(one.x.tolist(), one.y.tolist(), strict=True):
                assert y == pytest.approx(wanted[(one.name, x)], rel=1e-12)
    lines = drawn(results, "deff").panels[0].references
    assert [float(line.y[0] / line.x[0]) for line in lines] == pytest.approx([1.0, 1.2, 1.3, 1.4])


def test_the_curve_is_dashed_and_shaded_outside_the_budgets() -> None:
    raw, minus = drawn(study(), "ratio").panels
    solid = next(one for one in raw.series if one.line == "curve")
    dashed = [one for one in raw.series if one.line == "dashed"]
    assert (solid.x[0], solid.x[-1]) == pytest.approx((1.0, 8.0), rel=1e-4)
    outside = [[1 / 1.5, 1.0], [8.0, 12.0]]
    drawn_there = sorted([float(one.x[0]), float(one.x[-1])] for one in dashed)
    assert np.allclose(drawn_there, outside, rtol=1e-4)
    assert np.allclose([[shade.low, shade.high] for shade in raw.shades], outside, rtol=1e-4)
    assert [band.pale for band in raw.bands] == [True, False, True]
    own = next(one for one in minus.series if one.name == "adamw")
    assert np.allclose(own.y, 0.0, atol=1e-6)


def test_a_cell_outside_the_baselines_budgets_is_hollow_where_the_curve_is_taken_off() -> None:
    rows = curve((1, 2, 4)) + curve((2, 5), optimizer="muon", speedup=1.1)
    minus = drawn(frame(rows), "ratio").panels[1]
    states = {(one.marks, one.x.tolist()[0]) for one in minus.series if one.name == "muon"}
    assert states == {("solid", 2.0), ("hollow", 5.0)}


def test_two_budgets_show_points_and_say_why_there_is_no_curve() -> None:
    figure = drawn(frame(curve((1, 2)) + curve((1, 2), optimizer="muon", speedup=1.2)), "ratio")
    assert not figure.empty
    assert all(one.line == "none" for one in series(figure))
    assert any("a curve needs 3" in text for text in figure.refused)
    refused = drawn(frame(curve((1, 2)) + curve((1, 2), optimizer="muon", speedup=1.2)), "speedup")
    assert refused.empty and any("a curve needs 3" in text for text in refused.refused)
    assert "a curve needs 3" in static.text(refused, width=80, height=20, colour=False).replace("\n ", " ")


def test_sigma_its_source_and_its_absence_are_in_the_caption() -> None:
    assert any("0.0013 nats (prior)" in text for text in drawn(study(), "speedup").caption)
    assert any("0.004" in text and "given" in text for text in drawn(study(), "speedup", sigma=0.004).caption)
    unknown = study().assign(dataset="embedded")
    for kind in ("ratio", "deff", "speedup", "rank", "overhead"):
        figure = drawn(unknown, kind)
        assert any("NO-SIGMA" in text for text in figure.caption), kind
        for one in series(figure):
            if one.low is not None and one.high is not None:
                assert np.isnan(one.low).all() and np.isnan(one.high).all()
    assert not any(
        panel.references and any(line.bar for line in panel.references) for panel in drawn(unknown, "rank").panels
    )


def swept() -> pd.DataFrame:
    """lr of two optimizers at one budget, by hand."""
    adamw = ((0.001, 3.10, "done"), (0.002, 3.05, "done"), (0.004, 3.052, "done"), (0.008, None, "diverged"))
    muon = ((0.01, 3.02, "done"), (0.02, 3.01, "done"), (0.04, 3.00, "done"))
    rows = [run("adamw", 1.0, loss, knobs={"lr": lr}, state=state) for lr, loss, state in adamw]
    rows += [run("muon", 1.0, loss, knobs={"lr": lr}, state=state) for lr, loss, state in muon]
    return frame(rows)


def test_a_strip_says_what_is_best_near_worse_lost_and_at_an_edge() -> None:
    found = {
        (row["optimizer"], row["text"]): (row["best"], row["near_best"], row["edge"], row["state"], row["excess"])
        for row in output.records(strips(swept(), "lr"))
    }
    assert found[("adamw", "0.002")] == (True, True, "", "done", 0.0)
    assert found[("adamw", "0.004")][:4] == (False, True, "", "done")
    assert found[("adamw", "0.001")][:2] == (False, False) and found[("adamw", "0.001")][4] == pytest.approx(0.05)
    assert found[("adamw", "0.008")] == (False, False, "", "diverged", None)
    assert found[("muon", "0.04")][:3] == (True, True, "high")
    figure = drawn(swept(), "strip", knob="lr")
    (edge,) = [one for one in series(figure) if one.arrow]
    labels = dict(figure.panels[0].x.ticks or ())  # .008 and .01 are too near for a scale
    assert (edge.arrow, labels[edge.x.tolist()[0]], edge.look.letter) == ("right", "0.04", "m")
    roles = {(one.data["optimizer"], one.data["role"]): one.marks for one in series(figure) if "role" in one.data}
    assert roles[("adamw", "lost")] == "cross" and roles[("adamw", "worse")] == "hollow"
    assert roles[("adamw", "near")] == roles[("adamw", "best")] == "solid"


def test_learning_rates_are_aligned_at_the_best_in_doublings() -> None:
    raw, aligned = drawn(swept(), "lr").panels
    adamw = next(one for one in aligned.series if one.name == "adamw" and one.marks == "solid")
    assert adamw.x.tolist() == pytest.approx([-1.0, 0.0, 1.0])
    assert adamw.y.tolist() == pytest.approx([0.05, 0.0, 0.002])
    lost = next(one for one in raw.series if one.marks == "cross")
    assert (lost.place, lost.x.tolist()) == ("top", [0.008])


def test_a_loss_far_above_stands_at_the_top_with_its_value() -> None:
    rows = [
        run("adamw", 1.0, loss, knobs={"lr": lr})
        for lr, loss in ((1, 3.0), (2, 3.01), (4, 3.02), (8, 3.03), (16, 3.04), (32, 3.45))
    ]
    raw, _ = drawn(frame(rows), "lr").panels
    (far,) = [one for one in raw.series if one.place == "top"]
    assert (far.x.tolist(), far.y.tolist(), list(far.text), far.arrow) == ([32.0], [3.45], ["3.45"], "up")


def test_a_learning_rate_of_0_has_no_place_on_a_log_axis_and_that_is_said() -> None:
    rows = [run("adamw", 1.0, loss, knobs={"lr": lr}) for lr, loss in ((0.0, 3.4), (0.01, 3.2), (0.02, 3.3))]
    rows += [run("muon", 1.0, loss, knobs={"lr": lr}) for lr, loss in ((0.0, 3.1), (0.01, 3.2))]
    figure = drawn(frame(rows), "lr")
    assert {one.name for one in series(figure) if one.name} == {"adamw"}
    assert figure.refused[0].startswith("muon 300m 1: its best lr is 0")
    assert figure.refused[1].startswith("2 values of lr")


def test_knobs_that_were_not_swept_are_named() -> None:
    with pytest.raises(Exception, match="swept here: lr"):
        drawn(swept(), "strip", knob="beta1")
    with pytest.raises(Exception, match="needs the name of a knob"):
        drawn(swept(), "strip")


def test_ranks_and_ties_are_those_of_the_table() -> None:
    results = study()
    cells = output.records(analysis.table(results))
    wanted = {(row["optimizer"], row["chinchilla"]): row["rank"] for row in cells}
    figure = drawn(results, "rank")
    points = [one for one in series(figure) if one.name]
    assert {(one.name, x): y for one in points for x, y in zip(one.x, one.y, strict=True)} == wanted
    assert any("no two runs" in text for text in figure.refused), "there are no curves here"


def test_ranks_inside_runs_use_only_steps_that_all_share() -> None:
    results = frame([run("adamw", 1.0, 3.0), run("muon", 1.0, 2.9), run("sgd", 2.0, 3.3)])
    ids = dict(zip(results["optimizer"], results["run_id"], strict=True))
    assert set(contenders(results)) == set(ids.values())
    rows = [(ids["adamw"], step, value) for step, value in ((0, 9.0), (10, 5.0), (20, 3.0))]
    rows += [(ids["muon"], step, value) for step, value in ((0, 9.0), (10, 4.0), (15, 3.5), (20, math.nan), (30, 2.9))]
    rows += [(ids["sgd"], step, 5.0) for step in (0, 10, 20)]
    curves = pd.DataFrame([(*row, float(row[1])) for row in rows], columns=["run_id", "step", "value", "tokens"])
    found = rank_curves(results, curves)
    ranks = {(row["optimizer"], row["step"]): row["rank"] for row in output.records(found)}
    assert ranks == {("adamw", 0): 1, ("muon", 0): 1, ("adamw", 10): 2, ("muon", 10): 1}


def test_gains_against_costs_fall_back_on_gaps_where_no_speedup_is_known() -> None:
    figure = drawn(frame(curve((1,)) + curve((1,), optimizer="muon", speedup=1.3)), "overhead")
    assert any("the gain is the gap to adamw" in text for text in figure.caption)
    gap = output.records(analysis.table(frame(curve((1,)) + curve((1,), optimizer="muon", speedup=1.3))))
    wanted = next(row["gap"] for row in gap if row["optimizer"] == "muon")
    assert next(one for one in series(figure) if one.name == "muon").y.tolist() == pytest.approx([wanted])
    bare = study().assign(seconds_per_token=math.nan, state_bytes=math.nan, flops_per_token=math.nan)
    refused = drawn(bare, "overhead")
    assert refused.empty and len(refused.refused) == 3


def test_best_after_k_is_drawn_for_known_orders_and_refused_for_others() -> None:
    results = swept()
    facts = pd.DataFrame(
        {"run_id": results["run_id"], "study": "s", "tokens_done": math.nan, "place": range(len(results))}
    )
    figure = drawings.drawing(results, drawings.Choice(kind="best-after-k"), facts=facts)
    steps = {one.name: one.y.tolist() for one in series(figure)}
    assert steps == {"adamw": [3.10, 3.05, 3.05, 3.05], "muon": [3.02, 3.01, 3.00]}
    unknown = drawn(results, "best-after-k")
    assert unknown.empty and any("order" in text and "not known" in text for text in unknown.refused)


def inside(values: list[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = pd.DataFrame(
        [{"run_id": "ab" * 16, "study": "s", "state": "done", "loss": 1.0, "optimizer": "muon", "model": "300m",
          "chinchilla": 1.0, "lr": 0.02}]
    )  # fmt: skip
    steps = np.arange(1, len(values) + 1)
    curves = pd.DataFrame(
        {
            "run_id": "ab" * 16,
            "metric": "train_loss",
            "step": steps,
            "tokens": 512 * steps,
            "seconds": 30.0 * steps,
            "value": values,
        }
    )
    return runs, curves


def test_losses_inside_runs_keep_their_gaps_and_units() -> None:
    runs, curves = inside([4.0, math.nan, 3.0, math.inf, 2.0])
    (one,) = series(drawings.loss_drawing(runs, curves, x="minutes"))
    assert one.x.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert np.isfinite(one.y).tolist() == [True, False, True, False, True]
    assert series(drawings.loss_drawing(runs, curves, x="tokens"))[0].x.tolist() == [512, 1024, 1536, 2048, 2560]


def test_a_noisy_training_loss_is_averaged_and_said_so() -> None:
    rng = np.random.default_rng(0)
    values = (2 + 0.3 * rng.standard_normal(400)).tolist()
    runs, curves = inside(values)
    figure = drawings.loss_drawing(runs, curves)
    smooth, raw = series(figure)
    assert raw.pale and raw.y.tolist() == values
    assert float(np.std(smooth.y[100:])) < 0.5 * 0.3
    assert any("averages over 8 steps" in text for text in figure.caption)
    assert [one.y.tolist() for one in series(drawings.loss_drawing(runs, curves, smooth=0))] == [values]


def test_a_run_without_a_curve_is_named() -> None:
    runs, curves = inside([])
    figure = drawings.loss_drawing(runs, curves)
    assert figure.empty and "no loss was recorded" in figure.refused[0]


CELL = st.tuples(
    st.sampled_from(["adamw", "muon", "sgd", "x.py:Own"]),
    st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0]),
    st.sampled_from([2.9, 3.0, 3.1, 3.3, 1.0, math.nan, math.inf, -1.0]),
    st.sampled_from(["done", "done", "done", "diverged", "running", "nan"]),
    st.sampled_from([0.001, 0.002, 0.004]),
    st.integers(0, 2),
)


@given(st.lists(CELL, max_size=25), st.sampled_from(FROM_RESULTS))
@settings(max_examples=int(os.environ.get("OPTSWEEP_FUZZ", "15")), deadline=None)
def test_any_table_gives_a_figure_or_words_and_never_a_solid_extrapolation(cells: list[Any], kind: str) -> None:
    rows = [
        run(name, ratio, loss, state=state, knobs={"lr": lr}, seed=seed) for name, ratio, loss, state, lr, seed in cells
    ]
    results = frame(rows)
    try:
        figure = drawn(results, kind, knob="lr")
    except Exception as error:
        assert type(error).__module__ == "optsweep_tui.errors", error
        return
    assert not figure.empty or figure.refused
    losses = {round(row["loss"], 9) for row in rows if row["loss"] is not None and math.isfinite(row["loss"])}
    for one in series(figure):
        if one.data.get("state") in ("EXTRAP", "REFUSE"):
            assert one.marks in ("hollow", "none")
        if kind in ("lr", "best-after-k") and one.name and one.place == "data":
            values = [value for value in one.y.tolist() if math.isfinite(value)]
            assert kind == "lr" or all(round(value, 9) in losses for value in values)
    json.dumps(output.clean(as_data(figure)), allow_nan=False)
    text = static.text(figure, width=80, height=20, colour=False)
    assert "\x1b" not in text and max(map(len, text.split("\n"))) <= 80


def test_flags_in_captions_are_the_analysis_own() -> None:
    from optsweep_tui.analysis.flags import MEANINGS
    from optsweep_tui.charts.kinds import overhead, ratio

    assert set(common.TOLD) | set(overhead.TIMINGS) | set(ratio.MARKS) <= set(MEANINGS)


def test_every_kind_has_a_builder_and_every_builder_a_kind() -> None:
    folder = Path(common.__file__).parent
    modules = {path.stem.replace("_", "-") for path in folder.glob("*.py")} - {"common", "states", "--init--"}
    assert modules == set(KINDS)


def test_a_frame_of_ones_own_needs_no_more_columns_than_the_analysis() -> None:
    bare = study()[["optimizer", "model", "params", "chinchilla", "state", "loss"]]
    figure = drawn(bare, "speedup")
    assert not figure.empty and "study None, 16 runs" in figure.provenance


def test_the_provenance_names_study_runs_version_and_the_data() -> None:
    first, second = drawn(study(), "speedup"), drawn(study(), "speedup")
    assert "study s, 16 runs" in first.provenance and "optsweep" in first.provenance
    assert first.provenance != second.provenance, "run ids differ in each made frame"
    results = study()
    shuffled = results.sample(frac=1.0, random_state=1)
    assert drawn(results, "speedup").provenance == drawn(shuffled, "speedup").provenance
