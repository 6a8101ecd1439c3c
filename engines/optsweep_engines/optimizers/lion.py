"""Lion and Signum: steps of one size in every number, by the sign of an interpolated momentum."""

from __future__ import annotations

from typing import Any

from optsweep_engines.optimizers.arrays import averaged, sign
from optsweep_engines.optimizers.base import (
    TO_ALL,
    Array,
    Hyper,
    OptimizerEntry,
    Rule,
    State,
    per_number,
    to_all,
)
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, learning_rate, weight_decay

FORMULA = """\
u = sign(beta1 m + (1 - beta1) g)
m = beta2 m + (1 - beta2) g
p = p (1 - lr wd) - lr u"""

SIGNUM_FORMULA = """\
m = beta1 m + (1 - beta1) g            (m = 0 before the first step)
p = p (1 - lr wd) - lr sign(m)"""


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero momentum."""
    return {"m": xp.zeros_like(param)}


def signed_step(xp: Any, param: Array, grad: Array, m: Array, hp: Hyper, beta2: float) -> tuple[Array, State]:
    """The step that both share."""
    beta1 = hp["beta1"]
    direction = sign(xp, averaged(xp, m, grad, beta1))
    param = param * (1 - hp.lr * hp.weight_decay) - hp.lr * direction
    return param, {"m": averaged(xp, m, grad, beta2)}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One Lion step, https://arxiv.org/abs/2302.06675."""
    return signed_step(xp, param, grad, state["m"], hp, hp["beta2"])


def signum_update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One Signum step, https://arxiv.org/abs/1802.04434: Lion with both betas the same, as in arXiv 2407.07972."""
    return signed_step(xp, param, grad, state["m"], hp, hp["beta1"])


RULE = Rule(name="lion", init=init, update=update, state_floats=per_number(1.0), flops=per_number(9.0), scope="number")
SIGNUM_RULE = Rule(
    name="signum", init=init, update=signum_update, state_floats=per_number(1.0), flops=per_number(7.0), scope="number"
)

ENTRY = OptimizerEntry(
    name="lion",
    mup_power=-1.0,
    family="sign",
    doc="sign of an interpolated momentum",
    formula=FORMULA,
    papers=(("Symbolic Discovery of Optimization Algorithms", "https://arxiv.org/abs/2302.06675"),),
    aliases=("lionw",),
    studies={"reference": "lion", "olmo": "lionw"},
    routing=TO_ALL,
    route=to_all(RULE),
    knobs=(
        learning_rate(0.0005, (0.0005, 0.001, 0.002, 0.004, 0.008)),
        beta("beta1", 0.9, "weight of the momentum in the step", (0.8, 0.9, 0.95, 0.98)),
        beta("beta2", 0.99, "decay of the momentum", (0.9, 0.95, 0.98)),
        weight_decay(0.5, (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
        cautious_weight_decay(),
    ),
)

SIGNUM = OptimizerEntry(
    name="signum",
    mup_power=-1.0,
    family="sign",
    doc="sign of the momentum",
    formula=SIGNUM_FORMULA,
    papers=(
        ("signSGD: Compressed Optimisation for Non-Convex Problems", "https://arxiv.org/abs/1802.04434"),
        ("Deconstructing What Makes a Good Optimizer for Language Models", "https://arxiv.org/abs/2407.07972"),
    ),
    aliases=("signsgd",),
    studies={"olmo": "signsgd"},
    routing=TO_ALL,
    route=to_all(SIGNUM_RULE),
    knobs=(
        learning_rate(0.0005),
        beta("beta1", 0.95, "decay of the momentum"),
        weight_decay(0.1),
        cautious_weight_decay(),
    ),
)
