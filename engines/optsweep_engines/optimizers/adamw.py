"""AdamW: Adam with decoupled weight decay, its Nesterov form, and Adam itself with coupled decay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.arrays import averaged, averaged_square
from optsweep_engines.optimizers.base import TO_ALL, Array, Hyper, Knob, OptimizerEntry, Rule, State, to_all
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, epsilon, learning_rate, switch, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
m = beta1 m + (1 - beta1) g
v = beta2 v + (1 - beta2) g^2
u = m / (1 - beta1^t)            (nesterov: beta1 m / (1 - beta1^(t+1)) + (1 - beta1) g / (1 - beta1^t))
p = p (1 - lr wd) - lr u / (sqrt(v / (1 - beta2^t)) + eps)"""

COUPLED = """\
g = g + wd p
m = beta1 m + (1 - beta1) g
v = beta2 v + (1 - beta2) g^2
p = p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)"""

PUBLISHED_EPS: tuple[Scalar, ...] = (1e-25, 1e-20, 1e-15, 1e-10)


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """Two zero moments of the parameter's shape."""
    return {"m": xp.zeros_like(param), "v": xp.zeros_like(param)}


def numerator(m: Array, grad: Array, step: Any, hp: Hyper) -> Array:
    """The bias-corrected first moment; with the knob nesterov one step ahead. `m` already holds this gradient."""
    beta1 = hp["beta1"]
    correction = 1 - beta1**step
    if hp["nesterov"]:
        return m * (beta1 / (1 - beta1 ** (step + 1))) + grad * ((1 - beta1) / correction)
    return m / correction


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One AdamW step; decay comes before the update, eps after the bias-corrected root.

    https://arxiv.org/abs/1711.05101 (decoupled decay), https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ (Nesterov;
    beta1 is constant here, unlike the paper's schedule).
    """
    beta1, beta2 = hp["beta1"], hp["beta2"]
    m = averaged(xp, state["m"], grad, beta1)
    v = averaged_square(xp, state["v"], grad, beta2)
    root = xp.sqrt(v / (1 - beta2**step))
    direction = numerator(m, grad, step, hp) / (root + hp["eps"])
    param = param * (1 - hp.lr * hp.weight_decay) - hp.lr * direction
    return param, {"m": m, "v": v}


def coupled_update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One Adam step with the decay inside the gradient, https://arxiv.org/abs/1412.6980; as torch.optim.Adam."""
    plain = dataclasses.replace(hp, weight_decay=0.0, knobs={**hp.knobs, "nesterov": False})
    return update(xp, param, grad + hp.weight_decay * param, state, step, plain)


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Two moments."""
    return 2.0 * parameter.count


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """About 14 operations per element."""
    return 14.0 * parameter.count


RULE = Rule(name="adamw", init=init, update=update, state_floats=state_floats, flops=flops, scope="number")
COUPLED_RULE = Rule(
    name="adam",
    init=init,
    update=coupled_update,
    state_floats=state_floats,
    flops=flops,
    decay_rate=None,
    scope="number",
)
PAPER = ("Decoupled Weight Decay Regularization", "https://arxiv.org/abs/1711.05101")


def moment_knobs(
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    *,
    beta1_published: tuple[Scalar, ...] = (),
    beta2_published: tuple[Scalar, ...] = (),
    eps_published: tuple[Scalar, ...] = (),
) -> tuple[Knob, Knob, Knob]:
    """beta1, beta2 and eps of a rule with Adam's moments."""
    return (
        beta("beta1", beta1, "decay of the first moment", beta1_published),
        beta("beta2", beta2, "decay of the second moment", beta2_published),
        epsilon("eps", eps, "added to the root of the second moment", eps_published, "epsilon"),
    )


ENTRY = OptimizerEntry(
    name="adamw",
    mup_power=-1.0,
    family="adam",
    doc="Adam with decoupled weight decay",
    formula=FORMULA,
    papers=(PAPER,),
    studies={"reference": "adamw", "olmo": "adamw"},
    routing=TO_ALL,
    route=to_all(RULE),
    knobs=(
        learning_rate(0.003, (0.002, 0.004, 0.008, 0.016, 0.032)),
        *moment_knobs(
            beta1_published=(0.9, 0.95, 0.98), beta2_published=(0.9, 0.95, 0.98), eps_published=PUBLISHED_EPS
        ),
        weight_decay(0.1, (0, 0.1, 0.2)),
        cautious_weight_decay(),
        switch("nesterov", False, "look one step ahead in the first moment"),
    ),
)

NADAMW = OptimizerEntry(
    name="nadamw",
    mup_power=-1.0,
    family="adam",
    doc="AdamW with a Nesterov first moment",
    formula=FORMULA,
    papers=(
        (
            "Incorporating Nesterov Momentum into Adam",
            "https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ",
        ),
        PAPER,
    ),
    aliases=("nadam",),
    studies={"reference": "nadamw"},
    routing=TO_ALL,
    route=to_all(RULE),
    knobs=(
        learning_rate(0.003, (0.004, 0.008, 0.016, 0.032)),
        *moment_knobs(
            0.95,
            0.98,
            beta1_published=(0.8, 0.9, 0.95, 0.98),
            beta2_published=(0.9, 0.95, 0.98),
            eps_published=PUBLISHED_EPS,
        ),
        weight_decay(0.1, (0, 0.1, 0.2)),
        cautious_weight_decay(),
        switch("nesterov", True, "look one step ahead in the first moment; off is adamw"),
    ),
)

ADAM = OptimizerEntry(
    name="adam",
    mup_power=-1.0,
    family="adam",
    doc="Adam with coupled weight decay",
    formula=COUPLED,
    papers=(("Adam: A Method for Stochastic Optimization", "https://arxiv.org/abs/1412.6980"),),
    routing=TO_ALL,
    route=to_all(COUPLED_RULE),
    decay_convention="coupled",
    knobs=(
        learning_rate(0.003),
        *moment_knobs(),
        dataclasses.replace(weight_decay(0.0), doc="weight_decay x p is added to the gradient"),
    ),
)
