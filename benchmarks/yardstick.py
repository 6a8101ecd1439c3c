"""The yardstick of the speed bars: a plain GPT-2-shaped training loop in the manner of nanoGPT, written for this project.

LayerNorm without bias, learned positions, one fused q/k/v matrix, fused attention kernel, GELU MLP of 4x width, tied
head, torch's AdamW with its defaults, random offsets into a uint16 memory map, clipping at 1, the loss read every 10
steps. Nothing is tuned for CPU. `train_speed.py` runs it beside the engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm(nn.Module):
    """LayerNorm without bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    """Attention and MLP with their residuals."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_norm = LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            part.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(y.transpose(1, 2).contiguous().view(batch, tokens, width))
        out: Tensor = x + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))
        return out


class Gpt(nn.Module):
    """GPT-2 shape, tied head."""

    def __init__(self, layers: int, width: int, heads: int, seq_len: int, vocab_size: int = 256) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(seq_len, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.final_norm = LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.tokens.weight = self.head.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(x.shape[1], device=x.device)
        h = self.tokens(x) + self.positions(positions)
        for block in self.blocks:
            h = block(h)
        logits = self.head(self.final_norm(h))
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))


def batches(shard: Path, batch_size: int, seq_len: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random windows; the memory map is opened for each batch, as nanoGPT does to keep its memory flat."""
    while True:
        data = np.memmap(shard, dtype=np.uint16, mode="r")
        starts = torch.randint(len(data) - seq_len, (batch_size,)).tolist()
        x = torch.stack([torch.from_numpy(data[i : i + seq_len].astype(np.int64)) for i in starts])
        y = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + seq_len].astype(np.int64)) for i in starts])
        yield x, y


def training(model: nn.Module, shard: Path, batch_size: int, seq_len: int, lr: float = 6e-4) -> Iterator[float | None]:
    """Trains forever: yields after every step, the loss every 10 steps and None otherwise."""
    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    rest = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    source = batches(shard, batch_size, seq_len)
    x, y = next(source)
    step = 0
    while True:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 100)
        _logits, loss = model(x, y)  # held until the next forward, as in nanoGPT: memory is reused differently without
        x, y = next(source)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item() if step % 10 == 0 else None
        step += 1
