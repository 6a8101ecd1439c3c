"""Muon: momentum made orthogonal by a Newton-Schulz iteration, for the matrices inside the layers; AdamW for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import adamw
from optsweep_engines.optimizers.base import Array, Group, Hyper, Knob, OptimizerEntry, Rule, State
from optsweep_engines.optimizers.knobs import beta, epsilon, learning_rate, weight_decay
from optsweep_engines.spec import Scalar

# Keller Jordan, https://kellerjordan.github.io/posts/muon/: chosen for the steepest slope at 0 that still converges.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

FORMULA = """\
m = momentum m + (1 - momentum) g
u = m                            (nesterov: momentum m + (1 - momentum) g)
X = u / (|u|_F + muon_eps); ns_steps times: A = X X^T, X = 3.4445 X + (-4.7750 A + 2.0315 A A) X
p = p (1 - lr wd) - lr sqrt(max(1, out/in)) X
embedding, head, norms: AdamW at muon_to_adam_lr x lr"""


def newton_schulz(xp: Any, matrix: Array, steps: int, eps: float) -> Array:
    """The nearest semi-orthogonal matrix, roughly: singular values end between 0.7 and 1.2.

    Args:
        matrix: [..., rows, columns]; each matrix of the batch apart.
        steps: iterations of the quintic.
        eps: added to the Frobenius norm that the matrix is first divided by.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = xp.matrix_transpose(matrix) if tall else matrix
    x = x / (xp.sqrt(xp.sum(x * x, axis=(-2, -1), keepdims=True)) + eps)
    for _ in range(steps):
        gram = x @ xp.matrix_transpose(x)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return xp.matrix_transpose(x) if tall else x


def scale(tensor: Parameter) -> float:
    """sqrt(max(1, out/in)): keeps the RMS change of the output near lr, whatever the shape."""
    return float(max(1.0, tensor.fan_out / tensor.fan_in) ** 0.5)


def init(xp: Any, param: Array, hp: Hyper) -> State:
    """A zero momentum."""
    return {"m": xp.zeros_like(param)}


def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
    """One Muon step, https://kellerjordan.github.io/posts/muon/; decay uses the unscaled lr.

    The momentum is an average, as in the author's code; the sum form differs only through muon_eps.
    """
    momentum = hp["momentum"]
    m = momentum * state["m"] + (1 - momentum) * grad
    direction = momentum * m + (1 - momentum) * grad if hp["nesterov"] else m
    orthogonal = newton_schulz(xp, direction, hp["ns_steps"], hp["muon_eps"])
    param = param * (1 - hp.lr * hp.weight_decay) - (hp.lr * scale(hp.tensor)) * orthogonal
    return param, {"m": m}


def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """One momentum."""
    return float(parameter.count)


def flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Three products per iteration, 4 a^2 b + 2 a^3 for an a x b matrix with a <= b, and 9 operations per element."""
    short, long = sorted(parameter.tensor_shape)
    product = 4.0 * short * short * long + 2.0 * short**3
    return parameter.tensors * int(knobs["ns_steps"] or 0) * product + 9.0 * parameter.count


RULE = Rule(name="muon", init=init, update=update, state_floats=state_floats, flops=flops)


def route(parameter: Parameter, knobs: Mapping[str, Scalar]) -> Group:
    """Muon for the matrices of attention and MLP, AdamW at its own learning rate for the rest."""
    decay = float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0
    if parameter.is_hidden_matrix:
        return Group(rule=RULE, lr_ratio=1.0, weight_decay=decay)
    ratio = float(knobs["muon_to_adam_lr"] or 0.0)
    return Group(rule=adamw.RULE, lr_ratio=ratio, weight_decay=decay, overrides={"nesterov": False})


_HIDDEN = "matrices of attention and MLP"
_REST = "embedding, head, norms"

ENTRY = OptimizerEntry(
    name="muon",
    family="matrix",
    doc="orthogonalised momentum for hidden matrices, AdamW for the rest",
    formula=FORMULA,
    papers=(
        ("Muon: An optimizer for hidden layers in neural networks", "https://kellerjordan.github.io/posts/muon/"),
        ("Muon is Scalable for LLM Training", "https://arxiv.org/abs/2502.16982"),
    ),
    studies={"reference": "muon"},
    routing=f"{_HIDDEN}: Muon; {_REST}: AdamW at muon_to_adam_lr x lr; norms are not decayed",
    route=route,
    knobs=(
        learning_rate(0.02, (0.004, 0.008, 0.016, 0.032, 0.064, 0.128)),
        beta("momentum", 0.95, "decay of Muon's momentum", (0.8, 0.9, 0.95, 0.98), _HIDDEN),
        Knob(
            name="nesterov",
            kind="bool",
            default=True,
            doc="orthogonalise the momentum one step ahead",
            scale="categorical",
            roles=_HIDDEN,
        ),
        Knob(
            name="ns_steps",
            kind="int",
            default=5,
            doc="Newton-Schulz iterations",
            low=1,
            high=20,
            aliases=("backend_steps",),
            roles=_HIDDEN,
        ),
        epsilon(
            "muon_eps",
            1e-7,
            "added to the Frobenius norm before the iteration",
            (1e-25, 1e-20, 1e-15, 1e-10, 1e-5),
            "muon_epsilon",
            _HIDDEN,
        ),
        Knob(
            name="muon_to_adam_lr",
            kind="float",
            default=0.25,
            doc="learning rate of the AdamW part over Muon's",
            low=1e-4,
            high=100.0,
            scale="log",
            aliases=("muon_to_adamw_lr",),
            published=(0.1, 0.2, 0.3),
            roles=_REST,
        ),
        beta("beta1", 0.9, "AdamW part: decay of the first moment", (0.8, 0.9, 0.95, 0.98), _REST),
        beta("beta2", 0.95, "AdamW part: decay of the second moment", (0.9, 0.95, 0.98), _REST),
        epsilon("eps", 1e-8, "AdamW part: added to the root", (1e-25, 1e-20, 1e-15, 1e-10), "epsilon", _REST),
        weight_decay(0.1, (0, 0.1, 0.2)),
    ),
)
