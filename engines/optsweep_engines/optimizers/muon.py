"""Muon: momentum made orthogonal by a Newton-Schulz iteration, for the matrices inside the layers; AdamW for the rest.

`d_muon` is the same with the scale at which AdamW's learning rate fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.arrays import averaged
from optsweep_engines.optimizers.base import Array, Group, Hyper, Knob, OptimizerEntry, Rule, State
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, epsilon, learning_rate, switch, weight_decay
from optsweep_engines.optimizers.orthogonal import (
    JORDAN,
    SCHEMES,
    iteration_knobs,
    newton_schulz,
    newton_schulz_flops,
    orthogonalized,
)
from optsweep_engines.spec import Scalar

COEFFICIENTS = JORDAN

HIDDEN = "matrices of attention and MLP"
REST = "embedding, head, norms"

FORMULA = """\
m = momentum m + (1 - momentum) g
u = m                            (nesterov: momentum m + (1 - momentum) g)
X = u / (|u|_F + muon_eps); ns_steps times: A = X X^T, X = a X + (b A + c A A) X, a b c of ns_scheme
p = p (1 - lr wd) - lr sqrt(max(1, out/in)) X
embedding, head, norms: AdamW at muon_to_adam_lr x lr"""


def scale(tensor: Parameter) -> float:
    """sqrt(max(1, out/in)): keeps the RMS change of the output near lr, whatever the shape."""
    return float(max(1.0, tensor.fan_out / tensor.fan_in) ** 0.5)


def direction(xp: Any, grad: Array, state: State, hp: Hyper) -> tuple[Array, Array]:
    """(what is made orthogonal, new momentum): an average, as in the author's code; the sum differs through muon_eps."""
    momentum = hp["momentum"]
    m = averaged(xp, state["m"], grad, momentum)
    return (averaged(xp, m, grad, momentum) if hp["nesterov"] else m), m


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero momentum."""
    return {"m": xp.zeros_like(param)}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One Muon step, https://kellerjordan.github.io/posts/muon/; decay uses the unscaled lr."""
    ahead, m = direction(xp, grad, state, hp)
    change = orthogonalized(xp, ahead, hp)
    return param * (1 - hp.lr * hp.weight_decay) - (hp.lr * scale(hp.tensor)) * change, {"m": m}


def update_d(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step with the RMS of AdamW's update, https://arxiv.org/abs/2502.16982."""
    ahead, m = direction(xp, grad, state, hp)
    change = orthogonalized(xp, ahead, hp)
    rms_scale = hp["update_rms"] * max(hp.tensor.fan_in, hp.tensor.fan_out) ** 0.5
    return param * (1 - hp.lr * hp.weight_decay) - (hp.lr * rms_scale) * change, {"m": m}


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """One momentum."""
    return float(parameter.count)


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """The iteration, and 9 operations per element."""
    return newton_schulz_flops(parameter, knobs) + 9.0 * parameter.count


# An engine's faster path for "muon" has Jordan's coefficients built in, hence a name per scheme.
RULES = {
    scheme: Rule(
        name="muon" if scheme == "jordan" else f"muon with {scheme}",
        init=init,
        update=update,
        state_floats=state_floats,
        flops=flops,
        scope="tensor",
    )
    for scheme in SCHEMES
}
RULE = RULES["jordan"]
RULE_D = Rule(name="d_muon", init=init, update=update_d, state_floats=state_floats, flops=flops, scope="tensor")


def rest(parameter: Parameter, knobs: Mapping[str, Scalar], decay: float) -> Group:
    """AdamW at its own learning rate."""
    ratio = float(knobs["muon_to_adam_lr"] or 0.0)
    return Group(rule=adamw.RULE, lr_ratio=ratio, weight_decay=decay, overrides={"nesterov": False})


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Muon for the matrices of attention and MLP, AdamW at its own learning rate for the rest."""
    decay = float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0
    if parameter.is_hidden_matrix:
        return Group(rule=RULES[str(knobs["ns_scheme"])], lr_ratio=1.0, weight_decay=decay)
    return rest(parameter, knobs, decay)


def route_d(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """As Muon; everything is decayed, norms too, as in the published code."""
    decay = float(knobs["weight_decay"] or 0.0)
    if parameter.is_hidden_matrix:
        return Group(rule=RULE_D, lr_ratio=1.0, weight_decay=decay)
    return rest(parameter, knobs, decay)


def momentum_knobs() -> tuple[Knob, ...]:
    """momentum and nesterov of the hidden matrices."""
    return (
        beta("momentum", 0.95, "decay of Muon's momentum", (0.8, 0.9, 0.95, 0.98), HIDDEN),
        switch("nesterov", True, "orthogonalise the momentum one step ahead", HIDDEN),
    )


def rest_knobs(ratio: float, roles: str = REST) -> tuple[Knob, ...]:
    """Those of the AdamW part, its learning rate as a ratio first."""
    return (
        Knob(
            name="muon_to_adam_lr",
            kind="float",
            default=ratio,
            doc="learning rate of the AdamW part over Muon's",
            low=1e-4,
            high=100.0,
            scale="log",
            aliases=("muon_to_adamw_lr",),
            published=(0.1, 0.2, 0.3),
            roles=roles,
        ),
        beta("beta1", 0.9, "AdamW part: decay of the first moment", (0.8, 0.9, 0.95, 0.98), roles),
        beta("beta2", 0.95, "AdamW part: decay of the second moment", (0.9, 0.95, 0.98), roles),
        epsilon("eps", 1e-8, "AdamW part: added to the root", (1e-25, 1e-20, 1e-15, 1e-10), "epsilon", roles),
    )


PAPER = ("Muon: An optimizer for hidden layers in neural networks", "https://kellerjordan.github.io/posts/muon/")
_SCALABLE = ("Muon is Scalable for LLM Training", "https://arxiv.org/abs/2502.16982")
POLAR_EXPRESS = ("The Polar Express (ns_scheme)", "https://arxiv.org/abs/2505.16932")

ENTRY = OptimizerEntry(
    name="muon",
    mup_power=0.0,
    family="matrix",
    doc="orthogonalised momentum for hidden matrices, AdamW for the rest",
    formula=FORMULA,
    papers=(PAPER, _SCALABLE, POLAR_EXPRESS),
    studies={"reference": "muon"},
    routing=f"{HIDDEN}: Muon; {REST}: AdamW at muon_to_adam_lr x lr; norms are not decayed",
    route=route,
    knobs=(
        learning_rate(0.02, (0.004, 0.008, 0.016, 0.032, 0.064, 0.128)),
        *momentum_knobs(),
        *iteration_knobs(HIDDEN),
        *rest_knobs(0.25),
        weight_decay(0.1, (0, 0.1, 0.2)),
        cautious_weight_decay(),
    ),
)

D_ENTRY = OptimizerEntry(
    name="d_muon",
    mup_power=-0.5,
    family="matrix",
    doc="muon scaled so that AdamW's learning rate and decay fit",
    formula=FORMULA.replace("sqrt(max(1, out/in)) X", "update_rms sqrt(max(out, in)) X"),
    papers=(_SCALABLE, PAPER),
    aliases=("d-muon",),
    studies={"epfl": "d-muon"},
    routing=f"{HIDDEN}: Muon; {REST}: AdamW at muon_to_adam_lr x lr; everything is decayed, norms too",
    route=route_d,
    knobs=(
        learning_rate(0.002),
        *momentum_knobs(),
        *iteration_knobs(HIDDEN),
        Knob(
            name="update_rms",
            kind="float",
            default=0.2,
            doc="root mean square of an update, over lr",
            low=1e-3,
            high=10.0,
            scale="log",
            aliases=("matched_adamw_rms",),
            roles=HIDDEN,
        ),
        *rest_knobs(1.0),
        weight_decay(0.1, roles="all"),
        cautious_weight_decay(),
    ),
)

__all__ = ["COEFFICIENTS", "D_ENTRY", "ENTRY", "RULE", "newton_schulz", "scale"]
