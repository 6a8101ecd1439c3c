"""Every rule of the catalogue, compiled by the JAX engine, against numpy in float64; optax where it has the same rule."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optsweep_engines.jax_engine.optimizer import Optimizer
from optsweep_engines.jax_engine.programs import exact_scalars
from optsweep_engines.jax_engine.transformation import gradient_transformation
from optsweep_engines.optimizers.catalogue import optimizer, optimizers, resolve_knobs
from optsweep_engines.properties.services import SOURCES, services
from optsweep_engines.properties.tensors import Floats, error, factor, parameter, pull, start
from optsweep_engines.properties.training import Training, knobs_of
from optsweep_engines.schedules import lr_factor

NAMES = sorted(optimizers())
ITEMS = (
    parameter("norm", (2, 8), stacked=True),
    parameter("embedding", (10, 8)),
    parameter("q", (2, 8, 8), stacked=True),
    parameter("head", (10, 8)),
)
STEPS = int(os.environ.get("OPTSWEEP_JAX_RULE_STEPS", "3"))
SHOWN = {"soap": {"precondition_frequency": 1}, "shampoo": {"precondition_frequency": 1, "eps": 1e-4}}
"""Knobs under which three steps show what the rule does now and then."""
TOLERANCE = {"soap": 5e-5, "shampoo": 5e-5, "prodigy": 5e-5}
"""Relative, in float32; the others 1e-5."""


def knobs_shown(name: str) -> dict[str, Any]:
    given = {key: value for key, value in SHOWN.get(name, {}).items() if optimizer(name).knob(key)}
    return knobs_of(name, given)


def in_jax(name: str) -> dict[str, Floats]:
    """Parameters after some steps of the compiled update, gradients from float64."""
    entry, knobs = optimizer(name), knobs_shown(name)
    made = Optimizer(entry, knobs, ITEMS, total_steps=30, tokens_per_step=64)
    update = jax.jit(made.update, static_argnames="events", donate_argnums=(0, 2))
    params = {item.name: jnp.asarray(start(item), jnp.float32) for item in ITEMS}
    states = made.init(params)
    by_name = {item.name: item for item in ITEMS}
    for step in range(1, STEPS + 1):
        values = {key: np.asarray(value, np.float64) for key, value in params.items()}
        grads = {item.name: jnp.asarray(pull(item, values[item.name], step), jnp.float32) for item in ITEMS}
        events = made.events(step)
        extra = {
            service: {key: jnp.asarray(SOURCES[service](by_name[key], step), jnp.float32) for key in asked}
            for service, asked in made.services(events).items()
        }
        lr = float(knobs["lr"] or 0.0) * factor(step)
        with exact_scalars():
            params, states = update(params, grads, states, lr, float(step), extra, events=events)
    kinds = {value.dtype for value in jax.tree.leaves((params, states))}
    assert kinds == {jnp.dtype("float32")}, "a 64-bit scalar has made an array wider"
    return {key: np.asarray(value, np.float64) for key, value in params.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_rule_gives_what_numpy_gives(name: str) -> None:
    reference = Training(name, ITEMS, knobs_shown(name), services=services())
    for step in range(1, STEPS + 1):
        values = reference.values()
        reference.step({item.name: pull(item, values[item.name], step) for item in ITEMS})
    found = in_jax(name)
    worst = max(error(found[key], value) for key, value in reference.values().items())
    assert worst < TOLERANCE.get(name, 1e-5)


ORACLES: dict[str, tuple[dict[str, Any], Any]] = {
    "adamw": ({"beta1": 0.9, "beta2": 0.95}, lambda lr: optax.adamw(lr, 0.9, 0.95, 1e-8, weight_decay=0.1)),
    "nadamw": ({"beta1": 0.9, "beta2": 0.95}, lambda lr: optax.nadamw(lr, 0.9, 0.95, 1e-8, weight_decay=0.1)),
    "lion": ({"beta1": 0.9, "beta2": 0.99}, lambda lr: optax.lion(lr, 0.9, 0.99, weight_decay=0.1)),
    "lamb": ({"beta1": 0.9, "beta2": 0.95, "eps": 1e-6}, lambda lr: optax.lamb(lr, 0.9, 0.95, 1e-6, weight_decay=0.1)),
    "sgd": ({"momentum": 0.9, "nesterov": False}, lambda lr: optax.sgd(lr, 0.9)),
}
"""Name -> (knobs, optax's own at a learning rate)."""


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_a_rule_as_a_gradient_transformation_is_optax_s_own(name: str) -> None:
    given, made = ORACLES[name]
    decay = 0.0 if name == "sgd" else 0.1
    item = parameter("head", (10, 8))
    knobs = resolve_knobs(name, {"lr": 0.02, "weight_decay": decay, **given})
    rules = {"ours": gradient_transformation(optimizer(name), knobs, [item]), "optax": made(0.02)}
    final = {}
    for which, rule in rules.items():
        params = {item.name: jnp.asarray(start(item), jnp.float32)}
        state = rule.init(params)
        update = jax.jit(rule.update)
        for step in range(1, 11):
            grads = {item.name: jnp.asarray(pull(item, start(item), step), jnp.float32)}
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        final[which] = np.asarray(params[item.name], np.float64)
    assert error(final["ours"], final["optax"]) < 2e-6


def test_a_rule_that_decides_by_the_step_says_so_under_jit() -> None:
    item = parameter("q", (2, 8, 8), stacked=True)
    made = gradient_transformation(optimizer("soap"), resolve_knobs("soap", {}), [item])
    params = {item.name: jnp.ones(item.shape)}
    state = made.init(params)
    updates, state = made.update(params, state, params)
    assert float(jnp.abs(updates[item.name]).max()) == 0  # its first step only prepares
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(made.update)(params, state, params)


def test_the_shared_schedules_are_optax_s_own() -> None:
    """optax counts from 0, the shared ones from the first step's end: shifted by one in the warmup, equal after it."""
    steps, warm = 100, 10
    knobs = {"warmup": warm, "decay": 1.0, "min_lr_ratio": 0.1}
    cosine = optax.cosine_decay_schedule(1.0, steps - warm, 0.1)
    linear = optax.linear_schedule(1.0, 0.1, steps - warm)
    rise = optax.linear_schedule(0.0, 1.0, warm)
    for step in range(steps):
        for name, decay in (("cosine", cosine), ("linear", linear)):
            expected = rise(step + 1) if step < warm else decay(step - warm)
            assert lr_factor(step, steps, name, knobs) == pytest.approx(float(expected), abs=1e-6)
