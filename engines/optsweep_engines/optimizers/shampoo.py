"""Shampoo with Adam grafting, for the matrices inside the layers: the direction of L^-1/4 m R^-1/4 at the length of Adam's
step; AdamW for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adamw, blocks, linear
from optsweep_engines.optimizers.arrays import averaged, averaged_square
from optsweep_engines.optimizers.base import Array, Group, Hyper, Knob, OptimizerEntry, Rule, State
from optsweep_engines.optimizers.knobs import beta, cautious_weight_decay, epsilon, learning_rate, weight_decay
from optsweep_engines.spec import Scalar

FORMULA = """\
L = beta2 L + (1 - beta2) g g^T, R = beta2 R + (1 - beta2) g^T g
m = beta1 m + (1 - beta1) g, M = m / (1 - beta1^t)
v = graft_beta2 v + (1 - graft_beta2) g^2, a = M / (sqrt(v / (1 - graft_beta2^t)) + graft_eps)
every precondition_frequency steps: A = (L / (1 - beta2^t) + eps)^-1/4, B = (R / (1 - beta2^t) + eps)^-1/4
s = A M B;  u = s |a|_F / |s|_F  (a before the first A, B)
p = p (1 - lr wd) - lr u
embedding, head, norms: AdamW with graft_beta2 and graft_eps"""

# Added to the norm that a direction is divided by, a constant of the published code.
TINY = 1e-16

# -1/4 = -1 / (2 x number of axes).
ROOT = 4


def events(step: int, knobs: Mapping[str, Scalar]) -> frozenset[str]:
    """{"graft"} before the first roots exist, {"refresh"} on steps that compute them."""
    frequency = int(knobs["precondition_frequency"] or 1)
    if step < frequency:
        return frozenset({"graft"})
    return frozenset({"refresh"} if step % frequency == 0 else ())


def layout(tensor: Parameter, knobs: Mapping[str, Scalar]) -> list[blocks.Tile]:
    """The blocks of a matrix: no side is longer than max_preconditioner_dim."""
    return blocks.tiles(tensor.tensor_shape, int(knobs["max_preconditioner_dim"] or 0))


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """Zeros: two moments of the parameter's shape; a Gram matrix and its root per side, per shape of block."""
    state = {"m": xp.zeros_like(param), "v": xp.zeros_like(param)}
    for index, tile in enumerate(layout(hp.tensor, hp.knobs)):
        batch = (*hp.tensor.shape[:-2], tile.rows.pieces, tile.columns.pieces)
        for side, length in zip("lr", tile.shape, strict=True):
            for name in ("gram", "root"):
                state[f"{name}_{side}{index}"] = linear.zeros(xp, (*batch, length, length), param)
    return state


def grafted(xp: Any, direction: Array, reference: Array) -> Array:
    """Each block of the direction at the length of the reference."""
    lengths = [xp.sqrt(xp.sum(x * x, axis=(-2, -1), keepdims=True)) for x in (reference, direction)]
    return direction * (lengths[0] / (lengths[1] + TINY))


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/1802.09568 in the form of https://arxiv.org/abs/2309.06497 and its published code."""
    beta1, beta2, graft_beta2 = hp["beta1"], hp["beta2"], hp["graft_beta2"]
    m = averaged(xp, state["m"], grad, beta1)
    v = averaged_square(xp, state["v"], grad, graft_beta2)
    mean = linear.widened(xp, m) / (1 - beta1**step)
    adam = mean / (xp.sqrt(linear.widened(xp, v) / (1 - graft_beta2**step)) + hp["graft_eps"])
    cuts, parts, new = layout(hp.tensor, hp.knobs), [], {"m": m, "v": v}
    wide = linear.widened(xp, grad)
    for index, tile in enumerate(cuts):
        block = blocks.cut(xp, wide, tile)
        across = xp.matrix_transpose(block)
        roots = []
        for side, one, other in (("l", block, across), ("r", across, block)):
            gram_name, root_name = f"gram_{side}{index}", f"root_{side}{index}"
            gram = linear.averaged(xp, linear.widened(xp, state[gram_name]), one, other, beta2)
            root = linear.widened(xp, state[root_name])
            if hp.happens("refresh"):
                root = linear.inverse_root(xp, gram / (1 - beta2**step), hp["eps"], ROOT)
            new[gram_name], new[root_name] = linear.narrowed(xp, gram, param), linear.narrowed(xp, root, param)
            roots.append(root)
        reference = blocks.cut(xp, adam, tile)
        if hp.happens("graft"):
            parts.append(reference)
        else:
            parts.append(grafted(xp, roots[0] @ blocks.cut(xp, mean, tile) @ roots[1], reference))
    change = linear.narrowed(xp, blocks.joined(xp, parts, cuts), param)
    return param * (1 - hp.lr * hp.weight_decay) - hp.lr * change, new


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Two moments, a Gram matrix and its root per side of each block: 2 + 2 (m^2 + n^2) / (m n) when not cut."""
    squares = sum(tile.count * (tile.shape[0] ** 2 + tile.shape[1] ** 2) for tile in layout(parameter, knobs))
    return 2.0 * parameter.count + 2.0 * parameter.tensors * squares


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Per side a Gram matrix and a product with a root; every precondition_frequency steps an eigendecomposition with
    vectors (9 n^3) and the product that makes the root (2 n^3).
    """
    rate = 1.0 / int(knobs["precondition_frequency"] or 1)
    total = 24.0 * parameter.count
    for tile in layout(parameter, knobs):
        elements = tile.shape[0] * tile.shape[1]
        work = sum(4.0 * length * elements + rate * 11.0 * length**3 for length in tile.shape)
        total += parameter.tensors * tile.count * work
    return total


RULE = Rule(
    name="shampoo", init=init, update=update, state_floats=state_floats, flops=flops, events=events, scope="tensor"
)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Shampoo for the matrices of attention and MLP, the Adam that it is grafted onto for the rest."""
    decay = float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0
    if parameter.is_hidden_matrix:
        return Group(rule=RULE, lr_ratio=1.0, weight_decay=decay)
    own = {"nesterov": False, "beta2": knobs["graft_beta2"], "eps": knobs["graft_eps"]}
    return Group(rule=adamw.RULE, lr_ratio=1.0, weight_decay=decay, overrides=own)


_HIDDEN = "matrices of attention and MLP"

ENTRY = OptimizerEntry(
    name="shampoo",
    family="matrix",
    doc="Kronecker-factored full-matrix Adagrad at the length of Adam's step",
    formula=FORMULA,
    papers=(
        ("Shampoo: Preconditioned Stochastic Tensor Optimization", "https://arxiv.org/abs/1802.09568"),
        ("A Distributed Data-Parallel PyTorch Implementation of Shampoo", "https://arxiv.org/abs/2309.06497"),
    ),
    aliases=("distributed_shampoo",),
    studies={"nanogpt": "DistributedShampoo"},
    routing=f"{_HIDDEN}: Shampoo; embedding, head, norms: AdamW; norms are not decayed",
    route=route,
    knobs=(
        learning_rate(0.003),
        beta("beta1", 0.95, "decay of the momentum"),
        beta("beta2", 0.95, "decay of the two Gram matrices", roles=_HIDDEN),
        epsilon("eps", 1e-12, "added to the eigenvalues of the Gram matrices", (), "epsilon", _HIDDEN),
        beta("graft_beta2", 0.95, "decay of Adam's second moment"),
        epsilon("graft_eps", 1e-8, "added to the root of Adam's second moment", (), "graft_epsilon"),
        Knob(
            name="precondition_frequency",
            kind="int",
            default=10,
            doc="steps between two computations of the roots; Adam alone before the first",
            low=1,
            high=10**6,
            scale="log",
            roles=_HIDDEN,
        ),
        Knob(
            name="max_preconditioner_dim",
            kind="int",
            default=8192,
            doc="matrices are cut into blocks of at most this many rows and columns",
            low=1,
            high=10**7,
            scale="log",
            aliases=("block_size",),
            roles=_HIDDEN,
        ),
        weight_decay(0.1),
        cautious_weight_decay(),
    ),
)
