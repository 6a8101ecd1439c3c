"""Cross-entropy over a large vocabulary without holding all of its logits at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from optsweep_engines.models import LARGEST_LOGITS

SoftmaxPart: TypeAlias = Callable[[Tensor, float, float], tuple[Tensor, Tensor]]

FUSED_LOGITS = 1 << 28
"""Logits that the fused form holds at once: in bf16 with their gradient 1 GB. Its sums of the head's gradient, once per
chunk, are as dear as a chunk of 2048 rows over a vocabulary of 128,256."""


def cross_entropy(hidden_NW: Tensor, head_VW: Tensor, y_N: Tensor, largest: int = LARGEST_LOGITS) -> Tensor:
    """Mean cross-entropy in nats, fp32 scalar; in chunks of rows where N x V exceeds `largest`."""
    rows, vocab = len(hidden_NW), len(head_VW)
    if rows * vocab <= largest:
        return F.cross_entropy(F.linear(hidden_NW, head_VW).float(), y_N)
    return _in_chunks(hidden_NW, head_VW, y_N, 0.0, largest // vocab, softmax_part)[0]


def cross_entropy_and_target(
    hidden_NW: Tensor, head_VW: Tensor, y_N: Tensor, z_loss: float, largest: int = LARGEST_LOGITS
) -> tuple[Tensor, Tensor]:
    """(mean cross-entropy, the same plus z_loss x the mean squared log of the normaliser): gradients are of the second.

    The term keeps the normalisers near 1, https://arxiv.org/abs/2204.02311 section 5.
    """
    rows, vocab = len(hidden_NW), len(head_VW)
    if rows * vocab > largest:
        return _in_chunks(hidden_NW, head_VW, y_N, z_loss, largest // vocab, softmax_part)
    logits_NV = F.linear(hidden_NW, head_VW).float()
    loss = F.cross_entropy(logits_NV, y_N)
    return loss, loss + z_loss * logits_NV.logsumexp(-1).square().mean()


def fused_cross_entropy_and_target(
    hidden_NW: Tensor, head_VW: Tensor, y_N: Tensor, z_loss: float, largest: int = FUSED_LOGITS
) -> tuple[Tensor, Tensor]:
    """`cross_entropy_and_target` for a GPU with a compiler: what lies between the products is one pass or two over the logits."""
    rows, vocab = len(hidden_NW), len(head_VW)
    alike = -(-rows // -(-rows * vocab // largest))  # chunks of one size, where the rows divide: compiled once
    return _in_chunks(hidden_NW, head_VW, y_N, z_loss, alike, fused_softmax_part())


def softmax_part(logits_nV: Tensor, z_loss: float, scale: float) -> tuple[Tensor, Tensor]:
    """(log of the normaliser [n, 1] in fp32, scale x gradient of the sum of both terms but for the -1 at the target).

    Args:
        logits_nV: overwritten where they are fp32.
    """
    kind = logits_nV.dtype
    logits_nV = logits_nV.float()
    normaliser_n1 = logits_nV.logsumexp(-1, keepdim=True)
    d_nV = logits_nV.sub_(normaliser_n1).exp_()
    if z_loss:
        d_nV.mul_(1.0 + 2.0 * z_loss * normaliser_n1)
    return normaliser_n1, d_nV.mul_(scale).to(kind)


@functools.cache
def fused_softmax_part() -> SoftmaxPart:
    """The same, compiled."""
    return torch.compile(softmax_part, dynamic=False)


def _in_chunks(
    hidden_NW: Tensor, head_VW: Tensor, y_N: Tensor, z_loss: float, chunk: int, part: SoftmaxPart
) -> tuple[Tensor, Tensor]:
    return _Chunked.apply(hidden_NW, head_VW, y_N, max(1, chunk), torch.is_grad_enabled(), z_loss, part)  # type: ignore[no-any-return, no-untyped-call]


class _Chunked(torch.autograd.Function):
    """The gradients of a chunk are taken while its logits exist, so nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NW: Tensor,
        head_VW: Tensor,
        y_N: Tensor,
        chunk: int,
        with_grads: bool,
        z_loss: float,
        softmax: SoftmaxPart,
    ) -> tuple[Tensor, Tensor]:
        rows = len(hidden_NW)
        total = torch.zeros((), device=hidden_NW.device)
        squares = torch.zeros((), device=hidden_NW.device)
        dhidden_NW = torch.empty_like(hidden_NW) if with_grads else None
        dhead_VW = torch.zeros(head_VW.shape, device=head_VW.device) if with_grads else None
        for start in range(0, rows, chunk):
            part = slice(start, start + chunk)
            logits_nV = F.linear(hidden_NW[part], head_VW)
            y_n1 = y_N[part, None]
            picked_n1 = logits_nV.gather(1, y_n1).float()
            if dhidden_NW is None or dhead_VW is None:
                normaliser_n1 = logits_nV.float().logsumexp(-1, keepdim=True)
            else:
                normaliser_n1, d_nV = softmax(logits_nV, z_loss, 1.0 / rows)
            total += (normaliser_n1 - picked_n1).sum()
            if z_loss:
                squares += normaliser_n1.square().sum()
            if dhidden_NW is None or dhead_VW is None:
                continue
            at_target_n1 = (picked_n1 - normaliser_n1).exp_()
            if z_loss:
                at_target_n1.mul_(1.0 + 2.0 * z_loss * normaliser_n1)
            d_nV.scatter_(1, y_n1, at_target_n1.sub_(1.0).mul_(1.0 / rows).to(d_nV.dtype))
            torch.mm(d_nV, head_VW, out=dhidden_NW[part])
            dhead_VW += d_nV.T @ hidden_NW[part]
        ctx.grads = (dhidden_NW, None if dhead_VW is None else dhead_VW.to(head_VW.dtype))
        loss = total / rows
        return loss, loss + z_loss * squares / rows

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, Tensor, None, None, None, None, None]:
        # The gradients are those of the target; without z_loss both outputs are the loss, and one of them is used.
        scale = outputs[0] + outputs[1]
        dhidden_NW, dhead_VW = ctx.grads
        return dhidden_NW * scale, dhead_VW * scale, None, None, None, None, None
