"""Each matrix rule against a derivation of its own in float64, and against libraries where they are right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from array_api_compat import numpy as numpy_namespace
from array_api_compat import torch as torch_namespace
from pytorch_optimizer import SOAP

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers import blocks, orthogonal
from optsweep_engines.optimizers.base import State, at_step, hyper
from optsweep_engines.optimizers.catalogue import optimizer
from optsweep_engines.properties.services import services
from optsweep_engines.properties.tensors import ALL_SHAPES, Floats, error, factor, gradient, start
from optsweep_engines.properties.training import STEPS, knobs_of
from optsweep_engines.spec import Scalar
from tests.numerics import matrix_oracles as oracles
from tests.numerics.matrix_oracles import LR, train

# 30 steps in float32 against float64: the tolerances of the design note on optimizers.
TOLERANCE, EIGEN_TOLERANCE = 1e-5, 5e-5

# The same arithmetic in another order, in float64.
DOUBLE_TOLERANCE = 1e-9

HIDDEN = tuple(item for item in ALL_SHAPES if item.is_hidden_matrix)
REST = tuple(item for item in ALL_SHAPES if not item.is_hidden_matrix)
TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Space:
    """A namespace with the type that a rule runs in."""

    xp: Any
    dtype: Any
    to_xp: Callable[[Any], Any]


NUMPY = Space(numpy_namespace, np.float64, np.asarray)
TORCH = Space(torch_namespace, np.float32, torch.from_numpy)


def trained(
    name: str,
    item: Parameter,
    given: Mapping[str, Scalar],
    space: Space,
    after_first: Callable[[State], Mapping[str, Floats]] = lambda state: {},
) -> Floats:
    """Final value of one tensor or bank under the rule; `after_first` gives state to overwrite after the first step."""
    entry, knobs = optimizer(name), knobs_of(name, {"lr": LR, **given})
    provided = services(space.to_xp, space.dtype)
    rule, hp = hyper(entry, item, knobs)
    param = space.to_xp(start(item).astype(space.dtype))
    state = rule.init(space.xp, param, hp)
    for step in range(1, STEPS + 1):
        grad = space.to_xp(gradient(item, np.asarray(param, dtype=np.float64), step).astype(space.dtype))
        _, hp = hyper(entry, item, knobs, lr=LR * factor(step), total_steps=STEPS, tokens_per_step=TOKENS)
        param, state = rule.update(space.xp, param, grad, state, step, at_step(rule, hp, step, provided))
        if step == 1:
            new = {key: space.to_xp(value.astype(space.dtype)) for key, value in after_first(state).items()}
            state = {**state, **new}
    return np.asarray(param, dtype=np.float64)


def assert_both_equal(
    name: str, item: Parameter, given: Mapping[str, Scalar], expected: Floats, tolerance: float = TOLERANCE
) -> None:
    """numpy in float64 to rounding, torch in float32 to the tolerance."""
    assert error(expected, start(item)) > 1e-2, "the oracle does not move"
    assert error(trained(name, item, given, NUMPY), expected) < DOUBLE_TOLERANCE, item.name
    assert error(trained(name, item, given, TORCH), expected) < tolerance, item.name


def decay(item: Parameter, everything: bool = False) -> float:
    """0.1 where weight decay applies."""
    return 0.1 if everything or item.decays else 0.0


# ---------------------------------------------------------------- Newton-Schulz schemes


def minimax_quintic(low: float, high: float) -> Floats:
    """(a, b, c) of the odd quintic nearest to 1 on an interval, in the largest deviation: four equal extrema (Remez)."""
    extrema = np.linspace(low, high, 4)
    for _ in range(100):
        rows = np.stack([extrema, extrema**3, extrema**5, (-1.0) ** np.arange(4)], axis=1)
        a, b, c, _ = np.linalg.solve(rows, np.ones(4))
        inner = np.sqrt(np.roots([5 * c, 3 * b, a]).real)
        extrema = np.array([low, *np.sort(inner), high])
    return np.array([a, b, c])


def polar_express_coefficients(steps: int) -> list[Floats]:
    """Section 3 of arXiv 2505.16932: each step is the best one for the interval that the steps before leave.

    The lower end is held at 0.0241 of the upper one, and the polynomial then centred around 1 on the true interval.
    """
    low, high = 1e-3, 1.0
    found: list[Floats] = []
    for _ in range(steps):
        held = max(low, 0.02407327424182761 * high)
        polynomial = minimax_quintic(held, high) if held / high < 1 - 1e-5 else np.array([1.875, -1.25, 0.375])
        ends = [value * polynomial @ [1, value**2, value**4] for value in (low, high)]
        polynomial = polynomial * (2 / sum(ends) if held > low else 1.0)
        found.append(polynomial)
        low = float(low * polynomial @ [1, low**2, low**4])
        high = 2 - low
    return found


def test_polar_express_is_the_composition_of_best_quintics() -> None:
    expected = polar_express_coefficients(7)
    table = np.array(orthogonal.SCHEMES["polar_express"][:7])
    undamped = table * [1.01, 1.01**3, 1.01**5]
    assert np.abs(undamped - expected).max() < 1e-5
    assert orthogonal.coefficients("polar_express", 10)[-1] == (1.875, -1.25, 0.375)


def singular_values_after(scheme: str, steps: int) -> Floats:
    """Singular values of an orthogonalised matrix whose own go from 1 down to 0.003."""
    stream = np.random.Generator(np.random.PCG64(0))
    left, right = (np.linalg.qr(stream.standard_normal((12, 12)))[0] for _ in range(2))
    matrix = (left * np.logspace(0, -2.5, 12)) @ right
    result = orthogonal.newton_schulz(numpy_namespace, matrix, steps, 1e-7, scheme)
    return np.linalg.svd(result, compute_uv=False)


def test_schemes_end_as_near_to_one_as_their_authors_say() -> None:
    assert np.abs(singular_values_after("polar_express", 8) - 1).max() < 1e-5
    assert np.abs(singular_values_after("classical", 20) - 1).max() < 1e-5
    assert np.abs(singular_values_after("you", 6) - 1).max() < 0.1
    assert 0.65 < singular_values_after("jordan", 6).min() < singular_values_after("jordan", 6).max() < 1.25
    five = {scheme: singular_values_after(scheme, 5).min() for scheme in orthogonal.SCHEMES}
    assert five["classical"] < five["jordan"] < five["polar_express"]


@pytest.mark.parametrize("scheme", sorted(orthogonal.SCHEMES))
@pytest.mark.parametrize("shape", [(9, 9), (5, 14), (14, 5)])
def test_every_scheme_is_its_polynomial_of_the_singular_values(scheme: str, shape: tuple[int, int]) -> None:
    matrix = np.random.Generator(np.random.PCG64(1)).standard_normal((3, *shape))
    factor_of_norm = 1.01 if scheme == "polar_express" else 1.0
    steps = orthogonal.coefficients(scheme, 7)
    expected = np.stack([oracles.polynomial_of_singular_values(x, steps, 1e-2, factor_of_norm) for x in matrix])
    assert error(orthogonal.newton_schulz(numpy_namespace, matrix, 7, 1e-2, scheme), expected) < 1e-12


# ---------------------------------------------------------------- Muon and its relatives


@pytest.mark.parametrize(("name", "adjustment"), [("muon", "original"), ("d_muon", "match_rms_adamw")])
@pytest.mark.parametrize("item", HIDDEN, ids=lambda item: item.name)
def test_muon_is_torch_muon_without_its_bf16(
    name: str, adjustment: str, item: Parameter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    params = [torch.nn.Parameter(torch.from_numpy(x)) for x in start(item).reshape(-1, *item.tensor_shape)]
    library = torch.optim.Muon(
        params, lr=LR, weight_decay=0.1, momentum=0.9, nesterov=True, ns_steps=5, eps=1e-12, adjust_lr_fn=adjustment
    )
    for step in range(1, STEPS + 1):
        value = np.stack([param.detach().numpy() for param in params]).reshape(item.shape)
        for param, grad in zip(params, gradient(item, value, step).reshape(-1, *item.tensor_shape), strict=True):
            param.grad = torch.from_numpy(grad)
        library.param_groups[0]["lr"] = LR * factor(step)
        library.step()  # type: ignore[no-untyped-call]
    expected = np.stack([param.detach().numpy() for param in params]).reshape(item.shape)
    assert_both_equal(name, item, {"momentum": 0.9, "muon_eps": 1e-12}, expected)


@pytest.mark.parametrize("item", HIDDEN, ids=lambda item: item.name)
def test_d_muon_steps_with_the_rms_of_adamw(item: Parameter) -> None:
    expected, _ = train(item, lambda: oracles.DMuon(0.9, 1e-3, 6, 0.3, 0.1))
    assert_both_equal("d_muon", item, {"momentum": 0.9, "muon_eps": 1e-3, "ns_steps": 6, "update_rms": 0.3}, expected)


@pytest.mark.parametrize("item", HIDDEN, ids=lambda item: item.name)
def test_normuon_is_its_derivation(item: Parameter) -> None:
    expected, _ = train(item, lambda: oracles.NorMuon(0.9, 0.8, 0.1))
    assert_both_equal("normuon", item, {"momentum": 0.9, "row_beta": 0.8}, expected)


@pytest.mark.parametrize("item", HIDDEN, ids=lambda item: item.name)
def test_adamuon_is_its_derivation(item: Parameter) -> None:
    expected, _ = train(item, lambda: oracles.AdaMuon(0.9, 1e-3, 0.1))
    assert_both_equal("adamuon", item, {"momentum": 0.9, "adamuon_eps": 1e-3}, expected)


@pytest.mark.parametrize("item", HIDDEN, ids=lambda item: item.name)
def test_muon_h_is_muon_on_a_sphere(item: Parameter) -> None:
    def make() -> oracles.Hyperball:
        momentum = oracles.Momentum(0.9)
        return oracles.Hyperball(lambda g, t: oracles.jordan(momentum.ahead(g), 5, 1e-8))

    expected, _ = train(item, make)
    assert_both_equal("muon_h", item, {"momentum": 0.9}, expected)
    norm_before, norm_after = (np.linalg.norm(x.reshape(item.tensors, -1), axis=1) for x in (start(item), expected))
    assert np.allclose(norm_after, norm_before, rtol=1e-12)


def test_muon_h_keeps_the_norm_of_the_head_with_adam() -> None:
    head = next(item for item in REST if item.role == "head")
    expected, _ = train(head, lambda: oracles.Hyperball(oracles.AdamDirection(0.8, 0.9, 1e-4)))
    assert_both_equal("muon_h", head, {"beta1": 0.8, "beta2": 0.9, "eps": 1e-4}, expected)


@pytest.mark.parametrize(
    ("name", "decays_norms", "decays"),
    [
        ("muon", False, True),
        ("d_muon", True, True),
        ("normuon", False, True),
        ("adamuon", False, True),
        ("muon_h", False, False),
    ],
)
def test_the_muon_family_trains_the_rest_with_adamw_at_its_own_learning_rate(
    name: str, decays_norms: bool, decays: bool
) -> None:
    given = {"beta1": 0.8, "beta2": 0.98, "eps": 1e-6, "muon_to_adam_lr": 0.3}
    for item in REST:
        if name == "muon_h" and item.role == "head":
            continue
        wd = decay(item, decays_norms) if decays else 0.0
        expected, _ = train(item, lambda wd=wd: oracles.AdamW(0.8, 0.98, 1e-6, wd, ratio=0.3))  # type: ignore[misc]
        assert_both_equal(name, item, given, expected)


# ---------------------------------------------------------------- Scion


def lmo_of(item: Parameter) -> Callable[[Floats], Floats]:
    """The point of the ball that the gradient points away from, scaled by the radius of the test."""

    def spectral(m: Floats) -> Floats:
        rows, columns = item.tensor_shape
        return -3.0 * math.sqrt(rows / columns) * oracles.jordan(m, 6, 1e-5)

    by_role: dict[str, Callable[[Floats], Floats]] = {
        "head": lambda m: -7.0 * np.sign(m) / item.tensor_shape[1],  # [out, in]
        "embedding": lambda m: -0.5 * np.sign(m),
        "norm": lambda m: -2.0 * m / (math.sqrt((m**2).mean()) + 1e-8),
    }
    return by_role.get(item.role, spectral)


@pytest.mark.parametrize("unconstrained", [False, True])
@pytest.mark.parametrize("item", ALL_SHAPES, ids=lambda item: item.name)
def test_scion_steps_to_the_far_side_of_a_ball(item: Parameter, unconstrained: bool) -> None:
    given: dict[str, Scalar] = {
        "momentum": 0.8,
        "hidden_radius": 3.0,
        "head_radius": 7.0,
        "embedding_radius": 0.5,
        "vector_radius": 2.0,
        "ns_steps": 6,
        "scion_epsilon": 1e-5,
        "unconstrained": unconstrained,
    }
    expected, _ = train(item, lambda: oracles.Lmo(0.8, lmo_of(item), 0.0 if unconstrained else 1.0))
    assert_both_equal("scion", item, given, expected)


@pytest.mark.parametrize("item", ALL_SHAPES, ids=lambda item: item.name)
def test_scion_fantastic_is_muon_without_nesterov_and_signum(item: Parameter) -> None:
    def spectral(m: Floats) -> Floats:
        rows, columns = item.tensor_shape
        return -math.sqrt(max(1.0, rows / columns)) * oracles.jordan(m, 7, 1e-5)

    given = {"momentum": 0.8, "beta1": 0.7, "scion_to_signgd_lr": 0.3, "backend_steps": 7, "scion_epsilon": 1e-5}
    if item.is_hidden_matrix:
        expected, _ = train(item, lambda: oracles.Lmo(0.8, spectral, 0.1))
    else:
        expected, _ = train(item, lambda: oracles.Lmo(0.7, lambda m: -np.sign(m), decay(item), ratio=0.3))
    assert_both_equal("scion_fantastic", item, given, expected)


# ---------------------------------------------------------------- SOAP


def soap_state(item: Parameter, trained_oracles: list[Any], size: int) -> Callable[[State], dict[str, Floats]]:
    """The oracle's initial eigenvectors in the layout of the rule: a rank-deficient Gram matrix has no unique ones."""

    def state(_: State) -> dict[str, Floats]:
        new: dict[str, Floats] = {}
        for index, tile in enumerate(blocks.tiles(item.tensor_shape, size)):
            rows = range(tile.rows.start // max(size, 1), tile.rows.start // max(size, 1) + tile.rows.pieces)
            columns = range(
                tile.columns.start // max(size, 1), tile.columns.start // max(size, 1) + tile.columns.pieces
            )
            for place, side in enumerate("lr"):
                bases = [
                    [[oracle.blocks[row, column].initial[place] for column in columns] for row in rows]
                    for oracle in trained_oracles
                ]
                new[f"q_{side}{index}"] = np.array(bases) if item.stacked else np.array(bases)[0]
        return new

    return state


@pytest.mark.parametrize(("frequency", "size"), [(10, 0), (3, 0), (1, 0), (4, 8)])
@pytest.mark.parametrize("item", HIDDEN, ids=lambda item: item.name)
def test_soap_is_its_derivation_from_a_shared_basis(item: Parameter, frequency: int, size: int) -> None:
    given: dict[str, Scalar] = {
        "beta1": 0.9,
        "beta2": 0.95,
        "shampoo_beta": 0.8,
        "eps": 1e-6,
        "precondition_frequency": frequency,
        "partition_grads_into_blocks": bool(size),
        "block_size": size or 256,
    }

    def make() -> oracles.Blocked:
        return oracles.Blocked(lambda: oracles.Soap((0.9, 0.95), 0.8, 1e-6, frequency, 0.1, 100), size or 100)

    expected, finished = train(item, make)
    basis = soap_state(item, finished, size)
    # With frequency 1 the power iteration is repeated 29 times: rounding grows to 1e-8.
    assert error(trained("soap", item, given, NUMPY, basis), expected) < 1e-7
    assert error(trained("soap", item, given, TORCH, basis), expected) < EIGEN_TOLERANCE


@pytest.mark.parametrize("longest", [14, 10000])
@pytest.mark.parametrize("item", HIDDEN, ids=lambda item: item.name)
def test_soap_is_the_library_where_the_first_basis_is_unique(item: Parameter, longest: int) -> None:
    if longest == 10000 and item.tensor_shape != (12, 12):
        return  # the longer side's first Gram matrix is rank-deficient
    params = [torch.nn.Parameter(torch.from_numpy(x)) for x in start(item).reshape(-1, *item.tensor_shape)]
    library = SOAP(
        params,
        lr=LR,
        betas=(0.9, 0.95),
        shampoo_beta=0.8,
        weight_decay=0.1,
        precondition_frequency=5,
        max_precondition_dim=longest,
        eps=1e-6,
    )
    for step in range(1, STEPS + 1):
        value = np.stack([param.detach().numpy() for param in params]).reshape(item.shape)
        for param, grad in zip(params, gradient(item, value, step).reshape(-1, *item.tensor_shape), strict=True):
            param.grad = torch.from_numpy(grad)
        library.param_groups[0]["lr"] = LR * factor(step)
        library.step()
    expected = np.stack([param.detach().numpy() for param in params]).reshape(item.shape)
    given = {"beta1": 0.9, "shampoo_beta": 0.8, "eps": 1e-6, "precondition_frequency": 5, "max_precond_dim": longest}
    # The library casts its QR to float32 whatever the type.
    for space in (NUMPY, TORCH):
        assert error(trained("soap", item, given, space), expected) < EIGEN_TOLERANCE


def test_soap_does_not_move_at_the_first_step_and_forms_its_basis_there() -> None:
    item = next(entry for entry in HIDDEN if entry.role == "attention_out")
    rule, hp = hyper(optimizer("soap"), item, knobs_of("soap"), lr=LR)
    param = start(item)
    grad = gradient(item, param, 1)
    moved, state = rule.update(
        numpy_namespace, param, grad, rule.init(numpy_namespace, param, hp), 1, at_step(rule, hp, 1)
    )
    assert np.array_equal(moved, param)
    basis = state["q_l0"][0, 0]
    inside = basis.T @ (grad @ grad.T) @ basis
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 1e-12
    assert np.all(np.diff(np.diag(inside)) <= 0)


# ---------------------------------------------------------------- Shampoo


@pytest.mark.parametrize(("frequency", "size"), [(10, 100), (3, 100), (1, 100), (4, 8)])
@pytest.mark.parametrize("item", HIDDEN, ids=lambda item: item.name)
def test_shampoo_is_its_derivation(item: Parameter, frequency: int, size: int) -> None:
    given: dict[str, Scalar] = {
        "beta1": 0.9,
        "beta2": 0.8,
        "eps": 1e-6,
        "graft_beta2": 0.95,
        "graft_eps": 1e-4,
        "precondition_frequency": frequency,
        "max_preconditioner_dim": size,
    }

    def make() -> oracles.Blocked:
        return oracles.Blocked(lambda: oracles.Shampoo((0.9, 0.8), 1e-6, 0.95, 1e-4, frequency, 0.1), size)

    expected, _ = train(item, make)
    assert_both_equal("shampoo", item, given, expected, EIGEN_TOLERANCE)


@pytest.mark.parametrize("name", ["soap", "shampoo"])
def test_soap_and_shampoo_train_the_rest_with_adamw(name: str) -> None:
    given = {
        "beta1": 0.8,
        **({"beta2": 0.98, "eps": 1e-6} if name == "soap" else {"graft_beta2": 0.98, "graft_eps": 1e-6}),
    }
    for item in REST:
        expected, _ = train(item, lambda item=item: oracles.AdamW(0.8, 0.98, 1e-6, decay(item)))  # type: ignore[misc]
        assert_both_equal(name, item, given, expected)


# ---------------------------------------------------------------- Kron


@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "preconditioner_lr": 0.2,
            "normalize_grads": False,
            "update_prob_flat_start": 5,
            "update_prob_decay": 0.2,
            "preconditioner_update_probability": 0.4,
            "preconditioner_init_scale": 2.0,
        },
        {"block_size": 8},
        {"partition_grads_into_blocks": False, "max_size_triangular": 14},
    ],
    ids=["defaults", "fewer updates", "blocks", "long axes diagonal"],
)
@pytest.mark.parametrize("item", ALL_SHAPES, ids=lambda item: item.name)
def test_kron_is_its_derivation_with_the_same_noise(item: Parameter, given: dict[str, Scalar]) -> None:
    knobs = knobs_of("kron", given)
    expected, _ = train(item, lambda: oracles.Kron(knobs, triangular=item.is_hidden_matrix, wd=decay(item)), "noise")
    assert_both_equal("kron", item, given, expected)


def test_balancing_the_factors_of_kron_changes_no_preconditioner() -> None:
    from optsweep_engines.optimizers import kron_factors

    stream = np.random.Generator(np.random.PCG64(4))
    left, right = np.triu(stream.standard_normal((3, 5, 5))) * 40, np.triu(stream.standard_normal((3, 8, 8)))
    grad = stream.standard_normal((3, 5, 8))
    balanced = kron_factors.balanced(numpy_namespace, left, right)
    sizes = [np.abs(factor).max(axis=(1, 2)) for factor in balanced]
    assert np.allclose(*sizes)
    before, after = (
        kron_factors.preconditioned(numpy_namespace, list(pair), grad) for pair in ((left, right), balanced)
    )
    assert error(after, before) < 1e-12


# ---------------------------------------------------------------- Sophia


@pytest.mark.parametrize("interval", [10, 3, 1])
@pytest.mark.parametrize("item", ALL_SHAPES, ids=lambda item: item.name)
def test_sophia_g_is_its_derivation(item: Parameter, interval: int) -> None:
    given = {"beta1": 0.9, "beta2": 0.8, "rho": 2.0, "eps": 1e-4, "hessian_interval": interval}
    expected, _ = train(
        item, lambda: oracles.SophiaG((0.9, 0.8), 2.0, 1e-4, TOKENS, interval, decay(item)), "sampled_gradient"
    )
    assert_both_equal("sophia_g", item, given, expected)


@pytest.mark.parametrize("interval", [10, 3, 1])
@pytest.mark.parametrize("item", ALL_SHAPES, ids=lambda item: item.name)
def test_sophia_h_is_its_derivation(item: Parameter, interval: int) -> None:
    given = {"beta1": 0.9, "beta2": 0.8, "gamma": 2.0, "eps": 1e-3, "hessian_interval": interval}
    expected, _ = train(item, lambda: oracles.SophiaH((0.9, 0.8), 2.0, 1e-3, interval, decay(item)), "hessian_diagonal")
    assert_both_equal("sophia_h", item, given, expected)


# ---------------------------------------------------------------- the two namespaces


@pytest.mark.parametrize(
    "name",
    [
        "muon", "d_muon", "normuon", "adamuon", "muon_h", "scion", "scion_fantastic", "soap", "shampoo", "kron",
        "sophia_g", "sophia_h",
    ],
)  # fmt: skip
def test_numpy_and_torch_agree_in_double_precision(name: str) -> None:
    double = dataclasses.replace(TORCH, dtype=np.float64)
    # The first Gram matrix of a tall or wide one is rank-deficient: its null space has an arbitrary basis.
    items = [item for item in ALL_SHAPES if name != "soap" or item.tensor_shape[:1] == item.tensor_shape[-1:]]
    for item in items:
        assert error(trained(name, item, {}, double), trained(name, item, {}, NUMPY)) < 1e-8, item.name
