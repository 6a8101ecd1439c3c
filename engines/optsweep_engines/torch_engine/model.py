"""The decoder over parameter banks, of every family: `Decoder(shape, seq_len, params, dtype).loss(x, y)`.

Axes: B sequences, T tokens, W width, H heads, D head size, M MLP width, V vocabulary, L layers.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from optsweep_engines.models import attention_scale, logit_multiplier, parameter_table
from optsweep_engines.spec import ModelShape
from optsweep_engines.torch_engine.cpu_model import CpuDecoder, covers
from optsweep_engines.torch_engine.device import exactly
from optsweep_engines.torch_engine.loss import (
    cross_entropy,
    cross_entropy_and_target,
    fused_cross_entropy_and_target,
)

AttentionWatcher: TypeAlias = Callable[[Tensor, Tensor, float], None]
"""Is told q and k [B, H, T, D] as they meet, and what their product is multiplied with, layer by layer."""

# Measured on CPU: up to here plain softmax(q k) v beats the fused kernel (44 % of a step at width 128).
PLAIN_ATTENTION_TOKENS = 256

# Up to here the written-out CPU form is the fastest one (1.2x at 2048), and its attention weights fit: 0.3 GB at
# 6 layers, 6 heads, 4 sequences of 1024.
WRITTEN_OUT_TOKENS = 1024

# One layer is compiled and serves all of them: seconds, so it pays from about half a minute of a GPU at 30 % of 989 TFLOP/s
# on. Decided by the spec alone, so that every attempt of a run computes alike.
COMPILE_FLOPS = 1e16


def decoder(
    shape: ModelShape,
    seq_len: int,
    params: Mapping[str, Tensor],
    dtype: torch.dtype,
    total_flops: float,
    z_loss: float = 0.0,
) -> Decoder | CpuDecoder:
    """The fastest form of the model for its device, compute type, sequence length and length of run."""
    device = params["embedding"].device.type
    written_out = covers(shape) and not z_loss
    if written_out and device == "cpu" and dtype == torch.float32 and seq_len <= WRITTEN_OUT_TOKENS:
        return CpuDecoder(shape, seq_len, params)
    compiled = device == "cuda" and total_flops >= COMPILE_FLOPS and has_triton()
    return Decoder(shape, seq_len, params, dtype, compiled=compiled, z_loss=z_loss)


def has_triton() -> bool:
    """Whether torch.compile can make CUDA kernels here: triton builds its launcher with a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    return importlib.util.find_spec("triton") is not None and compiler is not None


class Decoder:
    """The model in plain torch operations, for any device; gradients by autograd."""

    def __init__(
        self,
        shape: ModelShape,
        seq_len: int,
        params: Mapping[str, Tensor],
        dtype: torch.dtype,
        *,
        compiled: bool = False,
        plain_attention: bool | None = None,
        z_loss: float = 0.0,
    ) -> None:
        """
        Args:
            z_loss: weight of the squared log-normaliser in what gradients are taken of.

        Raises:
            ValueError: the table of positions is shorter than a sequence.
        """
        if shape.positions and seq_len > shape.positions:
            raise ValueError(f"sequences of {seq_len} tokens, the model learns {shape.positions} positions")
        device = params["embedding"].device
        self.shape = shape
        self.params = params
        self.dtype = dtype
        self.z_loss = z_loss
        self.banks = [item.name for item in parameter_table(shape) if item.stacked]
        self.scale = attention_scale(shape)
        short = device.type == "cpu" and seq_len <= PLAIN_ATTENTION_TOKENS
        self.plain_attention = short if plain_attention is None else plain_attention
        if not shape.positions:
            head_size = shape.width // shape.heads
            exponents = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
            angles_TD = torch.arange(seq_len, dtype=torch.float64)[:, None] * shape.rope_theta**-exponents
            table = torch.promote_types(dtype, torch.float32)  # angles in bf16 would be off by 1 in 256
            self.cos_TD = angles_TD.cos().to(device, table)
            self.sin_TD = angles_TD.sin().to(device, table)
        if self.plain_attention:
            self.mask_TT = torch.full((seq_len, seq_len), float("-inf"), dtype=dtype, device=device).triu(1)
        self.watcher: AttentionWatcher | None = None
        """What is told q and k of every layer, in a forward pass for diagnostics."""
        self.compiled = compiled
        self.layer = torch.compile(self.plain_layer, dynamic=False) if compiled else self.plain_layer

    def loss(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token, fp32 scalar."""
        return cross_entropy(self.hidden(x_BT).flatten(0, 1), self.head(), y_BT.flatten())

    def smooth_loss(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """The same, all of its logits at once: it can be differentiated twice."""
        logits_NV = F.linear(self.hidden(x_BT).flatten(0, 1), self.head())
        return F.cross_entropy(logits_NV.float(), y_BT.flatten())

    def head(self) -> Tensor:
        """The matrix of the output projection [V, W]."""
        return self.params["embedding" if self.shape.tied_embeddings else "head"].to(self.dtype)

    def loss_and_grads(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean cross-entropy, and the gradients of what is trained on in the order of the parameters."""
        with exactly(x_BT.device):
            hidden_NW, y_N = self.hidden(x_BT).flatten(0, 1), y_BT.flatten()
            if self.compiled:
                loss, target = fused_cross_entropy_and_target(hidden_NW, self.head(), y_N, self.z_loss)
            elif self.z_loss:
                loss, target = cross_entropy_and_target(hidden_NW, self.head(), y_N, self.z_loss)
            else:
                loss = target = cross_entropy(hidden_NW, self.head(), y_N)
            return loss.detach(), list(torch.autograd.grad(target, list(self.params.values())))

    def hidden(self, x_BT: Tensor) -> Tensor:
        """Final normed activations [B, T, W], under muP times its multiplier of logits."""
        # unbind: its backward stacks the layers' gradients once; indexing would write a full bank per layer.
        banks = {name: self.params[name].to(self.dtype).unbind(0) for name in self.banks}
        h_BTW = F.embedding(x_BT, self.params["embedding"].to(self.dtype))
        if self.shape.positions:
            h_BTW = h_BTW + self.params["position"][: x_BT.shape[1]].to(self.dtype)
        for layer in range(self.shape.layers):
            weights = {name: bank[layer] for name, bank in banks.items()}
            h_BTW = self.layer(h_BTW, weights)
        final = {name: value.to(self.dtype) for name, value in self.params.items() if name.startswith("final_norm")}
        h_BTW = self.norm(h_BTW, final, "final_norm")
        multiplier = logit_multiplier(self.shape)
        return h_BTW if multiplier == 1.0 else h_BTW * multiplier

    def plain_layer(self, h_BTW: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """One layer with its residuals."""
        h_BTW = h_BTW + self.attention(self.norm(h_BTW, weights, "attention_norm"), weights)
        return h_BTW + self.mlp(self.norm(h_BTW, weights, "mlp_norm"), weights)

    def norm(self, x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
        """The family's norm over the last axis, computed in fp32, epsilon inside the root."""
        size, eps = (x.shape[-1],), self.shape.norm_eps
        if self.shape.norm == "layer":
            return F.layer_norm(x, size, weights[name], weights.get(f"{name}_bias"), eps)
        return F.rms_norm(x, size, weights.get(name), eps)

    def linear(self, x: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
        """One linear layer, with its bias where the model has biases."""
        return F.linear(x, weights[name], weights.get(f"{name}_bias"))

    def attention(self, x_BTW: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Causal attention, with rotary positions where there is no table of them."""
        batch, tokens, width = x_BTW.shape
        heads = self.shape.heads

        def split(y_BTW: Tensor) -> Tensor:
            return y_BTW.view(batch, tokens, heads, width // heads).transpose(1, 2)

        def placed(name: str) -> Tensor:
            y_BTW = self.linear(x_BTW, weights, name)
            if self.shape.qk_norm == "width":
                y_BTW = self.norm(y_BTW, weights, f"{name}_norm")
            y_BHTD = split(y_BTW)
            if self.shape.qk_norm == "head":
                y_BHTD = self.norm(y_BHTD, weights, f"{name}_norm")
            return y_BHTD if self.shape.positions else self.rotated(y_BHTD)

        q_BHTD, k_BHTD = placed("q"), placed("k")
        v_BHTD = split(self.linear(x_BTW, weights, "v"))
        if self.watcher is not None:
            self.watcher(q_BHTD, k_BHTD, self.scale)
        if self.plain_attention:
            scores_BHTT = q_BHTD @ k_BHTD.transpose(-1, -2) * self.scale
            y_BHTD = (scores_BHTT + self.mask_TT[:tokens, :tokens]).softmax(-1) @ v_BHTD
        else:
            scale = self.scale if self.shape.mup_base_width else None
            y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True, scale=scale)
        return self.linear(y_BHTD.transpose(1, 2).reshape(batch, tokens, width), weights, "attention_out")

    def rotated(self, x_BHTD: Tensor) -> Tensor:
        """Half-split RoPE: feature i turns with feature i + D/2."""
        tokens = x_BHTD.shape[-2]
        cos_TD, sin_TD = self.cos_TD[:tokens], self.sin_TD[:tokens]
        first, second = x_BHTD.chunk(2, dim=-1)
        return torch.cat((first * cos_TD - second * sin_TD, second * cos_TD + first * sin_TD), -1).to(self.dtype)

    def mlp(self, x_BTW: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """SwiGLU, or a function between two matrices."""
        up_BTM = self.linear(x_BTW, weights, "mlp_up")
        if self.shape.activation == "swiglu":
            inner_BTM = F.silu(self.linear(x_BTW, weights, "mlp_gate")) * up_BTM
        elif self.shape.activation == "relu2":
            inner_BTM = F.relu(up_BTM).square()
        else:
            inner_BTM = F.gelu(up_BTM, approximate="tanh" if self.shape.activation == "gelu_tanh" else "none")
        return self.linear(inner_BTM, weights, "mlp_out")
