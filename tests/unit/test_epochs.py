"""Simulated epochs: over a run each chosen window is seen N times, whatever the batch, and never another one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_engines import data, epochs
from optsweep_engines.data import PreparedDataset
from optsweep_engines.spec import RunSpec
from optsweep_tui.analysis import speedup
from optsweep_tui.core import Cell, dataset_parts
from tests.numerics.toy import spec, toy_dataset
from tests.unit.analysis_frames import curve, frame
from tests.unit.analysis_frames import run as row
from tests.unit.test_data import counting


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return toy_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """No token twice, so no window twice."""
    return data.write(counting(), tmp_path_factory.mktemp("numbered"))


def seen(run: RunSpec, dataset: PreparedDataset) -> list[bytes]:
    """Every window of a run, inputs and targets, in order."""
    windows = []
    for step in range(run.steps):
        x, y = data.batch_of(run, dataset, step)
        windows += [row.tobytes() for row in np.concatenate([x, y[:, -1:]], axis=1)]
    return windows


@pytest.mark.parametrize(("count", "batch"), [(2, 4), (3, 4), (4, 4), (5, 3), (10, 8), (40, 4)])
def test_each_window_of_the_part_is_seen_exactly_n_times_and_no_other(
    count: int, batch: int, numbered: PreparedDataset
) -> None:
    dataset = numbered
    run = spec(dataset, simulate_epochs=count, batch_size=batch, tokens=41 * batch * 16)
    windows = seen(run, dataset)
    counts = Counter(windows)
    assert set(counts.values()) == {count}
    assert len(counts) * count == run.steps * batch
    there = {dataset.train[at : at + 17].astype(np.int64).tobytes() for at in range(0, dataset.train_tokens - 16, 16)}
    assert set(counts) <= there
    size = len(counts)
    for epoch in range(count):  # whole epochs, one after the other
        assert set(windows[epoch * size : (epoch + 1) * size]) == set(counts)


def test_each_epoch_has_another_order_and_the_seed_decides_the_order_not_the_part(dataset: PreparedDataset) -> None:
    run = spec(dataset, simulate_epochs=4)
    windows, other = seen(run, dataset), seen(run.replace(seed=1), dataset)
    size = run.epoch_windows
    orders = {tuple(windows[epoch * size : (epoch + 1) * size]) for epoch in range(4)}
    assert len(orders) == 4
    assert windows != other
    assert set(windows) == set(other)


def test_the_part_of_a_shorter_run_lies_in_that_of_a_longer_one(dataset: PreparedDataset) -> None:
    short, long_ = (spec(dataset, simulate_epochs=4, tokens=steps * 64) for steps in (40, 200))
    assert set(seen(short, dataset)) < set(seen(long_, dataset))


def test_steps_are_cut_down_to_whole_epochs(dataset: PreparedDataset) -> None:
    run = spec(dataset, tokens=41 * 64)
    assert run.steps == 41
    assert (
        run.replace(simulate_epochs=3).steps == 39
    )  # 39 * 4 windows are 3 * 52; 41 * 4 and 40 * 4 are no multiple of 3
    assert run.replace(simulate_epochs=2).steps == 41
    assert run.replace(simulate_epochs=1).run_id == run.run_id
    assert len({run.replace(simulate_epochs=count).run_id for count in (1, 2, 3)}) == 3


def test_a_part_larger_than_the_dataset_is_refused_before_training(dataset: PreparedDataset) -> None:
    run = spec(dataset, simulate_epochs=2, tokens=10_000 * 64)
    with pytest.raises(ValueError, match=r"20,000 windows of 16 tokens, dataset toy has 2,\d\d\d"):
        data.dataset_of(run, dataset.folder.parent)


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 5000), key=st.text(max_size=8))
def test_a_permutation_takes_every_number_once(size: int, key: str) -> None:
    assert sorted(epochs.permuted(np.arange(size), size, key).tolist()) == list(range(size))


def test_permutations_look_random() -> None:
    """Over 600 keys each place of 6 holds each number about 100 times (chi-square, 25 degrees of freedom: 52.6 at p = .001)."""
    counts = np.zeros((6, 6))
    for key in range(600):
        counts[np.arange(6), epochs.permuted(np.arange(6), 6, f"key {key}")] += 1
    assert float(((counts - 100) ** 2 / 100).sum()) < 52.6


def test_a_permutation_is_the_same_on_every_machine() -> None:
    assert epochs.permuted(np.arange(8), 8, "optsweep").tolist() == [4, 2, 5, 1, 0, 3, 7, 6]
    assert epochs.permuted(np.array([0, 1, 99_999]), 100_000, "optsweep").tolist() == [52224, 14123, 54308]


def test_large_parts_are_worked_out_step_by_step(dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    run = spec(dataset, simulate_epochs=4)
    kept = [epochs.starts(run, dataset.train_tokens, step).tolist() for step in range(run.steps)]
    monkeypatch.setattr(epochs, "TABLE", 0)
    assert [epochs.starts(run, dataset.train_tokens, step).tolist() for step in range(run.steps)] == kept


def test_permutations_that_are_kept_take_bounded_memory(numbered: PreparedDataset) -> None:
    """A run needs its part's and two epochs' at a time; of forty epochs those of a few are kept: 8 MiB each at the most."""
    run = spec(numbered, simulate_epochs=40, tokens=40 * 64)
    epochs._table.cache_clear()
    for step in range(run.steps):
        epochs.starts(run, numbered.train_tokens, step)
    found = epochs._table.cache_info()
    assert found.misses == 41, "each of them is worked out once"
    assert found.currsize <= 4 and epochs.TABLE * 8 * found.currsize <= 32 << 20


def test_engines_train_on_the_epochs(dataset: PreparedDataset, tmp_path: Path) -> None:
    from optsweep_engines.engine import load_engine
    from tests.numerics.run_log import FolderLog

    fresh, repeated = (spec(dataset, simulate_epochs=count) for count in (1, 4))
    records = [
        load_engine("torch").train(run, FolderLog(tmp_path / str(run.simulate_epochs), dataset.folder.parent))
        for run in (fresh, repeated)
    ]
    assert records[0].parameters_sha256 != records[1].parameters_sha256
    assert all(record.status == "done" for record in records)


def test_a_repeated_dataset_is_another_cell(dataset: PreparedDataset) -> None:
    fresh, repeated = spec(dataset), spec(dataset, simulate_epochs=4)
    assert Cell.of(fresh) != Cell.of(repeated)
    assert (Cell.of(fresh).dataset, Cell.of(repeated).dataset) == ("toy", "toy x4 epochs")
    assert dataset_parts("toy x4 epochs") == ("toy", 4, None)
    assert dataset_parts("toy") == ("toy", 1, None)


def test_a_speedup_over_fresh_data_is_refused_for_repeated_data_with_the_reason() -> None:
    rows = frame([*curve(), row("muon", 4.0, 3.0, dataset="c4 x4 epochs")])
    found = speedup(rows)
    (repeated,) = found[found["optimizer"] == "muon"].to_dict("records")
    assert repeated["state"] == "REFUSE"
    assert "it has seen c4, here c4 x4 epochs" in repeated["reason"]
