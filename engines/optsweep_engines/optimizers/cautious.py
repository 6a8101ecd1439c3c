"""Cautious AdamW: only the numbers whose momentum agrees in sign with the gradient move."""

from __future__ import annotations

from typing import Any

from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.arrays import at_least, averaged, averaged_square, tensor_axes
from optsweep_engines.optimizers.base import TO_ALL, Array, Hyper, OptimizerEntry, Rule, State, per_number, to_all
from optsweep_engines.optimizers.knobs import cautious_weight_decay, learning_rate, weight_decay

# https://github.com/kyleliang919/C-Optim: the mask's mean is not let below this.
LEAST_MEAN = 1e-3

FORMULA = """\
m = beta1 m + (1 - beta1) g
v = beta2 v + (1 - beta2) g^2
mask = (m g > 0); mask = mask / max(mean of mask over the tensor, 1e-3)
p = p (1 - lr wd) - lr mask (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)"""


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2411.16085; eps and decay as in AdamW.

    The mask multiplies: 0 x NaN stays NaN, which a choice by the mask would hide.
    """
    beta1, beta2 = hp["beta1"], hp["beta2"]
    m = averaged(xp, state["m"], grad, beta1)
    v = averaged_square(xp, state["v"], grad, beta2)
    mask = xp.astype(m * grad > 0, param.dtype)
    mean = xp.mean(mask, axis=tensor_axes(hp.tensor), keepdims=True)
    direction = (m / (1 - beta1**step)) / (xp.sqrt(v / (1 - beta2**step)) + hp["eps"])
    moved = direction * (mask / at_least(xp, mean, LEAST_MEAN))
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * moved, {"m": m, "v": v}


RULE = Rule(
    name="cautious",
    init=adamw.init,
    update=update,
    state_floats=adamw.state_floats,
    flops=per_number(18.0),
    scope="tensor",
)

ENTRY = OptimizerEntry(
    name="cautious",
    mup_power=-1.0,
    family="adam",
    doc="AdamW where momentum and gradient agree in sign",
    formula=FORMULA,
    papers=(("Cautious Optimizers: Improving Training with One Line of Code", "https://arxiv.org/abs/2411.16085"),),
    aliases=("cautious_adamw", "cadamw", "c_adamw"),
    studies={"reference": "cautious"},
    routing=TO_ALL,
    route=to_all(RULE),
    knobs=(
        learning_rate(0.004, (0.004, 0.008, 0.016, 0.032)),
        *adamw.moment_knobs(
            0.95,
            0.98,
            beta1_published=(0.8, 0.9, 0.95, 0.98),
            beta2_published=(0.9, 0.95, 0.98),
            eps_published=adamw.PUBLISHED_EPS,
        ),
        weight_decay(0.1, (0, 0.1, 0.2)),
        cautious_weight_decay(),
    ),
)
