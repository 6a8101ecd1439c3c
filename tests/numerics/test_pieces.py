"""Banks laid together or cut into pieces: the same numbers as bank by bank, under the banks' own names."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optsweep_engines.data import PreparedDataset
from optsweep_engines.optimizers.base import hyper
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.properties.services import services
from optsweep_engines.properties.tensors import ITEMS, error, factor, pull, start
from optsweep_engines.properties.training import knobs_of
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine import TorchEngine, fused, pieces
from optsweep_engines.torch_engine.optimizer import Optimizer
from tests.numerics.run_log import FolderLog
from tests.numerics.test_resume import in_pieces
from tests.numerics.test_rule_properties import DEFINED, RARE
from tests.numerics.toy import spec

STEPS = 14
"""Some more than the ten after which every preconditioner is made anew."""

SITUATIONS: dict[str, dict[str, Scalar]] = {**DEFINED, "kron": RARE}
"""Knobs under which a rule's rare events all happen in these steps and its bases are defined by the gradients."""

LIMITS = (150, 1 << 20)
"""Numbers per piece: one or few tensors and cuts anywhere, all banks in one."""

NAMES = sorted(ENTRIES)


def trained(
    name: str, *, fused: bool, dtype: torch.dtype = torch.float64, steps: int = STEPS
) -> tuple[Optimizer, dict[str, torch.Tensor]]:
    """Some float64 steps on tensors of every role and shape.

    Args:
        dtype: of matrix products in the faster paths.
    """
    params = {item.name: torch.from_numpy(start(item)) for item in ITEMS}
    knobs = knobs_of(name, SITUATIONS.get(name))
    optimizer = Optimizer(
        ENTRIES[name], knobs, ITEMS, params, total_steps=STEPS, tokens_per_step=64, dtype=dtype, fused=fused
    )
    provided = services(torch.from_numpy, np.float64)
    for step in range(1, steps + 1):
        grads = {item.name: torch.from_numpy(pull(item, params[item.name].numpy(), step)) for item in ITEMS}
        optimizer.step(grads, step, float(knobs["lr"] or 0.0) * factor(step), provided)
    return optimizer, params


@functools.cache
def plain(name: str) -> tuple[Optimizer, dict[str, torch.Tensor]]:
    """The rules themselves, bank by bank."""
    return trained(name, fused=False)


def limited(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """Every piece of at most so many numbers."""
    monkeypatch.setattr(pieces, "PIECE_NUMBERS", dict.fromkeys(pieces.PIECE_NUMBERS, numbers))


@pytest.mark.parametrize("numbers", LIMITS)
@pytest.mark.parametrize("name", NAMES)
def test_pieces_of_any_size_equal_the_banks(name: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, numbers)
    found, params = trained(name, fused=True)
    expected, expected_params = plain(name)
    for item in ITEMS:
        assert error(params[item.name].numpy(), expected_params[item.name].numpy()) < 1e-6, item.name
    assert found.tensors().keys() == expected.tensors().keys()
    for key, value in expected.tensors().items():
        assert found.tensors()[key].shape == value.shape, key
        assert float((found.tensors()[key] - value).abs().max()) <= 1e-6 * float(value.abs().max()), key
    assert found.state_bytes() == expected.state_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_states_keep_the_number_of_floats_that_the_catalogue_states(name: str) -> None:
    optimizer, _ = trained(name, fused=True)
    knobs = knobs_of(name, SITUATIONS.get(name))
    stated = sum(
        rule.state_floats(item, hp.knobs) for item in ITEMS for rule, hp in [hyper(ENTRIES[name], item, knobs)]
    )
    assert optimizer.state_bytes() == 8 * stated


def test_matrices_of_one_shape_are_one_batch_and_others_are_not() -> None:
    optimizer, _ = trained("soap", fused=True)
    [squares] = [group for _, group in optimizer.groups if group.unit == (12, 12)]
    assert [slot.hp.tensor.role for slot in squares.slots].count("k") == 1
    assert [piece.stop - piece.start for piece in squares.pieces] == [
        sum(slot.hp.tensor.tensors for slot in squares.slots)
    ]
    assert {group.unit for _, group in optimizer.groups} == {
        item.tensor_shape for item in ITEMS if item.is_hidden_matrix
    }


def test_a_head_and_a_hidden_matrix_of_one_shape_stay_apart() -> None:
    """Kron gives them other factors."""
    [head] = [item for item in ITEMS if item.role == "head"]
    optimizer, _ = trained("kron", fused=True)
    for names, group in optimizer.groups:
        assert len({group.slots[i].hp.tensor.is_hidden_matrix for i in range(len(names))}) == 1
    assert any(head.name in names for names, _ in optimizer.groups)


def test_small_banks_share_a_piece_and_a_large_one_is_cut() -> None:
    found = list(pieces.cuts([3, 4, 25, 2], 10))
    assert [[(item.bank, item.start, item.stop) for item in piece] for piece in found] == [
        [(0, 0, 3), (1, 0, 4)],
        [(2, 0, 8)],
        [(2, 8, 16)],
        [(2, 16, 25)],
        [(3, 0, 2)],
    ]


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8), limit=st.integers(1, 50))
def test_cuts_cover_every_unit_once_and_in_order(sizes: list[int], limit: int) -> None:
    found = list(pieces.cuts(sizes, limit))
    units = [(item.bank, unit) for piece in found for item in piece for unit in range(item.start, item.stop)]
    assert units == [(bank, unit) for bank, size in enumerate(sizes) for unit in range(size)]
    assert all(sum(item.stop - item.start for item in piece) <= limit for piece in found)
    for one, other in itertools.pairwise(found):  # nothing is apart that could be together
        if len({item.bank for item in (*one, *other)}) > 1:
            whole = [sizes[piece[0].bank] for piece in (one, other) if len(piece) == 1]
            together = sum(item.stop - item.start for item in (*one, *other)) <= limit
            assert not together or any(size >= limit for size in whole)


@pytest.mark.parametrize("name", ["d_muon", "normuon", "adamuon", "muon_h", "scion", "scion_fantastic"])
def test_relatives_of_muon_take_products_in_the_type_of_the_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "multiplying", lambda dtype, device: dtype)
    rough, exact = (trained(name, fused=True, dtype=dtype, steps=1)[1] for dtype in (torch.bfloat16, torch.float64))
    for item in ITEMS:
        change, other = (values[item.name] - torch.from_numpy(start(item)) for values in (rough, exact))
        difference = float((change - other).abs().mean() / other.abs().mean())
        # 2^-8 of bfloat16, grown by the slope 3.4 of small singular values over some of the five steps
        assert 0 < difference < 0.05 if item.is_hidden_matrix else difference == 0, item.name


@pytest.mark.parametrize("name", ["soap", "kron", "lion", "sf_adamw", "cautious"])
@pytest.mark.parametrize("numbers", [100, 600])
def test_a_run_that_is_cut_into_small_pieces_resumes_exactly(
    name: str, numbers: int, dataset: PreparedDataset, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, numbers)
    run = spec(dataset, name, tokens=14 * 64)
    straight = TorchEngine().train(run, FolderLog(tmp_path / "straight", data_root))
    resumed = in_pieces(run, tmp_path / "pieces", data_root, [3, 8])
    assert resumed.resumed_from_step == 11
    assert resumed.parameters_sha256 == straight.parameters_sha256
