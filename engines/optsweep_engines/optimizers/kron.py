"""PSGD Kron: a Kronecker-factored preconditioner fitted by its own stochastic descent, with probe noise from the engine.

The factors are triangular for the matrices inside the layers and diagonal for embedding, head and norms. A whole
preconditioner is P = (Ql^T Ql) x (Qr^T Qr); its factors move so that P makes gradients white.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import blocks, kron_factors, linear
from optsweep_engines.optimizers.arrays import averaged, tensor_axes, tensor_norm
from optsweep_engines.optimizers.base import Array, Group, Hyper, Knob, OptimizerEntry, Rule, State
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, learning_rate, switch, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
g = g / |g|_F                    (normalize_grads)
m = beta1 m + (1 - beta1) g;  G = m / (1 - beta1^t)
update steps: G = G + sqrt(eps32) mean|G| V,  V standard normal;  A = Ql G Qr^T,  B = Ql^-T V Qr^-1
  Ql = Ql - preconditioner_lr triu(A A^T - B B^T) / |A A^T + B B^T|_2 Ql, and Qr alike
u = Ql^T Ql G Qr^T Qr, scaled down to a root mean square of 1.1
p = p (1 - lr wd) - lr u
embedding, head, norms: the same with diagonal Q"""

# sqrt of the float32 epsilon: the noise that keeps rank-deficient gradients away from singular factors.
DAMPING = 2.0**-11.5

# Largest root mean square of an update, a constant of the published code.
CLIP_RMS = 1.1

# The factors' norms are made equal every so many updates: P stays as it is, only rounding is kept in check.
BALANCE_INTERVAL = 20


def events(step: int, knobs: Mapping[str, Scalar]) -> frozenset[str]:
    """{"noise"} on steps that update the preconditioner, with "balance" now and then."""
    lowest, start, decay = (
        float(knobs[name] or 0.0)
        for name in ("preconditioner_update_probability", "update_prob_flat_start", "update_prob_decay")
    )
    number = kron_factors.calendar(lowest, int(start), decay).number(step)
    if not number:
        return frozenset()
    return frozenset({"noise", "balance"} if number % BALANCE_INTERVAL == 0 else {"noise"})


def layout(tensor: Parameter, knobs: Mapping[str, Scalar]) -> list[blocks.Tile]:
    """The blocks of a tensor: a vector is one row; what has diagonal factors is not cut."""
    shape = tensor.tensor_shape if len(tensor.tensor_shape) == 2 else (1, *tensor.tensor_shape)
    cutting = tensor.is_hidden_matrix and knobs["partition_grads_into_blocks"]
    return blocks.tiles(shape, int(knobs["block_size"] or 0) if cutting else 0)


def factor_shapes(tensor: Parameter, tile: blocks.Tile, knobs: Mapping[str, Scalar]) -> dict[str, tuple[int, int]]:
    """Shape of the factors of one block: (n, n) triangular, (n, 1) the diagonal alone; a vector has no left one."""

    def shape(size: int) -> tuple[int, int]:
        triangular = tensor.is_hidden_matrix and size <= int(knobs["max_size_triangular"] or 0)
        return size, size if triangular else 1

    rows, columns = tile.shape
    sides = {"left": shape(rows), "right": shape(columns)}
    return sides if len(tensor.tensor_shape) == 2 else {"right": sides["right"]}


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero momentum; factors of which the product is preconditioner_init_scale."""
    state = {"m": xp.zeros_like(param)}
    for index, tile in enumerate(layout(hp.tensor, hp.knobs)):
        batch = (*_lead(hp.tensor), tile.rows.pieces, tile.columns.pieces)
        shapes = factor_shapes(hp.tensor, tile, hp.knobs)
        scale = hp["preconditioner_init_scale"] ** (1 / len(shapes))
        for side, (rows, columns) in shapes.items():
            triangular = columns > 1
            unit = linear.identity(xp, rows, batch, param) if triangular else linear.ones(xp, (*batch, rows, 1), param)
            state[f"{side}{index}"] = scale * unit
    return state


def _lead(tensor: Parameter) -> tuple[int, ...]:
    return tensor.shape[: -len(tensor.tensor_shape)]


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://github.com/lixilinx/psgd_torch and https://github.com/evanatyourservice/kron_torch.

    As in the published code the noise of an update step stays in the gradient that is preconditioned.
    """
    tensor = hp.tensor
    if hp["normalize_grads"]:
        grad = grad / (tensor_norm(xp, grad, tensor) + 1e-16)
    m = averaged(xp, state["m"], grad, hp["beta1"])
    updating = hp.happens("noise")
    matrix_shape = (*_lead(tensor), *(tensor.tensor_shape if len(tensor.tensor_shape) == 2 else (1, -1)))
    mean = linear.widened(xp, m) / (1 - hp["beta1"] ** step)
    if updating:
        noise = linear.widened(xp, hp.extra["noise"])
        mean = mean + DAMPING * xp.mean(xp.abs(mean), axis=tensor_axes(tensor), keepdims=True) * noise
        noise = xp.reshape(noise, matrix_shape)
    whole = xp.reshape(mean, matrix_shape)
    new, parts, cuts = {"m": m}, [], layout(tensor, hp.knobs)
    for index, tile in enumerate(cuts):
        names = [name for side in ("left", "right") if (name := f"{side}{index}") in state]
        factors = [linear.widened(xp, state[name]) for name in names]
        part = blocks.cut(xp, whole, tile)
        if updating:
            pair = part, blocks.cut(xp, noise, tile)
            factors = kron_factors.refined(xp, factors, *pair, hp["preconditioner_lr"], hp.happens("balance"))
        new.update({name: linear.narrowed(xp, item, param) for name, item in zip(names, factors, strict=True)})
        parts.append(kron_factors.preconditioned(xp, factors, part))
    change = xp.reshape(blocks.joined(xp, parts, cuts), param.shape)
    rms = xp.sqrt(xp.mean(change * change, axis=tensor_axes(tensor), keepdims=True))
    change = change * xp.where(rms > CLIP_RMS, CLIP_RMS / (rms + 1e-12), xp.ones_like(rms))
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * linear.narrowed(xp, change, param), new


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """One momentum, and the factors of each block: (m^2 + n^2) / (m n) per parameter when not cut."""
    factors = sum(
        tile.count * rows * columns
        for tile in layout(parameter, knobs)
        for rows, columns in factor_shapes(parameter, tile, knobs).values()
    )
    return float(parameter.count + parameter.tensors * factors)


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Four products per triangular factor on every step; on the share of updates that the probability ends at, a product,
    a solve, two Gram matrices and a product of factors more.
    """
    share = float(knobs["preconditioner_update_probability"] or 0.0)
    total = (25.0 + 16.0 * share) * parameter.count
    for tile in layout(parameter, knobs):
        elements = tile.shape[0] * tile.shape[1]
        for rows, columns in factor_shapes(parameter, tile, knobs).values():
            if rows == columns:
                work = 4.0 * rows * elements + share * (7.0 * rows * elements + 2.0 * rows**3)
                total += parameter.tensors * tile.count * work
    return total


RULE = Rule(
    name="kron", init=init, update=update, state_floats=state_floats, flops=flops, events=events, scope="tensor"
)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """One rule; triangular or diagonal factors by the tensor's role. Norms and biases are not decayed."""
    decay = float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0
    return Group(rule=RULE, lr_ratio=1.0, weight_decay=decay)


_HIDDEN = "matrices of attention and MLP"

ENTRY = OptimizerEntry(
    name="kron",
    family="matrix",
    doc="PSGD with a Kronecker-factored preconditioner",
    formula=FORMULA,
    papers=(
        ("Preconditioned Stochastic Gradient Descent", "https://arxiv.org/abs/1512.04202"),
        ("Curvature-Informed SGD via General Purpose Lie-Group Preconditioners", "https://arxiv.org/abs/2402.04553"),
        ("PSGD Kron, published code", "https://github.com/evanatyourservice/kron_torch"),
    ),
    aliases=("psgd_kron",),
    studies={"reference": "kron", "nanogpt": "PSGDKron"},
    needs=frozenset({"noise"}),
    routing=f"{_HIDDEN}: triangular factors; embedding, head, norms: diagonal ones; norms are not decayed",
    route=route,
    knobs=(
        learning_rate(0.001, (0.0005, 0.001, 0.002, 0.004, 0.008)),
        beta("beta1", 0.95, "decay of the momentum", (0.9, 0.95, 0.98)),
        switch("normalize_grads", True, "gradients are scaled to norm 1, tensor by tensor"),
        Knob(
            name="preconditioner_lr",
            kind="float",
            default=0.1,
            doc="relative length of a step of the preconditioner",
            low=1e-4,
            high=1.0,
            scale="log",
            published=(0.1, 0.2),
        ),
        Knob(
            name="preconditioner_update_probability",
            kind="float",
            default=0.03,
            doc="share of steps that update the preconditioner, in the end",
            low=1e-4,
            high=1.0,
            scale="log",
            published=(0.05, 0.1),
        ),
        Knob(
            name="update_prob_flat_start",
            kind="int",
            default=500,
            doc="steps that all update the preconditioner, at the start",
            low=0,
            high=10**7,
            published=(500, 1000, 2000),
        ),
        Knob(
            name="update_prob_decay",
            kind="float",
            default=0.001,
            doc="rate at which that share then falls, per step",
            low=0.0,
            high=1.0,
        ),
        Knob(
            name="preconditioner_init_scale",
            kind="float",
            default=1.0,
            doc="preconditioner at the start, root of it",
            low=1e-6,
            high=1e6,
            scale="log",
            aliases=("precond_init_scale",),
        ),
        *blocks.block_knobs(True, _HIDDEN),
        Knob(
            name="max_size_triangular",
            kind="int",
            default=8192,
            doc="an axis of a block longer than this gets a diagonal factor",
            low=0,
            high=10**7,
            roles=_HIDDEN,
        ),
        weight_decay(0.5, (0.0, 0.5, 0.7, 0.9)),
        cautious_weight_decay(),
    ),
)
