"""Shapes and counts of the model catalogue."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from optsweep_engines.models import MODELS, initial_parameters, model, parameter_table, training_bytes

# Non-embedding parameters as published: 32 (3 h 4h + 4 h h), arXiv 2509.02046.
PUBLISHED = {"130m": 134217728, "300m": 301989888, "520m": 536870912, "1.2b": 1207959552}

TWINS = [entry.name for entry in MODELS.values()]


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_the_reference_sizes_have_the_published_parameters(name: str, count: int) -> None:
    entry = model(name)
    assert entry.shape.non_embedding_params == count
    assert entry.shape.width // entry.shape.heads == 64
    assert (entry.seq_len, entry.batch_size, entry.shape.vocab_size) == (4096, 128, 128256)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("tied", [False, True])
def test_the_parameter_table_sums_to_the_closed_forms(name: str, tied: bool) -> None:
    shape = dataclasses.replace(model(name).shape, tied_embeddings=tied)
    table = parameter_table(shape)
    assert sum(item.count for item in table) == shape.total_params
    assert sum(item.count for item in table if item.is_hidden_matrix) == shape.non_embedding_params
    assert len({item.name for item in table}) == len(table)


def test_axes_and_roles_are_declared_for_every_tensor() -> None:
    shape = model("bench-tiny").shape
    table = {item.name: item for item in parameter_table(shape)}
    assert (table["mlp_gate"].fan_in, table["mlp_gate"].fan_out) == (128, 352)
    assert (table["mlp_out"].fan_in, table["mlp_out"].fan_out) == (352, 128)
    assert (table["embedding"].fan_in, table["embedding"].fan_out) == (256, 128)
    assert (table["head"].fan_in, table["head"].fan_out) == (128, 256)
    assert {name for name, item in table.items() if not item.decays} == {"attention_norm", "mlp_norm", "final_norm"}
    assert {name for name, item in table.items() if item.heads == 4} == {"q", "k", "v"}
    assert (table["q"].tensors, table["q"].tensor_shape) == (4, (128, 128))
    assert (table["final_norm"].tensors, table["final_norm"].tensor_shape) == (1, (128,))


def test_names_are_matched_without_case_and_unknown_ones_are_named() -> None:
    assert model("1.2B") is model("1.2b")
    assert model("BENCH-Micro").name == "bench-micro"
    with pytest.raises(LookupError) as caught:
        model("131m")
    assert caught.value.args == ("131m",)


def test_initial_values_depend_on_seed_and_name_only() -> None:
    shape = model("bench-micro").shape
    first, again, other = initial_parameters(shape, 0), initial_parameters(shape, 0), initial_parameters(shape, 1)
    tied = initial_parameters(dataclasses.replace(shape, tied_embeddings=True), 0)
    assert list(first) == [item.name for item in parameter_table(shape)]
    assert set(first) - set(tied) == {"head"}
    for name, value in first.items():
        assert value.dtype == np.float32
        assert np.array_equal(value, again[name])
        if name in tied:
            assert np.array_equal(value, tied[name])
        assert np.array_equal(value, other[name]) == ("norm" in name)
    assert not np.array_equal(first["q"], first["k"])
    assert float(first["embedding"].flat[0]) == pytest.approx(
        -0.5426108, abs=1e-7
    )  # a golden value: the same everywhere


def test_initial_values_have_the_declared_spread() -> None:
    shape = model("bench-tiny").shape
    values = initial_parameters(shape, 3)
    for item in parameter_table(shape):
        if item.init_std is None:
            assert (values[item.name] == 1).all()
        else:
            # n normal samples: the standard deviation has a relative error of 1/sqrt(2n)
            assert values[item.name].std() == pytest.approx(item.init_std, rel=5 / np.sqrt(2 * item.count))
            assert abs(values[item.name].mean()) < 5 * item.init_std / np.sqrt(item.count)


def test_a_width_that_does_not_divide_into_heads_is_refused() -> None:
    shape = model("bench-micro").shape
    for bad in (dataclasses.replace(shape, heads=3), dataclasses.replace(shape, width=60, heads=4)):
        with pytest.raises(ValueError, match="heads of even size"):
            parameter_table(bad)
    with pytest.raises(ValueError, match="family"):
        parameter_table(dataclasses.replace(shape, family="mamba"))


def test_memory_grows_with_everything_that_is_held() -> None:
    shape = model("130m").shape
    base = training_bytes(shape, 1, 4096, "fp32", 2.0 * shape.total_params)
    assert base > 16 * shape.total_params  # weights, gradients, two moments
    assert training_bytes(shape, 2, 4096, "fp32", 2.0 * shape.total_params) > base
    assert training_bytes(shape, 1, 4096, "fp32", 1.0 * shape.total_params) == base - 4 * shape.total_params
    assert training_bytes(shape, 8, 4096, "bf16", 0) < training_bytes(shape, 8, 4096, "fp32", 0)


def test_flops_per_token_follow_the_definition() -> None:
    entry = model("130m")
    head = 128256 * 512
    assert entry.shape.flops_per_token(4096) == 6 * (134217728 + head) + 12 * 32 * 512 * 4096
