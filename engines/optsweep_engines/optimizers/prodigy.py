"""Prodigy: Adam that finds its own learning rate, from one estimate of the distance to the solution over all tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.adamw import moment_knobs
from optsweep_engines.optimizers.arrays import at_least, at_most, one_number
from optsweep_engines.optimizers.base import TO_ALL, Array, Hyper, Knob, OptimizerEntry, Rule, State, per_number, to_all
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, learning_rate, switch, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
one d for all tensors, d0 before the first step; k = d lr              (use_bias_correction: k sqrt(1 - beta2^t) / (1 - beta1^t))
a = beta3 a + (d / d0) k sum over all of g (p0 - p)
s = beta3 s + (d / d0) k g                                              (safeguard_warmup: d in place of k)
m = beta1 m + (1 - beta1) d g;  v = beta2 v + (1 - beta2) d^2 g^2
e = d_coef a / (sum over all of |s|);  d_max = max(d_max, e);  d' = min(d_max, growth_rate d)    (d at d0: max(d, e) first)
p = p (1 - k wd) - k m / (sqrt(v) + d' eps);  d = d'"""


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """Moments, the weighted sum of gradients, the starting point, and the three numbers that all tensors share."""
    return {
        "m": xp.zeros_like(param),
        "v": xp.zeros_like(param),
        "s": xp.zeros_like(param),
        "p0": xp.asarray(param, copy=True),
        "d": one_number(xp, param, hp["d0"]),
        "d_max": one_number(xp, param, hp["d0"]),
        "numerator": one_number(xp, param, 0.0),
    }


def decay3(hp: Hyper) -> float:
    """beta3, or the root of beta2 where it is 0."""
    return float(hp["beta3"] or math.sqrt(hp["beta2"]))


def rate(state: State, step: Any, hp: Hyper) -> Any:
    """k: the learning rate of this step, from the d of the steps before."""
    correction = 1.0
    if hp["use_bias_correction"]:
        correction = (1 - hp["beta2"] ** step) ** 0.5 / (1 - hp["beta1"] ** step)
    return state["d"] * (hp.lr * correction)


def summed(state: State, grad: Array, step: Any, hp: Hyper) -> Array:
    """s after this step."""
    pace = state["d"] if hp["safeguard_warmup"] else rate(state, step, hp)
    return decay3(hp) * state["s"] + (state["d"] / hp["d0"] * pace) * grad


def prepare(
    xp: Any,
    params: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[State],
    step: Any,
    hps: Sequence[Hyper],
) -> Mapping[str, Array]:
    """The next d, the largest estimate so far, and the numerator, from sums over all tensors."""
    first, hp = states[0], hps[0]
    d, d0 = first["d"], hp["d0"]
    towards: Any = 0.0
    length: Any = 0.0
    for param, grad, state, own in zip(params, grads, states, hps, strict=True):
        towards = towards + xp.sum(grad * (state["p0"] - param))
        length = length + xp.sum(xp.abs(summed(state, grad, step, own)))
    numerator = decay3(hp) * first["numerator"] + (d / d0 * rate(first, step, hp)) * towards
    estimate = xp.where(length == 0, d, hp["d_coef"] * numerator / xp.where(length == 0, 1.0, length))
    d = xp.where(d == d0, at_least(xp, estimate, d), d)
    d_max = at_least(xp, estimate, first["d_max"])
    grown = at_most(xp, d * hp["growth_rate"], d_max) if hp["growth_rate"] else d_max
    return {"d": grown, "d_max": d_max, "numerator": numerator}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2306.06101: the old d scales it, the new one only eps."""
    beta1, beta2, d = hp["beta1"], hp["beta2"], state["d"]
    pace = rate(state, step, hp)
    m = beta1 * state["m"] + ((1 - beta1) * d) * grad
    v = beta2 * state["v"] + ((1 - beta2) * d * d) * (grad * grad)
    # 1 - pace x wd would round: pace starts near 1e-6, and d comes from differences p0 - p of that size.
    step_and_decay = m / (xp.sqrt(v) + hp.extra["d"] * hp["eps"]) + hp.weight_decay * param
    moved = param - pace * step_and_decay
    # A copy for each tensor: a checkpoint holds no array twice.
    shared = {name: xp.asarray(hp.extra[name], copy=True) for name in ("d", "d_max", "numerator")}
    return moved, {"m": m, "v": v, "s": summed(state, grad, step, hp), "p0": state["p0"], **shared}


def decay_rate(state: State, step: Any, hp: Hyper) -> Any:
    """weight_decay x the learning rate that d makes."""
    return rate(state, step, hp) * hp.weight_decay


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """m, v, s, p0 and three numbers."""
    return 4.0 * parameter.count + 3


RULE = Rule(
    name="prodigy",
    init=init,
    update=update,
    state_floats=state_floats,
    flops=per_number(25.0),
    prepare=prepare,
    decay_rate=decay_rate,
)


def refuses(schedule_name: str, knobs: Mapping[str, Scalar]) -> str | None:
    """A growth rate that would make d shrink."""
    growth = float(knobs["growth_rate"] or 0.0)
    return f"growth_rate = {growth:g} would shrink d; take 1 or more, or 0 for no limit" if 0 < growth < 1 else None


ENTRY = OptimizerEntry(
    name="prodigy",
    family="adam",
    doc="Adam that estimates its own learning rate",
    formula=FORMULA,
    papers=(("Prodigy: An Expeditiously Adaptive Parameter-Free Learner", "https://arxiv.org/abs/2306.06101"),),
    routing=TO_ALL,
    route=to_all(RULE),
    needs=frozenset({"prepare"}),
    refuses=refuses,
    knobs=(
        learning_rate(1.0),
        *moment_knobs(0.9, 0.999),
        beta("beta3", 0.0, "decay of the sums behind d; 0 = the root of beta2"),
        weight_decay(0.1),
        cautious_weight_decay(),
        Knob(name="d0", kind="float", default=1e-6, doc="d before the first step", low=1e-12, high=1.0, scale="log"),
        Knob(
            name="d_coef",
            kind="float",
            default=1.0,
            doc="factor of every estimate of d",
            low=1e-3,
            high=1e3,
            scale="log",
        ),
        Knob(
            name="growth_rate",
            kind="float",
            default=0.0,
            doc="d grows by at most this factor per step, from 1 up; 0 = no limit",
            low=0.0,
            high=1e3,
        ),
        switch("use_bias_correction", False, "Adam's bias correction, as part of the learning rate"),
        switch("safeguard_warmup", False, "keep the learning rate out of the denominator of d"),
    ),
)
