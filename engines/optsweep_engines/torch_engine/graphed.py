"""A small model's forward and backward as one CUDA graph: launching its many short kernels takes longer than running them."""

from __future__ import annotations

import torch
from torch import Tensor

from optsweep_engines.torch_engine.model import Decoder

WARM_CALLS = 3
"""Before the capture, on a side stream: libraries make their handles and workspaces, kernels are compiled."""


class Graphed:
    """A decoder whose `loss_and_grads` is captured at its first call and replayed from then on.

    The gradients are the same tensors at every call: they hold until the next one, and may be changed in place.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.loss = decoder.loss
        self.graph: torch.cuda.CUDAGraph | None = None

    def loss_and_grads(self, x_BT: Tensor, y_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """As of the decoder; every call must have the shape of the first."""
        if self.graph is None:
            self._capture(x_BT, y_BT)
        assert self.graph is not None
        self.x_BT.copy_(x_BT)
        self.y_BT.copy_(y_BT)
        self.graph.replay()
        return self.mean_loss.clone(), list(self.grads)

    def _capture(self, x_BT: Tensor, y_BT: Tensor) -> None:
        self.x_BT, self.y_BT = x_BT.clone(), y_BT.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_CALLS):
                self.decoder.loss_and_grads(self.x_BT, self.y_BT)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.mean_loss, self.grads = self.decoder.loss_and_grads(self.x_BT, self.y_BT)
