"""ADOPT: Adam that divides by the second moment of the steps before, and so converges for any beta2."""

from __future__ import annotations

from typing import Any

from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.arrays import at_least, at_most, averaged
from optsweep_engines.optimizers.base import TO_ALL, Array, Hyper, Knob, OptimizerEntry, Rule, State, per_number, to_all
from optsweep_engines.optimizers.knobs import cautious_weight_decay, learning_rate, weight_decay

FORMULA = """\
t = 1:  v = g^2, nothing else
t > 1:  c = (t - 1)^clip_exponent
        u = clip(g / max(sqrt(v), eps), -c, c)
        m = beta1 m + (1 - beta1) u
        p = p (1 - lr wd) - lr m
        v = beta2 v + (1 - beta2) g^2"""


def decay_rate(state: State, step: Any, hp: Hyper) -> Any:
    """lr x weight_decay, none at the first step."""
    return hp.lr * hp.weight_decay * (step != 1)


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2411.02853.

    The first step is the same formula: its bound is 0^clip_exponent = 0, so that m and p stay where they are.
    """
    beta1, beta2 = hp["beta1"], hp["beta2"]
    bound = (step - 1) ** hp["clip_exponent"]
    ratio = grad / at_least(xp, xp.sqrt(state["v"]), hp["eps"])
    clipped = at_most(xp, at_least(xp, ratio, -bound), bound)
    m = averaged(xp, state["m"], clipped, beta1)
    param = param * (1 - decay_rate(state, step, hp)) - hp.lr * m
    fresh = (1 - beta2) * (step != 1) + 1.0 * (step == 1)
    return param, {"m": m, "v": beta2 * state["v"] + fresh * (grad * grad)}


RULE = Rule(
    name="adopt",
    init=adamw.init,
    update=update,
    state_floats=adamw.state_floats,
    flops=per_number(14.0),
    decay_rate=decay_rate,
    scope="number",
)

ENTRY = OptimizerEntry(
    name="adopt",
    mup_power=-1.0,
    family="adam",
    doc="Adam normalised by the past second moment",
    formula=FORMULA,
    papers=(
        ("ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate", "https://arxiv.org/abs/2411.02853"),
    ),
    routing=TO_ALL,
    route=to_all(RULE),
    knobs=(
        learning_rate(0.002),
        *adamw.moment_knobs(0.9, 0.9999, 1e-6),
        Knob(
            name="clip_exponent",
            kind="float",
            default=0.25,
            doc="the step is clipped to (t - 1) to this power",
            low=0.01,
            high=1.0,
        ),
        weight_decay(0.1),
        cautious_weight_decay(),
    ),
)
