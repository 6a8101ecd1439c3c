"""What the matrix rules are made of: probe noise, blocks, the calendar of Kron, routing, costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import scipy.stats
import torch
from array_api_compat import numpy as numpy_namespace
from array_api_compat import torch as torch_namespace

from optsweep_engines.models import model, parameter_table
from optsweep_engines.optimizers import blocks, kron, linear, noise, orthogonal
from optsweep_engines.optimizers.base import at_step, hyper
from optsweep_engines.optimizers.catalogue import ENTRIES
from optsweep_engines.properties.tensors import ALL_SHAPES, Floats, parameter
from optsweep_engines.properties.training import knobs_of
from optsweep_engines.spec import Scalar

BANK = parameter("q", (3, 200, 201), stacked=True)


def drawn(seed: int = 0, step: int = 1, name: str = BANK.name) -> Floats:
    numbers: Floats = noise.normal(numpy_namespace, seed, step, dataclasses.replace(BANK, name=name), np.zeros(1))
    return numbers


def test_probe_noise_is_standard_normal() -> None:
    samples = [drawn(seed).ravel() for seed in range(20)]
    count = samples[0].size
    # Twenty independent sums: each standard deviation is known, the largest of 20 stays below 4 of them.
    for moment, mean, deviation in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        sums = [(np.mean(sample**moment) - mean) / np.sqrt(deviation / count) for sample in samples]
        assert np.abs(sums).max() < 4, moment
    levels = [scipy.stats.kstest(sample[:20000], "norm").pvalue for sample in samples]
    assert scipy.stats.kstest(levels, "uniform").pvalue > 1e-3


def test_probe_noise_differs_by_seed_step_and_name_and_has_no_order_in_it() -> None:
    base = drawn().ravel()
    others = [
        drawn(seed=1),
        drawn(step=2),
        drawn(name="k"),
        *(np.roll(base, lag) for lag in (1, 2, 201, base.size // 2)),
    ]
    for other in others:
        for power in (1, 2):
            correlation = np.corrcoef(base**power, other.ravel() ** power)[0, 1]
            assert abs(correlation) * np.sqrt(base.size) < 4
    assert np.array_equal(drawn(), drawn())


def test_probe_noise_is_the_same_in_torch_whatever_the_type() -> None:
    for dtype, tolerance in ((torch.float64, 2e-6), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)):
        found = noise.normal(torch_namespace, 0, 1, BANK, torch.zeros(1, dtype=dtype))
        assert found.dtype == dtype
        assert np.abs(found.double().numpy() - drawn()).max() < tolerance


def test_long_noise_is_drawn_in_pieces_that_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn()
    monkeypatch.setattr(noise, "CPU_CHUNK", 1000)
    assert np.array_equal(drawn(), whole)


@pytest.mark.parametrize("size", [0, 1, 4, 5, 8, 100])
def test_blocks_cover_a_matrix_once_and_join_to_it_again(size: int) -> None:
    matrix = np.arange(2 * 8 * 13.0).reshape(2, 8, 13)
    layout = blocks.tiles(matrix.shape, size)
    parts = [blocks.cut(numpy_namespace, matrix, tile) for tile in layout]
    assert np.array_equal(blocks.joined(numpy_namespace, parts, layout), matrix)
    assert sum(tile.count * tile.shape[0] * tile.shape[1] for tile in layout) == 8 * 13
    assert all(max(tile.shape) <= (size or 100) for tile in layout)
    if size == 5:  # 5 + 3 rows, 2 x 5 + 3 columns
        assert [tile.shape for tile in layout] == [(5, 5), (5, 3), (3, 5), (3, 3)]
        assert np.array_equal(parts[0][1, 0, 1], matrix[1, :5, 5:10])
        assert np.array_equal(parts[3][0, 0, 0], matrix[0, 5:, 10:])


def test_kron_updates_at_every_step_at_first_and_then_as_often_as_the_probability_says() -> None:
    knobs = knobs_of("kron", {"update_prob_flat_start": 50, "update_prob_decay": 0.01})
    updates = [bool(kron.events(step, knobs)) for step in range(1, 1001)]
    assert all(updates[:50])
    assert sum(updates[600:]) == pytest.approx(400 * 0.03, abs=1)
    assert sum(updates) < 250
    balancing = [step for step in range(1, 1001) if "balance" in kron.events(step, knobs)]
    assert balancing[0] == 20
    assert kron.events(900, knobs) == kron.events(900, dict(knobs))


def test_the_norm_bound_is_below_the_norm_and_not_far() -> None:
    stream = np.random.Generator(np.random.PCG64(0))
    for size in (1, 2, 9, 40):
        root = stream.standard_normal((50, size, size))
        matrix = root @ root.transpose(0, 2, 1)
        bound = linear.norm_lower_bound(numpy_namespace, matrix)[:, 0, 0]
        norm = np.linalg.norm(matrix, 2, axis=(1, 2))
        assert np.all(bound <= norm * (1 + 1e-12))
        assert np.all(norm <= np.sqrt(2) * bound)
    assert np.array_equal(linear.norm_lower_bound(numpy_namespace, np.zeros((2, 3, 3))), np.zeros((2, 1, 1)))


def test_a_matrix_that_is_not_finite_has_no_eigenvectors_and_leaves_the_others_alone() -> None:
    stream = np.random.Generator(np.random.PCG64(0))
    root = stream.standard_normal((3, 4, 4))
    matrix = root @ root.transpose(0, 2, 1)
    spoiled = matrix.copy()
    spoiled[1, 2, 2] = np.nan
    for found, expected in zip(
        linear.eigh(numpy_namespace, spoiled), linear.eigh(numpy_namespace, matrix), strict=True
    ):
        assert np.isnan(found[1]).all()
        assert np.array_equal(found[[0, 2]], expected[[0, 2]])


MATRIX_RULES: dict[str, set[str]] = {
    "d_muon": {"d_muon"},
    "normuon": {"normuon"},
    "adamuon": {"adamuon"},
    "muon_h": {"muon_h"},
    "scion": {"scion spectral"},
    "scion_fantastic": {"scion_fantastic"},
    "soap": {"soap"},
    "shampoo": {"shampoo"},
}


@pytest.mark.parametrize("name", sorted(MATRIX_RULES))
def test_matrix_rules_take_the_hidden_matrices_and_nothing_else(name: str) -> None:
    for item in parameter_table(model("bench-micro").shape):
        rule, _ = hyper(ENTRIES[name], item, knobs_of(name), lr=1.0)
        assert (rule.name in MATRIX_RULES[name]) == item.is_hidden_matrix, item.name


def test_kron_keeps_full_factors_for_hidden_matrices_only() -> None:
    for item in parameter_table(model("bench-micro").shape):
        rule, hp = hyper(ENTRIES["kron"], item, knobs_of("kron"), lr=1.0)
        state = rule.init(numpy_namespace, np.zeros(item.shape, dtype=np.float32), hp)
        widths = {array.shape[-1] for key, array in state.items() if key != "m"}
        assert (widths != {1}) == item.is_hidden_matrix, item.name


def test_a_step_that_needs_what_the_caller_does_not_give_is_refused() -> None:
    hidden = next(item for item in ALL_SHAPES if item.is_hidden_matrix)
    for name, step in (("kron", 1), ("sophia_g", 11), ("sophia_h", 11)):
        rule, hp = hyper(ENTRIES[name], hidden, knobs_of(name), lr=1.0)
        with pytest.raises(ValueError, match=f"{name} needs .* at step {step}"):
            at_step(rule, hp, step)
        assert ENTRIES[name].needs & rule.events(step, hp.knobs)


def flops(name: str, shape: tuple[int, ...], given: Mapping[str, Scalar], tokens: int = 0) -> float:
    """Of one step on one square or oblong hidden matrix."""
    item = parameter("mlp_gate", shape)
    return ENTRIES[name].flops_per_step([item], knobs_of(name, given), tokens)


def test_costs_of_decompositions_follow_their_frequency() -> None:
    # n = 100: QR with its power iteration 14/3 n^3 per side, eigendecomposition with the root 11 n^3, spread over f steps.
    for name, work in (("soap", 14 / 3 + 4), ("shampoo", 11.0)):
        often, seldom = (flops(name, (100, 100), {"precondition_frequency": f}) for f in (1, 10))
        assert often - seldom == pytest.approx(0.9 * 2 * work * 100**3)
    often, seldom = (flops("kron", (100, 100), {"preconditioner_update_probability": p}) for p in (0.5, 0.1))
    assert often - seldom == pytest.approx(0.4 * (2 * 9 * 100**3 + 16 * 100**2))
    assert flops("soap", (200, 200), {"partition_grads_into_blocks": True, "block_size": 100}) == pytest.approx(
        4 * flops("soap", (100, 100), {})
    )


def test_hessian_estimates_cost_passes_over_the_batch() -> None:
    plain = flops("sophia_g", (100, 100), {})
    assert flops("sophia_g", (100, 100), {}, tokens=50) - plain == pytest.approx(6 * 100 * 100 * 50 / 10)
    assert flops("sophia_h", (100, 100), {"hessian_interval": 5}, tokens=50) - plain == pytest.approx(
        3 * 6 * 100 * 100 * 50 / 5
    )


def test_a_scheme_beyond_its_table_repeats_its_last_step() -> None:
    assert orthogonal.coefficients("you", 8)[5:] == [orthogonal.SCHEMES["you"][5]] * 3
    assert orthogonal.coefficients("jordan", 3) == [orthogonal.JORDAN] * 3
