"""Statistics of a step in torch: `Observer(...).before(...)`, the step, `.after()`; nothing that the step reads is touched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from array_api_compat import torch as xp
from torch import Tensor

from optsweep_engines.diagnostics import Own, Wanted, statistics
from optsweep_engines.models import parameter_table
from optsweep_engines.spec import RunSpec
from optsweep_engines.torch_engine.model import Decoder

SEQUENCES = 4
"""Of the batch whose attention is looked at."""
LARGEST_SCORES = 1 << 26
"""Attention logits held at once."""


class Observer:
    """The statistics of one run."""

    def __init__(
        self,
        spec: RunSpec,
        params: Mapping[str, Tensor],
        dtype: torch.dtype,
        asked: Wanted,
        tell: Callable[..., None],
        *,
        decoder: Decoder | None = None,
        whole: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda parts: parts,
    ) -> None:
        """
        Args:
            decoder: one that is not compiled; None: makes its own.
            whole: parameters or gradients by bank, from what this process holds of them.
        """
        self.asked = asked
        self.whole = whole
        self.own = Own(asked.own, tell)
        self.table = parameter_table(spec.shape)
        self.params = params
        # A decoder of its own: the written-out one of the CPU tells nothing of its attention.
        self.decoder = decoder or Decoder(spec.shape, spec.seq_len, params, dtype)
        self.kept: dict[str, Tensor] = {}
        self.grads: dict[str, Tensor] = {}
        self.attention: dict[str, Tensor] = {}

    @torch.no_grad()
    def before(self, x_BT: Tensor, grads: Mapping[str, Tensor]) -> None:
        """Copies of parameters and gradients, and the attention of the first sequences, before anything is clipped."""
        self.kept = {name: value.detach().clone() for name, value in self.params.items()}
        self.grads = {name: grad.detach().clone() for name, grad in grads.items()}
        seen: list[tuple[Tensor, Tensor]] = []
        self.decoder.watcher = lambda q, k, scale: seen.append(attention_of(q, k, scale))
        self.decoder.hidden(x_BT[:SEQUENCES])
        self.decoder.watcher = None
        self.attention = {
            "attention_logit_max": torch.stack([largest for largest, _ in seen]).max(),
            "attention_entropy": torch.stack([entropy for _, entropy in seen]).mean(),
        }

    @torch.no_grad()
    def after(self) -> dict[str, float]:
        """The numbers, once the step is done; waits for the device."""
        updates = {name: self.params[name].detach() - value for name, value in self.kept.items()}
        looked_at = [self.whole(values) for values in (self.kept, self.grads, updates)]
        found = statistics(xp, self.table, *looked_at, layers=self.asked.layers) | self.attention
        numbers = dict(zip(found, torch.stack([value.double() for value in found.values()]).tolist(), strict=True))
        own = self.own.of(xp, self.table, *looked_at)
        self.kept, self.grads = {}, {}
        return numbers | own


def attention_of(q_BHTD: Tensor, k_BHTD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(largest attention logit, mean entropy of the attention weights in nats) over sequences, heads and queries."""
    tokens = q_BHTD.shape[-2]
    hidden_TT = torch.ones(tokens, tokens, dtype=torch.bool, device=q_BHTD.device).triu(1)
    at_once = max(1, LARGEST_SCORES // tokens**2)
    largest, entropy = [], []
    for q_zTD, k_zTD in zip(
        torch.split(q_BHTD.flatten(0, 1), at_once), torch.split(k_BHTD.flatten(0, 1), at_once), strict=True
    ):
        scores = (q_zTD.float() @ k_zTD.float().mT * scale).masked_fill_(hidden_TT, float("-inf"))
        logs = scores.log_softmax(-1)
        largest.append(scores.amax())
        entropy.append(-(logs.exp() * logs.masked_fill(hidden_TT, 0.0)).sum(-1).sum())
    return torch.stack(largest).max(), torch.stack(entropy).sum() / (q_BHTD.shape[0] * q_BHTD.shape[1] * tokens)
