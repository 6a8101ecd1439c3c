"""Two kinds of oracle for update rules: a library's torch optimizer, and a paper's formula on one tensor in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from array_api_compat import torch as torch_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.properties.tensors import Floats, error, factor, gradient, start
from optsweep_engines.properties.training import STEPS, Training
from optsweep_engines.spec import Scalar

Slices = dict[str, list[Any]]
"""Name of a tensor or bank -> its layers, or the one tensor."""


def layers_of(item: Parameter, value: Any) -> list[Any]:
    """The separate tensors of a bank; a tensor that is none is the only one."""
    return list(value) if item.stacked else [value]


def library(
    make: Callable[[list[dict[str, Any]]], Any],
    items: Sequence[Parameter],
    lr: float,
    *,
    decay: float = 0.0,
    dtype: Any = np.float32,
    group: Callable[[Parameter, int], dict[str, Any]] = lambda item, step: {},
    before_reading: Callable[[Any], None] = lambda optimizer: None,
) -> dict[str, Floats]:
    """Final values under a torch optimizer that sees every layer of a bank as a tensor of its own.

    Args:
        make: parameter groups -> optimizer; each group has params, lr and weight_decay.
        group: (tensor, step from 1; 0 = when made) -> what its group holds beside, or instead.
        before_reading: called on the optimizer after the last step.
    """
    params = {
        item.name: [torch.nn.Parameter(torch.from_numpy(part.astype(dtype))) for part in layers_of(item, start(item))]
        for item in items
    }
    groups = [
        {"params": params[item.name], "lr": lr, "weight_decay": decay if item.decays else 0.0, **group(item, 0)}
        for item in items
    ]
    optimizer = make(groups)
    for step in range(1, STEPS + 1):
        for item, settings in zip(items, optimizer.param_groups, strict=True):
            settings["lr"] = lr * factor(step)
            settings.update(group(item, step))
            value = joined(item, params[item.name])
            for param, grad in zip(params[item.name], layers_of(item, gradient(item, value, step)), strict=True):
                param.grad = torch.from_numpy(np.asarray(grad).astype(dtype))
        optimizer.step()
    before_reading(optimizer)
    return {item.name: joined(item, params[item.name]) for item in items}


def joined(item: Parameter, parts: Sequence[torch.Tensor]) -> Floats:
    """A bank from its layers, float64."""
    values = [part.detach().double().numpy() for part in parts]
    whole: Floats = np.stack(values) if item.stacked else values[0].copy()
    return whole


Paper = Callable[[Parameter, list[Floats], Floats, float], Floats]
"""(tensor, every gradient so far, value, lr of this step) -> value after the step: no state but the history."""


def paper(
    rule: Paper, items: Sequence[Parameter], lr: float, last: Mapping[str, float] | None = None
) -> dict[str, Floats]:
    """Final float64 values of a formula written over the history of gradients, each layer of a bank alone.

    Args:
        last: learning rate of a tensor by name, where it is not `lr`.
    """
    final = {}
    for item in items:
        own_lr = (last or {}).get(item.name, lr)
        values = [part.copy() for part in layers_of(item, start(item))]
        histories: list[list[Floats]] = [[] for _ in values]
        for step in range(1, STEPS + 1):
            whole = np.stack(values) if item.stacked else values[0]
            for layer, grad in enumerate(layers_of(item, gradient(item, whole, step))):
                histories[layer].append(grad)
            values = [
                rule(item, history, value, own_lr * factor(step))
                for history, value in zip(histories, values, strict=True)
            ]
        final[item.name] = np.stack(values) if item.stacked else values[0]
    return final


def average(terms: Sequence[Any], beta: float, *, correct: bool = True) -> Floats:
    """sum of beta^(t - i) terms[i] over the sum of the weights; without the correction, over 1 / (1 - beta)."""
    weights = beta ** np.arange(len(terms) - 1, -1, -1.0)
    total: Floats = np.tensordot(weights, np.stack(terms), axes=1)
    return total / weights.sum() if correct else total * (1 - beta)


def ours(
    name: str,
    items: Sequence[Parameter],
    given: Mapping[str, Scalar],
    dtype: Any = np.float64,
    *,
    at_eval: bool = False,
) -> dict[str, Floats]:
    """Final values of the catalogue's rule, run in torch."""
    training = Training(name, items, given, dtype=dtype, xp=torch_namespace, to_xp=torch.from_numpy)
    for step in range(1, STEPS + 1):
        values = training.values()
        training.step({item.name: gradient(item, values[item.name], step) for item in items})
    return training.evaluated() if at_eval else training.values()


def worst(found: Mapping[str, Floats], expected: Mapping[str, Floats]) -> float:
    """Largest relative deviation over all tensors."""
    assert found.keys() == expected.keys()
    return max(error(found[name], expected[name]) for name in expected)
