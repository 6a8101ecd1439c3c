"""RunSpec: one spelling per number, one id per run, unknown keys refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsweep_engines.models import MODELS
from optsweep_engines.spec import RunRecord, RunSpec, Start, ValidationSet, canonical_json, canonical_scalar, ratio_of


def spec(**changes: Any) -> RunSpec:
    """A small valid spec."""
    values: dict[str, Any] = {
        "engine": "torch",
        "optimizer": "adamw",
        "hyperparameters": {"lr": 0.006, "eps": 1e-25, "warmup": 1},
        "model": "bench-micro",
        "shape": MODELS["bench-micro"].shape,
        "dataset": "embedded",
        "dataset_hash": "0" * 64,
        "tokens": 100_000,
        "batch_size": 8,
        "seq_len": 64,
        "schedule": "linear",
        "dtype": "fp32",
        "seed": 0,
    }
    return RunSpec(**{**values, **changes})


def test_two_spellings_of_one_number_give_one_id() -> None:
    first = spec(hyperparameters={"lr": 1, "eps": 1e-25})
    second = spec(hyperparameters={"eps": 9.999999999999999e-26, "lr": 1.0})
    assert first.run_id == second.run_id
    assert first.hyperparameters["eps"] == second.hyperparameters["eps"]


def test_true_is_not_the_number_one() -> None:
    assert spec(hyperparameters={"nesterov": True}).run_id != spec(hyperparameters={"nesterov": 1}).run_id


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_canonical_numbers_are_fixed_points(value: float) -> None:
    once = canonical_scalar(value)
    assert canonical_scalar(once) == once
    assert json.loads(canonical_json({"x": once}))["x"] == once


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_knob_may_hold_a_number_that_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        spec(hyperparameters={"lr": value})


def test_the_id_is_32_hex_digits_of_sha256_over_the_canonical_json() -> None:
    import hashlib

    one = spec()
    data = one.to_dict()
    for neutral in ("optimizer_file_hash", "accumulation", "simulate_epochs", "validation_sets", "start"):
        del data[neutral]
    assert one.run_id == hashlib.sha256(canonical_json(data).encode()).hexdigest()[:32]


def test_every_field_but_a_neutral_one_changes_the_id() -> None:
    base = spec()
    other: dict[str, Any] = {
        "shape": dataclasses.replace(base.shape, layers=3),
        "hyperparameters": {"lr": 0.007},
        "accumulation": 2,
        "simulate_epochs": 2,
        "optimizer_file_hash": "ab",
        "validation_sets": {"books": ValidationSet(dataset="toy", dataset_hash="ab")},
        "start": Start(run_id="a" * 32, step=10, mode="weights", parameters_sha256="b" * 64),
    }
    for field in dataclasses.fields(RunSpec):
        value = getattr(base, field.name)
        changed = other.get(field.name, value + 1 if isinstance(value, int) else f"{value}x")
        assert base.replace(**{field.name: changed}).run_id != base.run_id, field.name
    assert base.replace(accumulation=1, optimizer_file_hash=None, simulate_epochs=1).run_id == base.run_id


def test_a_knob_that_came_later_leaves_old_ids_alone_at_its_neutral_value() -> None:
    before = spec()
    knobs = dict(before.hyperparameters)
    assert spec(hyperparameters={**knobs, "cautious_weight_decay": False}).run_id == before.run_id
    assert spec(hyperparameters={**knobs, "cautious_weight_decay": True}).run_id != before.run_id


def test_a_spec_survives_json() -> None:
    one = spec()
    assert RunSpec.from_dict(json.loads(json.dumps(one.to_dict()))) == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1}, "unknown key"),
        ({"shape": {"layers": 2, "depth": 3}}, "unknown key"),
        ({"shape": 4}, "table"),
    ],
)
def test_unknown_keys_are_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunSpec.from_dict({**spec().to_dict(), **change})


def test_a_missing_key_is_named() -> None:
    data = spec().to_dict()
    del data["seed"]
    with pytest.raises(ValueError, match='lacks the key "seed"'):
        RunSpec.from_dict(data)


def test_steps_are_tokens_over_tokens_per_step_rounded_down() -> None:
    assert spec(tokens=8 * 64 * 7 + 511).steps == 7


@pytest.mark.parametrize("ratio", [0.05, 0.13, 1 / 3, 1, 7.5, 16])
def test_the_ratio_survives_the_rounding_of_the_budget(ratio: float) -> None:
    params = MODELS["bench-micro"].shape.non_embedding_params
    assert spec(tokens=round(ratio * 20 * params)).chinchilla == pytest.approx(ratio, rel=2e-5)


def test_a_record_survives_json_and_refuses_unknown_keys() -> None:
    record = RunRecord(
        run_id="0" * 32,
        attempt=1,
        status="done",
        train_loss=1.0,
        val_loss=1.1,
        steps=3,
        tokens=300,
        train_seconds=0.5,
        tokens_per_second=600.0,
        peak_bytes=1,
        optimizer_state_bytes=2,
        device="cpu",
        versions={"python": "3"},
    )
    assert RunRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record
    with pytest.raises(ValueError, match="unknown key"):
        RunRecord.from_dict({**record.to_dict(), "colour": 1})


def test_a_ratio_reads_as_it_was_asked_for_and_asks_for_as_many_tokens() -> None:
    for params in (106_496, 1_234_567, 130_000_000):
        for ratio in (0.005, 0.01, 1 / 3, 0.25, 1.0, 8.0, 20.576):
            tokens = round(ratio * 20 * params)
            found = ratio_of(tokens, params)
            assert len(f"{found:g}") <= len(f"{ratio:.5g}")
            assert found == pytest.approx(ratio, rel=5e-5)
    assert ratio_of(21_299, 106_496) == 0.01
