"""AdafactorW: Adam with a rank-1 second moment; and its form that is adaptive on the last layer and norms only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.adamw import moment_knobs
from optsweep_engines.optimizers.arrays import averaged, mean_square
from optsweep_engines.optimizers.base import (
    TO_ALL,
    Array,
    Group,
    Hyper,
    Knob,
    OptimizerEntry,
    Rule,
    State,
    decay_of,
    per_number,
    to_all,
)
from optsweep_engines.optimizers.knobs import cautious_weight_decay, learning_rate, switch, weight_decay
from optsweep_engines.spec import Scalar

PAPER = ("Deconstructing What Makes a Good Optimizer for Language Models", "https://arxiv.org/abs/2407.07972")

FORMULA = """\
m = beta1 m + (1 - beta1) g
r = beta2 r + (1 - beta2) mean of g^2 over the inputs;  c = beta2 c + (1 - beta2) mean of g^2 over the outputs
v = r c / mean of r              (neuron_only: r;  vectors: one number, the mean of g^2)
p = p (1 - lr wd) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)"""

LAST_FORMULA = """\
head with update_last, norms with update_norm, at lr_last:
    AdafactorW
the rest: m = beta1 m + (1 - beta1) g;  p = p (1 - lr wd) - lr m / (1 - beta1^t)"""


def axis_over(axis: int | None) -> int:
    """The axis of a matrix to take means over, so that one number per entry of `axis` is left."""
    assert axis is not None
    return -3 - axis


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero first moment; means per output and per input of a matrix, one mean of a vector."""
    zero, tensor = xp.zeros_like(param), hp.tensor
    if len(tensor.tensor_shape) == 1:
        return {"m": zero, "v": mean_square(xp, zero, tensor)}
    state = {"m": zero, "rows": xp.mean(zero, axis=axis_over(tensor.out_axis), keepdims=True)}
    if not hp["neuron_only"]:
        state["columns"] = xp.mean(zero, axis=axis_over(tensor.in_axis), keepdims=True)
    return state


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2407.07972, as in the study's code: no relative step, no clip.

    There q, k and v are one matrix with one rank-1 moment; here each has its own.
    """
    beta1, beta2, tensor = hp["beta1"], hp["beta2"], hp.tensor
    new: State = {"m": averaged(xp, state["m"], grad, beta1)}
    if len(tensor.tensor_shape) == 1:
        new["v"] = moment = beta2 * state["v"] + (1 - beta2) * mean_square(xp, grad, tensor)
    else:
        square = grad * grad
        rows = xp.mean(square, axis=axis_over(tensor.out_axis), keepdims=True)
        new["rows"] = moment = averaged(xp, state["rows"], rows, beta2)
        if not hp["neuron_only"]:
            columns = xp.mean(square, axis=axis_over(tensor.in_axis), keepdims=True)
            new["columns"] = averaged(xp, state["columns"], columns, beta2)
            mean = xp.mean(new["rows"], axis=tensor.out_axis, keepdims=True)
            # No gradient yet: 0 / 0 where 0 is meant.
            moment = new["rows"] * (new["columns"] / xp.where(mean == 0, 1.0, mean))
    root = xp.sqrt(moment / (1 - beta2**step))
    direction = (new["m"] / (1 - beta1**step)) / (root + hp["eps"])
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * direction, new


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """The first moment, and means per output and per input."""
    if len(parameter.tensor_shape) == 1:
        return float(parameter.count + parameter.tensors)
    columns = 0 if knobs["neuron_only"] else parameter.fan_in
    return float(parameter.count + parameter.tensors * (parameter.fan_out + columns))


def momentum_init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero average."""
    return {"m": xp.zeros_like(param)}


def momentum_update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step of SGD on a bias-corrected average of the gradients: what the study puts where nothing is adaptive."""
    m = averaged(xp, state["m"], grad, hp["beta1"])
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * (m / (1 - hp["beta1"] ** step)), {"m": m}


RULE = Rule(
    name="adafactorw", init=init, update=update, state_floats=state_floats, flops=per_number(16.0), scope="tensor"
)
MOMENTUM_RULE = Rule(
    name="averaged_sgd",
    init=momentum_init,
    update=momentum_update,
    state_floats=per_number(1.0),
    flops=per_number(8.0),
    scope="number",
)


def adaptive(parameter: Parameter, knobs: Mapping[str, Scalar]) -> bool:
    """True for the head with update_last and for norms with update_norm: the tensors that lr_last is for."""
    return bool(
        (parameter.role == "head" and knobs["update_last"]) or (parameter.role == "norm" and knobs["update_norm"])
    )


def route_last(rule: Rule, parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """The rule at lr_last where `adaptive`, averaged SGD at lr elsewhere."""
    decay = decay_of(parameter, knobs)
    if adaptive(parameter, knobs):
        ratio = float(knobs["lr_last"] or 0.0) / float(knobs["lr"] or 0.0)
        return Group(rule=rule, lr_ratio=ratio, weight_decay=decay)
    return Group(rule=MOMENTUM_RULE, lr_ratio=1.0, weight_decay=decay)


LAST_ROUTING = (
    "head with update_last and norms with update_norm: {} at lr_last; the rest: averaged SGD at lr; norms undecayed"
)
NEURON_ONLY = switch("neuron_only", False, "one second moment per output instead of rank 1", "matrices")


def last_knobs() -> tuple[Knob, Knob, Knob]:
    """lr_last, update_last, update_norm."""
    return (
        Knob(
            name="lr_last",
            kind="float",
            default=0.003,
            doc="peak learning rate of the head with update_last and of norms with update_norm",
            low=1e-7,
            high=10.0,
            scale="log",
            roles="head, norms",
            only_with=("update_last", "update_norm"),
        ),
        switch("update_last", True, "the head keeps an adaptive second moment", "head"),
        switch("update_norm", True, "norms keep an adaptive second moment", "norms"),
    )


ENTRY = OptimizerEntry(
    name="adafactorw",
    mup_power=-1.0,
    family="adam",
    doc="Adam with a rank-1 second moment",
    formula=FORMULA,
    papers=(PAPER,),
    studies={"olmo": "adafactorw"},
    routing=TO_ALL,
    route=to_all(RULE),
    knobs=(learning_rate(0.003), *moment_knobs(), weight_decay(0.1), cautious_weight_decay(), NEURON_ONLY),
)

LAST = OptimizerEntry(
    name="adafactorw_last",
    family="adam",
    doc="AdafactorW on head and norms, SGD elsewhere",
    formula=LAST_FORMULA,
    papers=(PAPER,),
    studies={"olmo": "adafactorw_last"},
    routing=LAST_ROUTING.format("AdafactorW"),
    route=lambda parameter, knobs: route_last(RULE, parameter, knobs),
    knobs=(
        learning_rate(1.0, high=1e4),
        *last_knobs(),
        *moment_knobs(),
        weight_decay(0.0),
        cautious_weight_decay(),
        NEURON_ONLY,
    ),
)
