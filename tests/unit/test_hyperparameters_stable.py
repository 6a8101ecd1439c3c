"""Stable values and smallest covers on tables small enough to judge by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from optsweep_tui.analysis import stable
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import frame, run
from tests.unit.hyperparameter_frames import sweep


def only(found: pd.DataFrame, knob: str = "lr") -> Any:
    (row,) = found[found.knob == knob].itertuples()
    return row


def test_a_value_near_best_in_every_cell_is_stable_and_all_such_values_are_listed() -> None:
    rows = sweep("lr", {0.001: 3.002, 0.002: 3.0, 0.004: 3.001}, chinchilla=1)
    rows += sweep("lr", {0.001: 2.9, 0.002: 2.902, 0.004: 2.95}, chinchilla=2)
    found = only(stable(frame(rows)))
    assert found.verdict == "stable" and found.stable
    assert found.values == [0.001, 0.002], "equal cells and equal excess (.002 + 0, 0 + .002): the smaller value first"
    assert found.n_cells == found.n_judged == 2 and found.threshold == 0.003
    assert found.covers == [[0.001], [0.002]]


def test_without_a_common_value_every_smallest_cover_is_listed_in_order() -> None:
    rows = sweep("lr", {1.0: 3.0, 2.0: 3.001, 4.0: 3.1, 8.0: 3.1}, chinchilla=1)
    rows += sweep("lr", {1.0: 3.1, 2.0: 3.1, 4.0: 2.9, 8.0: 2.902}, chinchilla=2)
    rows += sweep("lr", {1.0: 3.1, 2.0: 2.8, 4.0: 2.801, 8.0: 3.1}, chinchilla=4)
    found = only(stable(frame(rows)))
    assert found.verdict == "sensitive" and not found.stable and found.values == []
    # {1,2} {4,8} {2,4}: pairs that meet all are {2,4} {2,8} {1,4}. {2,4} is in four of the cell pairs, the others in three;
    # of those {1,4} costs 0 + 0 + .001, {2,8} .001 + .002 + 0.
    assert found.covers == [[2, 4], [1, 4], [2, 8]]
    assert found.cover_size == 2 and found.cover_cells == [4, 3, 3]
    assert found.cover_excess == pytest.approx([0.001, 0.001, 0.003])


def test_a_minimum_that_no_listed_run_is_near_leaves_its_cell_unjudged_and_named() -> None:
    rows = sweep("lr", {0.001: 3.1, 0.002: 3.0}, chinchilla=1)
    rows.append(run(chinchilla=1, loss=2.9, hyperparameters=None))
    rows += sweep("lr", {0.001: 2.8, 0.002: 2.9}, chinchilla=2)
    rows.append(run(chinchilla=2, loss=2.799, hyperparameters=None))
    found = only(stable(frame(rows)))
    assert (found.n_cells, found.n_judged) == (2, 1)
    assert found.values == [0.001]
    (left,) = found.not_judged
    assert left["chinchilla"] == 1.0 and "unlisted" in left["reason"]
    assert "one cell" in found.reason and "UNLISTED" in found.flags


def test_the_near_best_set_reaches_over_all_runs_of_the_cell_not_along_one_line() -> None:
    """beta1 = .95 wins by .01: every near-best run then carries the incumbent's lr."""
    rows = sweep("lr", {0.001: 3.005, 0.002: 3.0, 0.004: 3.001}, fixed={"beta1": 0.9})
    rows.append(run(loss=2.99, knobs={"lr": 0.002, "beta1": 0.95}))
    found = stable(frame(rows))
    assert only(found).values == [0.002]
    assert only(found, "beta1").values == [0.95]
    (cell,) = only(found).cells
    assert cell["tried"] == [0.001, 0.002, 0.004] and cell["best"] == 0.002


def test_diverged_and_missing_values_count_as_tried_and_the_threshold_is_one_for_all() -> None:
    rows = sweep("lr", {0.001: 3.0, 0.002: 3.004, 0.004: None}, states={0.004: "diverged"})
    assert only(stable(frame(rows))).values == [0.001]
    wide = only(stable(frame(rows), threshold=0.005))
    assert wide.values == [0.001, 0.002] and wide.threshold == 0.005
    assert wide.coverage[-1] == {"value": 0.004, "n_near_best": 0, "n_tried": 1}
    with pytest.raises(OptsweepError, match="threshold"):
        stable(frame(rows), threshold=0.0)


def test_booleans_and_texts_are_judged_like_numbers() -> None:
    rows = [
        run(chinchilla=c, loss=3.0 - flag / 10, knobs={"nesterov": flag, "scheme": "a"})
        for c in (1, 2)
        for flag in (False, True)
    ]
    found = stable(frame(rows))
    assert only(found, "nesterov").values == [True]
    assert list(found.knob) == ["nesterov"], "a knob with one value was not swept"


def test_other_data_or_lengths_are_other_scopes() -> None:
    rows = sweep("lr", {0.001: 3.0, 0.002: 3.1}) + sweep(
        "lr", {0.001: 3.1, 0.002: 3.0}, seq_len=1024, tokens_per_step=128 * 1024
    )
    found = stable(frame(rows))
    assert list(found["values"]) == [[0.002], [0.001]] or list(found["values"]) == [[0.001], [0.002]]
    assert (found.n_cells == 1).all()


def test_nothing_swept_is_an_empty_answer() -> None:
    assert len(stable(frame([run()]))) == 0
    assert len(stable(frame([]))) == 0
