"""Lays banks that a rule treats alike end to end and updates them piece by piece, as large as the device likes best.

`Rule.scope` says what may be laid together or cut: q, k, v and attention output of all layers are matrices of one shape, so
that one batched product takes all of them; a rule that works number by number takes any run of numbers, so that small
banks share their operations and large ones are cut into pieces that stay in the processor's cache. States live in one
buffer per kind, and the states of a bank are views of it: names, shapes and checkpoints are those of the banks.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from array_api_compat import torch as xp
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Hyper, Rule
from optsweep_engines.torch_engine.fused import Slot

PIECE_NUMBERS: dict[tuple[str, str], int] = {
    ("cpu", "number"): 1 << 17,
    ("cpu", "tensor"): 1 << 20,
    ("cuda", "number"): 1 << 24,
    ("cuda", "tensor"): 1 << 27,
}
"""(device, scope) -> about as many numbers of a parameter go into one piece: on a CPU what its cache holds with all that
a rule computes from them, on a GPU what keeps it busy without much memory beside it. `benchmarks/optimizer_step.md`.
"""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A run of units of one bank; a unit is one tensor, or one number."""

    bank: int
    """Which slot of the group."""
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Units that are updated together, next to each other in the buffers."""

    start: int
    """First unit, counted over all banks of the group."""
    stop: int
    segments: tuple[Segment, ...]
    tensor: Parameter
    """What the rule is told about it."""


def cuttable(rule: Rule) -> bool:
    """Whether its banks may be laid together or cut."""
    return rule.scope != "bank" and rule.prepare is None


def key(slot: Slot) -> Hashable:
    """Banks with the same key are one group."""
    hp, tensor = slot.hp, slot.hp.tensor
    alike = (slot.rule, hp.lr, hp.weight_decay, tuple(sorted(hp.knobs.items())), slot.param.dtype, slot.param.device)
    if slot.rule.scope == "number":
        return alike
    return (*alike, tensor.tensor_shape, tensor.in_axis, tensor.out_axis, tensor.is_hidden_matrix)


def cuts(sizes: Sequence[int], limit: int) -> Iterator[list[Segment]]:
    """Banks of so many units, in order, as pieces of at most `limit` units, or of one unit where that is more.

    A bank that fills a piece is not laid together with others: its pieces are views of it.
    """
    limit = max(1, limit)
    waiting: list[Segment] = []
    for bank, size in enumerate(sizes):
        if waiting and size + sum(item.stop - item.start for item in waiting) > limit:
            yield waiting
            waiting = []
        if size < limit:
            waiting.append(Segment(bank=bank, start=0, stop=size))
            continue
        count = -(-size // limit)
        bounds = [size * index // count for index in range(count + 1)]
        yield from ([Segment(bank=bank, start=a, stop=b)] for a, b in itertools.pairwise(bounds))
    if waiting:
        yield waiting


class Group:
    """Banks of one key."""

    def __init__(self, slots: Sequence[Slot], numbers: int | None = None) -> None:
        """Lay the states of the banks end to end; each slot's state becomes views of that.

        Args:
            numbers: about so many per piece; None = PIECE_NUMBERS.
        """
        self.slots = list(slots)
        self.rule, self.hp = slots[0].rule, slots[0].hp
        first = self.hp.tensor
        self.by_tensor = self.rule.scope == "tensor"
        self.unit = first.tensor_shape if self.by_tensor else ()
        sizes = [slot.hp.tensor.tensors if self.by_tensor else slot.hp.tensor.count for slot in slots]
        self.sizes = sizes
        """Units per bank."""
        device = slots[0].param.device.type
        limit = numbers or PIECE_NUMBERS["cpu" if device == "cpu" else "cuda", self.rule.scope]
        self.pieces: list[Piece] = []
        at = 0
        for segments in cuts(sizes, limit // (first.count // first.tensors) if self.by_tensor else limit):
            units = sum(item.stop - item.start for item in segments)
            tensor = dataclasses.replace(
                first, shape=(units, *self.unit), stacked=self.by_tensor, heads=None, init_std=None
            )
            self.pieces.append(Piece(start=at, stop=at + units, segments=tuple(segments), tensor=tensor))
            at += units
        self.state: dict[str, Tensor] = {}
        """By kind: [units, ...] over all banks, or one number that they share."""
        self.shared: set[str] = set()
        """Kinds that are one number."""
        for name in slots[0].state:
            own = [slot.state[name] for slot in slots]
            if not self.by_tensor and any(a.shape != b.param.shape for a, b in zip(own, slots, strict=True)):
                self.shared.add(name)
                self._keep(name, own[0])
            else:
                rows = [self._row(slot, state) for slot, state in zip(slots, own, strict=True)]
                laid = [state.reshape(size, *row) for state, size, row in zip(own, sizes, rows, strict=True)]
                self._keep(name, torch.cat(laid))

    def _keep(self, name: str, whole: Tensor) -> None:
        """Make this the state of one kind: the states of the banks become views of it."""
        self.state[name] = whole
        parts = [whole] * len(self.slots) if name in self.shared else torch.split(whole, self.sizes)
        for slot, part in zip(self.slots, parts, strict=True):
            slot.state[name] = part.view(slot.state[name].shape)

    def _row(self, slot: Slot, state: Tensor) -> tuple[int, ...]:
        """Shape of what a unit of the bank has in a state."""
        if not self.by_tensor:
            return ()
        return tuple(state.shape[1:] if slot.hp.tensor.stacked else state.shape)

    def part(self, banks: Sequence[Tensor], piece: Piece) -> Tensor:
        """[units, ...] of what is given bank by bank: a view where the piece lies in one bank, a copy elsewhere."""
        parts = [banks[item.bank].reshape(-1, *self.unit)[item.start : item.stop] for item in piece.segments]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def update(self, grads: Sequence[Tensor], step: int, hps: Sequence[Hyper]) -> None:
        """One step of all banks, in place.

        Args:
            grads: per slot.
            step: counts from 1.
            hps: per slot, from `at_step`.
        """
        params = [slot.param for slot in self.slots]
        extra = {name: [hp.extra[name] for hp in hps] for name in hps[0].extra}
        later: dict[str, Tensor] = {}
        for piece in self.pieces:
            hp = dataclasses.replace(
                hps[0], tensor=piece.tensor, extra={name: self.part(banks, piece) for name, banks in extra.items()}
            )
            state = {
                name: whole if name in self.shared or len(self.pieces) == 1 else whole[piece.start : piece.stop]
                for name, whole in self.state.items()
            }
            param, new = self.rule.update(xp, self.part(params, piece), self.part(grads, piece), state, step, hp)
            for name, value in new.items():
                if value is state[name]:
                    continue
                if name in self.shared or len(self.pieces) == 1:
                    later[name] = value  # the next piece starts from the old number, too
                else:
                    state[name].copy_(value)
            at = 0
            for item in piece.segments:
                target = params[item.bank].view(-1, *self.unit)[item.start : item.stop]
                target.copy_(param[at : at + len(target)])
                at += len(target)
        for name, value in later.items():
            self._keep(name, value.contiguous())
