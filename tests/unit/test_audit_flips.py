"""A pair flips when its order differs between two points, and flips beyond noise only when both gaps exceed their widths."""

from __future__ import annotations

import csv
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.analysis import flips
from optsweep_tui.analysis.audits.flips import best_run_ids
from optsweep_tui.analysis.audits.rows import records
from optsweep_tui.analysis.columns import FLIPS
from tests.unit.analysis_frames import PARAMS, frame, run
from tests.unit.reference_frame import FOLDER, reference

WIDTH = 1.645 * 0.001 * math.sqrt(2)


def losses(table: Mapping[str, Mapping[Any, float]], **other: Any) -> pd.DataFrame:
    return frame(
        run(name, ratio, loss, **other) for name, by_ratio in table.items() for ratio, loss in by_ratio.items()
    )


def test_a_flip_beyond_both_tie_widths_is_a_rank_flip_and_any_other_a_noise_flip() -> None:
    big, small = 2 * WIDTH, 0.5 * WIDTH
    table = {
        "adamw": {1: 3.0, 2: 2.9, 4: 2.8, 8: 2.7},
        "muon": {1: 3.0 + big, 2: 2.9 - big, 4: 2.8 + small, 8: 2.7},
    }
    found = flips(losses(table), sigma=0.001)
    assert list(found.columns) == list(FLIPS)
    verdicts = {(row.chinchilla_a, row.chinchilla_b): row.verdict for row in found.itertuples()}
    assert verdicts == {
        (1, 2): "rank flip",
        (1, 4): "same order",
        (1, 8): "equal",
        (2, 4): "noise flip",
        (2, 8): "equal",
        (4, 8): "equal",
    }
    flip = found[found.verdict == "rank flip"].iloc[0]
    assert (flip["first"], flip["second"]) == ("muon", "adamw"), "the one ahead at the later point comes first"
    assert flip.gap_a == pytest.approx(big) and flip.gap_b == pytest.approx(-big)
    assert flip.width_a == flip.width_b == pytest.approx(WIDTH)


def test_seeds_narrow_the_tie_width_of_their_own_point() -> None:
    rows = [
        *(run(name, ratio, loss) for name, ratio, loss in (("adamw", 2, 3.0), ("muon", 2, 2.999), ("lion", 1, 3.5)))
    ]
    for seed in range(5):
        rows += [run("adamw", 1, 3.1, seed=seed), run("muon", 1, 3.101, seed=seed)]
    (row,) = [row for row in flips(frame(rows), sigma=0.001).to_dict("records") if row["second"] != "lion"]
    assert row["width_a"] == pytest.approx(1.645 * 0.001 * math.sqrt(1 / 4 + 1 / 4)), "four fresh seeds each"
    assert row["width_b"] == pytest.approx(WIDTH)
    assert row["verdict"] == "noise flip"


def test_without_sigma_no_flip_is_called_one() -> None:
    data = losses({"adamw": {1: 3.0, 2: 2.9}, "muon": {1: 3.5, 2: 2.4}}, dataset="embedded")
    (row,) = flips(data).to_dict("records")
    assert row["verdict"] == "NO-SIGMA" and row["unjudged"] == 1 and row["rank_flips"] == 0
    assert math.isnan(row["width_a"]) and row["sigma_source"] == "none"


def test_models_are_compared_at_one_ratio_and_only_within_one_dataset_and_engine() -> None:
    def at(model: str, muon: float, **other: Any) -> list[dict[str, Any]]:
        size = {"model": model, "params": PARAMS * (2 if model == "big" else 1), **other}
        return [run("adamw", 2.00004, 3.0, **size), run("muon", 2, 3.0 + muon, **size)]

    rows = [*at("small", 0.1), *at("big", -0.1), *at("big", -0.1, engine="jax"), *at("big", -0.1, dataset="other")]
    rows[1:2] = [run("muon", 2.00004, 3.1, model="small", params=PARAMS)]
    found = flips(frame(rows), sigma=0.001)
    over_n = found[found.over == "N"]
    assert over_n.empty, "tokens of adamw and muon differ at big"
    rows = [*at("small", 0.1), *at("big", -0.1), *at("big", -0.1, engine="jax")]
    for row in rows:
        row["chinchilla"], row["tokens"] = 2.0, 40 * row["params"]
    found = flips(frame(rows), sigma=0.001)
    assert found.over.tolist() == ["N"] and found.verdict.tolist() == ["rank flip"]
    assert (found.model_a.iloc[0], found.model_b.iloc[0]) == ("small", "big")


def test_inside_training_points_before_the_end_are_held_against_the_final_losses() -> None:
    data = losses({"adamw": {1: 3.0}, "muon": {1: 2.9}, "lion": {1: 3.4}})
    names = dict(zip(data.run_id, data.optimizer, strict=True))
    steps = [0, 100, 200, 300, 400]
    values = {
        "adamw": [9.0, 3.9, 3.5, 3.2, 3.0],
        "muon": [9.0, 4.2, 3.4, 3.2005, 2.9],
        "lion": [9.0, 5.0, math.nan, 4.0, 3.4],
    }
    curves = pd.DataFrame(
        {"run_id": run_id, "step": step, "tokens": float(step * 1000), "value": values[name][place]}
        for run_id, name in names.items()
        for place, step in enumerate(steps)
    )
    assert set(best_run_ids(data)) == set(names)
    found = flips(data, sigma=0.001, curves=curves)
    inside = {(row["first"], row["second"]): row for row in found[found.over == "training"].to_dict("records")}
    pair = inside["muon", "adamw"]
    # Step 0 is untrained and step 400 the end: 100 is a rank flip, 200 the same order, 300 a flip within noise.
    assert (pair["points"], pair["rank_flips"], pair["noise_flips"]) == (3, 1, 1)
    assert pair["verdict"] == "rank flip" and pair["tokens_a"] == 100_000 and pair["gap_a"] == pytest.approx(0.3)
    assert "in-run" in pair["label"] and "understated" in pair["label"]
    assert inside["adamw", "lion"]["points"] == 2, "a value that is not finite is no point"
    by_step = flips(data, sigma=0.001, curves=curves.assign(tokens=np.nan))
    again = by_step[(by_step.over == "training") & (by_step["second"] == "adamw")].iloc[0]
    assert (again.points, again.rank_flips, again.noise_flips) == (3, 1, 1) and math.isnan(again.tokens_a)


def test_curves_without_common_points_give_no_row() -> None:
    data = losses({"adamw": {1: 3.0}, "muon": {1: 2.9}})
    first, second = data.run_id
    curves = pd.DataFrame(
        [(first, 1, 10.0, 4.0), (first, 3, 30.0, 3.0), (second, 2, 20.0, 4.0), (second, 4, 40.0, 2.9)],
        columns=["run_id", "step", "tokens", "value"],
    )
    assert flips(data, sigma=0.001, curves=curves).empty
    assert flips(data, sigma=0.001, curves=curves.iloc[:0]).empty


TABLE = st.dictionaries(
    st.sampled_from(["adamw", "muon", "lion", "soap"]),
    st.dictionaries(st.sampled_from([1, 2, 4]), st.integers(0, 12).map(lambda k: 3.0 + k / 1000), min_size=1),
    min_size=1,
)


@settings(max_examples=30, deadline=None)
@given(TABLE, st.sampled_from([0.0005, 0.002]))
def test_counts_agree_with_counting_by_hand(table: dict[str, dict[float, float]], sigma: float) -> None:
    width = 1.645 * sigma * math.sqrt(2)
    expected: Counter[str] = Counter()
    for one, other in itertools.combinations(table, 2):
        for a, b in itertools.combinations(sorted(set(table[one]) & set(table[other])), 2):
            gaps = [table[one][at] - table[other][at] for at in (a, b)]
            if gaps[0] * gaps[1] < 0:
                expected["rank flip" if min(map(abs, gaps)) >= width else "noise flip"] += 1
            else:
                expected["equal" if 0 in gaps else "same order"] += 1
    found = flips(losses(table), sigma=sigma)
    assert Counter(found.verdict) == expected
    shuffled = losses(table).sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(flips(shuffled, sigma=sigma).drop(columns="run_ids"), found.drop(columns="run_ids"))


def test_the_reference_study_flips_as_its_smallest_losses_say() -> None:
    """Counted from the published smallest losses alone: one seed each, the prior of .0013 nats at every cell."""
    width = 1.645 * 0.0013 * math.sqrt(2)
    with open(Path(FOLDER) / "cells.csv", newline="") as handle:
        loss = {
            (row["model"], row["chinchilla"], row["optimizer"]): float(row["min_loss"])
            for row in csv.DictReader(handle)
        }
    counts: Counter[tuple[str, str]] = Counter()
    places = sorted({key[:2] for key in loss})
    names = sorted({key[2] for key in loss})
    for a, b in itertools.combinations(places, 2):
        over = "D" if a[0] == b[0] else "N" if a[1] == b[1] else ""
        for one, other in itertools.combinations(names, 2):
            keys = [(*place, name) for place in (a, b) for name in (one, other)]
            if over and all(key in loss for key in keys):
                gaps = loss[keys[0]] - loss[keys[1]], loss[keys[2]] - loss[keys[3]]
                kind = "same order" if gaps[0] * gaps[1] > 0 else "rank" if min(map(abs, gaps)) >= width else "noise"
                counts[over, kind] += 1
    found = flips(reference())
    mine = Counter((row["over"], row["verdict"].removesuffix(" flip")) for row in records(found))
    assert mine == counts
    assert (counts["D", "rank"], counts["D", "noise"], counts["N", "rank"], counts["N", "noise"]) == (25, 64, 9, 43)
