"""Runs a catalogue optimizer on torch parameter banks, in place: by a fused path, by pieces, or bank by bank."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeAlias

import torch
from array_api_compat import torch as xp
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Hyper, OptimizerEntry, Rule, Service, advance, at_step, hyper
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine.fused import FUSED, Slot, iterated
from optsweep_engines.torch_engine.pieces import Group, cuttable, key
from optsweep_engines.torch_engine.ranks import Ranks, joined
from optsweep_engines.torch_engine.shares import Shares, shareable

Knobs: TypeAlias = tuple[tuple[str, Scalar], ...]


class Optimizer:
    """The update rules of one run, bound to its parameter banks."""

    def __init__(
        self,
        entry: OptimizerEntry,
        knobs: Mapping[str, Scalar],
        table: Sequence[Parameter],
        params: Mapping[str, Tensor],
        *,
        total_steps: int,
        tokens_per_step: int,
        dtype: torch.dtype = torch.float32,
        fused: bool = True,
        ranks: Ranks | None = None,
        made: Sequence[tuple[Rule, Hyper]] | None = None,
    ) -> None:
        """Give every bank its rule and an empty state.

        Args:
            knobs: every knob of the entry, resolved.
            dtype: of matrix products inside the fused paths.
            fused: False runs the rules themselves, bank by bank.
            ranks: the processes that matrix rules are shared out to; None: those that this process has joined.
            made: the rule of each tensor of the table, where it does not follow from the entry.
        """
        self.dtype = dtype
        self.slots: dict[str, Slot] = {}
        self.batches: dict[tuple[Rule, Knobs], list[str]] = defaultdict(list)
        """Rule with a fused path, and the knobs of its group -> names of the banks it takes."""
        self.plain: dict[Rule, list[str]] = defaultdict(list)
        """Rule without one -> names of its banks."""
        iterate = functools.partial(iterated, dtype=dtype) if fused else None
        made = made or [
            hyper(entry, item, knobs, lr=1.0, total_steps=total_steps, tokens_per_step=tokens_per_step)
            for item in table
        ]
        pairs = list(zip(table, made, strict=True))
        self.shares = Shares(ranks or joined(), [item for item, (rule, _) in pairs if shareable(rule, item)])
        self.params = {name: params[name].detach() for name in self.shares.bounds}
        """Shared banks, whole."""
        for item, (rule, bare) in pairs:
            hp = dataclasses.replace(bare, iterate=iterate)
            param = params[item.name].detach()
            if item.name in self.params:
                slot = self.shares.slot(param, rule, hp)
            else:
                slot = Slot(param=param, state=rule.init(xp, param, hp), rule=rule, hp=hp)
            if slot is None:
                continue
            self.slots[item.name] = slot
            if fused and rule in FUSED and FUSED[rule].takes(hp):
                self.batches[rule, tuple(sorted(hp.knobs.items()))].append(item.name)
            else:
                self.plain[rule].append(item.name)
        alike: dict[Hashable, list[str]] = defaultdict(list)
        for rule, names in self.plain.items():
            for name in names if fused and cuttable(rule) else ():
                alike[key(self.slots[name])].append(name)
        self.groups = [(names, Group([self.slots[name] for name in names])) for names in alike.values()]
        """Names of the plain banks that are updated in pieces, and the pieces."""
        self.whole = {rule: names for rule, names in self.plain.items() if not (fused and cuttable(rule))}
        """Rule -> names of the banks that it takes as they are."""

    @torch.no_grad()
    def step(
        self, grads: Mapping[str, Tensor], step: int, lr: float, services: Mapping[str, Service] | None = None
    ) -> None:
        """Update every bank in place.

        Args:
            grads: by bank name.
            step: counts from 1.
            lr: peak learning rate x schedule.
            services: what the engine provides beside gradients, by its name in `base.SERVICES`.
        """
        grads = {
            name: grads[name] if (cut := self.shares.cut(name)) is None else grads[name][cut] for name in self.slots
        }
        # Services look at the parameters as they are before the step: all of them are asked first.
        hps = {
            name: at_step(
                rule, dataclasses.replace(slot.hp, lr=slot.hp.lr * lr), step, self.shares.services(name, services)
            )
            for rule, names in self.plain.items()
            for name, slot in ((name, self.slots[name]) for name in names)
        }
        for (rule, _), names in self.batches.items():
            slots = [self.slots[name] for name in names]
            FUSED[rule].update(slots, [grads[name] for name in names], step, lr, self.dtype)
        for names, group in self.groups:
            group.update([grads[name] for name in names], step, [hps[name] for name in names])
        for rule, names in self.whole.items():
            slots = [self.slots[name] for name in names]
            params, states = [slot.param for slot in slots], [slot.state for slot in slots]
            new = advance(
                xp, rule, params, [grads[name] for name in names], states, step, [hps[name] for name in names]
            )
            for slot, (param, state) in zip(slots, new, strict=True):
                slot.param.copy_(param)
                slot.state = state
        self.shares.spread_(self.params)

    @contextlib.contextmanager
    def evaluated(self) -> Iterator[None]:
        """Parameters hold the values to evaluate and to keep, where a rule takes its gradients elsewhere."""
        kept: list[tuple[Tensor, Tensor]] = []
        for slot in self.slots.values():
            if slot.rule.eval_params is not None:
                kept.append((slot.param, slot.param.clone()))
                with torch.no_grad():
                    slot.param.copy_(slot.rule.eval_params(xp, slot.param, slot.state, slot.hp))
        try:
            yield
        finally:
            for param, value in kept:
                param.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """State tensors of this process by "bank/entry"."""
        held = {name: slot.state for name, slot in self.slots.items()}
        held |= {name: self.shares.idle(name) for name in self.params if name not in self.slots}
        return {f"{name}/{key}": value for name, state in held.items() for key, value in state.items()}

    def own(self, name: str, whole: Tensor) -> Tensor:
        """This process' part of the state "bank/entry"."""
        cut = self.shares.cut(name.rpartition("/")[0])
        return whole if cut is None else whole[cut]

    def kind(self, name: str, own: Tensor) -> tuple[int, ...]:
        """Shape of the state "bank/entry" over all processes, of which this one holds `own`."""
        bank = name.rpartition("/")[0]
        return (self.shares.count(bank), *own.shape[1:]) if bank in self.params else tuple(own.shape)

    def whole_in_first(self, name: str, own: Tensor) -> Tensor | None:
        """The state "bank/entry" in the first process, of which this one holds `own`; all of them call it."""
        bank = name.rpartition("/")[0]
        return self.shares.whole_in_first(bank, own) if bank in self.params else own

    def state_bytes(self) -> int:
        """Bytes held between steps, by all processes that share the work together."""
        own = [value for name, value in self.tensors().items() if name.rpartition("/")[0] not in self.params]
        return sum(value.numel() * value.element_size() for value in own) + sum(
            map(self.shares.state_bytes, self.params)
        )
