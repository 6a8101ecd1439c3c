"""SOAP: Adam in the eigenbasis of Shampoo's two matrices, for the matrices inside the layers; AdamW for the rest."""

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
step 1: L = (1 - shampoo_beta) g g^T, R = (1 - shampoo_beta) g^T g; Ql, Qr their eigenvectors; p stays
later, s = t - 1:
  h = Ql^T g Qr;  m = beta1 m + (1 - beta1) h;  v = beta2 v + (1 - beta2) h^2
  u = sqrt(1 - beta2^s) / (1 - beta1^s) Ql (m / (sqrt(v) + eps)) Qr^T
  p = (p - lr u) (1 - lr wd)
  L = shampoo_beta L + (1 - shampoo_beta) g g^T, R alike
  s divisible by precondition_frequency: Ql = QR of (L Ql, columns by size), Qr alike; m turned, v reordered
embedding, head, norms: AdamW"""


def events(step: int, knobs: Mapping[str, Scalar]) -> frozenset[str]:
    """{"start"} at step 1, {"refresh"} on steps that end with a new basis."""
    if step == 1:
        return frozenset({"start"})
    return frozenset({"refresh"} if (step - 1) % int(knobs["precondition_frequency"] or 1) == 0 else ())


def layout(tensor: Parameter, knobs: Mapping[str, Scalar]) -> list[blocks.Tile]:
    """The blocks of a matrix."""
    return blocks.tiles(
        tensor.tensor_shape, int(knobs["block_size"] or 0) if knobs["partition_grads_into_blocks"] else 0
    )


def sides(tile: blocks.Tile, knobs: Mapping[str, Scalar]) -> dict[str, int]:
    """The sides of a block that have a basis, with their lengths: those not beyond max_precond_dim."""
    longest = int(knobs["max_precond_dim"] or 0)
    lengths = {"l": tile.shape[0], "r": tile.shape[1]}
    return {side: length for side, length in lengths.items() if length <= longest}


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """Zeros: moments m, v in the eigenbasis, Gram matrices gram_*, bases q_*, per shape of block."""
    state = {}
    lead = hp.tensor.shape[:-2]
    for index, tile in enumerate(layout(hp.tensor, hp.knobs)):
        batch = (*lead, tile.rows.pieces, tile.columns.pieces)
        for name in ("m", "v"):
            state[f"{name}{index}"] = linear.zeros(xp, (*batch, *tile.shape), param)
        for side, length in sides(tile, hp.knobs).items():
            for name in ("gram", "q"):
                state[f"{name}_{side}{index}"] = linear.zeros(xp, (*batch, length, length), param)
    return state


def turned(xp: Any, x: Array, own: State, back: bool = False) -> Array:
    """Ql^T x Qr, or with `back` Ql x Qr^T; a side without a basis stays."""
    if "q_l" in own:
        x = (own["q_l"] if back else xp.matrix_transpose(own["q_l"])) @ x
    if "q_r" in own:
        x = x @ (xp.matrix_transpose(own["q_r"]) if back else own["q_r"])
    return x


def grams(xp: Any, grad: Array, own: State, shampoo_beta: float) -> State:
    """The Gram matrices with one more gradient in the average."""
    across = xp.matrix_transpose(grad)
    return {
        name: linear.averaged(xp, own[name], one, other, shampoo_beta)
        for name, one, other in (("gram_l", grad, across), ("gram_r", across, grad))
        if name in own
    }


def refreshed(xp: Any, own: State) -> State:
    """New bases by one power iteration and QR, columns by the size of their eigenvalue; the moments go along.

    Eigenvectors keep their second moment when they change places; the first moment is turned as a whole.
    """
    first = turned(xp, own["m"], own, back=True)
    v, new = own["v"], {}
    for side, axis in (("l", -2), ("r", -1)):
        if f"q_{side}" not in own:
            continue
        q = own[f"q_{side}"]
        power = own[f"gram_{side}"] @ q
        order = xp.argsort(xp.sum(q * power, axis=-2), axis=-1, descending=True, stable=True)
        columns = xp.broadcast_to(order[..., None, :], power.shape)
        new[f"q_{side}"] = xp.linalg.qr(linear.taken(xp, power, columns, -1))[0]
        places = order[..., :, None] if axis == -2 else order[..., None, :]
        v = linear.taken(xp, v, xp.broadcast_to(places, v.shape), axis)
    return {**new, "v": v, "m": turned(xp, first, new)}


def block_update(xp: Any, grad: Array, own: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """(change, state) of the blocks of one shape; the change is zero at step 1."""
    if hp.happens("start"):
        new = {**own, **grams(xp, grad, own, hp["shampoo_beta"])}
        for side in ("l", "r"):
            if f"q_{side}" in own:
                new[f"q_{side}"] = linear.eigh(xp, new[f"gram_{side}"])[1]
        return 0 * grad, new  # a NaN shows
    beta1, beta2 = hp["beta1"], hp["beta2"]
    inside = turned(xp, grad, own)
    m = averaged(xp, own["m"], inside, beta1)
    v = averaged_square(xp, own["v"], inside, beta2)
    correction = (1 - beta2 ** (step - 1)) ** 0.5 / (1 - beta1 ** (step - 1))
    change = turned(xp, m / (xp.sqrt(v) + hp["eps"]), own, back=True) * correction
    new = {**own, "m": m, "v": v, **grams(xp, grad, own, hp["shampoo_beta"])}
    return change, {**new, **refreshed(xp, new)} if hp.happens("refresh") else new


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One step, https://arxiv.org/abs/2409.11321, as in the authors' code: step 1 only prepares, the basis is made new
    after the step, weight decay comes last, eps is added to the root before its bias correction.
    """
    cuts, parts, new = layout(hp.tensor, hp.knobs), [], {}
    wide = linear.widened(xp, grad)
    for index, tile in enumerate(cuts):
        names = [f"{name}{index}" for name in ("m", "v")]
        names += [f"{name}_{side}{index}" for side in sides(tile, hp.knobs) for name in ("gram", "q")]
        own = {name.removesuffix(str(index)): linear.widened(xp, state[name]) for name in names}
        change, own = block_update(xp, blocks.cut(xp, wide, tile), own, step, hp)
        new.update({name: linear.narrowed(xp, own[name.removesuffix(str(index))], param) for name in names})
        parts.append(change)
    change = linear.narrowed(xp, blocks.joined(xp, parts, cuts), param)
    return (param - hp.lr * change) * (1 - decay_rate(state, step, hp)), new


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Two moments, a Gram matrix and a basis per side of each block: 2 + 2 (m^2 + n^2) / (m n) when not cut."""
    squares = sum(
        tile.count * length * length for tile in layout(parameter, knobs) for length in sides(tile, knobs).values()
    )
    return 2.0 * parameter.count + 2.0 * parameter.tensors * squares


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Per side a product there, one back and a Gram matrix; every precondition_frequency steps two products to turn m,
    a power iteration and a QR (2 n^3 and 8/3 n^3).
    """
    rate = 1.0 / int(knobs["precondition_frequency"] or 1)
    total = 17.0 * parameter.count
    for tile in layout(parameter, knobs):
        elements = tile.shape[0] * tile.shape[1]
        for length in sides(tile, knobs).values():
            work = 6.0 * length * elements + rate * (4.0 * length * elements + (2.0 + 8.0 / 3.0) * length**3)
            total += parameter.tensors * tile.count * work
    return total


def decay_rate(state: State, step: Any, hp: Hyper) -> Any:
    """lr x weight_decay, but nothing at the first step."""
    return 0.0 if hp.happens("start") else hp.lr * hp.weight_decay


RULE = Rule(
    name="soap",
    init=init,
    update=update,
    state_floats=state_floats,
    flops=flops,
    events=events,
    decay_rate=decay_rate,
    decays_last=True,
    scope="tensor",
)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """SOAP for the matrices of attention and MLP, AdamW with the same knobs for the rest."""
    decay = float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0
    if parameter.is_hidden_matrix:
        return Group(rule=RULE, lr_ratio=1.0, weight_decay=decay)
    return Group(rule=adamw.RULE, lr_ratio=1.0, weight_decay=decay, overrides={"nesterov": False})


_HIDDEN = "matrices of attention and MLP"

ENTRY = OptimizerEntry(
    name="soap",
    mup_power=-0.5,
    family="matrix",
    doc="Adam in the eigenbasis of Shampoo",
    formula=FORMULA,
    papers=(("SOAP: Improving and Stabilizing Shampoo using Adam", "https://arxiv.org/abs/2409.11321"),),
    aliases=("soape",),
    studies={"reference": "soape", "epfl": "soap", "nanogpt": "SOAP"},
    routing=f"{_HIDDEN}: SOAP; embedding, head, norms: AdamW with the same knobs; norms are not decayed",
    route=route,
    knobs=(
        learning_rate(0.003, (0.004, 0.008, 0.016)),
        beta("beta1", 0.95, "decay of the first moment", (0.8, 0.9, 0.95)),
        beta("beta2", 0.95, "decay of the second moment", (0.9, 0.95, 0.98, 0.99)),
        beta("shampoo_beta", 0.95, "decay of the two Gram matrices", (0.9, 0.95, 0.98, 0.99), _HIDDEN),
        epsilon("eps", 1e-8, "added to the root of the second moment", (1e-20, 1e-15, 1e-10), "epsilon"),
        Knob(
            name="precondition_frequency",
            kind="int",
            default=10,
            doc="steps between two refreshes of the eigenbasis",
            low=1,
            high=10**6,
            scale="log",
            published=(1, 5, 10),
            roles=_HIDDEN,
        ),
        *blocks.block_knobs(False, _HIDDEN),
        Knob(
            name="max_precond_dim",
            kind="int",
            default=10000,
            doc="an axis of a block longer than this keeps its own basis",
            low=0,
            high=10**7,
            aliases=("max_preconditioner_dim",),
            roles=_HIDDEN,
        ),
        weight_decay(0.1, (0, 0.1, 0.2, 0.3)),
        cautious_weight_decay(),
    ),
)
