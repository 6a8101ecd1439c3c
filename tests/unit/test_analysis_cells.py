"""Cell losses, ranks, edges and fairness: analysis.table."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from optsweep_engines.optimizers.base import Knob
from optsweep_tui.analysis import flags as F
from optsweep_tui.analysis import table
from optsweep_tui.analysis.columns import TABLE
from tests.unit.analysis_frames import frame, run


def only(found: pd.DataFrame, optimizer: str = "adamw", chinchilla: float = 1.0) -> dict[str, Any]:
    rows = found[(found.optimizer == optimizer) & (found.chinchilla == chinchilla)]
    assert len(rows) == 1
    return {str(key): value for key, value in rows.iloc[0].to_dict().items()}


def test_the_loss_is_the_mean_over_fresh_seeds_and_the_selected_base_run_is_left_out() -> None:
    found = only(
        table(
            frame(
                [
                    run(loss=3.00, knobs={"lr": 0.1}),
                    run(loss=3.10, knobs={"lr": 0.2}),
                    run(loss=3.02, knobs={"lr": 0.1}, seed=1),
                    run(loss=3.04, knobs={"lr": 0.1}, seed=2),
                ]
            )
        )
    )
    assert found["loss"] == pytest.approx(3.03)
    assert found["n"] == 2
    assert F.SELECTED_MIN not in found["flags"]


def test_one_seed_is_flagged_as_a_selected_minimum() -> None:
    found = only(table(frame([run(loss=3.1, knobs={"lr": 0.1}), run(loss=3.0, knobs={"lr": 0.2})])))
    assert (found["loss"], found["n"]) == (3.0, 1)
    assert F.SELECTED_MIN in found["flags"]
    assert found["hyperparameters"] == {"lr": 0.2}


def test_a_fresh_seed_that_was_lucky_does_not_choose_the_configuration() -> None:
    found = only(
        table(
            frame(
                [
                    run(loss=3.00, knobs={"lr": 0.1}),
                    run(loss=3.01, knobs={"lr": 0.2}),
                    run(loss=2.90, knobs={"lr": 0.2}, seed=1),
                ]
            )
        )
    )
    assert found["hyperparameters"] == {"lr": 0.1}
    assert found["loss"] == 3.0


def test_the_base_seed_is_the_one_with_most_configurations_in_the_group() -> None:
    rows = [run(loss=3.0 + 0.01 * k, knobs={"lr": k}, seed=7, chinchilla=c) for k in range(1, 4) for c in (1, 2)]
    rows += [run(loss=2.95, knobs={"lr": 1}, seed=0), run(loss=2.97, knobs={"lr": 1}, seed=1)]
    found = only(table(frame(rows)))
    assert found["loss"] == pytest.approx(2.96)
    assert found["n"] == 2


def test_one_value_in_two_spellings_is_one_configuration() -> None:
    rows = [
        run(loss=3.0, hyperparameters='{"epsilon": 1e-25, "clip": 1}'),
        run(loss=3.2, hyperparameters='{"clip": 1.0, "epsilon": 9.999999999999999e-26}', seed=1),
        run(loss=3.4, hyperparameters='{"clip": 2}'),
    ]
    found = only(table(frame(rows)))
    assert (found["loss"], found["n"], found["tuning_runs"]) == (3.2, 1, 2)
    assert F.SELECTED_MIN not in found["flags"]


@pytest.mark.parametrize("state", ["diverged", "nan", "missing", "failed", "oom", "cancelled", "running", "planned"])
def test_a_state_other_than_done_is_never_a_loss(state: str) -> None:
    found = only(table(frame([run(loss=3.0), run(loss=1.0, state=state, knobs={"lr": 5})])))
    assert found["loss"] == 3.0
    assert found["states"] == {"done": 1, state: 1}
    alone = only(table(frame([run(loss=1.0, state=state)])))
    assert pd.isna(alone["loss"]) and pd.isna(alone["rank"]) and alone["n"] == 0
    assert F.NO_LOSS in alone["flags"]


def test_unfinished_and_diverged_runs_are_named_by_a_flag() -> None:
    found = only(table(frame([run(loss=3.0), run(loss=None, state="running", knobs={"lr": 5})])))
    assert F.UNFINISHED in found["flags"] and F.DIVERGED not in found["flags"]
    found = only(table(frame([run(loss=3.0), run(loss=9.0, state="diverged", knobs={"lr": 5})])))
    assert F.DIVERGED in found["flags"] and F.UNFINISHED not in found["flags"]


def test_a_finished_run_half_a_nat_above_the_best_is_far_and_not_diverged() -> None:
    found = only(table(frame([run(loss=3.0), run(loss=3.51, knobs={"lr": 1e-5})])))
    assert F.FAR in found["flags"] and F.DIVERGED not in found["flags"]
    found = only(table(frame([run(loss=3.0), run(loss=3.49, knobs={"lr": 1e-5})])))
    assert F.FAR not in found["flags"]


def test_a_fresh_seed_that_came_out_far_leaves_the_mean_with_a_flag() -> None:
    found = only(table(frame([run(loss=3.0), run(loss=3.02, seed=1), run(loss=3.9, seed=2)])))
    assert (found["loss"], found["n"]) == (3.02, 1)
    assert {F.FAR, F.SEED_LOST} <= set(found["flags"])
    found = only(table(frame([run(loss=3.0), run(loss=3.02, seed=1), run(loss=8.0, seed=2, state="diverged")])))
    assert {F.DIVERGED, F.SEED_LOST} <= set(found["flags"])


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -1.0, 0.0, None])
def test_done_without_a_positive_finite_loss_is_ignored_with_a_flag(loss: float | None) -> None:
    found = only(table(frame([run(loss=3.0), run(loss=loss, knobs={"lr": 5})])))
    assert found["loss"] == 3.0
    assert F.BAD_LOSS in found["flags"]


def test_the_same_run_twice_counts_once_and_two_equal_runs_are_flagged() -> None:
    row = run(loss=3.0)
    found = only(table(frame([row, row])))
    assert found["n"] == 1 and F.DUPLICATE not in found["flags"] and found["states"] == {"done": 1}
    found = only(table(frame([run(loss=3.0), run(loss=3.2)])))
    assert found["loss"] == pytest.approx(3.1) and F.DUPLICATE in found["flags"]


def test_an_unlisted_minimum_is_the_loss_and_its_configuration_stays_unknown() -> None:
    rows = [run(loss=3.1), run(loss=3.0, hyperparameters=None, batch_size=None, schedule=None, dtype=None, seed=None)]
    rows[0]["seed"] = None
    found = only(table(frame(rows)))
    assert found["loss"] == 3.0
    assert found["hyperparameters"] is None
    assert F.UNLISTED in found["flags"]
    assert not {F.SCHEDULE, F.BATCH, F.DTYPE} & set(found["flags"])


def test_a_cell_never_run_under_the_base_seed_is_selected_under_its_own_and_flagged() -> None:
    rows = [run(loss=3.0, knobs={"lr": k}) for k in (1, 2, 3)]
    rows += [
        run("muon", loss=2.9, seed=4),
        run("muon", loss=2.8, seed=4, knobs={"lr": 9}),
        run("muon", loss=2.7, seed=5),
    ]
    found = only(table(frame(rows)), "muon")
    assert found["loss"] == 2.8
    assert F.OTHER_SEED in found["flags"]


def test_gap_is_against_the_baseline_of_the_same_budget_with_the_noise_of_both() -> None:
    found = table(
        frame([run(loss=3.0), run(loss=2.9, chinchilla=2), run("muon", loss=2.95), run("muon", 2, loss=2.91)]),
        sigma=0.01,
    )
    row = only(found, "muon", 1)
    assert row["gap"] == pytest.approx(-0.05)
    half = 1.959964 * 0.01 * 2**0.5
    assert (row["gap_low"], row["gap_high"]) == pytest.approx((-0.05 - half, -0.05 + half))
    assert only(found, "muon", 2)["gap"] == pytest.approx(0.01)
    assert only(found)["gap"] == 0


def test_ties_are_against_the_first_of_the_group_and_do_not_chain() -> None:
    width = 1.645 * 0.01 * 2**0.5
    losses = {"a": 3.0, "b": 3.0 + 0.6 * width, "c": 3.0 + 1.2 * width, "d": 3.5}
    found = table(frame([run(name, loss=loss) for name, loss in losses.items()]), sigma=0.01)
    assert list(found.optimizer) == ["a", "b", "c", "d"]
    assert found.tie_group.tolist() == [1, 1, 2, 3]
    assert found["rank"].tolist() == [1, 2, 3, 4]
    assert not found.winner.any()


def test_a_gap_of_exactly_the_tie_width_parts_the_groups_and_a_winner_needs_its_interval_clear_of_0() -> None:
    width = 1.645 * 0.01 * (1 / 2 + 1) ** 0.5
    seeds = [run("a", loss=3.1), run("a", loss=3.0, seed=1), run("a", loss=3.0, seed=2)]
    inside = table(frame([*seeds, run("b", loss=3.0 + width * 0.999)]), sigma=0.01)
    outside = table(frame([*seeds, run("b", loss=3.0 + width * 1.001)]), sigma=0.01)
    assert inside.tie_group.tolist() == [1, 1] and not inside.winner.any()
    assert outside.tie_group.tolist() == [1, 2] and not outside.winner.any()
    clear = table(frame([*seeds, run("b", loss=3.0 + width * 1.97 / 1.645)]), sigma=0.01)
    assert clear.tie_group.tolist() == [1, 2] and clear.winner.tolist() == [True, False]


def test_without_sigma_there_is_no_tie_group_and_no_winner() -> None:
    found = table(frame([run(loss=3.0, dataset="embedded"), run("muon", loss=2.0, dataset="embedded")]))
    assert found.tie_group.isna().all() and not found.winner.any()
    assert all(F.NO_SIGMA in flags for flags in found["flags"])
    assert found["rank"].tolist() == [1, 2]


def test_equal_losses_share_a_rank() -> None:
    found = table(frame([run(name, loss=loss) for name, loss in (("a", 3.0), ("b", 3.0), ("c", 3.2))]))
    assert found["rank"].tolist() == [1, 1, 3]


def sweep(optimizer: str, values: dict[float, float], knob: str = "lr", **other: Any) -> list[dict[str, Any]]:
    return [run(optimizer, loss=loss, knobs={knob: value}, **other) for value, loss in values.items()]


def test_a_best_value_at_either_end_of_its_list_is_an_edge_and_untuned() -> None:
    low = only(table(frame(sweep("adamw", {0.1: 3.0, 0.2: 3.1}))))
    high = only(table(frame(sweep("adamw", {0.1: 3.1, 0.2: 3.0}))))
    inner = only(table(frame(sweep("adamw", {0.1: 3.1, 0.2: 3.0, 0.4: 3.1}))))
    assert low["edges"] == ["lr=0.1 (lowest swept)"] and {F.EDGE, F.UNTUNED} <= set(low["flags"])
    assert high["edges"] == ["lr=0.2 (highest swept)"]
    assert inner["edges"] == [] and not {F.EDGE, F.UNTUNED} & set(inner["flags"])


def test_a_diverged_neighbour_closes_the_list() -> None:
    rows = [*sweep("adamw", {0.1: 3.1, 0.2: 3.0}), run(loss=None, state="diverged", knobs={"lr": 0.4})]
    assert only(table(frame(rows)))["edges"] == []


@pytest.mark.parametrize("state", ["running", "planned", "failed", "oom"])
def test_a_neighbour_without_a_result_does_not_close_the_list(state: str) -> None:
    rows = [*sweep("adamw", {0.1: 3.1, 0.2: 3.0}), run(loss=None, state=state, knobs={"lr": 0.4})]
    assert only(table(frame(rows)))["edges"] == ["lr=0.2 (highest swept)"]


@pytest.mark.parametrize(
    ("knob", "values"),
    [
        ("weight_decay", {0: 3.0, 0.1: 3.1}),
        ("max_grad_norm", {0: 3.0, 1: 3.1}),
        ("warmup", {0: 3.0, 100: 3.1}),
        ("decay", {0.5: 3.1, 1: 3.0}),
        ("nesterov", {True: 3.0, False: 3.1}),
    ],
)
def test_bounds_that_cannot_be_crossed_are_no_edges(knob: str, values: dict[float, float]) -> None:
    assert only(table(frame(sweep("adamw", values, knob))))["edges"] == []


def test_a_declared_bound_is_no_edge_and_an_inner_end_still_is() -> None:
    rows = frame(sweep("adamw", {0.9: 3.1, 0.95: 3.0}, "beta1"))
    assert only(table(rows))["edges"] == ["beta1=0.95 (highest swept)"]
    narrow, wide = (Knob(name="beta1", kind="float", default=0.9, doc="", low=0.0, high=high) for high in (0.95, 0.99))
    assert only(table(rows, knob_info={"beta1": narrow}))["edges"] == []
    assert only(table(rows, knob_info={"beta1": wide}))["edges"] != []
    assert only(table(rows, knob_info={"beta1": wide, "adamw": {"beta1": narrow}}))["edges"] == []
    assert only(table(rows, knob_info={"muon": {"beta1": narrow}}))["edges"] != []


def test_numbers_of_runs_beyond_a_quarter_apart_are_untuned_and_fresh_seeds_do_not_count() -> None:
    base = sweep("adamw", {0.1: 3.1, 0.2: 3.0, 0.4: 3.1, 0.8: 3.2})
    seeds = [run(loss=3.0, knobs={"lr": 0.2}, seed=seed) for seed in (1, 2, 3)]
    five = sweep("muon", {0.1: 3.1, 0.2: 2.9, 0.4: 3.1, 0.8: 3.2, 1.6: 3.3})
    six = [*five, run("muon", loss=None, state="diverged", knobs={"lr": 3.2})]
    assert F.UNTUNED not in only(table(frame(base + seeds + five)), "muon")["flags"]
    assert F.UNTUNED in only(table(frame(base + seeds + six)), "muon")["flags"]


@pytest.mark.parametrize(
    ("column", "value", "flag"),
    [("schedule", "linear", F.SCHEDULE), ("batch_size", 256, F.BATCH), ("dtype", "fp32", F.DTYPE)],
)
def test_an_attribute_that_differs_from_the_baselines_is_flagged(column: str, value: Any, flag: str) -> None:
    found = table(frame([run(loss=3.0), run("muon", loss=2.9, **{column: value}), run("lion", loss=2.9)]))
    assert flag in only(found, "muon")["flags"]
    assert flag not in only(found, "lion")["flags"]


@pytest.mark.parametrize("column", ["study", "engine", "model", "dataset", "dataset_hash", "validation_set", "seq_len"])
def test_cells_that_cannot_be_compared_are_never_mixed(column: str) -> None:
    other: Any = 2048 if column == "seq_len" else "other"
    rows = [
        run(loss=3.0),
        run("muon", loss=2.9),
        run(loss=4.0, **{column: other}),
        run("muon", loss=4.4, **{column: other}),
    ]
    found = table(frame(rows), sigma=0.01)
    assert sorted(found.gap.round(6).tolist()) == [-0.1, 0.0, 0.0, 0.4]
    assert found["rank"].tolist() == [1, 2, 1, 2]


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = [
        run(o, c, 3.0 + 0.1 * k / c, knobs={"lr": k}, seed=s)
        for o in "ab"
        for c in (1, 2)
        for k in (1, 2)
        for s in (0, 1)
    ]
    data = frame(rows)
    expected = table(data, sigma=0.01)
    for seed in range(5):
        pd.testing.assert_frame_equal(table(data.sample(frac=1, random_state=seed), sigma=0.01), expected)


def test_an_empty_frame_gives_an_empty_table_with_all_columns() -> None:
    for empty in (pd.DataFrame(), frame([])):
        found = table(empty)
        assert len(found) == 0 and list(found.columns) == list(TABLE)


def test_a_missing_baseline_leaves_gaps_null_with_a_flag() -> None:
    found = table(frame([run("muon", loss=3.0)]))
    assert pd.isna(found.gap[0]) and F.NO_BASELINE in found["flags"][0]
