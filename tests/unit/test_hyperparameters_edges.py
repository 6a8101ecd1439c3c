"""Edges with their gain and the next value, on tables small enough to judge by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from optsweep_tui.analysis import grid_edges
from tests.unit.analysis_frames import frame, run
from tests.unit.hyperparameter_frames import Declared, sweep

LR = {"lr": Declared(low=1e-7, high=10.0)}


def only(found: pd.DataFrame) -> Any:
    (row,) = found.itertuples()
    return row


def test_an_edge_says_where_it_lies_what_the_last_step_gained_and_what_comes_next() -> None:
    rows = sweep("lr", {0.001: 3.05, 0.002: 3.01, 0.004: 3.0}, fixed={"beta1": 0.9})
    found = only(grid_edges(frame(rows), knob_info=LR))
    assert (found.knob, found.value, found.side) == ("lr", 0.004, "high")
    assert found.tried == [0.001, 0.002, 0.004] and found.proposed == [0.008]
    assert found.neighbour == 0.002 and found.gain == pytest.approx(0.01) and found.flat is False
    assert (found.loss, found.excess) == (3.0, 0.0)
    assert found.spacing == "ratio" and found.step == pytest.approx(2.0)
    assert found.base == {"beta1": 0.9, "batch_size": 128, "schedule": "cosine", "dtype": "bf16"}
    assert (found.n_cells, found.n_edges, found.threshold) == (1, 1, 0.003)
    assert {"EDGE", "UNTUNED"} <= set(found.flags)


def test_the_best_value_is_that_of_the_knobs_own_line_not_of_the_best_run() -> None:
    """The best run carries lr .004, the lowest tried, but the line through the incumbent is best inside."""
    rows = sweep("lr", {0.004: 3.02, 0.008: 3.0, 0.016: 3.03}, fixed={"beta1": 0.9})
    rows.append(run(loss=2.95, knobs={"lr": 0.004, "beta1": 0.99}))
    assert list(grid_edges(frame(rows)).knob) == ["beta1"]


def test_a_diverged_neighbour_closes_the_list_and_a_diverged_inner_one_has_no_gain() -> None:
    rows = sweep("lr", {0.002: 3.1, 0.004: 3.0, 0.008: None}, states={0.008: "diverged"})
    assert len(grid_edges(frame(rows))) == 0, "the next larger one diverged: the best lies inside"
    rows = sweep("lr", {0.002: 3.0, 0.004: None, 0.008: 3.4}, states={0.004: "nan"})
    found = only(grid_edges(frame(rows)))
    assert found.side == "low" and found.neighbour_state == "nan"
    assert pd.isna(found.gain) and pd.isna(found.neighbour_loss) and found.flat is None


def test_a_gain_below_the_threshold_is_flat() -> None:
    rows = sweep("lr", {0.002: 3.1, 0.004: 3.002, 0.008: 3.0})
    assert only(grid_edges(frame(rows))).flat is True
    assert only(grid_edges(frame(rows), threshold=0.001)).flat is False


def test_equal_losses_at_an_end_and_inside_are_no_edge() -> None:
    assert len(grid_edges(frame(sweep("lr", {0.002: 3.0, 0.004: 3.0, 0.008: 3.1})))) == 0


@pytest.mark.parametrize(
    ("knob", "losses"),
    [
        ("weight_decay", {0.0: 3.0, 0.1: 3.1}),
        ("max_grad_norm", {0.0: 3.0, 1.0: 3.1, 2.0: 3.2}),
        ("decay", {0.8: 3.1, 1.0: 3.0}),
        ("batch_size", {1: 3.0, 2: 3.1}),
        ("nesterov", {False: 3.0, True: 3.1}),
        ("scheme", {"a": 3.0, "b": 3.1}),
    ],
)
def test_a_bound_that_cannot_be_crossed_and_a_category_are_no_edges(knob: str, losses: dict[Any, float | None]) -> None:
    assert len(grid_edges(frame(sweep(knob, losses)))) == 0


def test_an_unlisted_minimum_leaves_the_listed_runs_edges_with_the_flag() -> None:
    rows = sweep("lr", {0.001: 3.05, 0.002: 3.0})
    rows.append(run(loss=2.9, hyperparameters=None))
    found = only(grid_edges(frame(rows)))
    assert found.value == 0.002 and "UNLISTED" in found.flags
    assert found.excess == pytest.approx(0.1)


def test_warmup_and_batch_proposals_leave_the_run_some_steps() -> None:
    rows = sweep("warmup", {200: 3.1, 400: 3.0}, fixed={"lr": 0.01}, tokens=600 * 128 * 4096)
    found = only(grid_edges(frame(rows)))
    assert found.proposed == [] and "every step would be warmup" in found.note
    rows = sweep("warmup", {200: 3.1, 400: 3.0}, fixed={"lr": 0.01}, tokens=900 * 128 * 4096)
    assert only(grid_edges(frame(rows))).proposed == [800]
    rows = sweep("batch_size", {64: 3.1, 128: 3.0}, fixed={"lr": 0.01}, tokens=200 * 4096, seq_len=4096)
    for row in rows:
        row["tokens_per_step"] = row["batch_size"] * 4096
    found = only(grid_edges(frame(rows)))
    assert found.proposed == [] and "no whole step" in found.note


def test_all_runs_diverged_or_one_cell_without_a_sweep_have_no_edges() -> None:
    rows = sweep("lr", {0.1: None, 0.2: None}, states={0.1: "diverged", 0.2: "nan"})
    assert len(grid_edges(frame(rows))) == len(grid_edges(frame([run()]))) == len(grid_edges(frame([]))) == 0
