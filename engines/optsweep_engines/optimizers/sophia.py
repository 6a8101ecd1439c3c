"""Sophia: momentum over a running estimate of the Hessian's diagonal, clipped number by number.

`sophia_g` estimates it from gradients against labels drawn from the model, `sophia_h` from products of the Hessian with
noise. The engine makes an estimate after every hessian_interval steps, at the parameters that those steps left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.optimizers.arrays import at_least, averaged, averaged_square
from optsweep_engines.optimizers.base import (
    TO_ALL,
    Array,
    Hyper,
    Knob,
    OptimizerEntry,
    Rule,
    State,
    per_number,
    to_all,
)
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, epsilon, learning_rate, weight_decay
from optsweep_engines.spec import Scalar

FORMULA_G = """\
after steps k, 2k, ...: h = beta2 h + (1 - beta2) s^2,  s = gradient against labels drawn from the model
m = beta1 m + (1 - beta1) g
u = clip(m / (rho tokens h + eps), -1, 1)
p = p (1 - lr wd) - lr u"""

FORMULA_H = """\
after steps k, 2k, ...: h = beta2 h + (1 - beta2) z * (H z),  z standard normal
m = beta1 m + (1 - beta1) g
u = clip(m / (1 - beta1^t) / max(gamma h, eps), -1, 1)
p = p (1 - lr wd) - lr u"""

# In gradients: one with a graph to go back through, and the way back, twice as long.
HESSIAN_PRODUCT_GRADIENTS = 3.0


def _after_interval(service: str, step: int, knobs: Mapping[str, Scalar]) -> frozenset[str]:
    interval = int(knobs["hessian_interval"] or 1)
    return frozenset({service} if step > 1 and (step - 1) % interval == 0 else ())


def events_g(step: int, knobs: Mapping[str, Scalar]) -> frozenset[str]:
    """{"sampled_gradient"} on the step after every hessian_interval steps."""
    return _after_interval("sampled_gradient", step, knobs)


def events_h(step: int, knobs: Mapping[str, Scalar]) -> frozenset[str]:
    """{"hessian_diagonal"} on the step after every hessian_interval steps."""
    return _after_interval("hessian_diagonal", step, knobs)


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero momentum and a zero Hessian."""
    return {"m": xp.zeros_like(param), "h": xp.zeros_like(param)}


def clipped(xp: Any, ratio: Array) -> Array:
    """The ratio between -1 and 1; what is not finite becomes NaN, so that a broken run shows."""
    return xp.clip(ratio, -1.0, 1.0) + 0 * ratio


def update_g(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One Sophia-G step, https://arxiv.org/abs/2305.14342, as in the authors' code: the estimate enters the average
    without the number of tokens, which multiplies the average instead; the momentum is not bias-corrected.
    """
    beta1, beta2 = hp["beta1"], hp["beta2"]
    h = state["h"]
    if hp.happens("sampled_gradient"):
        sampled = hp.extra["sampled_gradient"]
        h = averaged_square(xp, h, sampled, beta2)
    m = averaged(xp, state["m"], grad, beta1)
    change = clipped(xp, m / (hp["rho"] * hp.tokens_per_step * h + hp["eps"]))
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * change, {"m": m, "h": h}


def update_h(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One Sophia-H step, Algorithm 3 of https://arxiv.org/abs/2305.14342; the momentum is bias-corrected as in the code
    of the reference study. Where the estimate is not positive the step is the sign of the momentum.
    """
    beta1, beta2 = hp["beta1"], hp["beta2"]
    h = state["h"]
    if hp.happens("hessian_diagonal"):
        h = beta2 * h + (1 - beta2) * hp.extra["hessian_diagonal"]
    m = averaged(xp, state["m"], grad, beta1)
    change = clipped(xp, m / (1 - beta1**step) / at_least(xp, hp["gamma"] * h, hp["eps"]))
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * change, {"m": m, "h": h}


RULE_G = Rule(
    name="sophia_g",
    init=init,
    update=update_g,
    state_floats=per_number(2.0),
    flops=per_number(14.0),
    events=events_g,
    scope="number",
)
RULE_H = Rule(
    name="sophia_h",
    init=init,
    update=update_h,
    state_floats=per_number(2.0),
    flops=per_number(14.0),
    events=events_h,
    scope="number",
)

_PAPER = (
    "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training",
    "https://arxiv.org/abs/2305.14342",
)


def _interval() -> Knob:
    return Knob(
        name="hessian_interval",
        kind="int",
        default=10,
        doc="steps between two estimates of the Hessian",
        low=1,
        high=10**6,
        scale="log",
        aliases=("update_interval",),
    )


ENTRY_G = OptimizerEntry(
    name="sophia_g",
    family="second-order",
    doc="clipped momentum over the Gauss-Newton diagonal, by sampled labels",
    formula=FORMULA_G,
    papers=(_PAPER,),
    aliases=("sophiag",),
    studies={"epfl": "sophiag"},
    needs=frozenset({"sampled_gradient", "tokens_per_step"}),
    routing=TO_ALL,
    route=to_all(RULE_G),
    extra_gradients=lambda knobs: 1.0 / int(knobs["hessian_interval"] or 1),
    knobs=(
        learning_rate(0.001),
        beta("beta1", 0.965, "decay of the momentum"),
        beta("beta2", 0.99, "decay of the Hessian estimate"),
        Knob(
            name="rho",
            kind="float",
            default=0.04,
            doc="scale of the Hessian: larger = fewer numbers are clipped",
            low=1e-6,
            high=1e3,
            scale="log",
            aliases=("gamma",),
        ),
        epsilon("eps", 1e-15, "added to the scaled Hessian", (), "epsilon"),
        _interval(),
        weight_decay(0.1),
        cautious_weight_decay(),
    ),
)

ENTRY_H = OptimizerEntry(
    name="sophia_h",
    family="second-order",
    doc="clipped momentum over the Hessian's diagonal, by Hutchinson's estimate",
    formula=FORMULA_H,
    papers=(_PAPER,),
    aliases=("sophia",),
    studies={"reference": "sophia"},
    needs=frozenset({"hessian_diagonal"}),
    routing=TO_ALL,
    route=to_all(RULE_H),
    extra_gradients=lambda knobs: HESSIAN_PRODUCT_GRADIENTS / int(knobs["hessian_interval"] or 1),
    knobs=(
        learning_rate(0.004, (0.002, 0.004, 0.008, 0.016, 0.032)),
        beta("beta1", 0.95, "decay of the momentum", (0.8, 0.9, 0.95, 0.98)),
        beta("beta2", 0.99, "decay of the Hessian estimate", (0.9, 0.95, 0.98, 0.99, 0.995)),
        Knob(
            name="gamma",
            kind="float",
            default=0.0125,
            doc="scale of the Hessian: larger = fewer numbers are clipped",
            low=1e-6,
            high=1e3,
            scale="log",
            published=(0.00625, 0.0125, 0.025, 0.05),
        ),
        epsilon("eps", 1e-7, "least scaled Hessian", (1e-17, 1e-12, 1e-7), "epsilon"),
        _interval(),
        weight_decay(0.1, (0, 0.1, 0.2, 0.3)),
        cautious_weight_decay(),
    ),
)
