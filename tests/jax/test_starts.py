"""JAX: branches end at the bits of the whole run, weights go over between the engines exactly, packs keep and refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from optsweep_engines import kept, weights
from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import load_engine
from optsweep_engines.spec import RunRecord, RunSpec, ValidationSet
from tests.numerics.test_starts import attempt, from_kept, trained, trunk_of


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_branch_ends_at_the_bits_of_the_whole_run(
    optimizer: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    trunk = trunk_of(dataset, optimizer, "jax").replace(tokens=40 * 64)
    whole = trunk.replace(tokens=16 * 64)
    trained(tmp_path, trunk, data_root, keep=[12])
    branch = whole.replace(start=from_kept(tmp_path, trunk, 12, "branch"))
    expected, found = trained(tmp_path, whole, data_root), trained(tmp_path, branch, data_root)
    assert found.parameters_sha256 == expected.parameters_sha256
    assert (found.started_from_step, found.steps) == (12, 16)


@pytest.mark.parametrize(("first", "second"), [("torch", "jax"), ("jax", "torch")])
def test_weights_go_over_to_the_other_engine_bit_for_bit(
    first: str, second: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    parent = trunk_of(dataset, engine=first).replace(tokens=8 * 64)
    record = trained(tmp_path, parent, data_root, keep=[8])
    start = from_kept(tmp_path, parent, 8, "weights")
    child = trunk_of(dataset, engine=second).replace(start=start)
    trainer = load_engine(second).trainer(child, attempt(tmp_path, child, data_root))
    assert trainer.parameters_sha256() == record.parameters_sha256 == start.parameters_sha256
    found = weights.initial(child, tmp_path)
    assert found is not None
    for name, value in trainer.arrays().items():
        if name.startswith(kept.PARAMETER):
            assert np.array_equal(value, found[name.removeprefix(kept.PARAMETER)])


def test_members_of_a_pack_keep_states_and_measure_all_sets_but_begin_with_none(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    sets = {"seen": ValidationSet(dataset=dataset.name, dataset_hash=dataset.sha256, split="train")}
    runs = [trunk_of(dataset, engine="jax").replace(tokens=10 * 64, seed=seed, validation_sets=sets) for seed in (0, 1)]
    packed = _packed(runs, tmp_path / "pack", data_root)
    alone = trained(tmp_path, runs[1], data_root, keep=[4])
    assert packed[1].parameters_sha256 == alone.parameters_sha256
    assert packed[1].val_losses == pytest.approx(alone.val_losses)
    states = [kept.find(root, runs[1].run_id, 4) for root in (tmp_path / "pack", tmp_path)]
    assert states[0].parameters_sha256 == states[1].parameters_sha256
    child = runs[0].replace(start=from_kept(tmp_path, runs[1], 4, "weights"))
    with pytest.raises(ValueError, match="is trained alone, not in a pack"):
        _packed([runs[0], child], tmp_path / "other", data_root)


def _packed(runs: list[RunSpec], root: Path, data_root: Path) -> list[RunRecord]:
    logs = [attempt(root, run, data_root, keep=[4]) for run in runs]
    return load_engine("jax").train_pack(runs, logs)  # type: ignore[attr-defined, no-any-return]
