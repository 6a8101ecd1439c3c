"""Runs a catalogue optimizer on torch parameter banks, in place; fused kernels where a test shows that they are the rule."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from array_api_compat import torch as xp
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Hyper, OptimizerEntry, Rule, hyper
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine.fused import FUSED


@dataclass(kw_only=True)
class Slot:
    """One bank with its rule: everything that a step of it needs but the gradient."""

    param: Tensor
    state: dict[str, Tensor]
    rule: Rule
    hp: Hyper
    """At peak learning rate 1: `hp.lr` is the group's ratio."""


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
        fused: bool = True,
    ) -> None:
        self.slots: dict[str, Slot] = {}
        self.batches: dict[str, list[str]] = defaultdict(list)
        """Fused kernel -> names of the banks it takes."""
        self.singles: list[str] = []
        """Banks that run the rule itself."""
        for item in table:
            rule, hp = hyper(entry, item, knobs, lr=1.0, total_steps=total_steps, tokens_per_step=tokens_per_step)
            param = params[item.name]
            with torch.no_grad():
                state = rule.init(xp, param.detach(), hp)
            self.slots[item.name] = Slot(param=param, state=state, rule=rule, hp=hp)
            kernel = FUSED.get(rule.name)
            if fused and kernel is not None and kernel.takes(hp):
                self.batches[rule.name].append(item.name)
            else:
                self.singles.append(item.name)

    @torch.no_grad()
    def step(self, grads: Mapping[str, Tensor], step: int, lr: float) -> None:
        """Update every bank in place.

        Args:
            grads: by bank name; may be overwritten.
            step: counts from 1.
            lr: peak learning rate x schedule.
        """
        for rule_name, names in self.batches.items():
            slots = [self.slots[name] for name in names]
            FUSED[rule_name].update(
                [slot.param for slot in slots],
                [grads[name] for name in names],
                [slot.state for slot in slots],
                [slot.hp for slot in slots],
                step,
                lr,
            )
        for name in self.singles:
            slot = self.slots[name]
            hp = dataclasses.replace(slot.hp, lr=slot.hp.lr * lr)
            param, slot.state = slot.rule.update(xp, slot.param, grads[name], slot.state, step, hp)
            slot.param.copy_(param)

    def tensors(self) -> dict[str, Tensor]:
        """State tensors by "bank/entry"."""
        return {f"{name}/{key}": value for name, slot in self.slots.items() for key, value in slot.state.items()}

    def state_bytes(self) -> int:
        """Bytes held between steps."""
        return sum(value.numel() * value.element_size() for value in self.tensors().values())
