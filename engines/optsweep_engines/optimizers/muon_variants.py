"""Relatives of Muon: normuon and adamuon divide the orthogonal update by a second moment, muon_h keeps weight norms fixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adamw, muon
from optsweep_engines.optimizers.arrays import averaged, averaged_square, sign, tensor_norm
from optsweep_engines.optimizers.base import Array, Group, Hyper, OptimizerEntry, Rule, State
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, epsilon, learning_rate, weight_decay
from optsweep_engines.optimizers.orthogonal import iteration_knobs, newton_schulz_flops, orthogonalized
from optsweep_engines.spec import Scalar

# Added to norms and roots in the published code of NorMuon and of the hyperball.
TINY = 1e-10

# Root mean square of AdaMuon's update, as AdamW's; a constant of its published code.
ADAMUON_RMS = 0.2


def init_normuon(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero momentum, and a zero second moment per output feature."""
    axis = hp.tensor.in_axis
    return {"m": xp.zeros_like(param), "rows": xp.zeros_like(xp.sum(param, axis=axis, keepdims=True))}


def update_normuon(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One NorMuon step, https://arxiv.org/abs/2510.05491: rows of the orthogonal matrix divided by their RMS over time,
    the norm kept; no bias correction, as in the authors' code.
    """
    ahead, m = muon.direction(xp, grad, state, hp)
    x = orthogonalized(xp, ahead, hp)
    row_beta = hp["row_beta"]
    rows = row_beta * state["rows"] + (1 - row_beta) * xp.mean(x * x, axis=hp.tensor.in_axis, keepdims=True)
    scaled = x / (xp.sqrt(rows) + TINY)
    change = scaled * (tensor_norm(xp, x, hp.tensor) / (tensor_norm(xp, scaled, hp.tensor) + TINY))
    lr = hp.lr * muon.scale(hp.tensor)
    return param * (1 - hp.lr * hp.weight_decay) - lr * change, {"m": m, "rows": rows}


def init_adamuon(xp: Any, param: Array, hp: Hyper) -> State:
    """Two zero moments."""
    return {"m": xp.zeros_like(param), "v": xp.zeros_like(param)}


def update_adamuon(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One AdaMuon step, https://arxiv.org/abs/2507.11005: the sign of the momentum is made orthogonal, each element
    divided by its RMS over time; the second moment decays as the momentum does and is not bias-corrected.
    """
    ahead, m = muon.direction(xp, grad, state, hp)
    momentum, eps = hp["momentum"], hp["adamuon_eps"]
    x = orthogonalized(xp, sign(xp, ahead), hp)
    v = averaged_square(xp, state["v"], x, momentum)
    scaled = x / (xp.sqrt(v) + eps)
    rms_scale = ADAMUON_RMS * (hp.tensor.fan_in * hp.tensor.fan_out) ** 0.5
    change = scaled * (rms_scale / (tensor_norm(xp, scaled, hp.tensor) + eps))
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * change, {"m": m, "v": v}


def on_sphere(xp: Any, param: Array, change: Array, hp: Hyper) -> Array:
    """The parameter after a step of relative length lr along a change, back on the sphere of its own norm."""
    radius = tensor_norm(xp, param, hp.tensor)
    moved = param - hp.lr * change * (radius / (tensor_norm(xp, change, hp.tensor) + TINY))
    return moved * (radius / (tensor_norm(xp, moved, hp.tensor) + TINY))


def update_muon_h(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step of Muon on a hyperball, https://arxiv.org/abs/2606.16899: every matrix keeps its norm."""
    ahead, m = muon.direction(xp, grad, state, hp)
    return on_sphere(xp, param, orthogonalized(xp, ahead, hp), hp), {"m": m}


def update_adam_h(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """The same with Adam's direction, for the head."""
    beta1, beta2 = hp["beta1"], hp["beta2"]
    m = averaged(xp, state["m"], grad, beta1)
    v = averaged_square(xp, state["v"], grad, beta2)
    change = (m / (1 - beta1**step)) / (xp.sqrt(v / (1 - beta2**step)) + hp["eps"])
    return on_sphere(xp, param, change, hp), {"m": m, "v": v}


def normuon_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """One momentum and a number per output feature."""
    return float(parameter.count + parameter.tensors * parameter.fan_out)


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """The iteration, and 18 operations per element."""
    return newton_schulz_flops(parameter, knobs) + 18.0 * parameter.count


NORMUON = Rule(
    name="normuon", init=init_normuon, update=update_normuon, state_floats=normuon_floats, flops=flops, scope="tensor"
)
ADAMUON = Rule(
    name="adamuon",
    init=init_adamuon,
    update=update_adamuon,
    state_floats=adamw.state_floats,
    flops=flops,
    scope="tensor",
)
MUON_H = Rule(
    name="muon_h", init=muon.init, update=update_muon_h, state_floats=muon.state_floats, flops=flops, scope="tensor"
)
ADAM_H = Rule(
    name="adam_h",
    init=init_adamuon,
    update=update_adam_h,
    state_floats=adamw.state_floats,
    flops=lambda parameter, knobs: 22.0 * parameter.count,
    scope="tensor",
)


def _route(rule: Rule, parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    decay = float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0
    if parameter.is_hidden_matrix:
        return Group(rule=rule, lr_ratio=1.0, weight_decay=decay)
    return muon.rest(parameter, knobs, decay)


def route_normuon(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """NorMuon for the matrices of attention and MLP, AdamW for the rest."""
    return _route(NORMUON, parameter, knobs)


def route_adamuon(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """AdaMuon for the matrices of attention and MLP, AdamW for the rest."""
    return _route(ADAMUON, parameter, knobs)


def route_muon_h(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Norm-keeping Muon inside the layers, norm-keeping Adam on the head, plain Adam for embedding and norms."""
    if parameter.is_hidden_matrix:
        return Group(rule=MUON_H, lr_ratio=1.0, weight_decay=0.0)
    if parameter.role == "head":
        return Group(rule=ADAM_H, lr_ratio=1.0, weight_decay=0.0)
    return muon.rest(parameter, knobs, 0.0)


NORMUON_ENTRY = OptimizerEntry(
    name="normuon",
    mup_power=0.0,
    family="matrix",
    doc="muon with the rows of its update brought to one scale",
    formula="""\
m, X as in muon
r = row_beta r + (1 - row_beta) mean over inputs(X^2)
U = X / (sqrt(r) + 1e-10), scaled back to |X|_F
p = p (1 - lr wd) - lr sqrt(max(1, out/in)) U
embedding, head, norms: AdamW at muon_to_adam_lr x lr""",
    papers=(("NorMuon: Making Muon more efficient and scalable", "https://arxiv.org/abs/2510.05491"),),
    routing=f"{muon.HIDDEN}: NorMuon; {muon.REST}: AdamW at muon_to_adam_lr x lr; norms are not decayed",
    route=route_normuon,
    knobs=(
        learning_rate(0.02),
        *muon.momentum_knobs(),
        beta("row_beta", 0.95, "decay of the second moment per output feature", roles=muon.HIDDEN),
        *iteration_knobs(muon.HIDDEN),
        *muon.rest_knobs(0.25),
        weight_decay(0.1),
        cautious_weight_decay(),
    ),
)

ADAMUON_ENTRY = OptimizerEntry(
    name="adamuon",
    mup_power=-0.5,
    family="matrix",
    doc="muon on the sign of the momentum, with a second moment per element",
    formula="""\
m, u as in muon; X = the iteration of muon on sign(u)
v = momentum v + (1 - momentum) X^2
U = X / (sqrt(v) + adamuon_eps), scaled to a root mean square of 0.2
p = p (1 - lr wd) - lr U
embedding, head, norms: AdamW at muon_to_adam_lr x lr""",
    papers=(("AdaMuon: Adaptive Muon Optimizer", "https://arxiv.org/abs/2507.11005"),),
    routing=f"{muon.HIDDEN}: AdaMuon; {muon.REST}: AdamW at muon_to_adam_lr x lr; norms are not decayed",
    route=route_adamuon,
    knobs=(
        learning_rate(0.002),
        *muon.momentum_knobs(),
        *iteration_knobs(muon.HIDDEN),
        epsilon("adamuon_eps", 1e-8, "added to the root of the second moment", (), "adamuon_epsilon", muon.HIDDEN),
        *muon.rest_knobs(1.0),
        weight_decay(0.1),
        cautious_weight_decay(),
    ),
)

MUON_H_ENTRY = OptimizerEntry(
    name="muon_h",
    family="matrix",
    doc="muon that keeps the norm of every matrix; no weight decay",
    formula="""\
X as in muon
q = p - lr X |p|_F / |X|_F
p = q |p|_F / |q|_F
head: the same with Adam's direction; embedding, norms: Adam at muon_to_adam_lr x lr""",
    papers=(
        (
            "Fantastic Pretraining Optimizers and Where to Find Them II: Hyperball Optimization",
            "https://arxiv.org/abs/2606.16899",
        ),
        muon.PAPER,
    ),
    aliases=("muonh",),
    decay_convention="none",
    keeps_norms=True,
    routing=f"{muon.HIDDEN}: Muon on the sphere; head: Adam on the sphere; embedding, norms: Adam at muon_to_adam_lr x lr",
    route=route_muon_h,
    knobs=(
        learning_rate(0.02),
        *muon.momentum_knobs(),
        *iteration_knobs(muon.HIDDEN, eps=1e-8),
        *muon.rest_knobs(0.1),
    ),
)
