"""The stopping rules replayed: the engine's own verdict at every point, the median rule, and who is killed wrongly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_engines.history import LossHistory
from optsweep_tui.analysis import stop_audit
from optsweep_tui.analysis.audits.stop_rules import Trace, Traces, divergence
from optsweep_tui.analysis.audits.stops import selections
from optsweep_tui.analysis.columns import SELECTIONS, STOPS
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import frame, run

STEPS = 100
PER_STEP = 128 * 4096


def cell(losses: Sequence[float | None], states: Sequence[str] | None = None, **other: Any) -> pd.DataFrame:
    states = states or ["done"] * len(losses)
    tokens = STEPS * PER_STEP
    return frame(
        run("muon", 1, loss, state=state, knobs={"lr": 0.01 * 2**place}, tokens=tokens, **other)
        for place, (loss, state) in enumerate(zip(losses, states, strict=True))
    )


def curves(data: pd.DataFrame, values: Sequence[Any], key: str = "val_loss") -> pd.DataFrame:
    """Curves of the runs in their order, evaluated at equal distances up to the end."""
    return pd.DataFrame(
        {"run_id": run_id, "key": key, "step": round((place + 1) * STEPS / len(own)), "value": value}
        for run_id, own in zip(data.run_id, values, strict=True)
        for place, value in enumerate(own)
    )


def trace(values: Sequence[float]) -> Trace:
    return Trace(steps=np.arange(1.0, len(values) + 1), values=np.array(values, dtype=float))


VALUES = st.lists(st.sampled_from([1.0, 1.2, 1.4, 1.6, 1.9, 2.5, 4.0, math.nan, math.inf]), max_size=40)


@settings(max_examples=200, deadline=None)
@given(VALUES, VALUES)
def test_the_divergence_rule_stops_where_the_engine_would_have_said_diverged(
    train: list[float], val: list[float]
) -> None:
    """Against the engine's own history, fed point by point and asked after each."""
    history, expected = LossHistory(), None
    for step in range(1, max(len(train), len(val)) + 1):
        if step <= len(train):
            history.add_train_loss(train[step - 1])
        if step <= len(val):
            history.add_val_loss(val[step - 1])
        if history.divergence() is not None:
            expected = step
            break
    found = divergence(Traces(train=trace(train), val=trace(val)))
    assert (found.step if found else None) == expected
    assert found is None or found.why


def test_a_run_that_spikes_and_recovers_to_be_the_best_is_a_wrong_kill() -> None:
    data = cell([2.0, 2.1, None], ["done", "done", "diverged"])
    drawn = curves(data, [[3.0, 4.0, 2.5, 2.0], [3.0, 2.6, 2.3, 2.1], [3.0, 3.2, math.nan, math.nan]])
    found = stop_audit(data, drawn).set_index("run_id")
    assert [*found.reset_index().columns] == [*STOPS]
    best, plain, lost = (found.loc[name] for name in data.run_id)
    assert (best.killed, best.wrong, best.step, best.tokens_saved) == (True, True, 50, 50 * PER_STEP)
    assert "1.00 nats above its earlier minimum 3.000" in best.why
    assert (plain.killed, plain.wrong, plain.near_best, plain.gap) == (False, False, False, pytest.approx(0.1))
    assert (lost.killed, lost.wrong, lost.missed, lost.step) == (True, False, False, 75)
    assert lost.why == "the loss is not finite"
    (changed,) = selections(data, found.reset_index()).to_dict("records")
    assert list(changed) == list(SELECTIONS)
    assert (changed["best_run_id"], changed["kept_run_id"]) == tuple(data.run_id[:2])
    assert changed["change"] == pytest.approx(0.1) and (changed["runs"], changed["killed"]) == (3, 2)


def test_at_its_end_nothing_is_left_to_stop_and_what_is_seen_too_late_is_missed() -> None:
    data = cell([2.0, None], ["done", "diverged"])
    found = stop_audit(data, curves(data, [[3.0, 2.0], [3.0, 4.0]]))
    assert found.killed.tolist() == [False, False] and found.missed.tolist() == [False, True]
    assert (found.tokens_saved == 0).all()


def test_seeds_of_the_best_configuration_count_as_good_runs() -> None:
    data = frame(run("muon", 1, loss, seed=seed, tokens=STEPS * PER_STEP) for seed, loss in enumerate((2.0, 2.1, 2.05)))
    found = stop_audit(data, curves(data, [[3.0, 2.0], [2.0, 2.7, 2.1], [3.0, 2.05]]), threshold=0.01)
    assert found.near_best.all() and found.wrong.tolist() == [False, True, False]


def test_stopped_runs_are_censored_and_runs_without_a_curve_are_not_judged() -> None:
    data = cell([2.0, None, 2.2], ["done", "cancelled", "done"])
    drawn = curves(data, [[3.0, 2.0], [3.0, 2.9], [3.0, 2.2]])
    found = stop_audit(data, drawn[drawn.run_id != data.run_id[2]])
    assert found.run_id.tolist() == [data.run_id[0]]
    (changed,) = selections(data, found).to_dict("records")
    assert (changed["stopped"], changed["killed"], changed["change"]) == (1, 0, 0.0)


def test_the_median_rule_stops_a_run_whose_best_is_worse_than_the_median_of_the_others_best() -> None:
    data = cell([2.0, 2.1, 2.2, 2.3])
    values = [[4.0, 3.5, 2.5, 2.0], [3.0, 2.8, 2.5, 2.1], [3.1, 2.7, 2.6, 2.2], [3.2, 3.3, 2.4, 2.3]]
    expected = {}
    for place, own in enumerate(values):
        for point in range(3):  # at the end there is nothing left to stop
            others = [min(other[: point + 1]) for other in values[:place] + values[place + 1 :]]
            if min(own[: point + 1]) > np.median(others):
                expected[place] = (point + 1) * 25
                break
    found = stop_audit(data, curves(data, values), rule="median")
    assert (
        {place: step for place, step in enumerate(found.step) if not math.isnan(step)}
        == expected
        == {0: 25, 2: 75, 3: 25}
    )
    assert found.wrong.tolist() == [True, False, False, False] and (found.metric == "val_loss").all()
    late = stop_audit(data, curves(data, values), rule="median", after=0.6)
    assert late.step.dropna().tolist() == [75.0], "2.6 against the median of 2.5, 2.5 and 2.4"


def test_the_median_rule_reads_smoothed_training_losses_where_a_run_has_no_validation_curve() -> None:
    data = cell([2.0, 2.1, 2.2])
    falling = np.linspace(4, 2, 50)
    drawn = pd.concat(
        [curves(data, [falling, falling + 0.05, falling + 0.2], "train_loss"), curves(data, [[2.0], [2.1], [2.2]])]
    )
    found = stop_audit(data, drawn, rule="median")
    assert (found.metric == "train_loss").all() and (found.points == 41).all()
    assert found.killed.tolist() == [False, False, True] and found.step.iloc[2] == 20, "the first full window of ten"


def test_two_runs_have_no_median_and_fresh_seeds_take_no_part_in_it() -> None:
    data = cell([2.0, 2.1])
    values = [[4.0, 3.0, 2.0], [3.0, 2.5, 2.1]]
    assert not stop_audit(data, curves(data, values), rule="median").killed.any()
    more = pd.concat([data, data.iloc[:1].assign(run_id="f" * 32, seed=5)])
    drawn = pd.concat([curves(data, values), curves(more.iloc[2:], [[1.0, 1.0, 1.0]])])
    assert stop_audit(more, drawn, rule="median").run_id.tolist() == data.run_id.tolist()


def test_curves_may_be_read_by_a_function_and_order_does_not_matter() -> None:
    data = pd.concat([cell([2.0, 2.1, 2.2]), cell([3.0, 3.1], engine="jax")])
    drawn = curves(data, [[3.0, 4.0, 2.0], [3.0, 2.1], [3.0, 2.2], [4.0, 3.0], [4.0, 3.1]])
    asked: list[str] = []

    def read(run_ids: Sequence[str]) -> pd.DataFrame:
        asked.extend(run_ids)
        return drawn[drawn.run_id.isin(run_ids)]

    pd.testing.assert_frame_equal(stop_audit(data, read), stop_audit(data, drawn.sample(frac=1, random_state=2)))
    assert sorted(asked) == sorted(data.run_id)


def test_wrong_arguments_and_empty_frames() -> None:
    data = cell([2.0])
    nothing = curves(data.iloc[:0], []).reindex(columns=["run_id", "key", "step", "value"])
    wrong: list[dict[str, Any]] = [{"rule": "mean"}, {"threshold": -1.0}, {"threshold": math.nan}, {"after": 1.0}]
    for arguments in wrong:
        with pytest.raises(OptsweepError):
            stop_audit(data, nothing, **arguments)
    empty = stop_audit(data, nothing)
    assert empty.empty and list(empty.columns) == list(STOPS)
    assert selections(data, empty).empty
