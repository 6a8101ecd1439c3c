"""Matrix rules shared out over the processes of a run: each updates some of the matrices and sends them to the others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from array_api_compat import torch as xp
from torch import Tensor
from torch import distributed as dist

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Hyper, Rule, Service
from optsweep_engines.torch_engine.fused import Slot
from optsweep_engines.torch_engine.ranks import Ranks, to_first


def shareable(rule: Rule, item: Parameter) -> bool:
    """Whether processes may update different matrices of a bank: each matrix is updated apart."""
    return rule.scope == "tensor" and item.stacked and item.is_hidden_matrix and rule.eval_params is None


class Shares:
    """Who updates which matrices. The state of a matrix is only where it is updated; parameters are everywhere."""

    def __init__(self, ranks: Ranks, banks: Sequence[Parameter]) -> None:
        """Share them out evenly by what they cost.

        Args:
            banks: stacked banks of matrices, the same in every process.
        """
        self.ranks = ranks
        self.banks = {item.name: item for item in banks}
        self.bounds: dict[str, list[tuple[int, int]]] = {}
        """Bank -> first and last + 1 of the matrices of each process."""
        self.rows: dict[str, dict[str, Tensor]] = {}
        """Bank -> state of one matrix, which says shapes and types."""
        if ranks.count == 1:
            return
        owners = shared_out([(item.tensors, cost(item.tensor_shape)) for item in banks], ranks.count)
        for item, owned in zip(banks, owners, strict=True):
            stops = [sum(owner <= index for owner in owned) for index in range(ranks.count)]
            self.bounds[item.name] = list(zip([0, *stops[:-1]], stops, strict=True))

    def cut(self, name: str) -> slice | None:
        """Matrices of a bank that this process updates; None where it updates the bank whole."""
        return slice(*self.bounds[name][self.ranks.index]) if name in self.bounds else None

    def services(self, name: str, services: Mapping[str, Service] | None) -> Mapping[str, Service] | None:
        """What an engine provides for a bank, cut to this process' matrices of it."""
        cut = self.cut(name)
        if services is None or cut is None:
            return services
        bank = self.banks[name]
        return {key: lambda _, step, of=of: of(bank, step)[cut] for key, of in services.items()}  # type: ignore[misc]

    def slot(self, param: Tensor, rule: Rule, hp: Hyper) -> Slot | None:
        """This process' part of a shared bank; None where it has no matrix of it."""
        item = hp.tensor
        start, stop = self.bounds[item.name][self.ranks.index]

        def part(tensor: Tensor) -> tuple[Tensor, Hyper]:
            return tensor, dataclasses.replace(hp, tensor=dataclasses.replace(item, shape=tuple(tensor.shape)))

        one, of_one = part(param[:1])
        self.rows[item.name] = {key: value[0] for key, value in rule.init(xp, one, of_one).items()}
        if start == stop:
            return None
        own, of_own = part(param[start:stop])
        return Slot(param=own, state=rule.init(xp, own, of_own), rule=rule, hp=of_own)

    def idle(self, name: str) -> dict[str, Tensor]:
        """State of a bank of which this process has no matrix: empty tensors."""
        return {key: value.new_empty((0, *value.shape)) for key, value in self.rows[name].items()}

    def spread_(self, params: Mapping[str, Tensor]) -> None:
        """Send this process' matrices to the others and take theirs, in place."""
        works = [
            dist.broadcast(params[name][start:stop], owner, async_op=True)
            for name, bounds in self.bounds.items()
            for owner, (start, stop) in enumerate(bounds)
            if stop > start
        ]
        for work in works:
            work.wait()

    def count(self, name: str) -> int:
        """Matrices of a shared bank, of all processes."""
        return self.bounds[name][-1][1]

    def whole_in_first(self, name: str, own: Tensor) -> Tensor | None:
        """A state over all matrices of a bank in the first process, None in the others; all of them call it."""
        each = math.prod(own.shape[1:])
        found = to_first(own.reshape(-1), [(stop - start) * each for start, stop in self.bounds[name]])
        return None if found is None else torch.cat(found).view(self.count(name), *own.shape[1:])

    def state_bytes(self, name: str) -> int:
        """Of a whole bank, over all processes."""
        return self.count(name) * sum(value.numel() * value.element_size() for value in self.rows[name].values())


def cost(shape: Sequence[int]) -> float:
    """What a matrix rule's products take, up to a factor."""
    return float(math.prod(shape) * min(shape))


def shared_out(banks: Sequence[tuple[int, float]], count: int) -> list[list[int]]:
    """Who gets which matrix: runs in the order of the banks, of as equal cost as whole matrices allow.

    Args:
        banks: (matrices, cost of one).

    Returns:
        For each bank the process of each of its matrices, ascending.
    """
    total = sum(many * each for many, each in banks)
    before, owners = 0.0, []
    for many, each in banks:
        owners.append([min(count - 1, int((before + (row + 0.5) * each) / total * count)) for row in range(many)])
        before += many * each
    return owners
