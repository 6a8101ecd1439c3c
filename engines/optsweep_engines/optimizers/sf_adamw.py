"""Schedule-free AdamW: gradients are taken at one point and the model is another, an average that needs no decay."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.adamw import moment_knobs
from optsweep_engines.optimizers.arrays import at_least, averaged_square, one_number
from optsweep_engines.optimizers.base import TO_ALL, Array, Hyper, Knob, OptimizerEntry, Rule, State, per_number, to_all
from optsweep_engines.optimizers.knobs import learning_rate, weight_decay
from optsweep_engines.schedules import schedule
from optsweep_engines.spec import Scalar

FORMULA = """\
y: the trained values, where gradients are taken; z: the fast iterate; x: the model
v = beta2 v + (1 - beta2) g^2
u = g / (sqrt(v / (1 - beta2^t)) + eps) + wd y
w = t^r (largest lr so far)^weight_lr_power; c = w / (sum of all w)
z = z - lr u;  x = (1 - c) x + c z;  y = (1 - beta1) z + beta1 x
x is not kept: x = y + (1 - 1 / beta1) (z - y)"""


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """z at the parameters, a zero second moment, and the two numbers behind the weights."""
    return {
        "z": xp.asarray(param, copy=True),
        "v": xp.zeros_like(param),
        "lr_max": one_number(xp, param, 0.0),
        "weight_sum": one_number(xp, param, 0.0),
    }


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step of y and z, https://arxiv.org/abs/2405.15682, as in the authors' package; `param` is y."""
    beta1, beta2 = hp["beta1"], hp["beta2"]
    lr_max = at_least(xp, state["lr_max"], hp.lr)
    weight = step ** hp["r"] * lr_max ** hp["weight_lr_power"]
    weight_sum = state["weight_sum"] + weight
    share = weight / xp.where(weight_sum == 0, 1.0, weight_sum)
    v = averaged_square(xp, state["v"], grad, beta2)
    direction = grad / (xp.sqrt(v / (1 - beta2**step)) + hp["eps"]) + hp.weight_decay * param
    y = param + share * (state["z"] - param) + (hp.lr * (beta1 * (1 - share) - 1)) * direction
    z = state["z"] - hp.lr * direction
    return y, {"z": z, "v": v, "lr_max": lr_max, "weight_sum": weight_sum}


def eval_params(xp: Any, param: Array, state: State, hp: Hyper) -> Array:
    """x, the average that is the model: y = (1 - beta1) z + beta1 x solved for it."""
    return param + (1 - 1 / hp["beta1"]) * (state["z"] - param)


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """z, one moment and two numbers."""
    return 2.0 * parameter.count + 2


RULE = Rule(
    name="sf_adamw",
    init=init,
    update=update,
    state_floats=state_floats,
    flops=per_number(15.0),
    eval_params=eval_params,
    decay_rate=None,
    scope="number",
)


def refuses(schedule_name: str, knobs: Mapping[str, Scalar]) -> str | None:
    """A decay of the learning rate: the average takes its place, both together are not the method."""
    if "decay" in schedule(schedule_name).knobs and knobs["decay"] != 0:
        return f"its average replaces the decay of the learning rate; schedule {schedule_name} decays, use constant"
    return None


ENTRY = OptimizerEntry(
    name="sf_adamw",
    mup_power=-1.0,
    family="adam",
    doc="schedule-free AdamW, evaluated at an average",
    formula=FORMULA,
    papers=(("The Road Less Scheduled", "https://arxiv.org/abs/2405.15682"),),
    aliases=("schedulefree", "schedule_free_adamw", "adamw_schedulefree"),
    routing=TO_ALL,
    route=to_all(RULE),
    needs=frozenset({"eval_params"}),
    schedule="constant",
    refuses=refuses,
    knobs=(
        learning_rate(0.0025),
        dataclasses.replace(
            moment_knobs()[0], doc="how much of x there is in y, against z", low=0.01
        ),  # at 0, y would say nothing about x
        *moment_knobs(0.9, 0.999)[1:],
        dataclasses.replace(weight_decay(0.1), doc="weight_decay x y is part of the step of z"),
        Knob(
            name="r",
            kind="float",
            default=0.0,
            doc="the weight of step t in the average grows as t to this power",
            low=0.0,
            high=10.0,
        ),
        Knob(
            name="weight_lr_power",
            kind="float",
            default=2.0,
            doc="the weight in the average is the largest lr so far to this power",
            low=0.0,
            high=10.0,
        ),
    ),
)
