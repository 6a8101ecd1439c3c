"""Several processes that train one run, each on its share of every micro-batch: all hold all parameters and step alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from optsweep_engines.mesh import devices_of, dividing, parsed
from optsweep_engines.spec import RunSpec

BUCKET_NUMBERS = 1 << 23
"""fp32 numbers that are sent together, 32 MB."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Where this process stands among them."""

    index: int = 0
    count: int = 1

    def share(self, rows: Tensor, parts: int) -> Tensor:
        """This process' rows of each of so many micro-batches, in order."""
        if self.count == 1:
            return rows
        whole = rows.view(parts, self.count, -1, *rows.shape[1:])
        return whole[:, self.index].flatten(0, 1)

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""
        if self.count == 1:
            return
        for bucket in buckets(tensors):
            if len(bucket) == 1:
                dist.all_reduce(bucket[0])
                continue
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))
        torch._foreach_mul_(list(tensors), 1.0 / self.count)

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in order, as many together as BUCKET_NUMBERS hold: a message costs as much as a hundred thousand numbers."""
    held: list[Tensor] = []
    for tensor in tensors:
        if held and sum(each.numel() for each in held) + tensor.numel() > BUCKET_NUMBERS:
            yield held
            held = []
        held.append(tensor)
    if held:
        yield held


def joined() -> Ranks:
    """Of this process; one alone where no group was joined."""
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    return Ranks(index=dist.get_rank(), count=dist.get_world_size())


def to_first(own: Tensor, sizes: Sequence[int], group: dist.ProcessGroup | None = None) -> list[Tensor] | None:
    """The vectors of all processes in the first of them, one after the other; None elsewhere. All of them call it.

    Args:
        sizes: numbers by process.
        group: of the processes; None: all.
    """
    group = dist.group.WORLD if group is None else group
    assert group is not None
    index = dist.get_rank(group)
    if index:
        if len(own):
            dist.send(own.contiguous(), dist.get_global_rank(group, 0), group=group)
        return None
    found = [own, *(own.new_empty(size) for size in sizes[1:])]
    for process, part in enumerate(found[1:], start=1):
        if len(part):
            dist.recv(part, dist.get_global_rank(group, process), group=group)
    return found


def agreed(values: Sequence[int]) -> Sequence[int]:
    """The numbers of the first process, in all of them."""
    held = torch.tensor(list(values), dtype=torch.int64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(held, 0)
    return [int(value) for value in held]


def wanted(spec: RunSpec, mesh: str | None, gpus: int) -> int:
    """How many processes a run takes: what its mesh says, else one per GPU that it was given, as far as they divide its batch.

    Args:
        mesh: "data=N,fsdp=M"; None: none was named.
        gpus: that this process may use; 0 on a CPU.

    Raises:
        ValueError: a mesh that is written otherwise, that does not divide the batch, or of more GPUs than are here.
    """
    rows = spec.batch_size // spec.accumulation
    if mesh is None:
        return dividing(rows, gpus)
    return devices_of(mesh, rows, gpus)


def spread_over(mesh: str | None, count: int) -> dict[str, int] | None:
    """The sizes of a mesh that spreads parameters; None where every process keeps all of them.

    Args:
        count: processes that have joined; one alone has nothing to spread over.

    Raises:
        ValueError: the mesh is of another number of processes.
    """
    sizes = parsed(mesh) if mesh else {"fsdp": 1}
    if sizes["fsdp"] == 1 or count == 1:
        return None
    if sizes["data"] * sizes["fsdp"] != count:
        raise ValueError(f'mesh "{mesh}" takes {sizes["data"] * sizes["fsdp"]} processes, {count} have joined')
    return sizes
