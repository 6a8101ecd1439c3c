"""The run store: each step once, the highest attempt wins, gaps and absences told apart, slices instead of copies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.live.runstore import MAX_KEYS, RunStore
from optsweep_tui.live.tailer import Batch


def row(step: int, loss: float | None = 2.0, **more: Any) -> dict[str, Any]:
    return {"step": step, "tokens": step * 512, "train_seconds": step * 0.01, "train_loss": loss, **more}


def filled(*batches: Batch) -> RunStore:
    store = RunStore()
    for batch in batches:
        store.apply("run", batch)
    return store


def points(store: RunStore, metric: str = "train_loss", axis: str = "step") -> list[tuple[float, float]]:
    series = store.series("run", metric, axis)
    return [] if series is None else list(zip(series.x.tolist(), series.y.tolist(), strict=True))


def test_rows_become_curves_along_each_axis() -> None:
    store = filled(Batch(attempt=1, rows=[row(1, 3.0), row(2, 2.5)]))
    assert points(store) == [(1.0, 3.0), (2.0, 2.5)]
    assert points(store, axis="tokens") == [(512.0, 3.0), (1024.0, 2.5)]
    assert [x for x, _ in points(store, axis="train_seconds")] == [0.01, 0.02]


def test_a_missing_key_is_no_point_and_a_null_is_a_gap() -> None:
    rows = [row(1), row(2, None), row(3, val_loss=1.5), row(4, math.nan)]
    store = filled(Batch(attempt=1, rows=rows))
    assert points(store) == [(1.0, 2.0), (2.0, math.inf), (3.0, 2.0), (4.0, math.inf)]
    assert points(store, "val_loss") == [(3.0, 1.5)]


def test_a_higher_attempt_replaces_the_steps_it_repeats_and_leaves_the_later_ones() -> None:
    first = Batch(attempt=1, rows=[row(step, 9.0) for step in (10, 20, 30, 40)])
    second = Batch(attempt=2, rows=[row(20, 5.0), row(30, 5.0)])
    store = filled(first, second)
    assert points(store) == [(10.0, 9.0), (20.0, 5.0), (30.0, 5.0), (40.0, 9.0)]
    store.apply("run", Batch(attempt=1, rows=[row(20, 1.0), row(50, 1.0)]))
    assert points(store)[1:2] + points(store)[-1:] == [(20.0, 5.0), (50.0, 1.0)]


def test_two_lines_of_one_step_complete_each_other() -> None:
    store = filled(Batch(attempt=1, rows=[row(1), {"step": 1, "val_loss": 1.25}, row(2)]))
    assert points(store, "val_loss") == [(1.0, 1.25)]
    assert points(store) == [(1.0, 2.0), (2.0, 2.0)]


Writes = st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(0, 30), min_size=1, max_size=8)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(Writes)
def test_any_order_of_batches_gives_each_step_once_with_its_highest_attempt(
    writes: list[tuple[int, list[int]]],
) -> None:
    store = RunStore()
    wanted: dict[int, tuple[int, float]] = {}
    for number, (attempt, steps) in enumerate(writes):
        rows = [row(step, attempt * 100.0 + number) for step in steps]
        store.apply("run", Batch(attempt=attempt, rows=rows))
        for step in steps:
            if attempt >= wanted.get(step, (0, 0.0))[0]:
                wanted[step] = (attempt, attempt * 100.0 + number)
    assert points(store) == [(float(step), wanted[step][1]) for step in sorted(wanted)]


def test_a_reset_forgets_the_run_but_its_version_goes_on() -> None:
    store = filled(Batch(attempt=1, rows=[row(1), row(2)]))
    before = store.version("run")
    store.apply("run", Batch(attempt=0, reset=True))
    assert points(store) == []
    assert store.version("run") > before
    store.apply("run", Batch(attempt=1, rows=[row(1, 7.0)]))
    assert points(store) == [(1.0, 7.0)]


def test_a_reader_keeps_its_slice_while_rows_are_added_and_replaced() -> None:
    store = filled(Batch(attempt=1, rows=[row(step, 1.0) for step in range(1, 11)]))
    series = store.series("run", "train_loss")
    assert series is not None
    kept = series.y.copy()
    store.apply("run", Batch(attempt=1, rows=[row(step, 2.0) for step in range(11, 500)]))
    store.apply("run", Batch(attempt=2, rows=[row(step, 3.0) for step in range(5, 8)]))
    np.testing.assert_array_equal(series.y, kept)
    assert store.series("run", "train_loss") is store.series("run", "train_loss")


def test_seconds_that_step_back_after_a_resume_never_fold_the_curve() -> None:
    store = filled(Batch(attempt=1, rows=[row(1), row(2)]), Batch(attempt=2, rows=[row(3) | {"train_seconds": 0.005}]))
    series = store.series("run", "train_loss", "train_seconds")
    assert series is not None
    assert (np.diff(series.x) >= 0).all()


def test_values_of_any_kind_are_taken_or_left_but_never_raise() -> None:
    odd = {"step": 1, "a": True, "b": "text", "c": [1], "d": 10**400, "e": -(10**30), "f": {"g": 1}, "tokens": None}
    store = filled(Batch(attempt=1, rows=[odd, row(2)]))
    assert store.metrics("run") == ["train_loss", "d", "e"]
    assert points(store, axis="tokens") == [(1024.0, 2.0)]


def test_metrics_are_listed_losses_first_and_limited() -> None:
    many = {f"m{number:04d}": 1.0 for number in range(2 * MAX_KEYS)}
    store = filled(Batch(attempt=1, rows=[row(1, lr=0.1, grad_norm=1.0, val_loss=2.0, **many)]))
    assert store.metrics("run")[:4] == ["train_loss", "val_loss", "grad_norm", "lr"]
    assert len(store.metrics("run")) <= MAX_KEYS


def test_unknown_runs_metrics_and_axes_are_none() -> None:
    store = filled(Batch(attempt=1, rows=[row(1)]))
    assert store.series("other", "train_loss") is None
    assert store.series("run", "other") is None
    assert store.series("run", "train_loss", "flops") is None
    assert store.version("other") == -1
    store.forget(["run", "other"])
    assert store.metrics("run") == []


def test_fifty_runs_of_a_hundred_thousand_points_and_three_metrics_fit_in_300_mb() -> None:
    store = RunStore()
    rows = [row(step, 2.0, lr=0.1, grad_norm=1.0) for step in range(1, 2001)]
    for place in range(10):
        shifted = [item | {"step": item["step"] + 2000 * place} for item in rows]
        store.apply("run", Batch(attempt=1, rows=shifted))
    held = sum(column.nbytes for column in store._runs["run"].columns.values())
    assert held / 20_000 * 50 * 100_000 < 300e6


def test_the_newest_attempt_begins_where_the_one_before_it_was_resumed() -> None:
    store = RunStore()
    store.apply("r", Batch(attempt=1, rows=[{"step": step, "train_loss": 3.0} for step in range(1, 8)]))
    first = store.series("r", "train_loss")
    store.apply("r", Batch(attempt=2, rows=[{"step": step, "train_loss": 2.0} for step in range(5, 11)]))
    second = store.series("r", "train_loss")
    assert first is not None and second is not None
    assert first.newest_from == 0
    assert second.newest_from == 4
    assert second.y[:5].tolist() == [3.0, 3.0, 3.0, 3.0, 2.0]
