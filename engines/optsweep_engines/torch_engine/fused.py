"""Faster paths for some rules, over all of their banks at once; `tests/numerics` holds each of them equal to its rule."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from optsweep_engines.optimizers import adamw, muon, orthogonal
from optsweep_engines.optimizers.base import Hyper, Rule


@dataclass(kw_only=True)
class Slot:
    """One bank with its rule: everything that a step of it needs but the gradient."""

    param: Tensor
    state: dict[str, Tensor]
    rule: Rule
    hp: Hyper
    """At peak learning rate 1: `hp.lr` is the group's ratio."""


Update: TypeAlias = Callable[[Sequence[Slot], Sequence[Tensor], int, float, torch.dtype], None]
"""(slots, grads, step from 1, lr, type of matrix products): in place; slots of one rule with the same knobs."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One faster path."""

    takes: Callable[[Hyper], bool]
    """Whether it covers these knobs."""
    update: Update


def fused_adam(
    operation: Callable[..., Any], slots: Sequence[Slot], grads: Sequence[Tensor], step: int, lr: float
) -> None:
    """torch's fused AdamW or Adam: one pass over memory, 3-4 times faster than a chain of operations on CPU.

    Args:
        operation: `torch._fused_adamw_`, decoupled decay, or `torch._fused_adam_`, coupled.
    """
    groups: dict[tuple[float, float], list[int]] = defaultdict(list)
    for index, slot in enumerate(slots):
        groups[slot.hp.lr, slot.hp.weight_decay].append(index)
    steps = [torch.full((), float(step), device=slots[0].param.device)]  # filled there: no copy to wait for
    for (ratio, weight_decay), members in groups.items():
        hp = slots[members[0]].hp
        operation(
            [slots[index].param for index in members],
            [grads[index] for index in members],
            [slots[index].state["m"] for index in members],
            [slots[index].state["v"] for index in members],
            [],
            steps * len(members),
            lr=lr * ratio,
            beta1=hp["beta1"],
            beta2=hp["beta2"],
            weight_decay=weight_decay,
            eps=hp["eps"],
            amsgrad=False,
            maximize=False,
        )


def batched_muon(slots: Sequence[Slot], grads: Sequence[Tensor], step: int, lr: float, dtype: torch.dtype) -> None:
    """Momentum in place, then one Newton-Schulz per matrix shape, batched over all banks and layers."""
    hp = slots[0].hp
    averages = [slot.state["m"] for slot in slots]
    torch._foreach_lerp_(averages, list(grads), 1 - hp["momentum"])
    directions = list(torch._foreach_lerp(list(grads), averages, hp["momentum"])) if hp["nesterov"] else averages
    shapes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, slot in enumerate(slots):
        shapes[tuple(sorted(slot.param.shape[-2:]))].append(index)
    for members in shapes.values():
        wide = [_wide(directions[index]) for index in members]
        orthogonal = newton_schulz(torch.cat(wide), hp["ns_steps"], hp["muon_eps"], dtype)
        parts = torch.split(orthogonal, [len(part) for part in wide])
        for index, part in zip(members, parts, strict=True):
            param, own = slots[index].param, slots[index].hp
            change = part.mT if param.shape[-2] > param.shape[-1] else part
            param.mul_(1 - lr * own.lr * own.weight_decay)
            param.add_(change.reshape(param.shape), alpha=-lr * own.lr * muon.scale(own.tensor))


def _wide(matrix: Tensor) -> Tensor:
    """[n, rows, columns] with rows <= columns."""
    bank = matrix if matrix.dim() == 3 else matrix[None]
    return bank.mT if bank.shape[-2] > bank.shape[-1] else bank


def newton_schulz(x: Tensor, steps: int, eps: float, dtype: torch.dtype) -> Tensor:
    """`muon.newton_schulz` for a batch of wide matrices [n, rows, columns], additions folded into the products.

    Args:
        dtype: of the products; bfloat16 is what the author trains with, float32 is the rule.
    """
    x = (x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + eps)).to(multiplying(dtype, x.device.type))
    return multiplied(x, [muon.COEFFICIENTS] * steps)


@functools.cache
def multiplying(dtype: torch.dtype, device: str) -> torch.dtype:
    """The type to multiply in where `dtype` is asked for: float32 instead of a bfloat16 that the processor does not have.

    Measured on a CPU with AVX2 only: bfloat16 products take 3 to 30 times as long as float32 ones, whatever the layout.
    """
    lacking = dtype == torch.bfloat16 and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.float32 if lacking else dtype


def multiplied(x: Tensor, steps: Sequence[orthogonal.Coefficients]) -> Tensor:
    """`orthogonal.iterated` for a batch [n, rows, columns], additions folded into the products."""
    for a, b, c in steps:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def iterated(x: Tensor, steps: Sequence[orthogonal.Coefficients], *, dtype: torch.dtype) -> Tensor:
    """`orthogonal.iterated` with its products in another type: what a rule finds in `hp.iterate`."""
    flat = x.reshape(-1, *x.shape[-2:]).to(multiplying(dtype, x.device.type))
    return multiplied(flat, steps).to(x.dtype).view(x.shape)


FUSED: dict[Rule, Kernel] = {
    adamw.RULE: Kernel(
        takes=lambda hp: not hp["nesterov"] and hasattr(torch, "_fused_adamw_"),
        update=lambda slots, grads, step, lr, dtype: fused_adam(torch._fused_adamw_, slots, grads, step, lr),
    ),
    adamw.COUPLED_RULE: Kernel(
        takes=lambda hp: hasattr(torch, "_fused_adam_"),
        update=lambda slots, grads, step, lr, dtype: fused_adam(torch._fused_adam_, slots, grads, step, lr),
    ),
    muon.RULE: Kernel(takes=lambda hp: True, update=batched_muon),
}
"""By the rule itself, not its name: another package may well have a rule called muon that updates otherwise."""
