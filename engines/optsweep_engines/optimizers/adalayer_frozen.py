"""Frozen Adalayer: the scale of each layer is measured before training, at learning rate 0, and then kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adalayer
from optsweep_engines.optimizers.adafactorw import PAPER, adaptive, last_knobs
from optsweep_engines.optimizers.adamw import moment_knobs
from optsweep_engines.optimizers.arrays import averaged
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
from optsweep_engines.optimizers.knobs import cautious_weight_decay, learning_rate, weight_decay
from optsweep_engines.schedules import FREEZE, frozen_steps
from optsweep_engines.spec import Scalar

FORMULA = """\
m = beta1 m + (1 - beta1) g
t <= T:  v = v + (mean of g^2 over the tensor - v) / (t + 1)                (T: t_freeze, as steps; lr is 0)
t > T:   v stays; head with update_last, norms with update_norm, embedding with first_layer_correction:
         v = beta2 v + (1 - beta2) mean of g^2                              (head and embedding per token)
p = p (1 - lr wd) - lr (m / (1 - beta1^t)) / (sqrt(v) + eps)                (no bias correction of v)"""


def keeps_updating(tensor: Parameter, knobs: Mapping[str, Scalar]) -> bool:
    """True where the second moment goes on after the freeze."""
    return adaptive(tensor, knobs) or (tensor.role == "embedding" and adalayer.per_token(tensor, knobs))


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2407.07972, section on frozen Adalayer."""
    assert hp.total_steps, "frozen Adalayer needs the number of steps of the run"
    frozen = frozen_steps(hp.total_steps, hp["t_freeze"])
    beta1 = hp["beta1"]
    later = 1 - hp["beta2"] if keeps_updating(hp.tensor, hp.knobs) else 0.0
    weight = (step <= frozen) * (1.0 / (step + 1.0)) + (step > frozen) * later
    m = averaged(xp, state["m"], grad, beta1)
    v = state["v"] + weight * (adalayer.block_mean(xp, grad, hp) - state["v"])
    direction = (m / (1 - beta1**step)) / (xp.sqrt(v) + hp["eps"])
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * direction, {"m": m, "v": v}


RULE = Rule(
    name="adalayer_frozen",
    init=adalayer.init,
    update=update,
    state_floats=adalayer.state_floats,
    flops=per_number(11.0),
    prepare=adalayer.prepare,
)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Every tensor; those that keep updating by update_last or update_norm at lr_last."""
    ratio = 1.0
    if adaptive(parameter, knobs):
        ratio = float(knobs["lr_last"] or 0.0) / float(knobs["lr"] or 0.0)
    return Group(rule=RULE, lr_ratio=ratio, weight_decay=decay_of(parameter, knobs))


def refuses(schedule_name: str, knobs: Mapping[str, Scalar]) -> str | None:
    """Every schedule that trains while the scales are still measured."""
    if schedule_name != FREEZE:
        return f"the scales are measured at learning rate 0; schedule {schedule_name} has none, use {FREEZE}"
    return None


ENTRY = OptimizerEntry(
    name="adalayer_frozen",
    family="adam",
    doc="Adam with scales per layer fixed before training",
    formula=FORMULA,
    papers=(PAPER,),
    aliases=("adalayerw_frozen",),
    studies={"olmo": "adalayerw with t_freeze"},
    routing="every tensor; head with update_last and norms with update_norm at lr_last; norms undecayed",
    route=route,
    needs=frozenset({"prepare", "total_steps"}),
    schedule=FREEZE,
    refuses=refuses,
    knobs=(
        learning_rate(0.003),
        Knob(
            name="t_freeze",
            kind="float",
            default=0.05,
            doc="steps at learning rate 0 that measure the scales; below 1 a fraction of all steps, never less than one",
            low=0.0,
            high=1e7,
            scale="log",
        ),
        *last_knobs(),
        *moment_knobs(),
        weight_decay(0.1),
        cautious_weight_decay(),
        adalayer.ATTENTION_CORRECTION,
        adalayer.FIRST_LAYER_CORRECTION,
    ),
)
