"""AdamW: Adam with decoupled weight decay, and its Nesterov form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Array, Group, Hyper, Knob, OptimizerEntry, Rule, State
from optsweep_engines.optimizers.knobs import beta, epsilon, learning_rate, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
m = beta1 m + (1 - beta1) g
v = beta2 v + (1 - beta2) g^2
u = m / (1 - beta1^t)            (nesterov: beta1 m / (1 - beta1^(t+1)) + (1 - beta1) g / (1 - beta1^t))
p = p (1 - lr wd) - lr u / (sqrt(v / (1 - beta2^t)) + eps)"""


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """Two zero moments of the parameter's shape."""
    return {"m": xp.zeros_like(param), "v": xp.zeros_like(param)}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One AdamW step; decay comes before the update, eps after the bias-corrected root.

    https://arxiv.org/abs/1711.05101 (decoupled decay), https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ (Nesterov;
    beta1 is constant here, unlike the paper's schedule).
    """
    beta1, beta2 = hp["beta1"], hp["beta2"]
    m = beta1 * state["m"] + (1 - beta1) * grad
    v = beta2 * state["v"] + (1 - beta2) * grad * grad
    correction1 = 1 - beta1**step
    direction = m / correction1
    if hp["nesterov"]:
        direction = m * (beta1 / (1 - beta1 ** (step + 1))) + grad * ((1 - beta1) / correction1)
    root = xp.sqrt(v / (1 - beta2**step))
    param = param * (1 - hp.lr * hp.weight_decay) - hp.lr * (direction / (root + hp["eps"]))
    return param, {"m": m, "v": v}


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Two moments."""
    return 2.0 * parameter.count


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """About 14 operations per element."""
    return 14.0 * parameter.count


RULE = Rule(name="adamw", init=init, update=update, state_floats=state_floats, flops=flops)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Every tensor; norms and biases are not decayed."""
    decay = float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0
    return Group(rule=RULE, lr_ratio=1.0, weight_decay=decay)


ENTRY = OptimizerEntry(
    name="adamw",
    family="adam",
    doc="Adam with decoupled weight decay",
    formula=FORMULA,
    papers=(("Decoupled Weight Decay Regularization", "https://arxiv.org/abs/1711.05101"),),
    studies={"reference": "adamw"},
    routing="every tensor; norms and biases are not decayed",
    route=route,
    knobs=(
        learning_rate(0.003, (0.002, 0.004, 0.008, 0.016, 0.032)),
        beta("beta1", 0.9, "decay of the first moment", (0.9, 0.95, 0.98)),
        beta("beta2", 0.95, "decay of the second moment", (0.9, 0.95, 0.98)),
        epsilon("eps", 1e-8, "added to the root of the second moment", (1e-25, 1e-20, 1e-15, 1e-10), "epsilon"),
        weight_decay(0.1, (0, 0.1, 0.2)),
        Knob(
            name="nesterov",
            kind="bool",
            default=False,
            doc="look one step ahead in the first moment",
            scale="categorical",
        ),
    ),
)
