"""The Llama-shaped decoder over parameter banks: `Decoder(shape, seq_len, params, dtype).loss(x, y)`.

Axes: B sequences, T tokens, W width, H heads, D head size, M MLP width, V vocabulary, L layers.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from optsweep_engines.spec import ModelShape
from optsweep_engines.torch_engine.cpu_model import CpuDecoder
from optsweep_engines.torch_engine.loss import cross_entropy

# Measured on CPU: up to here plain softmax(q k) v beats the fused kernel (44 % of a step at width 128).
PLAIN_ATTENTION_TOKENS = 256

# Up to here the written-out CPU form is the fastest one (1.2x at 2048), and its attention weights fit: 0.3 GB at
# 6 layers, 6 heads, 4 sequences of 1024.
WRITTEN_OUT_TOKENS = 1024

# Compiling takes up to 18 s: from about a minute of a GPU at 30 % of 989 TFLOP/s on. Decided by the spec alone, so that
# every attempt of a run computes alike.
COMPILE_FLOPS = 2e16


def decoder(
    shape: ModelShape, seq_len: int, params: Mapping[str, Tensor], dtype: torch.dtype, total_flops: float
) -> Decoder | CpuDecoder:
    """The fastest form of the model for its device, compute type, sequence length and length of run."""
    device = params["embedding"].device.type
    if device == "cpu" and dtype == torch.float32 and seq_len <= WRITTEN_OUT_TOKENS:
        return CpuDecoder(shape, seq_len, params)
    compiled = device == "cuda" and total_flops >= COMPILE_FLOPS and has_triton()
    return Decoder(shape, seq_len, params, dtype, compiled=compiled)


def has_triton() -> bool:
    """Whether torch.compile can make CUDA kernels here."""
    return importlib.util.find_spec("triton") is not None


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
    ) -> None:
        device = params["embedding"].device
        self.shape = shape
        self.params = params
        self.dtype = dtype
        short = device.type == "cpu" and seq_len <= PLAIN_ATTENTION_TOKENS
        self.plain_attention = short if plain_attention is None else plain_attention
        head_size = shape.width // shape.heads
        exponents = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size
        angles_TD = torch.arange(seq_len, dtype=torch.float64)[:, None] * shape.rope_theta**-exponents
        table = torch.promote_types(dtype, torch.float32)  # angles in bf16 would be off by 1 in 256
        self.cos_TD = angles_TD.cos().to(device, table)
        self.sin_TD = angles_TD.sin().to(device, table)
        if self.plain_attention:
            self.mask_TT = torch.full((seq_len, seq_len), float("-inf"), dtype=dtype, device=device).triu(1)
        self.hidden = torch.compile(self.plain_hidden) if compiled else self.plain_hidden

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
        """Mean cross-entropy and its gradients in the order of the parameters."""
        loss = self.loss(x_BT, y_BT)
        return loss.detach(), list(torch.autograd.grad(loss, list(self.params.values())))

    def plain_hidden(self, x_BT: Tensor) -> Tensor:
        """Final normed activations [B, T, W]."""
        # unbind: its backward stacks the layers' gradients once; indexing would write a full bank per layer.
        banks = {
            name: self.params[name].to(self.dtype).unbind(0)
            for name in ("attention_norm", "q", "k", "v", "attention_out", "mlp_norm", "mlp_gate", "mlp_up", "mlp_out")
        }
        h_BTW = F.embedding(x_BT, self.params["embedding"].to(self.dtype))
        for layer in range(self.shape.layers):
            weights = {name: bank[layer] for name, bank in banks.items()}
            h_BTW = h_BTW + self.attention(self.norm(h_BTW, weights["attention_norm"]), weights)
            h_BTW = h_BTW + self.mlp(self.norm(h_BTW, weights["mlp_norm"]), weights)
        return self.norm(h_BTW, self.params["final_norm"].to(self.dtype))

    def norm(self, x_BTW: Tensor, weight_W: Tensor) -> Tensor:
        """RMSNorm, computed in fp32, epsilon inside the root."""
        return F.rms_norm(x_BTW, (self.shape.width,), weight_W, self.shape.norm_eps)

    def attention(self, x_BTW: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Causal attention with rotary positions."""
        batch, tokens, width = x_BTW.shape
        heads = self.shape.heads

        def split(y_BTW: Tensor) -> Tensor:
            return y_BTW.view(batch, tokens, heads, width // heads).transpose(1, 2)

        q_BHTD = self.rotated(split(F.linear(x_BTW, weights["q"])))
        k_BHTD = self.rotated(split(F.linear(x_BTW, weights["k"])))
        v_BHTD = split(F.linear(x_BTW, weights["v"]))
        if self.plain_attention:
            scores_BHTT = q_BHTD @ k_BHTD.transpose(-1, -2) * (width // heads) ** -0.5
            y_BHTD = (scores_BHTT + self.mask_TT[:tokens, :tokens]).softmax(-1) @ v_BHTD
        else:
            y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
        return F.linear(y_BHTD.transpose(1, 2).reshape(batch, tokens, width), weights["attention_out"])

    def rotated(self, x_BHTD: Tensor) -> Tensor:
        """Half-split RoPE: feature i turns with feature i + D/2."""
        tokens = x_BHTD.shape[-2]
        cos_TD, sin_TD = self.cos_TD[:tokens], self.sin_TD[:tokens]
        first, second = x_BHTD.chunk(2, dim=-1)
        return torch.cat((first * cos_TD - second * sin_TD, second * cos_TD + first * sin_TD), -1).to(self.dtype)

    def mlp(self, x_BTW: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """SwiGLU."""
        return F.linear(
            F.silu(F.linear(x_BTW, weights["mlp_gate"])) * F.linear(x_BTW, weights["mlp_up"]), weights["mlp_out"]
        )
