"""SGD with momentum, Nesterov and dampening; decoupled weight decay unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import CAUTIOUS, TO_ALL, Array, Hyper, Knob, OptimizerEntry, Rule, State, to_all
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, learning_rate, switch, weight_decay
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


RULE = Rule(name="sgd", init=init, update=update, state_floats=state_floats, flops=flops, scope="number")


def refuses(schedule_name: str, knobs: Mapping[str, Scalar]) -> str | None:
    """Knobs that would do nothing."""
    if knobs["coupled_decay"] and knobs[CAUTIOUS]:
        return f"{CAUTIOUS} masks a decoupled decay; with coupled_decay there is none"
    if not knobs["momentum"] and (knobs["nesterov"] or knobs["dampening"]):
        return "nesterov and dampening act on the momentum, which is 0"
    return None


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
    routing=TO_ALL,
    route=to_all(RULE),
    refuses=refuses,
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
        switch("nesterov", False, "look one step ahead"),
        weight_decay(0.0),
        switch("coupled_decay", False, "add weight_decay x p to the gradient instead of shrinking p"),
        cautious_weight_decay(),
    ),
)
