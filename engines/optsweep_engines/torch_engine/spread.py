"""A model's parameters spread over the fsdp axis of a mesh: torch's fully_shard, a unit per layer; one bank gathered at a time.

Every process keeps some rows of every tensor. A layer's rows are brought together when its forward and its backward run, and
its gradients are averaged and cut again as they come; replicas along the data axis hold the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from optsweep_engines.mesh import AXES
from optsweep_engines.models import Parameter
from optsweep_engines.torch_engine.ranks import to_first


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The mesh of a run, and where this process stands in it."""

    count: int
    """Processes that the parameters are spread over."""
    index: int
    """This one, among those."""
    replica: int
    """Which of the replicas it belongs to."""
    mesh: Any
    """torch's DeviceMesh: over fsdp, or over data and fsdp."""
    group: Any
    """Those that hold one replica together."""

    @classmethod
    def joined(cls, sizes: Mapping[str, int], device: torch.device) -> Axes:
        """Of the processes that have joined; all of them call it."""
        mesh = init_device_mesh(device.type, tuple(sizes[axis] for axis in AXES), mesh_dim_names=AXES)
        own = mesh["fsdp"]
        return cls(
            count=sizes["fsdp"],
            index=own.get_local_rank(),
            replica=mesh["data"].get_local_rank(),
            mesh=mesh if sizes["data"] > 1 else own,
            group=own.get_group(),
        )

    def in_any(self, own: bool) -> bool:
        """Whether it holds in one of the processes of a replica; all of them call it."""
        found = torch.tensor(int(own), device=self.mesh.device_type)
        dist.all_reduce(found, group=self.group)
        return bool(found)


class Rows:
    """Which rows of each tensor of a bank are whose: as many each as torch.chunk gives, the last ones fewer or none."""

    def __init__(self, item: Parameter, count: int) -> None:
        self.item = item
        rows, *rest = item.tensor_shape
        each = -(-rows // count)
        self.bounds = [(min(index * each, rows), min((index + 1) * each, rows)) for index in range(count)]
        self.rest = tuple(rest)
        self.sizes = [(stop - start) * math.prod(rest) for start, stop in self.bounds]
        """Numbers of one tensor by process."""

    def cut(self, tensors: Tensor, process: int) -> Tensor:
        """A process' numbers of some tensors [n, rows, ...], as a vector."""
        start, stop = self.bounds[process]
        return tensors[:, start:stop].reshape(-1)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Some tensors [n, rows, ...] again, from the numbers of every process; a part may be longer than it has to be."""
        count = len(parts[0]) // self.sizes[0]
        blocks = [
            part[: count * size].view(count, stop - start, *self.rest)
            for part, size, (start, stop) in zip(parts, self.sizes, self.bounds, strict=True)
            if stop > start
        ]
        return torch.cat(blocks, 1)


def local(tensor: Any) -> Tensor:
    """This process' part of a DTensor, sharing its memory."""
    found: Tensor = tensor.to_local()
    return found


class Unit(nn.Module):
    """Parameters that are brought together at the same time."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        super().__init__()
        self.keys = list(shapes)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device)))

    def forward(self, of: Callable[..., Any], *arguments: Any) -> Any:
        """`of(*arguments, weights)`, the weights whole while it runs."""
        return of(*arguments, {name: getattr(self, name) for name in self.keys})


class Model(Unit):
    """All units; its own are the parameters that begin and end the forward pass both: a tied embedding."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        super().__init__(shapes, device)
        self.layers = nn.ModuleList()
        self.first: Unit
        self.last: Unit


class Spread:
    """The parameters of a run as this process holds them."""

    def __init__(
        self,
        table: Sequence[Parameter],
        axes: Axes,
        device: torch.device,
        dtype: torch.dtype,
        values: Iterable[tuple[str, np.ndarray[Any, Any]]],
    ) -> None:
        """Make the units one by one and keep this process' rows of them.

        Args:
            dtype: that they are brought together and computed with in.
            values: by bank, one bank at a time.
        """
        self.axes = axes
        self.items = {item.name: item for item in table}
        self.rows = {item.name: Rows(item, axes.count) for item in table}
        tied = "head" not in self.items
        policy = MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )

        def unit(items: Iterable[Parameter], kind: type[Unit] = Unit) -> Any:
            return kind({item.name: item.tensor_shape for item in items}, device)

        def shard(made: Unit) -> Any:
            return fully_shard(made, mesh=axes.mesh, reshard_after_forward=True, mp_policy=policy)

        single = [item for item in table if not item.stacked]
        front = [item for item in single if item.role == "embedding" and not (tied and item.name == "embedding")]
        back = [item for item in single if item.role != "embedding"]
        self.model: Model = unit([item for item in single if item not in (*front, *back)], Model)
        self.model.first = shard(unit(front))
        stacked = [item for item in table if item.stacked]
        for _ in range(stacked[0].tensors):
            self.model.layers.append(shard(unit(stacked)))
        self.model.last = shard(unit(back))
        shard(self.model)
        units = {item.name: [self.model.first] for item in front} | {item.name: [self.model.last] for item in back}
        units |= {item.name: list(self.model.layers) for item in stacked}
        self.held: dict[str, list[nn.Parameter]] = {
            name: [getattr(each, name) for each in units.get(name, [self.model])] for name in self.items
        }
        """torch's own, by bank: one for each tensor."""
        self.parts: dict[str, list[Tensor]] = {
            name: [local(each.detach()).view(-1) for each in held] for name, held in self.held.items()
        }
        """This process' numbers of each tensor of a bank, as vectors that share their memory."""
        for name, value in values:
            self.put(name, torch.from_numpy(np.asarray(value)))

    def names(self, bank: str) -> list[str]:
        """Of the parts of a bank."""
        return [bank] if not self.items[bank].stacked else [f"{bank}.{index}" for index in range(len(self.parts[bank]))]

    def put(self, bank: str, whole: Tensor) -> None:
        """Take this process' numbers out of a whole bank."""
        for part, value in zip(self.parts[bank], self.own(bank, whole), strict=True):
            part.copy_(value)

    def own(self, bank: str, whole: Tensor) -> list[Tensor]:
        """This process' numbers of each tensor of a whole bank."""
        rows = self.rows[bank]
        tensors = whole.view(self.items[bank].tensors, *self.items[bank].tensor_shape)
        return [rows.cut(tensor[None], self.axes.index) for tensor in tensors]

    def gradients(self) -> list[Tensor]:
        """The mean over all processes, as they lie in `parts`, all banks one after the other; they are given away."""
        found = []
        for held in self.held.values():
            for each in held:
                assert each.grad is not None
                found.append(local(each.grad).reshape(-1))
                each.grad = None
        return found

    # ---------------------------------------------------------------- one bank at a time; all of a replica call these

    def whole(self, bank: str, parts: Sequence[Tensor]) -> Tensor:
        """A bank from the parts of all processes, in all of them."""
        rows = self.rows[bank]
        own = torch.cat(list(parts))
        padded = own.new_zeros(max(rows.sizes) * len(parts))
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in rows.sizes]
        dist.all_gather(found, padded, group=self.axes.group)
        return rows.joined(found).view(self.items[bank].shape)

    def whole_in_first(self, bank: str, parts: Sequence[Tensor]) -> Tensor | None:
        """A bank from the parts of all processes, in the first one of the run; None elsewhere."""
        if self.axes.replica:
            return None
        rows = self.rows[bank]
        found = to_first(torch.cat(list(parts)), [size * len(parts) for size in rows.sizes], self.axes.group)
        return None if found is None else rows.joined(found).view(self.items[bank].shape)

    def to_owners(self, bank: str, parts: Sequence[Tensor], bounds: Sequence[tuple[int, int]]) -> Tensor:
        """The tensors of a bank that are this process' to update, whole: [n, rows, ...].

        Args:
            bounds: first and last + 1 of the tensors of each process.
        """
        rows, index = self.rows[bank], self.axes.index
        many = [stop - start for start, stop in bounds]
        sent = [count * rows.sizes[index] for count in many]
        taken = [many[index] * size for size in rows.sizes]
        found = parts[0].new_empty(sum(taken))
        dist.all_to_all_single(found, torch.cat(list(parts)), taken, sent, group=self.axes.group)
        if not many[index]:
            return found.view(0, *self.items[bank].tensor_shape)
        return rows.joined(torch.split(found, taken))

    def from_owners(self, bank: str, own: Tensor, parts: Sequence[Tensor], bounds: Sequence[tuple[int, int]]) -> None:
        """The way back, into the parts."""
        rows, index = self.rows[bank], self.axes.index
        many = [stop - start for start, stop in bounds]
        sent = [many[index] * size for size in rows.sizes]
        taken = [count * rows.sizes[index] for count in many]
        found = own.new_empty(sum(taken))
        flat = torch.cat([rows.cut(own, process) for process in range(self.axes.count)])
        dist.all_to_all_single(found, flat, taken, sent, group=self.axes.group)
        for part, value in zip(parts, found.view(len(parts), rows.sizes[index]), strict=True):
            part.copy_(value)


class Banks(Mapping[str, Tensor]):
    """Whole banks from the parts of all processes, made anew each time that one is asked for; all processes ask alike."""

    def __init__(self, spread: Spread, parts: Mapping[str, Tensor]) -> None:
        self.spread = spread
        self.parts = parts

    def __getitem__(self, bank: str) -> Tensor:
        return self.spread.whole(bank, [self.parts[name] for name in self.spread.names(bank)])

    def __iter__(self) -> Iterator[str]:
        return iter(self.spread.items)

    def __len__(self) -> int:
        return len(self.spread.items)
