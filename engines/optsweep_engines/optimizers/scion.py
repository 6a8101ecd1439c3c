"""Scion: steps of fixed length in a norm chosen by layer type; and the reference study's variant of it.

`scion` moves inside balls: spectral norm inside the layers, largest entry for head and embedding, RMS for vectors.
`scion_fantastic` is Muon's scale inside the layers and Signum elsewhere, with a weight decay of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import lion, muon
from optsweep_engines.optimizers.arrays import averaged, sign, tensor_axes
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
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, learning_rate, switch, weight_decay
from optsweep_engines.optimizers.orthogonal import iteration_knobs, newton_schulz_flops, orthogonalized
from optsweep_engines.spec import Scalar

FORMULA = """\
m = momentum m + (1 - momentum) g
d = hidden_radius sqrt(out/in) X    (hidden matrices; X = Newton-Schulz of m)
    head_radius sign(m) / in        (head)
    embedding_radius sign(m)        (embedding)
    vector_radius m / rms(m)        (norms and biases)
p = (1 - lr) p - lr d               (unconstrained: p - lr d)"""

FANTASTIC_FORMULA = """\
m = momentum m + (1 - momentum) g;  X = Newton-Schulz of m
p = p (1 - lr wd) - lr sqrt(max(1, out/in)) X
embedding, head, norms: Signum with beta1 at scion_to_signum_lr x lr"""

# Added to the RMS of a vector in the authors' code.
VECTOR_EPS = 1e-8

HIDDEN = muon.HIDDEN


def smoothed(xp: Any, grad: Array, state: State, hp: Hyper) -> Array:
    """The momentum with this gradient in it."""
    return averaged(xp, state["m"], grad, hp["momentum"])


def stepped(param: Array, direction: Array, m: Array, hp: Hyper) -> tuple[Array, State]:
    """Toward the far side of the ball; weight_decay is 1 in the constrained form and 0 in the other."""
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * direction, {"m": m}


def update_spectral(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step in the spectral norm, from inputs of RMS 1 to outputs of RMS hidden_radius."""
    m = smoothed(xp, grad, state, hp)
    scale = hp["hidden_radius"] * (hp.tensor.fan_out / hp.tensor.fan_in) ** 0.5
    return stepped(param, scale * orthogonalized(xp, m, hp), m, hp)


def update_head(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step in the largest entry, from inputs of RMS 1 to logits of at most head_radius."""
    m = smoothed(xp, grad, state, hp)
    return stepped(param, (hp["head_radius"] / hp.tensor.fan_in) * sign(xp, m), m, hp)


def update_embedding(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step in the largest entry of what a token is mapped to."""
    m = smoothed(xp, grad, state, hp)
    return stepped(param, hp["embedding_radius"] * sign(xp, m), m, hp)


def update_vector(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step in the root mean square."""
    m = smoothed(xp, grad, state, hp)
    rms = xp.sqrt(xp.mean(m * m, axis=tensor_axes(hp.tensor), keepdims=True))
    return stepped(param, hp["vector_radius"] * (m / (rms + VECTOR_EPS)), m, hp)


def update_fantastic(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step of the reference study's variant, arXiv 2509.02046: Muon without Nesterov."""
    m = smoothed(xp, grad, state, hp)
    return stepped(param, muon.scale(hp.tensor) * orthogonalized(xp, m, hp), m, hp)


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """The iteration, and 8 operations per element."""
    return newton_schulz_flops(parameter, knobs) + 8.0 * parameter.count


def _rule(name: str, update: Any, cost: Any = flops) -> Rule:
    return Rule(name=name, init=muon.init, update=update, state_floats=per_number(1.0), flops=cost, scope="tensor")


SPECTRAL = _rule("scion spectral", update_spectral)
HEAD = _rule("scion head", update_head, per_number(8.0))
EMBEDDING = _rule("scion embedding", update_embedding, per_number(8.0))
VECTOR = _rule("scion vector", update_vector, per_number(10.0))
FANTASTIC = _rule("scion_fantastic", update_fantastic)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """A norm per layer type; the decay of the constrained form applies to every tensor."""
    rules = {"embedding": EMBEDDING, "head": HEAD, "norm": VECTOR, "bias": VECTOR}
    rule = rules.get(parameter.role, SPECTRAL)
    return Group(rule=rule, lr_ratio=1.0, weight_decay=0.0 if knobs["unconstrained"] else 1.0)


def route_fantastic(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Spectral steps inside the layers, Signum at its own learning rate for the rest."""
    decay = decay_of(parameter, knobs)
    if parameter.is_hidden_matrix:
        return Group(rule=FANTASTIC, lr_ratio=1.0, weight_decay=decay)
    return Group(rule=lion.SIGNUM_RULE, lr_ratio=float(knobs["scion_to_signum_lr"] or 0.0), weight_decay=decay)


def _radius(name: str, default: float, roles: str) -> Knob:
    return Knob(
        name=name,
        kind="float",
        default=default,
        doc="size of the ball",
        low=1e-4,
        high=1e6,
        scale="log",
        roles=roles,
    )


_PAPER = ("Training Deep Learning Models with Norm-Constrained LMOs", "https://arxiv.org/abs/2502.07529")

ENTRY = OptimizerEntry(
    name="scion",
    mup_power=0.0,
    family="matrix",
    doc="steps of fixed length in a norm per layer type, inside balls",
    formula=FORMULA,
    papers=(_PAPER,),
    studies={"epfl": "scion"},
    routing="hidden matrices: spectral norm; head, embedding: sign; norms, biases: RMS; the decay applies to all",
    route=route,
    decay_convention="none",
    knobs=(
        # 2^-12 with radii 50 and 3000 is the authors' 124M setting; 4 is 3000 over its width, for the table they tie.
        learning_rate(0.00025),
        beta("momentum", 0.9, "decay of the momentum"),
        _radius("hidden_radius", 50.0, HIDDEN),
        _radius("head_radius", 3000.0, "head"),
        _radius("embedding_radius", 4.0, "embedding"),
        _radius("vector_radius", 1.0, "norms and biases"),
        switch("unconstrained", False, "no decay: the steps alone, without the balls"),
        *iteration_knobs(HIDDEN, alias="scion_epsilon"),
    ),
)

FANTASTIC_ENTRY = OptimizerEntry(
    name="scion_fantastic",
    mup_power=0.0,
    family="matrix",
    doc="the reference study's scion: Muon's scale inside, Signum elsewhere",
    formula=FANTASTIC_FORMULA,
    papers=(("Fantastic Pretraining Optimizers and Where to Find Them", "https://arxiv.org/abs/2509.02046"), _PAPER),
    studies={"reference": "scion"},
    routing=f"{HIDDEN}: Muon without Nesterov; {muon.REST}: Signum at scion_to_signum_lr x lr; norms are not decayed",
    route=route_fantastic,
    knobs=(
        learning_rate(0.008, (0.004, 0.008, 0.016, 0.032, 0.064, 0.128)),
        beta("momentum", 0.95, "decay of the momentum", (0.8, 0.9, 0.95, 0.98), HIDDEN),
        # Ten steps are the default of the study's code.
        *iteration_knobs(HIDDEN, steps=10, eps=1e-8, alias="scion_epsilon"),
        Knob(
            name="scion_to_signum_lr",
            kind="float",
            default=0.1,
            doc="learning rate of the Signum part over the other",
            low=1e-4,
            high=100.0,
            scale="log",
            aliases=("scion_to_signgd_lr",),
            published=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
            roles=muon.REST,
        ),
        beta("beta1", 0.95, "decay of the Signum part's momentum", (0.8, 0.9, 0.95, 0.98), muon.REST),
        weight_decay(0.1, (0, 0.1, 0.2)),
        cautious_weight_decay(),
    ),
)
