"""The decoder over parameter banks in JAX, of every family: `Decoder(shape, seq_len, dtype).loss(params, x, y)`, pure.

Axes: B sequences, T tokens, W width, H heads, D head size, M MLP width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from optsweep_engines.jax_engine import pieces
from optsweep_engines.jax_engine.loss import cross_entropy, cross_entropy_and_target, plain_cross_entropy
from optsweep_engines.machine import exact_wanted
from optsweep_engines.models import LARGEST_LOGITS, attention_scale, logit_multiplier, parameter_table
from optsweep_engines.spec import ModelShape

Params: TypeAlias = Mapping[str, Any]
"""Arrays by name; the banks of the layers as one array, or as a tuple of the layers' own."""

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
        z_loss: float = 0.0,
    ) -> None:
        """Tables of the rotary angles, as constants of the program.

        Args:
            platform: "cpu", "gpu" or "tpu".
            unrolled: the layers one after the other in the program; False: one layer in a scan; None: by their number.
            smooth: without gradients of its own, so that it can be differentiated twice.
            z_loss: weight of the squared log-normaliser in what gradients are taken of.

        Raises:
            ValueError: the table of positions is shorter than a sequence.
        """
        if shape.positions and seq_len > shape.positions:
            raise ValueError(f"sequences of {seq_len} tokens, the model learns {shape.positions} positions")
        self.z_loss = z_loss
        self.largest_logits = LARGEST_LOGITS << (2 if platform == "gpu" else 0)  # fewer sums of the head's gradient
        self.banks = tuple(item.name for item in parameter_table(shape) if item.stacked)
        self.linear = pieces.plain_linear if smooth else pieces.linear
        self.gated = pieces.plain_gated if smooth else pieces.gated
        self.shape = shape
        self.dtype = dtype
        head_size = shape.width // shape.heads
        self.fused_attention = (
            platform == "gpu" and dtype == jnp.bfloat16 and not smooth and head_size % 8 == 0 and head_size <= 128
        )
        """Attention by cuDNN's kernel, which keeps no scores; in fp32 it has none."""
        # XLA of jax 0.11.2 breaks off (raw_hash_map::at) on several of those kernels in one program in their exact form.
        several = self.fused_attention and exact_wanted()
        few = shape.layers <= UNROLLED_LAYERS[platform] and not several
        self.unrolled = few if unrolled is None else unrolled
        exponents = np.arange(0, head_size, 2, dtype=np.float64) / head_size
        angles_TD = np.arange(seq_len, dtype=np.float64)[:, None] * shape.rope_theta**-exponents
        self.cos_TD = np.cos(angles_TD).astype(np.float32)  # angles in bf16 would be off by 1 in 256
        self.sin_TD = np.sin(angles_TD).astype(np.float32)

    def loss(self, params: Params, x_BT: jax.Array, y_BT: jax.Array) -> jax.Array:
        """Mean cross-entropy in nats per token, fp32 scalar."""
        hidden_BTW = self.hidden(params, x_BT)
        hidden_NW = hidden_BTW.reshape(-1, self.shape.width)
        return cross_entropy(hidden_NW, self.head(params), y_BT.reshape(-1), self.largest_logits)

    def smooth_loss(self, params: Params, x_BT: jax.Array, y_BT: jax.Array) -> jax.Array:
        """The same, all of its logits at once; of a smooth decoder it can be differentiated twice."""
        hidden_BTW = self.hidden(params, x_BT)
        return plain_cross_entropy(hidden_BTW.reshape(-1, self.shape.width), self.head(params), y_BT.reshape(-1))

    def loss_and_grads(
        self, params: Params, x_BT: jax.Array, y_BT: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross-entropy, and the gradients of what is trained on by name."""
        if not self.unrolled:
            (_, loss), grads = jax.value_and_grad(self.target, has_aux=True)(dict(params), x_BT, y_BT)
            return loss, grads
        # By layer, then stacked once: the gradient of bank[i] would be a full bank per layer.
        parts = {name: tuple(value) if name in self.banks else value for name, value in params.items()}
        (_, loss), grads = jax.value_and_grad(self.target, has_aux=True)(parts, x_BT, y_BT)
        return loss, {name: jnp.stack(value) if name in self.banks else value for name, value in grads.items()}

    def target(self, params: Params, x_BT: jax.Array, y_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(what gradients are taken of, mean cross-entropy)."""
        if not self.z_loss:
            loss = self.loss(params, x_BT, y_BT)
            return loss, loss
        hidden_NW = self.hidden(params, x_BT).reshape(-1, self.shape.width)
        return cross_entropy_and_target(
            hidden_NW, self.head(params), y_BT.reshape(-1), self.z_loss, self.largest_logits
        )

    def head(self, params: Params) -> jax.Array:
        """The matrix of the output projection [V, W]."""
        matrix: jax.Array = params["embedding" if self.shape.tied_embeddings else "head"].astype(self.dtype)
        return matrix

    def hidden(self, params: Params, x_BT: jax.Array) -> jax.Array:
        """Final normed activations [B, T, W], under muP times its multiplier of logits."""
        h_BTW: jax.Array = params["embedding"].astype(self.dtype)[x_BT]
        if self.shape.positions:
            h_BTW = h_BTW + params["position"][: x_BT.shape[1]].astype(self.dtype)
        if self.unrolled:
            for layer in range(self.shape.layers):
                h_BTW = self.layer(h_BTW, {name: params[name][layer].astype(self.dtype) for name in self.banks})
        else:
            banks = {name: params[name].astype(self.dtype) for name in self.banks}
            h_BTW, _ = jax.lax.scan(lambda h, weights: (self.layer(h, weights), None), h_BTW, banks)
        final = {name: params[name].astype(self.dtype) for name in params if name.startswith("final_norm")}
        h_BTW = self.norm(h_BTW, final, "final_norm")
        multiplier = logit_multiplier(self.shape)
        return h_BTW if multiplier == 1.0 else h_BTW * multiplier

    def layer(self, h_BTW: jax.Array, weights: Params) -> jax.Array:
        """One layer with its residuals."""
        h_BTW = h_BTW + self.attention(self.norm(h_BTW, weights, "attention_norm"), weights)
        return h_BTW + self.mlp(self.norm(h_BTW, weights, "mlp_norm"), weights)

    def norm(self, x: jax.Array, weights: Params, name: str) -> jax.Array:
        """The family's norm over the last axis, computed in fp32, epsilon inside the root."""
        x = x.astype(jnp.float32)
        if self.shape.norm == "layer":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.shape.norm_eps)
        if name in weights:
            x = x * weights[name].astype(jnp.float32)
        if f"{name}_bias" in weights:
            x = x + weights[f"{name}_bias"].astype(jnp.float32)
        return x.astype(self.dtype)

    def affine(self, x: jax.Array, weights: Params, name: str) -> jax.Array:
        """One linear layer, with its bias where the model has biases."""
        y = self.linear(x, weights[name])
        return y + weights[f"{name}_bias"] if f"{name}_bias" in weights else y

    def attention(self, x_BTW: jax.Array, weights: Params) -> jax.Array:
        """Causal attention, with rotary positions where there is no table of them."""
        batch, tokens, width = x_BTW.shape
        heads = self.shape.heads

        def split(y_BTW: jax.Array) -> jax.Array:
            return y_BTW.reshape(batch, tokens, heads, width // heads).swapaxes(1, 2)

        def placed(name: str) -> jax.Array:
            y_BTW = self.affine(x_BTW, weights, name)
            if self.shape.qk_norm == "width":
                y_BTW = self.norm(y_BTW, weights, f"{name}_norm")
            y_BHTD = split(y_BTW)
            if self.shape.qk_norm == "head":
                y_BHTD = self.norm(y_BHTD, weights, f"{name}_norm")
            return y_BHTD if self.shape.positions else self.rotated(y_BHTD)

        y_BHTD = self.attended(placed("q"), placed("k"), split(self.affine(x_BTW, weights, "v")))
        return self.affine(y_BHTD.swapaxes(1, 2).reshape(batch, tokens, width), weights, "attention_out")

    def attended(self, q_BHTD: jax.Array, k_BHTD: jax.Array, v_BHTD: jax.Array) -> jax.Array:
        """softmax(scale q k) v over the tokens up to each; divided by the sum after the product, T / D times fewer."""
        tokens = q_BHTD.shape[-2]
        if self.fused_attention:
            by_token = (part.swapaxes(1, 2) for part in (q_BHTD, k_BHTD, v_BHTD))
            fused_BTHD: jax.Array = jax.nn.dot_product_attention(
                *by_token, is_causal=True, scale=attention_scale(self.shape), implementation="cudnn"
            )
            return fused_BTHD.swapaxes(1, 2)
        scores_BHTT = jnp.einsum("bhtd,bhsd->bhts", q_BHTD * attention_scale(self.shape), k_BHTD).astype(jnp.float32)
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
        """SwiGLU, or a function between two matrices."""
        if self.shape.activation == "swiglu":
            gate_BTM = self.affine(x_BTW, weights, "mlp_gate")
            return self.affine(self.gated(gate_BTM, self.affine(x_BTW, weights, "mlp_up")), weights, "mlp_out")
        up_BTM = self.affine(x_BTW, weights, "mlp_up")
        if self.shape.activation == "relu2":
            inner_BTM = jnp.square(jax.nn.relu(up_BTM))
        else:
            inner_BTM = jax.nn.gelu(up_BTM, approximate=self.shape.activation == "gelu_tanh")
        return self.affine(inner_BTM, weights, "mlp_out")
