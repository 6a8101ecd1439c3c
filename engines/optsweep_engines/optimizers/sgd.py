"""SGD with momentum, Nesterov and dampening; decoupled weight decay unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Array, Group, Hyper, Knob, OptimizerEntry, Rule, State
from optsweep_engines.optimizers.knobs import beta, learning_rate, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
g = g + wd p                     (coupled_decay only)
b = momentum b + (1 - dampening) g    (first step: b = g)
u = b                            (nesterov: g + momentum b)
p = p (1 - lr wd) - lr u         (coupled_decay: p - lr u)"""


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero buffer, or nothing without momentum."""
    return {"buffer": xp.zeros_like(param)} if hp["momentum"] else {}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step; the buffer is a sum, as in torch.optim.SGD, not an average."""
    momentum, dampening = hp["momentum"], hp["dampening"]
    if hp["coupled_decay"] and hp.weight_decay:
        grad = grad + hp.weight_decay * param
    direction = grad
    state = dict(state)
    if momentum:
        # The first buffer is the whole gradient: (step == 1) adds back what dampening takes.
        fresh = 1 - dampening * (step != 1) if dampening else 1.0
        state["buffer"] = direction = momentum * state["buffer"] + fresh * grad
        if hp["nesterov"]:
            direction = grad + momentum * direction
    if hp.weight_decay and not hp["coupled_decay"]:
        param = param * (1 - hp.lr * hp.weight_decay)
    return param - hp.lr * direction, state


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """One buffer with momentum, nothing without."""
    return float(parameter.count) if knobs["momentum"] else 0.0


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """About 6 operations per element."""
    return 6.0 * parameter.count


RULE = Rule(name="sgd", init=init, update=update, state_floats=state_floats, flops=flops)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Every tensor; norms and biases are not decayed."""
    decay = float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0
    return Group(rule=RULE, lr_ratio=1.0, weight_decay=decay)


ENTRY = OptimizerEntry(
    name="sgd",
    family="sgd",
    doc="gradient descent with momentum",
    formula=FORMULA,
    papers=(
        (
            "On the importance of initialization and momentum in deep learning",
            "https://proceedings.mlr.press/v28/sutskever13.html",
        ),
        ("Deconstructing What Makes a Good Optimizer for Language Models", "https://arxiv.org/abs/2407.07972"),
    ),
    aliases=("sgdw",),
    studies={"olmo": "sgd"},
    routing="every tensor; norms and biases are not decayed",
    route=route,
    knobs=(
        learning_rate(0.2, high=1e4),
        beta("momentum", 0.9, "decay of the momentum buffer"),
        Knob(
            name="dampening",
            kind="float",
            default=0.0,
            doc="share of each later gradient kept out of the buffer",
            low=0.0,
            high=1.0,
        ),
        Knob(name="nesterov", kind="bool", default=False, doc="look one step ahead", scale="categorical"),
        weight_decay(0.0),
        Knob(
            name="coupled_decay",
            kind="bool",
            default=False,
            doc="add weight_decay x p to the gradient instead of shrinking p",
            scale="categorical",
        ),
    ),
)
