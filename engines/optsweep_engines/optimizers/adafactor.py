"""Adafactor: a factored second moment, updates clipped in RMS, steps relative to the size of the parameter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.arrays import at_least, mean_square
from optsweep_engines.optimizers.base import TO_ALL, Array, Hyper, Knob, OptimizerEntry, Rule, State, per_number, to_all
from optsweep_engines.optimizers.knobs import cautious_weight_decay, epsilon, learning_rate, weight_decay
from optsweep_engines.spec import Scalar

# 2^-23 = torch.finfo(torch.float32).eps: what torch.optim.Adafactor takes where it is given None.
FLOAT32_EPS = 1.19209289551e-07

FORMULA = """\
w = t^beta2_decay
R = R + w (mean of g^2 over columns - R);  C = C + w (mean of g^2 over rows - C)
V = R C / max(mean of R, eps1)                                (vectors: V = V + w (g^2 - V), all numbers)
u = g / sqrt(max(V, eps1^2))
p = p (1 - lr wd) - max(eps2, RMS(p)) min(lr, 1 / sqrt(t)) u / max(1, RMS(u) / clip_threshold)     (RMS(p) before decay)"""


def factored(tensor: Parameter) -> bool:
    """True for matrices."""
    return len(tensor.tensor_shape) > 1


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """Zero row and column means for a matrix, a zero second moment for a vector."""
    if factored(hp.tensor):
        return {"rows": xp.zeros_like(param[..., :1]), "columns": xp.zeros_like(param[..., :1, :])}
    return {"v": xp.zeros_like(param)}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/1804.04235, as in torch.optim.Adafactor; no first moment."""
    weight = step ** hp["beta2_decay"]
    square = grad * grad
    new: State
    if factored(hp.tensor):
        rows = state["rows"] + weight * (xp.mean(square, axis=-1, keepdims=True) - state["rows"])
        columns = state["columns"] + weight * (xp.mean(square, axis=-2, keepdims=True) - state["columns"])
        new = {"rows": rows, "columns": columns}
        moment = rows * columns / at_least(xp, xp.mean(rows, axis=-2, keepdims=True), hp["eps1"])
    else:
        moment = state["v"] + weight * (square - state["v"])
        new = {"v": moment}
    direction = grad / xp.sqrt(at_least(xp, moment, hp["eps1"] ** 2))
    size = at_least(xp, xp.sqrt(mean_square(xp, param, hp.tensor)), hp["eps2"])
    excess = at_least(xp, xp.sqrt(mean_square(xp, direction, hp.tensor)) / hp["clip_threshold"], 1.0)
    slow = step**-0.5
    relative = hp.lr * (hp.lr < slow) + slow * (hp.lr >= slow)
    return param * (1 - hp.lr * hp.weight_decay) - (relative * size / excess) * direction, new


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Rows and columns of a matrix, every number of a vector."""
    if factored(parameter):
        return float(parameter.tensors * sum(parameter.tensor_shape))
    return float(parameter.count)


RULE = Rule(
    name="adafactor", init=init, update=update, state_floats=state_floats, flops=per_number(16.0), scope="tensor"
)

ENTRY = OptimizerEntry(
    name="adafactor",
    family="adam",
    doc="factored second moment, steps relative to the parameter",
    formula=FORMULA,
    papers=(
        ("Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", "https://arxiv.org/abs/1804.04235"),
        ("torch.optim.Adafactor", "https://docs.pytorch.org/docs/stable/generated/torch.optim.Adafactor.html"),
    ),
    routing=TO_ALL,
    route=to_all(RULE),
    knobs=(
        dataclasses.replace(learning_rate(0.02), doc="peak step relative to RMS(p); never above 1 / sqrt(t)"),
        Knob(
            name="beta2_decay",
            kind="float",
            default=-0.8,
            doc="the second moment takes t to this power of each new square",
            low=-1.0,
            high=-0.01,
        ),
        epsilon("eps1", FLOAT32_EPS, "floor of the second moment's root", (), "epsilon1"),
        Knob(name="eps2", kind="float", default=1e-3, doc="floor of RMS(p)", low=1e-30, high=1.0, scale="log"),
        Knob(
            name="clip_threshold",
            kind="float",
            default=1.0,
            doc="largest RMS of an update",
            low=1e-3,
            high=1e3,
            scale="log",
        ),
        weight_decay(0.0),
        cautious_weight_decay(),
    ),
)
