"""The decoder over parameters that are spread over processes: the layers of `Decoder`, each with its weights while it runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from optsweep_engines.models import logit_multiplier
from optsweep_engines.spec import ModelShape
from optsweep_engines.torch_engine.device import exactly
from optsweep_engines.torch_engine.loss import (
    cross_entropy,
    cross_entropy_and_target,
    fused_cross_entropy_and_target,
)
from optsweep_engines.torch_engine.model import COMPILE_FLOPS, Decoder, has_triton
from optsweep_engines.torch_engine.spread import Spread

OfHead = Callable[[Tensor, Tensor], Any]
"""(final activations [N, W], matrix of the output projection [V, W]) -> whatever is wanted of the logits."""


class SpreadDecoder(Decoder):
    """Every call is one of all processes, each with its own sequences; gradients are those of the mean over all of them."""

    def __init__(
        self,
        spread: Spread,
        shape: ModelShape,
        seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
        total_flops: float,
        z_loss: float = 0.0,
    ) -> None:
        compiled = device.type == "cuda" and total_flops >= COMPILE_FLOPS and has_triton()
        like = {"embedding": torch.empty(0, device=device)}
        super().__init__(shape, seq_len, like, dtype, compiled=compiled, z_loss=z_loss)
        self.spread = spread

    def loss(self, x_BT: Tensor, y_BT: Tensor) -> Tensor:
        """Mean cross-entropy of this process' sequences in nats per token, fp32 scalar."""
        loss: Tensor = self.through(x_BT, lambda hidden, head: cross_entropy(hidden, head, y_BT.flatten()))
        return loss

    def loss_and_grads(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean cross-entropy of this process' sequences; the gradients, means over all processes, as `Spread.gradients`."""

        def of(hidden_NW: Tensor, head_VW: Tensor) -> tuple[Tensor, Tensor]:
            if self.compiled:
                loss, target = fused_cross_entropy_and_target(hidden_NW, head_VW, y_BT.flatten(), self.z_loss)
            elif self.z_loss:
                loss, target = cross_entropy_and_target(hidden_NW, head_VW, y_BT.flatten(), self.z_loss)
            else:
                loss = target = cross_entropy(hidden_NW, head_VW, y_BT.flatten())
            return loss.detach(), target

        with exactly(x_BT.device):
            loss, target = self.through(x_BT, of)
            target.backward()
        return loss, self.spread.gradients()

    def hidden(self, x_BT: Tensor) -> Tensor:
        """Final normed activations [B, T, W]."""
        found: Tensor = self.through(x_BT, lambda hidden, head: hidden)
        return found.view(*x_BT.shape, -1)

    def through(self, x_BT: Tensor, of: OfHead) -> Any:
        """A forward pass, and what is wanted of its end."""
        return self.spread.model(self._layers, x_BT, of)

    def _layers(self, x_BT: Tensor, of: OfHead, tied: Mapping[str, Tensor]) -> Any:
        model = self.spread.model
        # What a unit gets as an argument it takes for its input: the weights of the whole come in by themselves.
        h_BTW = model.first(functools.partial(self._first, tied), x_BT)
        for layer in model.layers:
            h_BTW = layer(self.layer, h_BTW)
        return model.last(functools.partial(self._last, tied, of), h_BTW)

    def _first(self, tied: Mapping[str, Tensor], x_BT: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        h_BTW = F.embedding(x_BT, {**tied, **own}["embedding"])
        return h_BTW + own["position"][: x_BT.shape[1]] if self.shape.positions else h_BTW

    def _last(self, tied: Mapping[str, Tensor], of: OfHead, h_BTW: Tensor, own: Mapping[str, Tensor]) -> Any:
        h_BTW = self.norm(h_BTW, own, "final_norm")
        multiplier = logit_multiplier(self.shape)
        h_BTW = h_BTW if multiplier == 1.0 else h_BTW * multiplier
        return of(h_BTW.flatten(0, 1), tied["embedding"] if self.shape.tied_embeddings else own["head"])
