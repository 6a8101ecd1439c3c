"""An optimizer over parameters that are spread over processes: what works number by number steps where the numbers are.

A rule that needs its tensors whole gets them bank by bank: each process brings together the gradients and parameters of the
tensors that are its own to update, keeps their state alone, and sends the new parameters back to where they lie.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Hyper, OptimizerEntry, Rule, Service
from optsweep_engines.optimizers.spreadable import rules_of
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine.kinds import Kind, exchanged
from optsweep_engines.torch_engine.optimizer import Optimizer
from optsweep_engines.torch_engine.ranks import Ranks, to_first
from optsweep_engines.torch_engine.spread import Spread

Bound = Callable[[Sequence[Parameter], Mapping[str, Tensor], Sequence[tuple[Rule, Hyper]]], Optimizer]
"""(table, parameters, rules) -> the optimizer of these alone, in this process."""


class Owned:
    """One bank whose rule needs whole tensors: some of them are this process' to update."""

    def __init__(self, spread: Spread, rule: Rule, hp: Hyper, bounds: Sequence[tuple[int, int]], bound: Bound) -> None:
        self.spread, self.item, self.bounds = spread, hp.tensor, bounds
        self.apart = rule.scope == "tensor"
        """Whether tensors of the bank go to different processes; else one has all of them."""
        start, stop = bounds[spread.axes.index]
        self.cut = slice(start, stop) if self.apart and self.item.stacked else slice(None)
        whole = self.whole(spread.parts[self.item.name])
        self.optimizer: Optimizer | None = None
        if stop > start:
            own = dataclasses.replace(self.item, shape=tuple(whole.shape))
            self.optimizer = bound([own], {own.name: whole}, [(rule, dataclasses.replace(hp, tensor=own))])
            self.slot.param = whole.new_empty(0)  # parameters stay where they are; they come here for the update alone

    @property
    def slot(self) -> Any:
        """Of the optimizer."""
        assert self.optimizer is not None
        return self.optimizer.slots[self.item.name]

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """What is this process' own of the bank."""
        found = self.spread.to_owners(self.item.name, parts, self.bounds)
        return found if self.item.stacked or not len(found) else found[0]

    def step(self, grads: Sequence[Tensor], step: int, lr: float, services: Mapping[str, Service] | None) -> None:
        """Update the bank; all processes call it."""
        name, parts = self.item.name, self.spread.parts[self.item.name]
        param, grad = self.whole(parts), self.whole(grads)
        if self.optimizer is not None:
            self.slot.param = param
            self.optimizer.step({name: grad}, step, lr, self._cut_services(services))
            self.slot.param = param.new_empty(0)
        stacked = param if self.item.stacked or not param.numel() else param[None]
        self.spread.from_owners(name, stacked, parts, self.bounds)

    def _cut_services(self, services: Mapping[str, Service] | None) -> Mapping[str, Service] | None:
        if services is None:
            return None
        return {key: lambda _, step, of=of: of(self.item, step)[self.cut] for key, of in services.items()}  # type: ignore[misc]

    def kinds(self) -> dict[str, Kind]:
        """States of the whole bank that this process has a part of, by entry."""
        if self.optimizer is None:
            return {}
        split = self.apart and self.item.stacked
        return {
            entry: ((self.item.tensors, *value.shape[1:]) if split else tuple(value.shape), value.dtype)
            for entry, value in self.slot.state.items()
        }

    def whole_in_first(self, entry: str, kind: Kind) -> Tensor | None:
        """A state of the whole bank, in the first process of the run."""
        axes, (shape, dtype) = self.spread.axes, kind
        if axes.replica:
            return None
        split = self.apart and self.item.stacked
        each = math.prod(shape[1:] if split else shape)
        sizes = [(stop - start if split else int(stop > start)) * each for start, stop in self.bounds]
        device = self.spread.parts[self.item.name][0].device
        own = self.slot.state[entry].reshape(-1) if self.optimizer else torch.empty(0, dtype=dtype, device=device)
        found = to_first(own, sizes, axes.group)
        return None if found is None else torch.cat(found).view(shape)

    def take(self, entry: str, whole: Tensor) -> None:
        """Take up this process' part of a state."""
        if self.optimizer is not None:
            state = self.slot.state[entry]
            state.copy_(whole[self.cut] if whole.dim() else whole)


class SpreadOptimizer:
    """The update rules of one run on parameters that are spread; the same face as `Optimizer`."""

    def __init__(
        self,
        entry: OptimizerEntry,
        knobs: Mapping[str, Scalar],
        spread: Spread,
        *,
        total_steps: int,
        tokens_per_step: int,
        dtype: torch.dtype = torch.float32,
        fused: bool = True,
    ) -> None:
        """Arguments as of `Optimizer`.

        Raises:
            ValueError: the rule cannot be spread.
        """
        self.spread = spread
        asked: dict[str, Any] = {"total_steps": total_steps, "tokens_per_step": tokens_per_step}
        pairs = rules_of(entry, knobs, list(spread.items.values()), **asked)

        def bound(
            table: Sequence[Parameter], params: Mapping[str, Tensor], made: Sequence[tuple[Rule, Hyper]]
        ) -> Optimizer:
            alone = Ranks()
            return Optimizer(entry, knobs, table, params, dtype=dtype, fused=fused, ranks=alone, made=made, **asked)

        here: list[tuple[Rule, Hyper]] = []
        params: dict[str, Tensor] = {}
        for rule, hp in pairs:
            bank = hp.tensor.name
            for name, part in zip(spread.names(bank), spread.parts[bank], strict=True):
                if rule.scope == "number" and len(part):
                    item = dataclasses.replace(hp.tensor, name=name, shape=(len(part),), stacked=False, heads=None)
                    here.append((rule, dataclasses.replace(hp, tensor=item)))
                    params[name] = part
        self.local = bound([hp.tensor for _, hp in here], params, here)
        """Of the numbers of this process that are updated apart."""
        owned = [(rule, hp) for rule, hp in pairs if rule.scope != "number"]
        banks = [
            (item.tensors, item.count // item.tensors, rule.scope == "tensor")
            for rule, item in ((rule, hp.tensor) for rule, hp in owned)
        ]
        self.owned = {
            hp.tensor.name: Owned(spread, rule, hp, bounds, bound)
            for (rule, hp), bounds in zip(owned, owners(banks, spread.axes.count), strict=True)
        }
        """Banks whose rule needs whole tensors."""
        self.plain = {**self.local.plain, **{rule: [hp.tensor.name] for rule, hp in owned}}
        """Rules that may ask for services."""
        self.kinds = self._kinds()

    def _kinds(self) -> dict[str, dict[str, Kind]]:
        """States of whole bank by bank and entry, as the processes that hold them say."""
        own: dict[str, dict[str, Kind]] = {name: bank.kinds() for name, bank in self.owned.items()}
        for bank, item in self.spread.items.items():
            slot = self.local.slots.get(self.spread.names(bank)[0])
            if slot is not None:
                own[bank] = {
                    entry: (item.shape if value.shape == slot.param.shape else tuple(value.shape), value.dtype)
                    for entry, value in slot.state.items()
                }
        told = exchanged(own, self.spread.axes)
        found: dict[str, dict[str, Kind]] = {bank: {} for bank in self.spread.items}
        for banks in reversed(told):  # the first one, which holds some of every tensor, has the last word
            for bank, kinds in banks.items():
                found[bank] = kinds or found[bank]
        return found

    @torch.no_grad()
    def step(
        self, grads: Mapping[str, Tensor], step: int, lr: float, services: Mapping[str, Service] | None = None
    ) -> None:
        """Update all parameters, in place; all processes call it.

        Args:
            grads: by name of a part.
        """
        self.local.step({name: grads[name] for name in self.local.slots}, step, lr, services)
        for bank, owned in self.owned.items():
            owned.step([grads[name] for name in self.spread.names(bank)], step, lr, services)

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[None]:
        """As of `Optimizer`."""
        with self.local.evaluated():
            yield

    def tensors(self) -> dict[str, Tensor]:
        """State tensors of this process."""
        found = self.local.tensors()
        for owned in self.owned.values():
            if owned.optimizer is not None:
                found |= owned.optimizer.tensors()
        return found

    def whole_in_first(self, bank: str, entry: str) -> Tensor | None:
        """A state of a whole bank in the first process of the run; all of them call it."""
        kind = self.kinds[bank][entry]
        if bank in self.owned:
            return self.owned[bank].whole_in_first(entry, kind)
        names = self.spread.names(bank)
        if not self._is_spread(bank, entry):
            leads = not self.spread.axes.replica and not self.spread.axes.index
            return self.local.slots[names[0]].state[entry] if leads else None
        nothing = torch.empty(0, dtype=kind[1], device=self.spread.parts[bank][0].device)
        parts = [self.local.slots[name].state[entry] if name in self.local.slots else nothing for name in names]
        return self.spread.whole_in_first(bank, parts)

    def _is_spread(self, bank: str, entry: str) -> bool:
        """Whether a state has a number for every number of the bank; else it is one that all of them share."""
        return self.kinds[bank][entry][0] == self.spread.items[bank].shape

    def take(self, bank: str, entry: str, whole: Tensor) -> None:
        """Take up this process' part of a state."""
        if bank in self.owned:
            self.owned[bank].take(entry, whole)
            return
        names = self.spread.names(bank)
        parts = self.spread.own(bank, whole) if self._is_spread(bank, entry) else [whole] * len(names)
        for name, part in zip(names, parts, strict=True):
            if name in self.local.slots:
                self.local.slots[name].state[entry].copy_(part)

    def state_bytes(self) -> int:
        """Bytes held between steps, by all processes of a replica together."""
        kinds = [kind for own in self.kinds.values() for kind in own.values()]
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in kinds)


def owners(banks: Sequence[tuple[int, int, bool]], count: int) -> list[list[tuple[int, int]]]:
    """Whose tensors of each bank are whose.

    Every process works on every bank, so that they work at the same time and each has its part of one bank in hand; what is
    left over goes to those that have the fewest numbers so far.

    Args:
        banks: (tensors, numbers of one, whether tensors may go to different processes).

    Returns:
        For each bank first and last + 1 of the tensors of each process.
    """
    loads = [0] * count
    found = []
    for tensors, numbers, apart in banks:
        each, left = divmod(tensors, count) if apart else (0, 1)
        further = sorted(range(count), key=lambda process: (loads[process], process))[:left]
        many = [each + (process in further) if apart else tensors * (process in further) for process in range(count)]
        loads = [load + own * numbers for load, own in zip(loads, many, strict=True)]
        stops = list(itertools.accumulate(many))
        found.append(list(zip([0, *stops[:-1]], stops, strict=True)))
    return found
