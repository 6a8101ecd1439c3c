"""Runs a catalogue optimizer on torch parameter banks, in place, by the rule itself or by a fused path equal to it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from array_api_compat import torch as xp
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import OptimizerEntry, hyper
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine.fused import FUSED, Slot


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
    ) -> None:
        """Give every bank its rule and an empty state.

        Args:
            knobs: every knob of the entry, resolved.
            dtype: of matrix products inside the fused paths.
            fused: False runs the rules themselves.
        """
        self.dtype = dtype
        self.slots: dict[str, Slot] = {}
        self.batches: dict[str, list[str]] = defaultdict(list)
        """Rule with a fused path -> names of the banks it takes."""
        self.singles: list[str] = []
        """Banks that run the rule itself."""
        for item in table:
            rule, hp = hyper(entry, item, knobs, lr=1.0, total_steps=total_steps, tokens_per_step=tokens_per_step)
            param = params[item.name].detach()
            self.slots[item.name] = Slot(param=param, state=rule.init(xp, param, hp), rule=rule, hp=hp)
            if fused and rule.name in FUSED and FUSED[rule.name].takes(hp):
                self.batches[rule.name].append(item.name)
            else:
                self.singles.append(item.name)

    @torch.no_grad()
    def step(self, grads: Mapping[str, Tensor], step: int, lr: float) -> None:
        """Update every bank in place.

        Args:
            grads: by bank name.
            step: counts from 1.
            lr: peak learning rate x schedule.
        """
        for rule_name, names in self.batches.items():
            slots = [self.slots[name] for name in names]
            FUSED[rule_name].update(slots, [grads[name] for name in names], step, lr, self.dtype)
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
