"""Cross-entropy over a large vocabulary without holding all of its logits at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optsweep_engines.models import LARGEST_LOGITS


def cross_entropy(hidden_NW: Tensor, head_VW: Tensor, y_N: Tensor, largest: int = LARGEST_LOGITS) -> Tensor:
    """Mean cross-entropy in nats, fp32 scalar; in chunks of rows where N x V exceeds `largest`."""
    rows, vocab = len(hidden_NW), len(head_VW)
    if rows * vocab <= largest:
        return F.cross_entropy(F.linear(hidden_NW, head_VW).float(), y_N)
    chunk = max(1, largest // vocab)
    loss: Tensor = _Chunked.apply(hidden_NW, head_VW, y_N, chunk, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return loss


class _Chunked(torch.autograd.Function):
    """The gradients of a chunk are taken while its logits exist, so nothing is computed twice."""

    @staticmethod
    def forward(ctx: Any, hidden_NW: Tensor, head_VW: Tensor, y_N: Tensor, chunk: int, with_grads: bool) -> Tensor:
        rows = len(hidden_NW)
        total = torch.zeros((), device=hidden_NW.device)
        dhidden_NW = torch.empty_like(hidden_NW) if with_grads else None
        dhead_VW = torch.zeros(head_VW.shape, device=head_VW.device) if with_grads else None
        for start in range(0, rows, chunk):
            part = slice(start, start + chunk)
            logits_nV = F.linear(hidden_NW[part], head_VW).float()
            y_n1 = y_N[part, None]
            normaliser_n1 = logits_nV.logsumexp(-1, keepdim=True)
            total += (normaliser_n1 - logits_nV.gather(1, y_n1)).sum()
            if dhidden_NW is None or dhead_VW is None:
                continue
            d_nV = logits_nV.sub_(normaliser_n1).exp_()
            d_nV.scatter_add_(1, y_n1, torch.full_like(d_nV[:, :1], -1.0))
            d_nV = d_nV.mul_(1.0 / rows).to(hidden_NW.dtype)
            torch.mm(d_nV, head_VW, out=dhidden_NW[part])
            dhead_VW += d_nV.T @ hidden_NW[part]
        ctx.grads = (dhidden_NW, None if dhead_VW is None else dhead_VW.to(head_VW.dtype))
        return total / rows

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> tuple[Tensor, Tensor, None, None, None]:
        (scale,) = outputs
        dhidden_NW, dhead_VW = ctx.grads
        return dhidden_NW * scale, dhead_VW * scale, None, None, None
