"""Adam-mini: Adam with one second moment per block of a tensor, the blocks cut by its role."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.arrays import averaged
from optsweep_engines.optimizers.base import (
    TO_ALL,
    Array,
    Group,
    Hyper,
    OptimizerEntry,
    Rule,
    State,
    decay_of,
    per_number,
)
from optsweep_engines.optimizers.knobs import cautious_weight_decay, learning_rate, switch, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
m = beta1 m + (1 - beta1) g
v = beta2 v + (1 - beta2) mean of g^2 over the block
p = p (1 - lr wd) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
blocks: a head of q or k; an output row of v, attention output and MLP; a token of embedding and head; a whole norm"""


def block_axis(tensor: Parameter) -> int:
    """Axis of a matrix, counted from the end, along which its blocks lie: tokens or output features."""
    axis = tensor.in_axis if tensor.role == "embedding" else tensor.out_axis
    assert axis is not None, f"{tensor.name} is a vector"
    return axis


def blocks(tensor: Parameter) -> int:
    """Blocks in one tensor."""
    if len(tensor.tensor_shape) == 1:
        return 1
    if tensor.role in ("q", "k"):
        assert tensor.heads is not None, f"{tensor.name} declares no heads"
        return tensor.heads
    return tensor.shape[block_axis(tensor)]


def mean_over_blocks(xp: Any, array: Array, tensor: Parameter) -> Array:
    """[..., blocks] for a matrix, [..., 1] for a vector: the mean over each block."""
    if len(tensor.tensor_shape) == 1:
        return xp.mean(array, axis=-1, keepdims=True)
    rows = xp.mean(array, axis=-3 - block_axis(tensor))  # the other of the last two axes
    grouped = xp.reshape(rows, (*rows.shape[:-1], blocks(tensor), -1))
    return xp.mean(grouped, axis=-1)


def spread(xp: Any, means: Array, tensor: Parameter) -> Array:
    """The inverse: one number per block, shaped so that it broadcasts against the tensor."""
    if len(tensor.tensor_shape) == 1:
        return means
    axis = block_axis(tensor)
    rows_per_block = tensor.shape[axis] // blocks(tensor)
    repeated = xp.broadcast_to(means[..., None], (*means.shape, rows_per_block))
    rows = xp.reshape(repeated, (*means.shape[:-1], tensor.shape[axis]))
    return xp.expand_dims(rows, axis=-3 - axis)


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero first moment, and a zero per block."""
    return {"m": xp.zeros_like(param), "v": mean_over_blocks(xp, xp.zeros_like(param), hp.tensor)}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2406.16793, blocks of the authors' code 1.1: by role, never by name."""
    beta1, beta2 = hp["beta1"], hp["beta2"]
    m = averaged(xp, state["m"], grad, beta1)
    v = beta2 * state["v"] + (1 - beta2) * mean_over_blocks(xp, grad * grad, hp.tensor)
    root = spread(xp, xp.sqrt(v / (1 - beta2**step)), hp.tensor)
    direction = adamw.numerator(m, grad, step, hp) / (root + hp["eps"])
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * direction, {"m": m, "v": v}


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """One moment, and one number per block."""
    return float(parameter.count + parameter.tensors * blocks(parameter))


RULE = Rule(name="adam_mini", init=init, update=update, state_floats=state_floats, flops=per_number(11.0))


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Adam-mini for all but biases, whose numbers each have a second moment of their own."""
    rule = adamw.RULE if parameter.role == "bias" else RULE
    return Group(rule=rule, lr_ratio=1.0, weight_decay=decay_of(parameter, knobs))


ENTRY = OptimizerEntry(
    name="adam_mini",
    mup_power=-1.0,
    family="adam",
    doc="Adam with one second moment per head, row or token",
    formula=FORMULA,
    papers=(("Adam-mini: Use Fewer Learning Rates To Gain More", "https://arxiv.org/abs/2406.16793"),),
    aliases=("mini", "adammini"),
    studies={"reference": "mini"},
    routing=f"{TO_ALL}; biases: AdamW",
    route=route,
    knobs=(
        learning_rate(0.004, (0.002, 0.004, 0.008, 0.016, 0.032)),
        *adamw.moment_knobs(
            beta1_published=(0.9, 0.95, 0.98), beta2_published=(0.9, 0.95, 0.98), eps_published=adamw.PUBLISHED_EPS
        ),
        weight_decay(0.1, (0, 0.1, 0.2)),
        cautious_weight_decay(),
        switch("nesterov", False, "look one step ahead in the first moment"),
    ),
)
