"""LAMB: Adam's step, scaled per tensor to the size of the tensor."""

from __future__ import annotations

import dataclasses
from typing import Any

from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.arrays import averaged, averaged_square, tensor_norm
from optsweep_engines.optimizers.base import TO_ALL, Array, Hyper, OptimizerEntry, Rule, State, per_number, to_all
from optsweep_engines.optimizers.knobs import learning_rate, weight_decay

FORMULA = """\
m = beta1 m + (1 - beta1) g
v = beta2 v + (1 - beta2) g^2
u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps) + wd p
p = p - lr (|p| / |u|) u                   (norms of the tensor; 1 where either is 0)"""


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/1904.00962, as in the paper: no bound on the norms, no global clip."""
    beta1, beta2 = hp["beta1"], hp["beta2"]
    m = averaged(xp, state["m"], grad, beta1)
    v = averaged_square(xp, state["v"], grad, beta2)
    direction = (m / (1 - beta1**step)) / (xp.sqrt(v / (1 - beta2**step)) + hp["eps"]) + hp.weight_decay * param
    size, length = tensor_norm(xp, param, hp.tensor), tensor_norm(xp, direction, hp.tensor)
    trust = xp.where(size * length == 0, 1.0, size / xp.where(length == 0, 1.0, length))
    return param - hp.lr * (trust * direction), {"m": m, "v": v}


RULE = Rule(
    name="lamb",
    init=adamw.init,
    update=update,
    state_floats=adamw.state_floats,
    flops=per_number(20.0),
    decay_rate=None,
    scope="tensor",
)

ENTRY = OptimizerEntry(
    name="lamb",
    family="adam",
    doc="Adam's step at the scale of each tensor",
    formula=FORMULA,
    papers=(
        ("Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", "https://arxiv.org/abs/1904.00962"),
    ),
    routing=TO_ALL,
    route=to_all(RULE),
    decay_convention="coupled",
    run_defaults={"max_grad_norm": 0.0},
    knobs=(
        learning_rate(0.01),
        *adamw.moment_knobs(0.9, 0.999, 1e-6),
        dataclasses.replace(weight_decay(0.01), doc="weight_decay x p is added to Adam's step before it is scaled"),
    ),
)
