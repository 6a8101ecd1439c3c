"""What some rules call for beside the gradient, on the steps that need it: noise, sampled gradients, Hessian products."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from array_api_compat import torch as xp
from torch import Tensor

from optsweep_engines.models import Parameter, parameter_table
from optsweep_engines.optimizers import noise
from optsweep_engines.optimizers.base import Service
from optsweep_engines.spec import RunSpec
from optsweep_engines.torch_engine.model import Decoder

# Logits held at once while labels are drawn, in float64: 2^24 are 128 MB.
LARGEST_LOGITS = 1 << 24


OfPart: TypeAlias = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""(inputs, targets) of one micro-batch -> tensors by name."""


class Services:
    """The services of one run; every number is a pure function of the spec, the step and the parameters."""

    def __init__(self, spec: RunSpec, params: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self.spec = spec
        self.params = params
        self.dtype = dtype
        self.table = {item.name: item for item in parameter_table(spec.shape)}

    @functools.cached_property
    def decoder(self) -> Decoder:
        """The plain model: its gradients are fresh tensors, not the buffers of the step's own."""
        return Decoder(self.spec.shape, self.spec.seq_len, self.params, self.dtype)

    @functools.cached_property
    def smooth_decoder(self) -> Decoder:
        """One that can be differentiated twice: attention without a fused kernel."""
        return Decoder(self.spec.shape, self.spec.seq_len, self.params, self.dtype, plain_attention=True)

    def at(self, x_BT: Tensor, y_BT: Tensor) -> dict[str, Service]:
        """The services on one step's batch, at the parameters as they are when a service is first asked."""

        @functools.cache
        def sampled(step: int) -> dict[str, Tensor]:
            return self.mean_over_parts(
                lambda x, y: self.sampled_gradients(x, y, step), x_BT, self.uniforms(step, y_BT)
            )

        @functools.cache
        def diagonals(step: int) -> dict[str, Tensor]:
            return self.mean_over_parts(lambda x, y: self.hessian_diagonals(x, y, step), x_BT, y_BT)

        return {
            "noise": lambda tensor, step: self.normal(tensor, step),
            "sampled_gradient": lambda tensor, step: sampled(step)[tensor.name],
            "hessian_diagonal": lambda tensor, step: diagonals(step)[tensor.name],
        }

    def normal(self, tensor: Parameter, step: int) -> Tensor:
        """Standard normal numbers of the tensor's shape."""
        drawn: Tensor = noise.normal(xp, self.spec.seed, step, tensor, self.params[tensor.name].detach())
        return drawn

    def uniforms(self, step: int, like_BT: Tensor) -> Tensor:
        """One number in [0, 1) for each token of the batch, float64."""
        key = hashlib.sha256(f"optsweep labels {self.spec.seed}".encode()).digest()[:16]
        stream = np.random.Philox(key=np.frombuffer(key, dtype="<u8"), counter=[0, 0, 0, step])
        words = stream.random_raw(like_BT.numel()) >> np.uint64(11)
        return torch.from_numpy(words * 2.0**-53).view(like_BT.shape).to(like_BT.device)

    @torch.no_grad()
    def labels(self, x_BT: Tensor, uniform_BT: Tensor) -> Tensor:
        """Tokens drawn from the model's own distribution: where the cumulative probability passes the uniform number."""
        return drawn(self.decoder.hidden(x_BT).flatten(0, 1), self.decoder.head(), uniform_BT)

    @torch.enable_grad()
    def sampled_gradients(self, x_BT: Tensor, uniform_BT: Tensor, step: int) -> dict[str, Tensor]:
        """Gradient of the mean loss against drawn labels, by name."""
        _, grads = self.decoder.loss_and_grads(x_BT, self.labels(x_BT, uniform_BT))
        return dict(zip(self.params, grads, strict=True))

    @torch.enable_grad()
    def hessian_diagonals(self, x_BT: Tensor, y_BT: Tensor, step: int) -> dict[str, Tensor]:
        """u * (H u) by name, u standard normal: the diagonal of the Hessian of the mean loss, in expectation."""
        params = list(self.params.values())
        probes = [self.normal(self.table[name], step) for name in self.params]
        grads = torch.autograd.grad(self.smooth_decoder.smooth_loss(x_BT, y_BT), params, create_graph=True)
        along = torch.stack([(grad * probe).sum() for grad, probe in zip(grads, probes, strict=True)]).sum()
        products = torch.autograd.grad(along, params)
        return {name: product * probe for name, product, probe in zip(self.params, products, probes, strict=True)}

    def mean_over_parts(self, of: OfPart, x_BT: Tensor, y_BT: Tensor) -> dict[str, Tensor]:
        """The mean of a quantity over the micro-batches."""
        count = self.spec.accumulation
        total: dict[str, Tensor] = {}
        for x_bT, y_bT in zip(x_BT.chunk(count), y_BT.chunk(count), strict=True):
            for name, value in of(x_bT, y_bT).items():
                total[name] = total[name] + value / count if name in total else value / count
        return total


def drawn(hidden_NW: Tensor, head_VW: Tensor, uniform_BT: Tensor) -> Tensor:
    """Tokens [B, T] where the cumulative probability passes the uniform number."""
    rows = max(1, LARGEST_LOGITS // len(head_VW))
    found = []
    for hidden_nW, uniform_n in zip(torch.split(hidden_NW, rows), torch.split(uniform_BT.flatten(), rows), strict=True):
        cumulative_nV = (hidden_nW @ head_VW.T).double().softmax(-1).cumsum(-1)
        found.append(torch.searchsorted(cumulative_nV, uniform_n[:, None]).squeeze(1))
    return torch.cat(found).clamp(max=len(head_VW) - 1).view(uniform_BT.shape)
