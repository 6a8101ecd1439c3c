"""Factorisations of an update run one after another on a CPU: two batched ones at once can wait for each other for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optsweep_engines.jax_engine.optimizer import Optimizer
from optsweep_engines.jax_engine.ordered import namespace
from optsweep_engines.optimizers.catalogue import optimizer, resolve_knobs
from optsweep_engines.properties.tensors import ALL_SHAPES

FACTORISATIONS = {"geqrf", "householder_product", "qr", "eigh", "lu", "cholesky", "svd"}


def flat(jaxpr: Any, given: list[set[int]], found: list[set[int]]) -> list[set[int]]:
    """Which factorisations each output rests on; `found` gets what each factorisation rests on, in order."""
    known: dict[Any, set[int]] = dict(zip(jaxpr.invars, given, strict=True))
    for variable in jaxpr.constvars:
        known[variable] = set()

    def of(variable: Any) -> set[int]:
        return set() if hasattr(variable, "val") else known.get(variable, set())

    for equation in jaxpr.eqns:
        inner = next(inner_of(equation), None)
        inputs = [of(variable) for variable in equation.invars]
        if inner is not None:
            outputs = flat(inner, inputs, found)
        else:
            rest = set().union(*inputs)
            if equation.primitive.name in FACTORISATIONS:
                found.append(set(rest))
                rest |= {len(found) - 1}
            outputs = [rest] * len(equation.outvars)
        known |= dict(zip(equation.outvars, outputs, strict=True))
    return [of(variable) for variable in jaxpr.outvars]


def inner_of(equation: Any) -> Iterator[Any]:
    for value in equation.params.values():
        if hasattr(value, "jaxpr") and equation.primitive.name in ("pjit", "jit", "closed_call", "custom_jvp_call"):
            yield value.jaxpr


def factorisations(name: str, platform: str) -> list[set[int]]:
    made = Optimizer(optimizer(name), resolve_knobs(name, {}), ALL_SHAPES, total_steps=100, tokens_per_step=64,
                     platform=platform)  # fmt: skip
    params = {item.name: jnp.ones(item.shape) for item in ALL_SHAPES}
    states = made.init(params)
    step = 11 if name == "soap" else 10  # soap counts from the step after its first basis

    def update(params: Any, grads: Any, states: Any) -> Any:
        return made.update(params, grads, states, 0.01, float(step), {}, made.events(step))

    found: list[set[int]] = []
    jaxpr = jax.make_jaxpr(update)(params, params, states)
    flat(jaxpr.jaxpr, [set() for _ in jaxpr.jaxpr.invars], found)
    return found


@pytest.mark.parametrize("name", ["soap", "shampoo"])
def test_every_factorisation_waits_for_the_one_before_it(name: str) -> None:
    found = factorisations(name, "cpu")
    assert len(found) > 3
    assert all(index - 1 in rests_on for index, rests_on in enumerate(found) if index), found
    free = factorisations(name, "gpu")
    assert any(index - 1 not in rests_on for index, rests_on in enumerate(free) if index), "else this shows nothing"


def test_waiting_changes_no_bit() -> None:
    stream = np.random.default_rng(0)
    first, second = (jnp.asarray(stream.normal(size=(3, 5, 5)), jnp.float32) for _ in range(2))
    second = second.at[0, 0, 0].set(-0.0)
    xp = namespace("cpu")
    xp.linalg.qr(first)
    q, r = xp.linalg.qr(second)
    plain_q, plain_r = jnp.linalg.qr(second)
    assert np.array_equal(np.asarray(q), np.asarray(plain_q)) and np.array_equal(np.asarray(r), np.asarray(plain_r))
    assert namespace("gpu") is jnp and namespace("cpu").linalg.norm is jnp.linalg.norm
