"""Diagnostics of the JAX engine: the numbers of torch, and no bit of a trajectory changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from optsweep_engines.data import PreparedDataset
from tests.numerics.test_diagnostics import asked, events, trained
from tests.numerics.test_families import shape_of
from tests.numerics.toy import spec


def test_the_numbers_are_those_of_torch_and_change_no_bit(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    run = spec(dataset, shape=shape_of("olmo"), tokens=64 * 4, knobs={"lr": 0.003, "max_grad_norm": 0.1})
    _, theirs = trained(run, tmp_path / "torch", data_root, asked("full", "layers", own=("kurtosis",)))
    plain, _ = trained(run.replace(engine="jax"), tmp_path / "plain", data_root)
    full, ours = trained(
        run.replace(engine="jax"), tmp_path / "full", data_root, asked("full", "layers", own=("kurtosis", "broken"))
    )
    assert full.parameters_sha256 == plain.parameters_sha256
    for mine, other in zip(ours.rows(), theirs.rows(), strict=True):
        assert set(mine) == set(other)
        for key in set(mine) - {"train_seconds", "grad_sparsity"}:
            assert mine[key] == pytest.approx(other[key], rel=2e-3, abs=1e-6), key
    assert [event["kind"] for event in events(ours)] == ["diagnostic_failed"]
