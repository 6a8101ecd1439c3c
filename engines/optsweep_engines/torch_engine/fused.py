"""Faster paths for some rules, over lists of banks; `tests/numerics` holds each of them equal to its rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optsweep_engines.optimizers import adamw, muon
from optsweep_engines.optimizers.base import Hyper


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One fused path."""

    takes: Callable[[Hyper], bool]
    """Whether it covers these knobs."""
    update: Callable[
        [Sequence[Tensor], Sequence[Tensor], Sequence[dict[str, Tensor]], Sequence[Hyper], int, float], None
    ]
    """(params, grads, states, hps, step, lr): in place; `hp.lr` is the group's ratio."""


def _adamw(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    hps: Sequence[Hyper],
    step: int,
    lr: float,
) -> None:
    """torch's fused AdamW: one pass over memory, 3-4 times faster than a chain of operations on CPU."""
    groups: dict[tuple[float, float], list[int]] = defaultdict(list)
    for index, hp in enumerate(hps):
        groups[hp.lr, hp.weight_decay].append(index)
    steps = [torch.tensor(float(step), device=params[0].device)]
    for (ratio, weight_decay), members in groups.items():
        hp = hps[members[0]]
        torch._fused_adamw_(
            [params[index] for index in members],
            [grads[index] for index in members],
            [states[index]["m"] for index in members],
            [states[index]["v"] for index in members],
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


def _muon(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    hps: Sequence[Hyper],
    step: int,
    lr: float,
) -> None:
    """Momentum in place, then one batched Newton-Schulz per matrix shape, over all banks and layers."""
    momentum = hps[0]["momentum"]
    averages = [state["m"] for state in states]
    torch._foreach_lerp_(averages, list(grads), 1 - momentum)
    directions = torch._foreach_lerp(list(grads), averages, momentum) if hps[0]["nesterov"] else averages
    shapes: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, param in enumerate(params):
        short, long = sorted(param.shape[-2:])
        shapes[short, long].append(index)
    for members in shapes.values():
        wide = [_wide(directions[index]) for index in members]
        orthogonal = newton_schulz(torch.cat(wide), hps[0]["ns_steps"], hps[0]["muon_eps"])
        for index, update in zip(members, orthogonal.split([part.shape[0] for part in wide]), strict=True):
            param, hp = params[index], hps[index]
            tall = param.shape[-2] > param.shape[-1]
            param.mul_(1 - lr * hp.lr * hp.weight_decay)
            change = (update.mT if tall else update).reshape(param.shape)
            param.add_(change, alpha=-lr * hp.lr * muon.scale(hp.tensor))


def _wide(matrix: Tensor) -> Tensor:
    """[n, rows, columns] with rows <= columns."""
    bank = matrix if matrix.dim() == 3 else matrix[None]
    return bank.mT if bank.shape[-2] > bank.shape[-1] else bank


def newton_schulz(x: Tensor, steps: int, eps: float) -> Tensor:
    """`muon.newton_schulz` for a batch of wide matrices, additions folded into the products."""
    a, b, c = muon.COEFFICIENTS
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + eps)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


FUSED: dict[str, Kernel] = {
    adamw.RULE.name: Kernel(
        takes=lambda hp: not hp["nesterov"] and hasattr(torch, "_fused_adamw_"),
        update=_adamw,
    ),
    muon.RULE.name: Kernel(takes=lambda hp: True, update=_muon),
}
