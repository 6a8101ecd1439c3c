"""The Llama-shaped decoder over parameter banks in JAX: `Decoder(shape, seq_len, dtype).loss(params, x, y)`, a pure function.

Axes: B sequences, T tokens, W width, H heads, D head size, M MLP width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from optsweep_engines.jax_engine import pieces
from optsweep_engines.jax_engine.loss import cross_entropy, plain_cross_entropy
from optsweep_engines.spec import ModelShape

Params: TypeAlias = Mapping[str, Any]
"""Arrays by name; the banks of the layers as one array, or as a tuple of the layers' own."""

LAYER_BANKS = ("attention_norm", "q", "k", "v", "attention_out", "mlp_norm", "mlp_gate", "mlp_up", "mlp_out")

UNROLLED_LAYERS = {"cpu": 8, "gpu": 12, "tpu": 12}
"""Up to here the layers stand one after the other in the program. Measured on CPU (benchmarks/jax_speed.md): a scan halves
the rate of a shallow model; the compile time grows with the layers only where they are unrolled."""

MASKED = -1e30
"""Added to a score that must not count; not an infinity, whose difference to itself is NaN."""


class Decoder:
    """The model as a function of its parameters; gradients by `jax.grad`."""

    def __init__(
        self,
        shape: ModelShape,
        seq_len: int,
        dtype: Any = jnp.float32,
        *,
        platform: str = "cpu",
        unrolled: bool | None = None,
        smooth: bool = False,
    ) -> None:
        """Tables of the rotary angles, as constants of the program.

        Args:
            platform: "cpu", "gpu" or "tpu".
            unrolled: the layers one after the other in the program; False: one layer in a scan; None: by their number.
            smooth: without gradients of its own, so that it can be differentiated twice.
        """
        self.linear = pieces.plain_linear if smooth else pieces.linear
        self.gated = pieces.plain_gated if smooth else pieces.gated
        self.shape = shape
        self.dtype = dtype
        self.unrolled = shape.layers <= UNROLLED_LAYERS[platform] if unrolled is None else unrolled
        head_size = shape.width // shape.heads
        exponents = np.arange(0, head_size, 2, dtype=np.float64) / head_size
        angles_TD = np.arange(seq_len, dtype=np.float64)[:, None] * shape.rope_theta**-exponents
        self.cos_TD = np.cos(angles_TD).astype(np.float32)  # angles in bf16 would be off by 1 in 256
        self.sin_TD = np.sin(angles_TD).astype(np.float32)

    def loss(self, params: Params, x_BT: jax.Array, y_BT: jax.Array) -> jax.Array:
        """Mean cross-entropy in nats per token, fp32 scalar."""
        hidden_BTW = self.hidden(params, x_BT)
        return cross_entropy(hidden_BTW.reshape(-1, self.shape.width), self.head(params), y_BT.reshape(-1))

    def smooth_loss(self, params: Params, x_BT: jax.Array, y_BT: jax.Array) -> jax.Array:
        """The same, all of its logits at once; of a smooth decoder it can be differentiated twice."""
        hidden_BTW = self.hidden(params, x_BT)
        return plain_cross_entropy(hidden_BTW.reshape(-1, self.shape.width), self.head(params), y_BT.reshape(-1))

    def loss_and_grads(
        self, params: Params, x_BT: jax.Array, y_BT: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross-entropy and its gradients by name."""
        if not self.unrolled:
            return jax.value_and_grad(self.loss)(dict(params), x_BT, y_BT)
        # By layer, then stacked once: the gradient of bank[i] would be a full bank per layer.
        parts = {name: tuple(value) if name in LAYER_BANKS else value for name, value in params.items()}
        loss, grads = jax.value_and_grad(self.loss)(parts, x_BT, y_BT)
        return loss, {name: jnp.stack(value) if name in LAYER_BANKS else value for name, value in grads.items()}

    def head(self, params: Params) -> jax.Array:
        """The matrix of the output projection [V, W]."""
        matrix: jax.Array = params["embedding" if self.shape.tied_embeddings else "head"].astype(self.dtype)
        return matrix

    def hidden(self, params: Params, x_BT: jax.Array) -> jax.Array:
        """Final normed activations [B, T, W]."""
        h_BTW: jax.Array = params["embedding"].astype(self.dtype)[x_BT]
        if self.unrolled:
            for layer in range(self.shape.layers):
                h_BTW = self.layer(h_BTW, {name: params[name][layer].astype(self.dtype) for name in LAYER_BANKS})
        else:
            banks = {name: params[name].astype(self.dtype) for name in LAYER_BANKS}
            h_BTW, _ = jax.lax.scan(lambda h, weights: (self.layer(h, weights), None), h_BTW, banks)
        return self.norm(h_BTW, params["final_norm"].astype(self.dtype))

    def layer(self, h_BTW: jax.Array, weights: Params) -> jax.Array:
        """One layer with its residuals."""
        h_BTW = h_BTW + self.attention(self.norm(h_BTW, weights["attention_norm"]), weights)
        return h_BTW + self.mlp(self.norm(h_BTW, weights["mlp_norm"]), weights)

    def norm(self, x_BTW: jax.Array, weight_W: jax.Array) -> jax.Array:
        """RMSNorm, computed in fp32, epsilon inside the root."""
        x = x_BTW.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.shape.norm_eps)
        return (x * weight_W.astype(jnp.float32)).astype(self.dtype)

    def attention(self, x_BTW: jax.Array, weights: Params) -> jax.Array:
        """Causal attention with rotary positions."""
        batch, tokens, width = x_BTW.shape
        heads = self.shape.heads

        def split(y_BTW: jax.Array) -> jax.Array:
            return y_BTW.reshape(batch, tokens, heads, width // heads).swapaxes(1, 2)

        q_BHTD = self.rotated(split(self.linear(x_BTW, weights["q"])))
        k_BHTD = self.rotated(split(self.linear(x_BTW, weights["k"])))
        y_BHTD = self.attended(q_BHTD, k_BHTD, split(self.linear(x_BTW, weights["v"])))
        return self.linear(y_BHTD.swapaxes(1, 2).reshape(batch, tokens, width), weights["attention_out"])

    def attended(self, q_BHTD: jax.Array, k_BHTD: jax.Array, v_BHTD: jax.Array) -> jax.Array:
        """softmax(q k / sqrt(D)) v over the tokens up to each; divided by the sum after the product, T / D times fewer."""
        tokens, size = q_BHTD.shape[-2:]
        scores_BHTT = jnp.einsum("bhtd,bhsd->bhts", q_BHTD * size**-0.5, k_BHTD).astype(jnp.float32)
        scores_BHTT = scores_BHTT + np.triu(np.full((tokens, tokens), MASKED, np.float32), 1)
        largest_BHT1 = jax.lax.stop_gradient(jnp.max(scores_BHTT, axis=-1, keepdims=True))
        weights_BHTT = jnp.exp(scores_BHTT - largest_BHT1)
        y_BHTD = jnp.einsum("bhts,bhsd->bhtd", weights_BHTT.astype(self.dtype), v_BHTD)
        sums_BHT1 = jnp.sum(weights_BHTT, axis=-1, keepdims=True)
        return (y_BHTD.astype(jnp.float32) / sums_BHT1).astype(self.dtype)

    def rotated(self, x_BHTD: jax.Array) -> jax.Array:
        """Half-split RoPE: feature i turns with feature i + D/2."""
        tokens, half = x_BHTD.shape[-2], x_BHTD.shape[-1] // 2
        cos_TD, sin_TD = self.cos_TD[:tokens], self.sin_TD[:tokens]
        first, second = x_BHTD[..., :half], x_BHTD[..., half:]
        turned = jnp.concatenate((first * cos_TD - second * sin_TD, second * cos_TD + first * sin_TD), axis=-1)
        return turned.astype(self.dtype)

    def mlp(self, x_BTW: jax.Array, weights: Params) -> jax.Array:
        """SwiGLU."""
        gated_BTM = self.gated(self.linear(x_BTW, weights["mlp_gate"]), self.linear(x_BTW, weights["mlp_up"]))
        return self.linear(gated_BTM, weights["mlp_out"])
