"""What some rules call for beside the gradient, where parameters are spread over processes: noise and sampled gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from array_api_compat import torch as xp
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import noise
from optsweep_engines.optimizers.base import Service
from optsweep_engines.spec import RunSpec
from optsweep_engines.torch_engine.ranks import Ranks
from optsweep_engines.torch_engine.services import Services, drawn
from optsweep_engines.torch_engine.spread_model import SpreadDecoder


class SpreadServices(Services):
    """The services of one run; a sampled gradient is asked for by the name of a part, noise by that of a bank."""

    def __init__(self, spec: RunSpec, decoder: SpreadDecoder, ranks: Ranks, names: Sequence[str]) -> None:
        super().__init__(spec, {}, decoder.dtype)
        self.decoder: SpreadDecoder = decoder
        self.ranks = ranks
        self.names = names

    def at(self, x_BT: Tensor, y_BT: Tensor) -> dict[str, Service]:
        """The services on one step's batch, of which this process looks at its share."""
        count = self.spec.accumulation

        @functools.cache
        def sampled(step: int) -> dict[str, Tensor]:
            uniform_BT = self.ranks.share(self.uniforms(step, y_BT), count)
            return self.mean_over_parts(
                lambda x, y: self.sampled_gradients(x, y, step), self.ranks.share(x_BT, count), uniform_BT
            )

        return {
            "noise": lambda tensor, step: self.normal_like(tensor, step, x_BT.device),
            "sampled_gradient": lambda tensor, step: sampled(step)[tensor.name],
        }

    def normal_like(self, tensor: Parameter, step: int, device: torch.device) -> Tensor:
        """Standard normal numbers of the bank's shape."""
        found: Tensor = noise.normal(xp, self.spec.seed, step, tensor, torch.empty(0, device=device))
        return found

    @torch.no_grad()
    def labels(self, x_BT: Tensor, uniform_BT: Tensor) -> Tensor:
        """As of the base."""
        found: Tensor = self.decoder.through(x_BT, lambda hidden, head: drawn(hidden, head, uniform_BT))
        return found

    @torch.enable_grad()
    def sampled_gradients(self, x_BT: Tensor, uniform_BT: Tensor, step: int) -> dict[str, Tensor]:
        """Gradient of the mean loss against drawn labels, by name of a part."""
        _, grads = self.decoder.loss_and_grads(x_BT, self.labels(x_BT, uniform_BT))
        return dict(zip(self.names, grads, strict=True))
