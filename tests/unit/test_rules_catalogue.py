"""The optimizer catalogue: names, aliases, knobs, and how a run's knobs are resolved. Needs no framework."""

from __future__ import annotations

import csv
import json
import math

import pytest

from optsweep_engines.models import model, parameter_table
from optsweep_engines.optimizers.base import find_knob
from optsweep_engines.optimizers.catalogue import (
    ENTRIES,
    FIELD_ALIASES,
    RUN_KNOBS,
    WrongSchedule,
    all_knobs,
    idle_knobs,
    optimizer,
    published_alias,
    resolve_knobs,
    run_knobs,
)
from optsweep_engines.spec import Scalar
from optsweep_tui.published import STUDY_NAMES
from optsweep_tui.resources import shipped

NAMES = sorted(ENTRIES)

PROMISED = {
    *("adamw", "adam", "nadamw", "sgd", "signum", "lion", "adafactor", "adafactorw", "adalayer", "adalayer_last"),
    *("adafactorw_last", "adalayer_frozen", "mars", "cautious", "adam_mini", "muon", "d_muon", "scion"),
    *("scion_fantastic", "kron", "soap", "shampoo", "sophia_g", "sophia_h", "sf_adamw", "ademamix", "adopt"),
    *("prodigy", "lamb", "normuon", "muon_h", "adamuon", "adamc"),
}


def test_every_promised_optimizer_is_there() -> None:
    assert sorted(PROMISED) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_documented(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.name == name
    assert entry.doc and entry.formula and entry.routing
    assert all(link.startswith("https://") for _, link in entry.papers)
    assert entry.papers
    assert entry.knobs[0].name == "lr"


@pytest.mark.parametrize("name", NAMES)
def test_knob_names_and_aliases_do_not_clash(name: str) -> None:
    names = [part for knob in all_knobs(ENTRIES[name]) for part in (knob.name, *knob.aliases)]
    assert len(names) == len(set(names))
    assert names == [part.lower() for part in names]


@pytest.mark.parametrize("name", NAMES)
def test_defaults_and_published_values_are_inside_the_declared_range(name: str) -> None:
    for knob in all_knobs(ENTRIES[name]):
        assert knob.checked(knob.default) == knob.default
        for value in knob.published:
            assert knob.checked(value) == value
        if knob.kind in ("float", "int"):
            assert knob.low is not None and knob.high is not None and knob.low < knob.high
            outside: tuple[Scalar, ...] = (knob.low - 1, knob.high + 1, math.nan, math.inf, True, "1", None)
            for value in outside:
                with pytest.raises(ValueError, match=knob.name):
                    knob.checked(value)


def test_optimizers_are_found_by_name_or_alias_without_case() -> None:
    assert optimizer("AdamW") is ENTRIES["adamw"]
    assert optimizer("SGDW") is ENTRIES["sgd"]
    with pytest.raises(LookupError) as caught:
        optimizer("muonn")
    assert caught.value.args == ("muonn",)


def test_all_names_are_apart() -> None:
    names = [part.lower() for entry in ENTRIES.values() for part in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))


def test_resolved_knobs_are_complete_and_by_our_names() -> None:
    knobs = resolve_knobs("muon", {"learning_rate": 0.016, "Epsilon": 1e-15, "muon_to_adamw_lr": 0.2}, "linear")
    assert set(knobs) == {knob.name for knob in (*ENTRIES["muon"].knobs, *RUN_KNOBS)}
    assert (knobs["lr"], knobs["eps"], knobs["muon_to_adam_lr"], knobs["decay"]) == (0.016, 1e-15, 0.2, 1.0)
    assert resolve_knobs("adamw", {}, "wsd")["decay"] == 0.2


def test_the_same_number_written_twice_resolves_to_the_same_value() -> None:
    for one, other in ((1e-25, 9.999999999999999e-26), (1, 1.0), (0.0, 0)):
        key = "eps" if one == 1e-25 else "max_grad_norm"
        assert resolve_knobs("adamw", {key: one}) == resolve_knobs("adamw", {key: other})
    assert resolve_knobs("adamw", {"nesterov": 0.0})["nesterov"] is False


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("adamw", {"lrr": 1e-3}, 'no knob "lrr"; it has lr, beta1'),
        ("adamw", {"lr": -1e-3}, "lr = -0.001 is outside"),
        ("adamw", {"lr": "fast"}, "is not a number"),
        ("adamw", {"beta1": 1.0}, "outside 0 to 0.999999"),
        ("adamw", {"nesterov": 2}, "neither true nor false"),
        ("adamw", {"momentum": 0.9}, 'no knob "momentum"'),
        ("muon", {"ns_steps": 4.5}, "not a whole number"),
        ("sgd", {"lr": 1, "learning_rate": 1}, "same knob"),
        ("adamw", {"train_batch_size": 128}, "field of the run"),
        ("adamw", {"lr_schedule": "linear"}, "field of the run"),
    ],
)
def test_a_knob_that_cannot_be_used_is_refused_with_the_reason(name: str, given: dict[str, Scalar], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resolve_knobs(name, given)


def test_a_schedule_refuses_knobs_that_it_does_not_read() -> None:
    assert resolve_knobs("adamw", {"min_lr_ratio": 0, "decay": 0}, "constant")["min_lr_ratio"] == 0
    for given in ({"min_lr_ratio": 0.1}, {"decay": 0.5}):
        with pytest.raises(ValueError, match="constant does not read"):
            resolve_knobs("adamw", given, "constant")
    assert [knob.name for knob in run_knobs("constant")] == ["warmup", "max_grad_norm", "z_loss"]
    with pytest.raises(LookupError):
        resolve_knobs("adamw", {}, "cosin")


def test_published_keys_have_our_names() -> None:
    names = {"learning_rate": "lr", "epsilon": "eps", "train_batch_size": "batch_size", "lr_schedule": "schedule"}
    assert {key: published_alias(key) for key in names} == names
    assert published_alias("muon_epsilon") == "muon_eps"
    assert published_alias("block_size") == "block_size"


def test_every_published_incumbent_resolves() -> None:
    """All 150 cells of the reference study, under the study's own names of optimizers and knobs."""
    with (shipped("grids") / "reference" / "cells.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 150
    for row in rows:
        name = STUDY_NAMES.get(row["optimizer"], row["optimizer"])
        assert optimizer(name).studies["reference"] == row["optimizer"]
        published = json.loads(row["incumbent_hyperparameters"])
        published.pop("train_batch_size")
        schedule = published.pop("lr_schedule", "cosine")
        knobs = resolve_knobs(name, published, schedule)
        assert knobs["lr"] == published["learning_rate"]


def test_every_published_sweep_value_is_declared_with_its_knob() -> None:
    with (shipped("grids") / "reference" / "grids.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        entry = optimizer(STUDY_NAMES.get(row["optimizer"], row["optimizer"]))
        if row["hyperparameter"] in FIELD_ALIASES:
            continue
        knob = find_knob(all_knobs(entry), row["hyperparameter"])
        assert knob is not None, (entry.name, row["hyperparameter"])
        declared = {knob.checked(each) for each in knob.published}
        for value in json.loads(row["values"]):
            assert knob.checked(value) in declared or knob.kind == "bool", (entry.name, knob.name, value)


@pytest.mark.parametrize(
    ("name", "given", "schedule", "words"),
    [
        ("sf_adamw", {}, "cosine", "average replaces the decay"),
        ("sf_adamw", {}, "wsd", "use constant"),
        ("sf_adamw", {"beta1": 0.0}, "constant", "outside"),
        ("adalayer_frozen", {}, "cosine", "use freeze_cosine_with_warmup"),
        ("adamw", {}, "freeze_cosine_with_warmup", "reads t_freeze, which this optimizer does not have"),
        ("prodigy", {"growth_rate": 0.5}, "cosine", "would shrink d"),
        ("sgd", {"coupled_decay": True, "cautious_weight_decay": True}, "cosine", "masks a decoupled decay"),
        ("sgd", {"momentum": 0, "nesterov": True}, "cosine", "act on the momentum, which is 0"),
        ("adam", {"cautious_weight_decay": True}, "cosine", "no knob"),
    ],
)
def test_what_a_rule_cannot_be_run_with_is_refused_with_the_reason(
    name: str, given: dict[str, Scalar], schedule: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        resolve_knobs(name, given, schedule)


def test_only_a_schedule_that_the_rule_s_own_would_mend_is_called_wrong() -> None:
    for name, given, schedule in (("sf_adamw", {}, "cosine"), ("adamw", {}, "freeze_cosine_with_warmup")):
        with pytest.raises(WrongSchedule):
            resolve_knobs(name, given, schedule)
    with pytest.raises(ValueError, match="would shrink d") as caught:
        resolve_knobs("prodigy", {"growth_rate": 0.5}, "linear")
    assert not isinstance(caught.value, WrongSchedule)


def test_a_changed_knob_whose_switch_is_off_is_idle() -> None:
    off: dict[str, Scalar] = {"update_last": False, "update_norm": False}
    for name, given, expected in (
        ("soap", {"block_size": 128}, {"block_size": ("partition_grads_into_blocks",)}),
        ("soap", {"block_size": 128, "partition_grads_into_blocks": True}, {}),
        ("soap", {}, {}),
        ("kron", {"block_size": 128}, {}),
        ("adamw", {"cautious_weight_decay": True, "weight_decay": 0}, {"cautious_weight_decay": ("weight_decay",)}),
        ("adalayer_last", {"lr_last": 0.1, **off}, {"lr_last": ("update_last", "update_norm")}),
        ("adalayer_last", {"lr_last": 0.1, **off, "update_norm": True}, {}),
    ):
        assert idle_knobs(name, resolve_knobs(name, given)) == expected


def test_a_schedule_that_decays_by_nothing_is_a_constant_one() -> None:
    assert resolve_knobs("sf_adamw", {"decay": 0}, "wsd")["decay"] == 0


def test_without_a_schedule_an_optimizer_has_its_own() -> None:
    assert resolve_knobs("sf_adamw", {})["decay"] == 0
    assert resolve_knobs("adalayer_frozen", {})["t_freeze"] == 0.05
    assert resolve_knobs("mars", {})["max_grad_norm"] == 0
    assert resolve_knobs("mars", {"max_grad_norm": 1})["max_grad_norm"] == 1
    assert {knob.name: knob.default for knob in all_knobs(optimizer("mars"))}["max_grad_norm"] == 0


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("mini", "adam_mini"),
        ("cautious_adamw", "cautious"),
        ("lionw", "lion"),
        ("signsgd", "signum"),
        ("adalayerw", "adalayer"),
        ("adalayerw_last", "adalayer_last"),
        ("nadam", "nadamw"),
        ("mars_adamw", "mars"),
        ("sgdw", "sgd"),
    ],
)
def test_published_names_are_aliases(alias: str, name: str) -> None:
    assert optimizer(alias) is ENTRIES[name]


# d_muon's published code decays norms too.
@pytest.mark.parametrize("name", [name for name in NAMES if ENTRIES[name].knob("weight_decay") and name != "d_muon"])
def test_norms_are_never_decayed_and_hidden_matrices_are(name: str) -> None:
    knobs = resolve_knobs(name, {"weight_decay": 0.3})
    for item in parameter_table(model("bench-micro").shape):
        group = ENTRIES[name].route(item, knobs)
        assert group.weight_decay == (0.0 if item.role == "norm" else 0.3)
        assert group.lr_ratio > 0


def test_muon_takes_the_hidden_matrices_and_nothing_else() -> None:
    knobs = resolve_knobs("muon", {"muon_to_adam_lr": 0.3})
    rules = {item.name: ENTRIES["muon"].route(item, knobs) for item in parameter_table(model("bench-micro").shape)}
    hidden = {"q", "k", "v", "attention_out", "mlp_gate", "mlp_up", "mlp_out"}
    assert {name for name, group in rules.items() if group.rule.name == "muon"} == hidden
    assert {group.lr_ratio for name, group in rules.items() if name not in hidden} == {0.3}


def test_costs_follow_their_formulas() -> None:
    shape = model("bench-micro").shape
    table = parameter_table(shape)
    total, hidden = shape.total_params, shape.non_embedding_params
    assert ENTRIES["adamw"].state_floats(table, resolve_knobs("adamw", {})) == 2 * total
    assert ENTRIES["sgd"].state_floats(table, resolve_knobs("sgd", {})) == total
    assert ENTRIES["sgd"].state_floats(table, resolve_knobs("sgd", {"momentum": 0})) == 0
    assert ENTRIES["muon"].state_floats(table, resolve_knobs("muon", {})) == hidden + 2 * (total - hidden)


def test_costs_of_the_smaller_second_moments_follow_their_formulas() -> None:
    shape = model("bench-micro").shape
    table = parameter_table(shape)
    width, inner, vocab, layers = shape.width, shape.mlp_width, shape.vocab_size, shape.layers
    norms = 2 * layers + 1
    matrices = layers * (4 * 2 * width + 3 * (width + inner)) + 2 * (vocab + width)  # rows and columns of each
    mini = layers * (2 * shape.heads + 2 * width + 2 * inner + width) + 2 * vocab + norms

    def beyond_one(name: str, given: dict[str, Scalar] | None = None) -> float:
        return ENTRIES[name].state_floats(table, resolve_knobs(name, given or {})) - shape.total_params

    assert beyond_one("adam_mini") == mini
    assert beyond_one("adafactorw") == matrices + norms
    assert beyond_one("adafactorw", {"neuron_only": True}) == layers * (5 * width + 2 * inner) + vocab + width + norms
    assert beyond_one("adafactor") == matrices + norms * width - shape.total_params
    assert beyond_one("adalayer") == 7 * layers + 2 + norms
    assert beyond_one("adalayer", {"last_layer_correction": True}) == 7 * layers + 1 + vocab + norms
    assert beyond_one("adalayer_last") == vocab + norms
    assert beyond_one("adalayer_last", {"update_last": False, "update_norm": False}) == 0
    assert beyond_one("prodigy") == 3 * shape.total_params + 3 * len(table)
