"""Cross-entropy over a large vocabulary without holding all of its logits at once."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from optsweep_engines.models import LARGEST_LOGITS

Kept: TypeAlias = tuple[jax.Array, jax.Array]


def plain_cross_entropy(hidden_NW: jax.Array, head_VW: jax.Array, y_N: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats, fp32 scalar, all logits at once."""
    logits_NV = (hidden_NW @ head_VW.T).astype(jnp.float32)
    picked_N = jnp.take_along_axis(logits_NV, y_N[:, None], axis=-1)[:, 0]
    return jnp.mean(jax.nn.logsumexp(logits_NV, axis=-1) - picked_N)


def cross_entropy(hidden_NW: jax.Array, head_VW: jax.Array, y_N: jax.Array, largest: int = LARGEST_LOGITS) -> jax.Array:
    """The same; in chunks of rows where N x V exceeds `largest`."""
    rows, vocab = len(hidden_NW), len(head_VW)
    if rows * vocab <= largest:
        return plain_cross_entropy(hidden_NW, head_VW, y_N)
    return _chunked(_parts(rows, vocab, largest), hidden_NW, head_VW, y_N)


def cross_entropy_and_target(
    hidden_NW: jax.Array, head_VW: jax.Array, y_N: jax.Array, z_loss: float, largest: int = LARGEST_LOGITS
) -> tuple[jax.Array, jax.Array]:
    """(the mean cross-entropy plus z_loss x the mean squared log of the normaliser, the mean cross-entropy alone).

    Gradients are of the first; in chunks each one's logits are computed again for them. The term keeps the normalisers
    near 1, https://arxiv.org/abs/2204.02311 section 5.
    """
    rows, vocab = len(hidden_NW), len(head_VW)

    def sums(hidden_nW: jax.Array, y_n: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_nV = (hidden_nW @ head_VW.T).astype(jnp.float32)
        picked_n = jnp.take_along_axis(logits_nV, y_n[:, None], axis=-1)[:, 0]
        normaliser_n = jax.nn.logsumexp(logits_nV, axis=-1)
        return jnp.sum(normaliser_n - picked_n), jnp.sum(jnp.square(normaliser_n))

    if rows * vocab <= largest:
        total, squares = sums(hidden_NW, y_N)
    else:
        parts = _parts(rows, vocab, largest)
        split = (hidden_NW.reshape(parts, rows // parts, -1), y_N.reshape(parts, -1))
        found = jax.lax.map(jax.checkpoint(lambda part: sums(*part)), split)
        total, squares = jnp.sum(found[0]), jnp.sum(found[1])
    loss = total / rows
    return loss + z_loss * squares / rows, loss


def _parts(rows: int, vocab: int, largest: int) -> int:
    """Into how many equal chunks the rows go."""
    parts = -(-rows * vocab // largest)
    while rows % parts:
        parts += 1
    return parts


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(parts: int, hidden_NW: jax.Array, head_VW: jax.Array, y_N: jax.Array) -> jax.Array:
    """The gradients of a chunk are taken while its logits exist, so nothing is computed twice."""
    return _forward(parts, hidden_NW, head_VW, y_N)[0]


def _forward(parts: int, hidden_NW: jax.Array, head_VW: jax.Array, y_N: jax.Array) -> tuple[jax.Array, Kept]:
    rows = len(hidden_NW)

    def step(carry: Any, part: Any) -> Any:
        total, dhead_VW = carry
        hidden_nW, y_n = part
        logits_nV = (hidden_nW @ head_VW.T).astype(jnp.float32)
        normaliser_n1 = jax.nn.logsumexp(logits_nV, axis=-1, keepdims=True)
        picked_n1 = jnp.take_along_axis(logits_nV, y_n[:, None], axis=-1)
        hits_nV = y_n[:, None] == jnp.arange(len(head_VW), dtype=y_n.dtype)
        d_nV = ((jnp.exp(logits_nV - normaliser_n1) - hits_nV) * (1.0 / rows)).astype(hidden_NW.dtype)
        dhead_VW = dhead_VW + (d_nV.T @ hidden_nW).astype(jnp.float32)
        return (total + jnp.sum(normaliser_n1 - picked_n1), dhead_VW), d_nV @ head_VW

    zero = (jnp.zeros((), jnp.float32), jnp.zeros(head_VW.shape, jnp.float32))
    split = (hidden_NW.reshape(parts, rows // parts, -1), y_N.reshape(parts, -1))
    (total, dhead_VW), dhidden = jax.lax.scan(step, zero, split)
    return total / rows, (dhidden.reshape(hidden_NW.shape), dhead_VW.astype(head_VW.dtype))


def _backward(parts: int, kept: Kept, scale: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    dhidden_NW, dhead_VW = kept
    return (dhidden_NW * scale).astype(dhidden_NW.dtype), (dhead_VW * scale).astype(dhead_VW.dtype), None


_chunked.defvjp(_forward, _backward)
