"""Statistics of a step in JAX: `Observer(...).before(...)`, the step, `.after(...)`; nothing that the step reads is touched."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optsweep_engines.diagnostics import Own, Wanted, statistics
from optsweep_engines.jax_engine.model import Decoder
from optsweep_engines.jax_engine.programs import CLIP_EPSILON, ModelKey, compute_type
from optsweep_engines.models import attention_scale, parameter_table

SEQUENCES = 4
"""Of the batch whose attention is looked at."""


class WatchedDecoder(Decoder):
    """The model with its attention logits looked at, layer by layer."""

    def __init__(self, key: ModelKey) -> None:
        super().__init__(key.shape, key.seq_len, compute_type(key.dtype), platform=key.layout.platform, unrolled=True)
        self.seen: list[tuple[jax.Array, jax.Array]] = []

    def attended(self, q_BHTD: jax.Array, k_BHTD: jax.Array, v_BHTD: jax.Array) -> jax.Array:
        """As the model's, after a look."""
        q, k = q_BHTD.astype(jnp.float32), k_BHTD.astype(jnp.float32)
        scores_BHTT = jnp.einsum("bhtd,bhsd->bhts", q, k) * attention_scale(self.shape)
        tokens = scores_BHTT.shape[-1]
        shown_TT = np.tril(np.ones((tokens, tokens), bool))
        logs = jax.nn.log_softmax(jnp.where(shown_TT, scores_BHTT, -jnp.inf), axis=-1)
        entropy = -jnp.sum(jnp.where(shown_TT, jnp.exp(logs) * logs, 0.0), axis=-1)
        self.seen.append((jnp.max(jnp.where(shown_TT, scores_BHTT, -jnp.inf)), jnp.mean(entropy)))
        return super().attended(q_BHTD, k_BHTD, v_BHTD)


@functools.lru_cache(maxsize=16)
def attention_program(key: ModelKey) -> Callable[..., dict[str, jax.Array]]:
    """Largest attention logit and mean entropy of the attention weights in nats, compiled."""

    def program(params: Any, x_BT: jax.Array) -> dict[str, jax.Array]:
        model = WatchedDecoder(key)
        model.hidden(params, x_BT)
        largest, entropy = (jnp.stack(values) for values in zip(*model.seen, strict=True))
        return {"attention_logit_max": jnp.max(largest), "attention_entropy": jnp.mean(entropy)}

    return jax.jit(program)


@functools.lru_cache(maxsize=16)
def statistics_program(key: ModelKey, layers: bool) -> Callable[..., dict[str, jax.Array]]:
    """`diagnostics.statistics`, compiled."""
    table = parameter_table(key.shape)
    return jax.jit(lambda params, grads, updates: statistics(jnp, table, params, grads, updates, layers=layers))


class Observer:
    """The statistics of one run."""

    def __init__(self, key: ModelKey, asked: Wanted, tell: Callable[..., None]) -> None:
        self.key, self.asked = key, asked
        self.own = Own(asked.own, tell)
        self.kept: dict[str, jax.Array] = {}
        self.grads: dict[str, jax.Array] = {}
        self.attention: dict[str, jax.Array] = {}

    def before(
        self,
        params: Mapping[str, jax.Array],
        x_BT: jax.Array,
        grads: Mapping[str, jax.Array],
        norm: Any,
        max_norm: float,
    ) -> None:
        """Copies of parameters and gradients (as before clipping), and the attention of the first sequences."""
        self.kept = {name: jnp.copy(value) for name, value in params.items()}
        factor = jnp.minimum(max_norm / (norm + CLIP_EPSILON), 1.0) if max_norm > 0 else jnp.ones(())
        self.grads = {name: grad / factor for name, grad in grads.items()}
        self.attention = attention_program(self.key)(self.kept, x_BT[:SEQUENCES])

    def after(self, params: Mapping[str, jax.Array]) -> dict[str, float]:
        """The numbers, once the step is done; waits for the device."""
        updates = {name: params[name] - value for name, value in self.kept.items()}
        found = statistics_program(self.key, self.asked.layers)(self.kept, self.grads, updates) | self.attention
        numbers = {name: float(value) for name, value in jax.device_get(found).items()}
        own = self.own.of(jnp, parameter_table(self.key.shape), self.kept, self.grads, updates)
        self.kept, self.grads = {}, {}
        return numbers | own
