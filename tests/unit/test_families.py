"""Families of models: what is counted, how they start, what they are called, and that older runs keep their ids."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from optsweep_engines.families import FAMILIES, MODELS, family_shape, model
from optsweep_engines.models import initial_parameters, parameter_table, training_bytes
from optsweep_engines.optimizers.base import hyper
from optsweep_engines.optimizers.catalogue import ENTRIES, optimizer, resolve_knobs
from optsweep_engines.shape import ModelShape
from optsweep_engines.spec import RunSpec
from optsweep_tui import grid
from optsweep_tui.errors import OptsweepError
from tests.unit.test_spec import spec as made_spec


def small(family: str, **changes: Any) -> ModelShape:
    return family_shape(family, layers=3, width=16, heads=2, mlp_width=24, vocab_size=32, positions=20, **changes)


def spec(name: str, **changes: Any) -> RunSpec:
    knobs = {"lr": 0.006, "beta1": 0.9, "weight_decay": 0.1, "warmup": 0.1}
    return made_spec(**{"model": name, "shape": model(name).shape, "hyperparameters": knobs, **changes})


# ---------------------------------------------------------------- ids


# Taken from the program as it was before there were families.
IDS = {
    ("bench-micro", False): "09efe28f38b0e5f7a7e3f2f12fa2b51d",
    ("bench-micro", True): "5b6bedf984ba22fe0a64f97f5ca522db",
    ("130m", False): "a7b53e09ced86f140e2f164b1abbd5a4",
    ("130m", True): "61d661402a7de0ccf59835d57f0a1d3a",
}


@pytest.mark.parametrize(("name", "tied"), IDS)
def test_a_run_from_before_the_families_keeps_its_id(name: str, tied: bool) -> None:
    shape = dataclasses.replace(model(name).shape, tied_embeddings=tied)
    run = spec(name, shape=shape)
    assert run.run_id == IDS[name, tied]
    with_knob = run.replace(hyperparameters={**run.hyperparameters, "z_loss": 0.0})
    assert with_knob.run_id == run.run_id
    assert run.replace(hyperparameters={**run.hyperparameters, "z_loss": 1e-4}).run_id != run.run_id


def test_every_new_field_changes_the_id_where_it_is_not_neutral_and_survives_json() -> None:
    base = spec("bench-micro")
    other: dict[str, Any] = {
        "norm": "layer", "activation": "gelu", "qk_norm": "head", "biases": True, "positions": 64, "output_init": "zero",
        "mup_base_width": 32,
    }  # fmt: skip
    neutral = {item.name for item in dataclasses.fields(ModelShape) if "neutral" in item.metadata}
    assert neutral == set(other)
    assert not neutral & set(base.to_dict()["shape"])
    seen = {base.run_id}
    for name, value in other.items():
        changed = base.replace(shape=dataclasses.replace(base.shape, **{name: value}))
        assert RunSpec.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
        seen.add(changed.run_id)
    assert len(seen) == len(other) + 1


# ---------------------------------------------------------------- counts


def counted(family: str, shape: ModelShape) -> int:
    """Stored parameters, family by family, written out by hand."""
    layers, w, m, v = shape.layers, shape.width, shape.mlp_width, shape.vocab_size
    if family == "llama":
        return layers * (4 * w * w + 3 * w * m + 2 * w) + w + 2 * v * w
    if family == "gpt2":
        return layers * (4 * w * w + 2 * w * m + 2 * w) + w + v * w + shape.positions * w
    if family == "olmo":  # two more gains, of q and k
        return layers * (4 * w * w + 2 * w * m + 4 * w) + w + 2 * v * w
    return layers * (4 * w * w + 2 * w * m) + v * w


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_flops_are_the_closed_forms_and_those_of_the_arrays(family: str) -> None:
    shape = small(family)
    arrays = initial_parameters(shape, 0)
    assert shape.total_params == counted(family, shape) == sum(value.size for value in arrays.values())
    matrices = 7 if family == "llama" else 6
    hidden = sum(item.count for item in parameter_table(shape) if item.is_hidden_matrix)
    assert shape.non_embedding_params == hidden == 3 * (4 * 16 * 16 + (matrices - 4) * 16 * 24)
    # 2 FLOPs per weight and token forward, 4 backward; attention: q k and weights v, 2 T W each, three times
    assert shape.flops_per_token(20) == 6 * (hidden + 32 * 16) + 3 * 3 * 2 * (2 * 20 * 16)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("qk_norm", ["none", "head", "width"])
def test_counts_hold_with_every_switch(family: str, tied: bool, qk_norm: str) -> None:
    shape = dataclasses.replace(small(family, biases=True), tied_embeddings=tied, qk_norm=qk_norm)
    table = parameter_table(shape)
    assert sum(item.count for item in table) == shape.total_params
    assert sum(item.count for item in table if item.role == "norm") == shape.norm_params
    assert sum(item.count for item in table if item.role == "bias") == shape.bias_params
    assert len({item.name for item in table}) == len(table)
    assert all(item.decays == (item.role not in ("norm", "bias")) for item in table)


def test_the_sizes_of_the_studies_have_their_published_parameters() -> None:
    n = {name: entry.shape.non_embedding_params for name, entry in MODELS.items()}
    # 12 layers x width^2 x layers: 4 of attention, 8 of an MLP of 4 widths
    assert n["olmo-150m"] == 12 * 12 * 1024**2 == 150_994_944  # "150m non-embedding params" of base-c4-t5.yaml
    assert n["olmo-300m"] == 12 * 24 * 1024**2
    assert n["olmo-600m"] == 12 * 24 * 1408**2
    assert n["olmo-1.2b"] == 12 * 24 * 2048**2
    # its head and embedding of 32128 padded rows make 217M; here both have the 32100 of the tokenizer
    assert model("olmo-150m").shape.total_params == n["olmo-150m"] + 2 * 32100 * 1024 + (4 * 12 + 1) * 1024
    assert [n[f"gpt2-{size}"] for size in ("tiny", "small", "medium")] == [786432, 10616832, 25165824]
    # nanoGPT prints its parameters without positions: 123.69M with the vocabulary padded to 50304 and no biases
    shape = model("gpt2-124m").shape
    assert shape.total_params - shape.positions * shape.width == 84_934_656 + 50304 * 768 + 25 * 768
    # GPT-2 itself: 124,439,808 with biases, its vocabulary of 50257 and 1024 positions
    gpt2 = dataclasses.replace(shape, biases=True, vocab_size=50257)
    assert gpt2.total_params == 124_439_808
    medium = dataclasses.replace(model("gpt2-350m").shape, biases=True, vocab_size=50257)
    assert medium.total_params == 354_823_168
    assert model("speedrun-124m").shape.total_params == 84_934_656 + 50304 * 768


def test_memory_grows_by_what_a_feature_adds() -> None:
    base = small("olmo")
    plain = dataclasses.replace(base, qk_norm="none")
    tokens = 4 * 20
    more = training_bytes(base, 4, 20, "fp32", 0) - training_bytes(plain, 4, 20, "fp32", 0)
    # two gains per layer with their gradients, and inputs and outputs of two norms
    assert more == 8 * 3 * 2 * 16 + 4 * tokens * 3 * 4 * 16
    untied = dataclasses.replace(base, tied_embeddings=True)
    assert training_bytes(base, 4, 20, "fp32", 0) - training_bytes(untied, 4, 20, "fp32", 0) == 8 * 32 * 16


# ---------------------------------------------------------------- initial values


def test_families_start_as_their_codes_do() -> None:
    wide = {"layers": 8, "width": 128, "heads": 4, "mlp_width": 512, "vocab_size": 300, "positions": 64}
    for family in ("gpt2", "olmo", "speedrun"):
        shape = family_shape(family, **wide)
        values = initial_parameters(shape, 1)
        inside = {"gpt2": 0.02, "olmo": 128**-0.5, "speedrun": (3 * 128) ** -0.5}[family]
        for name in ("embedding", "q", "k", "v", "mlp_up"):
            assert values[name].std() == pytest.approx(inside, rel=0.03), (family, name)
        for layer in range(8):
            attention, mlp = values["attention_out"][layer], values["mlp_out"][layer]
            if family == "gpt2":
                expected = (0.02 / math.sqrt(16), 0.02 / math.sqrt(16))
            elif family == "olmo":
                expected = (1 / math.sqrt(2 * 128 * (layer + 1)), 1 / math.sqrt(2 * 512 * (layer + 1)))
            else:
                expected = (0.0, 0.0)
            assert (attention.std(), mlp.std()) == pytest.approx(expected, rel=0.03)
    biased = initial_parameters(family_shape("gpt2", **wide, biases=True), 1)
    assert all((value == 0).all() for name, value in biased.items() if name.endswith("_bias"))
    assert values["embedding"].dtype == np.float32


def test_mup_scales_hidden_matrices_and_multipliers_by_width_only() -> None:
    found = {}
    for width in (64, 256):
        shape = dataclasses.replace(
            family_shape(
                "llama", layers=2, width=width, heads=width // 16, mlp_width=2 * width, vocab_size=50, positions=8
            ),
            mup_base_width=64,
            init_std=0.125,
        )
        found[width] = {item.name: item for item in parameter_table(shape)}
    for name, item in found[256].items():
        base = found[64][name]
        hidden = item.is_hidden_matrix
        assert item.width_ratio == (4.0 if hidden else 1.0)
        assert item.init_std == (base.init_std / 2 if hidden and base.init_std else base.init_std)
        for optimizer_name, power in (("adamw", 1.0), ("muon", 0.0)):
            entry = ENTRIES[optimizer_name]
            knobs = resolve_knobs(optimizer_name, {"weight_decay": 0.1})
            (_, hp), (_, hp_base) = (hyper(entry, each, knobs, lr=1.0) for each in (item, base))
            factor = 4.0**power if hidden else 1.0
            assert hp.lr == pytest.approx(hp_base.lr / factor)
            assert hp.lr * hp.weight_decay == pytest.approx(
                hp_base.lr * hp_base.weight_decay
            )  # the share per step stays


# ---------------------------------------------------------------- roles


def test_the_table_of_positions_is_treated_as_the_embedding_by_every_rule() -> None:
    table = {item.name: item for item in parameter_table(small("gpt2", biases=True))}
    position, embedding = table["position"], table["embedding"]
    assert position.role == "embedding" and position.shape == (20, 16) and position.decays
    for entry in ENTRIES.values():
        knobs = resolve_knobs(entry.name, {})
        (rule, hp), (other, hp_other) = (hyper(entry, item, knobs, lr=1.0) for item in (position, embedding))
        assert rule is other and (hp.lr, hp.weight_decay) == (hp_other.lr, hp_other.weight_decay), entry.name
        for item in table.values():
            if item.role in ("norm", "bias") and entry.name not in ("scion", "muon", "d_muon"):
                assert hyper(entry, item, knobs, lr=1.0)[1].weight_decay == 0, (entry.name, item.name)


# ---------------------------------------------------------------- names and settings


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("OLMO-150m+QK_norm=FALSE", "olmo-150m+qk_norm=false"),
        ("olmo-150m+qk_norm=true", "olmo-150m"),
        ("olmo-150m+tied_embeddings=true+qk_norm=head", "olmo-150m+qk_norm=head+tied_embeddings=true"),
        ("bench-tiny+family=gpt2", "bench-tiny+family=gpt2"),
        ("bench-tiny+family=llama", "bench-tiny"),
        ("gpt2-tiny+biases=true+mup_base_width=64", "gpt2-tiny+biases=true+mup_base_width=64"),
    ],
)
def test_a_changed_shape_is_a_model_of_its_own_with_one_spelling(asked: str, name: str) -> None:
    assert model(asked).name == name
    assert model(name).shape == model(asked).shape
    assert (model(name).shape == model(name.split("+")[0]).shape) == ("+" not in name)


@pytest.mark.parametrize("bad", ["olmo-150m+depth=3", "olmo-150m+qk_norm", "olmo-150m+biases=2", "+biases=true"])
def test_what_is_no_feature_is_no_model(bad: str) -> None:
    with pytest.raises(LookupError):
        model(bad)
    with pytest.raises(OptsweepError) as error:
        grid.model_name(bad)
    said = {
        "depth": "no feature of a model; known: family",
        "qk_norm": "not one FEATURE=VALUE",
        "biases=2": "neither true nor false",
    }
    assert next((text for part, text in said.items() if part in bad), "is not known") in str(error.value)


def datasets(name: str) -> grid.DatasetFacts:
    sizes = {"embedded": 256, "c4": 32100, "openwebtext": 50257}
    return grid.DatasetFacts(name=name, sha256="0" * 64, vocab_size=sizes[name], held_out=10**7)


def planned(
    models: list[str],
    *,
    dataset: str | None = None,
    sets: Sequence[str] = (),
    sweeps: Sequence[str] = (),
    o: str = "adamw",
) -> list[RunSpec]:
    study = dataclasses.replace(grid.from_names([o], models, [1]), dataset=dataset)
    return grid.expand(grid.with_settings(study, sets, sweeps), datasets)


def test_set_and_sweep_switch_features_and_z_loss() -> None:
    plain, without = planned(["olmo-150m"], sweeps=["qk_norm=false"])
    assert (plain.model, without.model) == ("olmo-150m", "olmo-150m+qk_norm=false")
    assert (plain.shape.qk_norm, without.shape.qk_norm) == ("width", "none")
    assert plain.hyperparameters["z_loss"] == 1e-4  # the study's own
    [off] = planned(["olmo-150m"], sets=["z_loss=0"])
    assert off.hyperparameters["z_loss"] == 0 and off.model == "olmo-150m" and off.run_id != plain.run_id
    [same] = planned(["olmo-150m"], sets=["qk_norm=true"])
    assert same.run_id == plain.run_id
    [named] = planned(["olmo-150m+qk_norm=false"])
    assert named.run_id == without.run_id
    [tied] = planned(["bench-micro"], sets=["tied_embeddings=true"])
    assert tied.shape.tied_embeddings and tied.hyperparameters["z_loss"] == 0


def test_positions_follow_the_sequence_and_padding_stays_on_the_own_dataset() -> None:
    [own] = planned(["gpt2-124m"])
    assert (own.shape.vocab_size, own.shape.positions) == (50304, 1024)
    [other] = planned(["gpt2-124m"], dataset="embedded", sets=["seq_len=128"])
    assert (other.shape.vocab_size, other.shape.positions, other.model) == (256, 128, "gpt2-124m")
    assert other.shape.non_embedding_params == own.shape.non_embedding_params


@pytest.mark.parametrize(
    ("models", "o", "sets", "words"),
    [
        (["bench-micro"], "shampoo", ["mup_base_width=32"], "muP (mup_base_width) is not defined for shampoo"),
        (["bench-micro"], "sgd", ["mup_base_width=32"], "not defined for sgd"),
        (["bench-micro"], "muon_h", ["family=speedrun"], "starts at zero"),
        (["bench-micro"], "adamw", ["biases=3"], "neither true nor false"),
        (["bench-micro"], "adamw", ["activation=gelo"], 'did you mean "gelu"'),
        (["bench-micro"], "adamw", ["mup_base_width=-1"], "is not a width"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(models: list[str], o: str, sets: list[str], words: str) -> None:
    with pytest.raises(OptsweepError) as caught:
        planned(models, o=o, sets=sets)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_base_width_counts_a_spread_that_follows_the_width_from_there() -> None:
    one, two = model("bench-micro+mup_base_width=64").shape, model("bench-tiny+mup_base_width=64").shape
    assert (one.init_std, two.init_std) == (0.125, 0.125)
    assert model("gpt2-small+mup_base_width=128").shape.init_std == 0.02
    olmo = model("olmo-150m+mup_base_width=256").shape
    assert (olmo.init_std, olmo.embedding_std) == (1 / 16, 1 / 16)
    assert optimizer("adamw").mup_power == -1.0
