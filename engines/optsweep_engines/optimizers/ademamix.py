"""AdEMAMix: Adam with a second, very slow average of the gradients, mixed in more and more over the run."""

from __future__ import annotations

import math
from typing import Any

from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.arrays import averaged, averaged_square
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
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, learning_rate, weight_decay

FORMULA = """\
a = min(t / (slow_warmup steps), 1)
alpha(t) = a alpha; the half-life of beta3(t) goes linearly from that of beta1 (a = 0) to that of beta3 (a = 1)
m = beta1 m + (1 - beta1) g
s = beta3(t) s + (1 - beta3(t)) g                      (no bias correction)
v = beta2 v + (1 - beta2) g^2
p = p (1 - lr wd) - lr (m / (1 - beta1^t) + alpha(t) s) / (sqrt(v / (1 - beta2^t)) + eps)"""


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """Two zero moments and a zero slow average."""
    return {**adamw.init(xp, param, hp), "slow": xp.zeros_like(param)}


def progress(step: Any, hp: Hyper) -> Any:
    """How far the warm-up of alpha and beta3 is, 0 to 1, the last step included."""
    steps = hp["slow_warmup"] * hp.total_steps
    if steps < 1:
        return 1.0
    done = step / steps
    return done * (done < 1) + 1.0 * (done >= 1)


def log_life(decay: float) -> float:
    """1 / ln(beta), proportional to the half-life of an average; 0 for beta = 0."""
    return 1 / math.log(decay) if decay else 0.0


def slow_weight(xp: Any, fraction: Any, hp: Hyper) -> Any:
    """1 - beta3(t), without the cancellation that would cost float32 four digits at beta3 = 0.9999."""
    life = log_life(hp["beta1"]) * (1 - fraction) + log_life(hp["beta3"]) * fraction
    if isinstance(life, float):
        return -math.expm1(1 / life) if life else 1.0
    return -xp.expm1(1 / life)


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2409.03137; decay as in AdamW."""
    assert hp.total_steps, "AdEMAMix needs the number of steps of the run"
    beta1, beta2 = hp["beta1"], hp["beta2"]
    fraction = progress(step, hp)
    weight = slow_weight(xp, fraction, hp)
    m = averaged(xp, state["m"], grad, beta1)
    slow = state["slow"] + weight * (grad - state["slow"])
    v = averaged_square(xp, state["v"], grad, beta2)
    mixed = m / (1 - beta1**step) + (hp["alpha"] * fraction) * slow
    direction = mixed / (xp.sqrt(v / (1 - beta2**step)) + hp["eps"])
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * direction, {"m": m, "v": v, "slow": slow}


RULE = Rule(
    name="ademamix", init=init, update=update, state_floats=per_number(3.0), flops=per_number(19.0), scope="number"
)

ENTRY = OptimizerEntry(
    name="ademamix",
    mup_power=-1.0,
    family="adam",
    doc="Adam with a fast and a slow average of gradients",
    formula=FORMULA,
    papers=(("The AdEMAMix Optimizer: Better, Faster, Older", "https://arxiv.org/abs/2409.03137"),),
    routing=TO_ALL,
    route=to_all(RULE),
    needs=frozenset({"total_steps"}),
    knobs=(
        learning_rate(0.002),
        *adamw.moment_knobs(0.9, 0.999),
        beta("beta3", 0.9999, "decay of the slow average, once warmed up"),
        Knob(
            name="alpha",
            kind="float",
            default=8.0,
            doc="weight of the slow average, once warmed up",
            low=0.0,
            high=100.0,
        ),
        Knob(
            name="slow_warmup",
            kind="float",
            default=1.0,
            doc="fraction of all steps over which alpha and beta3 are warmed up; 0 = none",
            low=0.0,
            high=1.0,
        ),
        weight_decay(0.1),
        cautious_weight_decay(),
    ),
)
