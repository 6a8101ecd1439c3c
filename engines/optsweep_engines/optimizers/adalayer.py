"""Adalayer: Adam with one second moment per layer; and its form that is adaptive on the last layer and norms only."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.adafactorw import LAST_ROUTING, PAPER, axis_over, last_knobs, route_last
from optsweep_engines.optimizers.adamw import moment_knobs
from optsweep_engines.optimizers.arrays import averaged, mean_square, tensor_axes
from optsweep_engines.optimizers.base import TO_ALL, Array, Hyper, OptimizerEntry, Rule, State, per_number, to_all
from optsweep_engines.optimizers.knobs import cautious_weight_decay, learning_rate, switch, weight_decay
from optsweep_engines.spec import Scalar

ATTENTION = ("q", "k", "v")

FORMULA = """\
m = beta1 m + (1 - beta1) g
v = beta2 v + (1 - beta2) mean of g^2 over the tensor
p = p (1 - lr wd) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
q, k and v of a layer are one tensor, or three with attention_correction;
one v per token: head with last_layer_correction, embedding with first_layer_correction"""

LAST_FORMULA = """\
head with update_last (one v per token) and norms with update_norm, at lr_last:
    Adalayer
the rest: m = beta1 m + (1 - beta1) g;  p = p (1 - lr wd) - lr m / (1 - beta1^t)"""


def per_token(tensor: Parameter, knobs: Mapping[str, Scalar]) -> bool:
    """True where each row of the vocabulary has a second moment of its own; by role, whatever the vocabulary's size."""
    if tensor.role == "head":
        # The forms that update the last layer do so per token.
        return bool(knobs.get("last_layer_correction") or knobs.get("update_last"))
    return tensor.role == "embedding" and bool(knobs.get("first_layer_correction"))


def block_mean(xp: Any, grad: Array, hp: Hyper) -> Array:
    """Mean of g^2 over what shares a second moment, axes kept."""
    if per_token(hp.tensor, hp.knobs):
        tokens = hp.tensor.out_axis if hp.tensor.role == "head" else hp.tensor.in_axis
        return xp.mean(grad * grad, axis=axis_over(tokens), keepdims=True)
    joint: Array | None = hp.extra.get(f"attention/{hp.tensor.name}")
    return mean_square(xp, grad, hp.tensor) if joint is None else joint


def prepare(
    xp: Any,
    params: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[State],
    step: Any,
    hps: Sequence[Hyper],
) -> Mapping[str, Array]:
    """Mean of g^2 over q, k and v of each layer together, unless attention_correction keeps them apart.

    In the study's model they are one matrix. Where there are several banks of a role, the n-th q, k and v belong
    together.
    """
    joint: dict[str, Array] = {}
    by_role = [[pair for pair in zip(hps, grads, strict=True) if pair[0].tensor.role == role] for role in ATTENTION]
    for together in itertools.zip_longest(*by_role):
        found = [pair for pair in together if pair is not None]
        if found[0][0]["attention_correction"]:
            return {}
        squares = [xp.sum(grad * grad, axis=tensor_axes(hp.tensor), keepdims=True) for hp, grad in found]
        count = sum(hp.tensor.count // hp.tensor.tensors for hp, _ in found)
        mean = sum(squares[1:], start=squares[0]) / count
        joint |= {f"attention/{hp.tensor.name}": mean for hp, _ in found}
    return joint


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero first moment and a zero per block."""
    return {"m": xp.zeros_like(param), "v": block_mean(xp, xp.zeros_like(param), hp)}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2407.07972."""
    beta1, beta2 = hp["beta1"], hp["beta2"]
    m = averaged(xp, state["m"], grad, beta1)
    v = beta2 * state["v"] + (1 - beta2) * block_mean(xp, grad, hp)
    direction = (m / (1 - beta1**step)) / (xp.sqrt(v / (1 - beta2**step)) + hp["eps"])
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * direction, {"m": m, "v": v}


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """The first moment and one number per block."""
    if not per_token(parameter, knobs):
        return float(parameter.count + parameter.tensors)
    return float(parameter.count + (parameter.fan_out if parameter.role == "head" else parameter.fan_in))


RULE = Rule(
    name="adalayer", init=init, update=update, state_floats=state_floats, flops=per_number(11.0), prepare=prepare
)
# On head and norms there is nothing to sum over tensors.
LAST_RULE = Rule(name="adalayer_last", init=init, update=update, state_floats=state_floats, flops=per_number(11.0))

ATTENTION_CORRECTION = switch(
    "attention_correction", False, "a second moment each for q, k and v of a layer", "q, k, v", ("att_correction",)
)
FIRST_LAYER_CORRECTION = switch(
    "first_layer_correction", False, "a second moment per token", "embedding", ("firstlayer_correction",)
)

ENTRY = OptimizerEntry(
    name="adalayer",
    mup_power=-1.0,
    family="adam",
    doc="Adam with one second moment per layer",
    formula=FORMULA,
    papers=(PAPER,),
    aliases=("adalayerw",),
    studies={"olmo": "adalayerw"},
    routing=TO_ALL,
    route=to_all(RULE),
    needs=frozenset({"prepare"}),
    knobs=(
        learning_rate(0.003),
        *moment_knobs(),
        weight_decay(0.1),
        cautious_weight_decay(),
        ATTENTION_CORRECTION,
        switch("last_layer_correction", False, "a second moment per token", "head", ("lastlayer_correction",)),
        FIRST_LAYER_CORRECTION,
    ),
)

LAST = OptimizerEntry(
    name="adalayer_last",
    family="adam",
    doc="Adalayer on head and norms, SGD elsewhere",
    formula=LAST_FORMULA,
    papers=(PAPER,),
    aliases=("adalayerw_last",),
    studies={"olmo": "adalayerw_last"},
    routing=LAST_ROUTING.format("Adalayer, on the head per token,"),
    route=lambda parameter, knobs: route_last(LAST_RULE, parameter, knobs),
    knobs=(
        learning_rate(1.0, high=1e4),
        *last_knobs(),
        *moment_knobs(),
        weight_decay(0.0),
        cautious_weight_decay(),
    ),
)
