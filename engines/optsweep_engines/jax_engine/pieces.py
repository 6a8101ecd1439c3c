"""A linear layer and a gated product with written-out gradients, around which XLA's CPU compiler fuses badly.

It likes to compute an elementwise gradient twice, once transposed number by number, to spare a product that takes transposed
operands anyway; a barrier between the two stops that. Measured (benchmarks/jax_speed.md): a sixth of a step.
"""

from __future__ import annotations

from typing import TypeAlias

import jax

Two: TypeAlias = tuple[jax.Array, jax.Array]
Three: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


@jax.custom_vjp
def linear(x: jax.Array, weight_OI: jax.Array) -> jax.Array:
    """x W^T for x [..., I]."""
    return x @ weight_OI.T


def _linear_forward(x: jax.Array, weight_OI: jax.Array) -> tuple[jax.Array, Two]:
    return x @ weight_OI.T, (x, weight_OI)


def _linear_backward(kept: Two, dy: jax.Array) -> Two:
    x, weight_OI = kept
    dy = jax.lax.optimization_barrier(dy)
    dweight_OI = dy.reshape(-1, dy.shape[-1]).T @ x.reshape(-1, x.shape[-1])
    return dy @ weight_OI, dweight_OI


linear.defvjp(_linear_forward, _linear_backward)


@jax.custom_vjp
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up."""
    return jax.nn.silu(gate) * up


def _gated_forward(gate: jax.Array, up: jax.Array) -> tuple[jax.Array, Three]:
    opened = jax.nn.sigmoid(gate)
    return gate * opened * up, (gate, up, opened)


def _gated_backward(kept: Three, dy: jax.Array) -> Two:
    gate, up, opened = kept
    value = gate * opened
    slope = opened + value * (1 - opened)
    dgate, dup = jax.lax.optimization_barrier((dy * up * slope, dy * value))
    return dgate, dup


gated.defvjp(_gated_forward, _gated_backward)


def plain_linear(x: jax.Array, weight_OI: jax.Array) -> jax.Array:
    """`linear` that can be differentiated twice."""
    y: jax.Array = x @ weight_OI.T
    return y


def plain_gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`gated` that can be differentiated twice."""
    y: jax.Array = jax.nn.silu(gate) * up
    return y
