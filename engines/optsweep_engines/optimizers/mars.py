"""MARS: AdamW on a gradient corrected by the change since the last one, clipped per tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.arrays import at_least, tensor_norm
from optsweep_engines.optimizers.base import (
    Array,
    Group,
    Hyper,
    Knob,
    OptimizerEntry,
    Rule,
    State,
    decay_of,
    per_number,
)
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, epsilon, learning_rate, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
c = g + gamma beta1 / (1 - beta1) (g - g_prev); g_prev = g        (g_prev = 0 before the first step)
c = c / max(1, |c|)                                               (norm of the tensor)
m = beta1 m + (1 - beta1) c
v = beta2 v + (1 - beta2) c^2
p = p (1 - lr wd) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
norms and biases: AdamW with beta1_1d, beta2_1d"""

MATRICES = "all matrices"
VECTORS = "norms and biases"


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """Two zero moments and a zero last gradient."""
    return {**adamw.init(xp, param, hp), "previous": xp.zeros_like(param)}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One MARS-AdamW step with the last gradient in place of one at the old batch, https://arxiv.org/abs/2411.10438."""
    beta1 = hp["beta1"]
    corrected = grad + (hp["gamma"] * beta1 / (1 - beta1)) * (grad - state["previous"])
    corrected = corrected / at_least(xp, tensor_norm(xp, corrected, hp.tensor), 1.0)
    plain = dataclasses.replace(hp, knobs={**hp.knobs, "nesterov": False})
    param, moments = adamw.update(xp, param, corrected, state, step, plain)
    return param, {**moments, "previous": xp.asarray(grad, copy=True)}


RULE = Rule(name="mars", init=init, update=update, state_floats=per_number(3.0), flops=per_number(21.0), scope="tensor")


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """MARS for matrices, AdamW with its own betas for vectors."""
    decay = decay_of(parameter, knobs)
    if len(parameter.tensor_shape) > 1:
        return Group(rule=RULE, lr_ratio=1.0, weight_decay=decay)
    own = {"beta1": knobs["beta1_1d"], "beta2": knobs["beta2_1d"], "nesterov": False}
    return Group(rule=adamw.RULE, lr_ratio=1.0, weight_decay=decay, overrides=own)


ENTRY = OptimizerEntry(
    name="mars",
    mup_power=-1.0,
    family="adam",
    doc="AdamW on a variance-reduced gradient",
    formula=FORMULA,
    papers=(
        (
            "MARS: Unleashing the Power of Variance Reduction for Training Large Models",
            "https://arxiv.org/abs/2411.10438",
        ),
    ),
    aliases=("mars_adamw",),
    studies={"reference": "mars"},
    routing=f"{MATRICES}: MARS; {VECTORS}: AdamW, not decayed",
    route=route,
    # The rule clips each tensor; a global clip before it would make g and g_prev differ by the clip's factor.
    run_defaults={"max_grad_norm": 0.0},
    knobs=(
        learning_rate(0.004, (0.004, 0.008, 0.016, 0.032)),
        beta("beta1", 0.95, "decay of the first moment", (0.8, 0.9, 0.95, 0.98), MATRICES),
        beta("beta2", 0.99, "decay of the second moment", (0.9, 0.95, 0.98, 0.99), MATRICES),
        Knob(
            name="gamma",
            kind="float",
            default=0.025,
            doc="weight of the change of the gradient",
            low=0.0,
            high=10.0,
            scale="log",
            published=(0.0125, 0.025, 0.05, 0.1),
            roles=MATRICES,
        ),
        epsilon("eps", 1e-8, "added to the root of the second moment", (1e-30, 1e-25, 1e-20, 1e-15, 1e-10), "epsilon"),
        weight_decay(0.1, (0, 0.1, 0.2)),
        cautious_weight_decay(),
        beta("beta1_1d", 0.9, "AdamW part: decay of the first moment", roles=VECTORS),
        beta("beta2_1d", 0.95, "AdamW part: decay of the second moment", roles=VECTORS),
    ),
)
