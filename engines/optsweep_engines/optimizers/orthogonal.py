"""Newton-Schulz iterations that bring a matrix near its polar factor U V^T, for Muon and its relatives.

Each step maps every singular value s to a s + b s^3 + c s^5 and leaves the singular vectors alone; the sets of
coefficients differ in how fast small values grow and how close to 1 they end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Array, Hyper, Iterate, Knob
from optsweep_engines.optimizers.knobs import epsilon
from optsweep_engines.spec import Scalar

Coefficients: TypeAlias = tuple[float, float, float]
"""(a, b, c) of one step."""

# Keller Jordan, https://kellerjordan.github.io/posts/muon/: chosen for the steepest slope at 0 that still converges.
JORDAN: Coefficients = (3.4445, -4.7750, 2.0315)

# Amsel et al., https://arxiv.org/abs/2505.16932, Algorithm 1: minimax-optimal for singular values from 1e-3 to 1.
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)

# The same algorithm: every step but those at the limit is damped, so that rounding cannot carry values past 1.
_SAFETY = 1.01

SCHEMES: dict[str, tuple[Coefficients, ...]] = {
    "jordan": (JORDAN,),
    "polar_express": (
        *((a / _SAFETY, b / _SAFETY**3, c / _SAFETY**5) for a, b, c in _POLAR_EXPRESS),
        (1.875, -1.25, 0.375),
    ),
    # Jiacheng You, https://x.com/YouJiacheng/status/1893704552689303901: six steps fitted together.
    "you": (
        (3955 / 1024, -8306 / 1024, 5008 / 1024),
        (3735 / 1024, -6681 / 1024, 3463 / 1024),
        (3799 / 1024, -6499 / 1024, 3211 / 1024),
        (4019 / 1024, -6385 / 1024, 2906 / 1024),
        (2677 / 1024, -3029 / 1024, 1162 / 1024),
        (2172 / 1024, -1833 / 1024, 682 / 1024),
    ),
    # The classical quintic: converges to exactly 1, slowly from small values.
    "classical": ((1.875, -1.25, 0.375),),
}
"""Coefficients step by step; the last ones repeat."""

# Polar Express divides by 1.01 |X|_F, so that no singular value starts above what its first step was made for.
NORM_FACTOR = {"polar_express": 1.01}


def coefficients(scheme: str, steps: int) -> list[Coefficients]:
    """The coefficients of each of so many steps."""
    chosen = SCHEMES[scheme]
    return [chosen[min(step, len(chosen) - 1)] for step in range(steps)]


def iterated(xp: Any, x: Array, steps: Sequence[Coefficients]) -> Array:
    """X after these steps, as the formula reads; [..., rows, columns] with rows <= columns for the fewest operations."""
    for a, b, c in steps:
        gram = x @ xp.matrix_transpose(x)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def newton_schulz(
    xp: Any, matrix: Array, steps: int, eps: float, scheme: str = "jordan", iterate: Iterate | None = None
) -> Array:
    """The nearest semi-orthogonal matrix, roughly; with "jordan" singular values end between 0.7 and 1.2.

    Args:
        matrix: [..., rows, columns]; each matrix of the batch apart.
        steps: iterations of the quintic.
        eps: added to the Frobenius norm that the matrix is first divided by.
        scheme: which coefficients, a key of SCHEMES.
        iterate: another way to run the steps than `iterated`.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = xp.matrix_transpose(matrix) if tall else matrix
    norm = xp.sqrt(xp.sum(x * x, axis=(-2, -1), keepdims=True))
    x = x / (norm * NORM_FACTOR.get(scheme, 1.0) + eps)
    chosen = coefficients(scheme, steps)
    x = iterate(x, chosen) if iterate else iterated(xp, x, chosen)
    return xp.matrix_transpose(x) if tall else x


def orthogonalized(xp: Any, matrix: Array, hp: Hyper) -> Array:
    """`newton_schulz` with the knobs of `iteration_knobs`, by the engine's own way where there is one."""
    return newton_schulz(xp, matrix, hp["ns_steps"], hp["muon_eps"], hp["ns_scheme"], hp.iterate)


def newton_schulz_flops(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """Three products per step: 4 a^2 b + 2 a^3 for an a x b matrix with a <= b."""
    short, long = sorted(parameter.tensor_shape)
    return parameter.tensors * int(knobs["ns_steps"] or 0) * (4.0 * short * short * long + 2.0 * short**3)


def iteration_knobs(roles: str, *, steps: int = 5, eps: float = 1e-7, alias: str = "muon_epsilon") -> tuple[Knob, ...]:
    """ns_steps, ns_scheme and muon_eps.

    Args:
        roles: which tensors they act on, in words.
        alias: published name of muon_eps.
    """
    return (
        Knob(
            name="ns_steps",
            kind="int",
            default=steps,
            doc="Newton-Schulz iterations",
            low=1,
            high=20,
            aliases=("backend_steps",),
            roles=roles,
        ),
        Knob(
            name="ns_scheme",
            kind="choice",
            default="jordan",
            doc="coefficients of the iteration",
            scale="categorical",
            choices=tuple(SCHEMES),
            roles=roles,
        ),
        epsilon(
            "muon_eps",
            eps,
            "added to the Frobenius norm before the iteration",
            (1e-20, 1e-15, 1e-10, 1e-5) if alias == "scion_epsilon" else (1e-25, 1e-20, 1e-15, 1e-10, 1e-5),
            alias,
            roles,
        ),
    )
