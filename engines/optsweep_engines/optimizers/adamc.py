"""AdamC: AdamW whose weight decay follows the square of the learning rate on layers that a normalisation follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.arrays import averaged, averaged_square
from optsweep_engines.optimizers.base import Array, Group, Hyper, OptimizerEntry, Rule, State, decay_of
from optsweep_engines.optimizers.knobs import cautious_weight_decay, learning_rate, switch, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
m = beta1 m + (1 - beta1) g
v = beta2 v + (1 - beta2) g^2
u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
p = p (1 - (lr^2 / peak lr) wd) - lr u            (head: p (1 - lr wd) - lr u)"""


def corrected_rate(state: State, step: Any, hp: Hyper) -> Any:
    """lr^2 / peak lr x weight_decay: the ratio of gradient to weight norm then does not depend on the schedule."""
    return hp.lr * hp.weight_decay * (hp.lr / hp["lr"])


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One AdamW step with corrected decay, https://arxiv.org/abs/2506.02285."""
    beta1, beta2 = hp["beta1"], hp["beta2"]
    m = averaged(xp, state["m"], grad, beta1)
    v = averaged_square(xp, state["v"], grad, beta2)
    direction = adamw.numerator(m, grad, step, hp) / (xp.sqrt(v / (1 - beta2**step)) + hp["eps"])
    return param * (1 - corrected_rate(state, step, hp)) - hp.lr * direction, {"m": m, "v": v}


RULE = Rule(
    name="adamc",
    init=adamw.init,
    update=update,
    state_floats=adamw.state_floats,
    flops=adamw.flops,
    decay_rate=corrected_rate,
    scope="number",
)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """AdamC for all that a normalisation follows in a pre-norm decoder, AdamW for the head.

    The embedding and the outputs of attention and MLP enter the residual stream that the next norm normalises; q, k,
    the gate and the rest of a layer are counted with them, as the paper does with all but the output layer.
    """
    rule = adamw.RULE if parameter.role == "head" else RULE
    return Group(rule=rule, lr_ratio=1.0, weight_decay=decay_of(parameter, knobs))


ENTRY = OptimizerEntry(
    name="adamc",
    family="adam",
    doc="AdamW with weight decay that follows lr^2",
    formula=FORMULA,
    papers=(("Why Gradients Rapidly Increase Near the End of Training", "https://arxiv.org/abs/2506.02285"),),
    routing="head: AdamW; the rest: corrected decay; norms and biases are not decayed",
    route=route,
    knobs=(
        learning_rate(0.003),
        *adamw.moment_knobs(),
        weight_decay(0.1),
        cautious_weight_decay(),
        switch("nesterov", False, "look one step ahead in the first moment"),
    ),
)
