"""Buffers of `cpu_model.py`, allocated once per batch shape, with every view of them that a step needs ready made.

Views are made here and not in the step because making one costs a microsecond, and a step of a small model has
hundreds. Axes as in `model.py`; N = B x T tokens in a row, b = queries of one block, E = keys up to its end, Z = B x H.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from optsweep_engines.spec import ModelShape

# Queries per attention block: short enough to skip most of the masked half, long enough for the batched products.
BLOCK_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One matrix [out, in] of one layer, its transpose, and the buffer of its gradient."""

    value: Tensor
    transposed: Tensor
    grad: Tensor


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The weight of one RMSNorm and the buffer of its gradient."""

    value_W: Tensor
    grad_W: Tensor


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Parameters of one layer."""

    attention_norm: Gain
    qkv: Weight
    attention_out: Weight
    mlp_norm: Gain
    gate: Weight
    up: Weight
    down: Weight


def weight(value: Tensor, grad: Tensor) -> Weight:
    """A matrix with its views."""
    return Weight(value=value, transposed=value.T, grad=grad)


def layers_of(
    params: Mapping[str, Tensor], grads: Mapping[str, Tensor], qkv_L3WW: Tensor, dqkv_L3WW: Tensor
) -> list[Layer]:
    """Views of the banks, layer by layer."""

    def matrix(name: str, layer: int) -> Weight:
        return weight(params[name][layer], grads[name][layer])

    def gain(name: str, layer: int) -> Gain:
        return Gain(value_W=params[name][layer], grad_W=grads[name][layer])

    return [
        Layer(
            attention_norm=gain("attention_norm", layer),
            qkv=weight(qkv_L3WW[layer], dqkv_L3WW[layer]),
            attention_out=matrix("attention_out", layer),
            mlp_norm=gain("mlp_norm", layer),
            gate=matrix("mlp_gate", layer),
            up=matrix("mlp_up", layer),
            down=matrix("mlp_out", layer),
        )
        for layer in range(len(qkv_L3WW))
    ]


class Normed:
    """What the backward of one RMSNorm needs."""

    def __init__(self, rows: int, width: int) -> None:
        self.inverse_N1 = torch.empty(rows, 1)
        """1 / sqrt(mean square + eps)."""
        self.unit_NW = torch.empty(rows, width)
        """Input times it."""
        self.out_NW = torch.empty(rows, width)
        """Times the weight: what the next product reads."""


class Saved:
    """Activations of one layer that its backward reads."""

    def __init__(self, shape: ModelShape, batch: int, tokens: int) -> None:
        rows, width, inner = batch * tokens, shape.width, shape.mlp_width
        head = width // shape.heads
        self.attention_in = Normed(rows, width)
        self.qk_2BHTD = torch.empty(2, batch, shape.heads, tokens, head)
        """Rotated queries, already divided by sqrt(D), and keys; feature pairs side by side."""
        self.qk_pairs = torch.view_as_complex(self.qk_2BHTD.view(2, batch, shape.heads, tokens, head // 2, 2))
        self.v_BHTD = torch.empty(batch, shape.heads, tokens, head)
        self.mixed_NW = torch.empty(rows, width)
        """Attention output before its projection."""
        self.mixed_BHTD = self.mixed_NW.view(batch, tokens, shape.heads, head).permute(0, 2, 1, 3)
        self.mlp_in = Normed(rows, width)
        self.sigmoid_NM = torch.empty(rows, inner)
        self.silu_NM = torch.empty(rows, inner)
        self.up_NM = torch.empty(rows, inner)
        self.product_NM = torch.empty(rows, inner)
        self.blocks: list[Block] = []
        """Filled by the workspace, which owns the scratch that they share."""


class Block:
    """One block of queries of one layer: its slices of everything that attention touches."""

    def __init__(self, saved: Saved, scratch: Scratch, queries: slice) -> None:
        batch, heads, _, head = saved.v_BHTD.shape
        prefix, size = slice(0, queries.stop), queries.stop - queries.start
        q_ZTD, k_ZTD = saved.qk_2BHTD.flatten(1, 2)
        v_ZTD = saved.v_BHTD.flatten(0, 1)
        dq_ZTD, dk_ZTD = scratch.dqk_2BHTD.flatten(1, 2)
        self.q_ZbD = q_ZTD[:, queries]
        self.k_ZED = k_ZTD[:, prefix]
        self.k_ZDE = self.k_ZED.mT
        self.v_ZED = v_ZTD[:, prefix]
        self.v_ZDE = self.v_ZED.mT
        self.weights_ZbE = torch.empty(batch * heads, size, queries.stop)
        self.weights_ZEb = self.weights_ZbE.mT
        self.scores_ZbE, self.dscores_ZbE = (
            pair[: self.weights_ZbE.numel()].view_as(self.weights_ZbE) for pair in scratch.scores
        )
        self.dscores_ZEb = self.dscores_ZbE.mT
        self.diagonal_Zbb = self.scores_ZbE[:, :, queries]
        self.mask_bb = scratch.mask[:size, :size]
        # A product into a slice would run matrix by matrix: products fill whole buffers, then go to their place.
        self.part_ZbD = scratch.part[: batch * heads * size * head].view(batch * heads, size, head)
        self.part_BHbD = self.part_ZbD.view(batch, heads, size, head)
        self.mixed_BHbD = saved.mixed_BHTD[:, :, queries]
        self.dmixed_ZbD = scratch.heads_BHTD.flatten(0, 1)[:, queries]
        self.dq_ZbD = dq_ZTD[:, queries]
        self.dk_ZED, self.dv_ZED = dk_ZTD[:, prefix], scratch.dv_BHTD.flatten(0, 1)[:, prefix]
        self.is_last = queries.stop == saved.v_BHTD.shape[2]
        """It reaches every key: in the backward it writes dk and dv, and the shorter ones add to them."""
        self.reached_ZED = scratch.reached[: self.k_ZED.numel()].view(self.k_ZED.shape)


class Scratch:
    """Buffers that are free again after each layer."""

    def __init__(self, shape: ModelShape, batch: int, tokens: int, cos_sin_TD2: Tensor) -> None:
        rows, width, inner, heads = batch * tokens, shape.width, shape.mlp_width, shape.heads
        head = width // heads
        self.h_NW = torch.empty(rows, width)
        self.qkv_N3W = torch.empty(rows, 3 * width)
        self.dqkv_3WN = self.qkv_N3W.T
        longest = min(BLOCK_TOKENS, tokens) * tokens * batch * heads
        self.scores = (torch.empty(longest), torch.empty(longest))
        self.part = torch.empty(rows * width)
        self.reached = torch.empty(rows * width)
        self.dqk_2BHTD = torch.empty(2, batch, heads, tokens, head)
        self.dqk_pairs = torch.view_as_complex(self.dqk_2BHTD.view(2, batch, heads, tokens, head // 2, 2))
        self.dv_BHTD = torch.empty(batch, heads, tokens, head)
        self.heads_BHTD = torch.empty(batch, heads, tokens, head)
        self.x_NW = torch.empty(rows, width)
        self.x_BHTD = self.x_NW.view(batch, tokens, heads, head).permute(0, 2, 1, 3)
        self.x2_NW = torch.empty(rows, width)
        self.h_WN = self.h_NW.T
        self.a_NM, self.b_NM, self.c_NM = (torch.empty(rows, inner) for _ in range(3))
        self.a_MN, self.b_MN = self.a_NM.T, self.b_NM.T
        self.mask = torch.full((BLOCK_TOKENS, BLOCK_TOKENS), float("-inf")).triu(1)
        # Rotation by complex multiplication; the queries' table carries the 1/sqrt(D) of the scores.
        turn_TD = torch.view_as_complex(cos_sin_TD2[:tokens].contiguous())
        self.turn = torch.stack((turn_TD * head**-0.5, turn_TD))[:, None, None].contiguous()
        self.turn_back = self.turn.conj().resolve_conj()
        # The q and k columns of qkv as complex pairs [2, B, H, T, D/2], the v columns as [B, H, T, D].
        columns = self.qkv_N3W.view(batch, tokens, 3, heads, head)
        pairs = torch.view_as_complex(columns.view(batch, tokens, 3, heads, head // 2, 2))
        self.qk_columns = pairs[:, :, :2].permute(2, 0, 3, 1, 4)
        self.v_columns_BHTD = columns[:, :, 2].permute(0, 2, 1, 3)


class Workspace:
    """All buffers for one batch shape."""

    def __init__(self, shape: ModelShape, batch: int, tokens: int, cos_sin_TD2: Tensor) -> None:
        rows = batch * tokens
        self.scratch = Scratch(shape, batch, tokens, cos_sin_TD2)
        self.saved = [Saved(shape, batch, tokens) for _ in range(shape.layers)]
        for saved in self.saved:
            for start, end in pairwise([*range(0, tokens, BLOCK_TOKENS), tokens]):
                saved.blocks.append(Block(saved, self.scratch, slice(start, end)))
        self.final = Normed(rows, shape.width)
        self.logits_NV = torch.empty(rows, shape.vocab_size)
        self.probabilities_NV = torch.empty(rows, shape.vocab_size)
        self.probabilities_VN = self.probabilities_NV.T
        self.minus_one_N1 = torch.full((rows, 1), -1.0)
