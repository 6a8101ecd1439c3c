"""Second derivations of the matrix rules, matrix by matrix in float64, from the papers and the authors' conventions.

Nothing here calls the rules. `train` runs one of them over every matrix of a tensor or bank: a fresh object per matrix
whose `step` maps (p, g, lr, t, probes) to the next p; `probes` are the numbers of `rule_services` for that matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import scipy.linalg

from optsweep_engines.models import Parameter
from optsweep_engines.properties.services import SOURCES
from optsweep_engines.properties.tensors import Floats, factor, gradient, start
from optsweep_engines.properties.training import STEPS

LR = 0.02


class Oracle(Protocol):
    """The state of one matrix or vector, and its step."""

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats: ...


def train(item: Parameter, make: Callable[[], Any], *sources: str) -> tuple[Floats, list[Any]]:
    """Final values, and the objects in the order of the bank.

    Args:
        sources: of `rule_services` that the rule calls for.
    """
    oracles: list[Any] = [make() for _ in range(item.tensors)]
    value = start(item).reshape(item.tensors, *item.tensor_shape)
    for t in range(1, STEPS + 1):
        grads = gradient(item, value.reshape(item.shape), t).reshape(value.shape)
        probes = {name: SOURCES[name](item, t).reshape(value.shape) for name in sources}
        value = np.stack(
            [
                oracle.step(p, g, LR * factor(t), t, {name: drawn[index] for name, drawn in probes.items()})
                for index, (oracle, p, g) in enumerate(zip(oracles, value, grads, strict=True))
            ]
        )
    return value.reshape(item.shape), oracles


# ---------------------------------------------------------------- Muon and its relatives


def polynomial_of_singular_values(
    matrix: Floats, coefficients: list[tuple[float, float, float]], eps: float, norm_factor: float = 1.0
) -> Floats:
    """What the iteration is meant to do: s -> a s + b s^3 + c s^5 on singular values, vectors unchanged."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (norm_factor * np.sqrt((matrix**2).sum()) + eps)
    for a, b, c in coefficients:
        values = a * values + b * values**3 + c * values**5
    product: Floats = (left * values) @ right
    return product


def jordan(matrix: Floats, steps: int, eps: float) -> Floats:
    """Keller Jordan's polynomial."""
    return polynomial_of_singular_values(matrix, [(3.4445, -4.7750, 2.0315)] * steps, eps)


class Momentum:
    """Average of gradients with a Nesterov look-ahead."""

    def __init__(self, decay: float, nesterov: bool = True) -> None:
        self.decay, self.nesterov = decay, nesterov
        self.m: Any = 0.0

    def ahead(self, g: Floats) -> Floats:
        self.m = self.decay * self.m + (1 - self.decay) * g
        result: Floats = self.decay * self.m + (1 - self.decay) * g if self.nesterov else self.m
        return result


class DMuon:
    """arXiv 2502.16982: 0.2 sqrt(max(rows, columns)) brings the RMS of an orthogonal update to AdamW's."""

    def __init__(self, decay: float, eps: float, steps: int, rms: float, wd: float) -> None:
        self.momentum, self.eps, self.steps, self.rms, self.wd = Momentum(decay), eps, steps, rms, wd

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        x = jordan(self.momentum.ahead(g), self.steps, self.eps)
        return p - lr * self.wd * p - lr * self.rms * math.sqrt(max(p.shape)) * x


class NorMuon:
    """arXiv 2510.05491 as published: rows [out] of X over their RMS in time, then back to the norm of X."""

    def __init__(self, decay: float, row_decay: float, wd: float) -> None:
        self.momentum, self.row_decay, self.wd = Momentum(decay), row_decay, wd
        self.second: Any = 0.0

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        x = jordan(self.momentum.ahead(g), 5, 1e-7)
        squares = np.array([row @ row / len(row) for row in x])
        self.second = self.row_decay * self.second + (1 - self.row_decay) * squares
        scaled = np.diag(1 / (np.sqrt(self.second) + 1e-10)) @ x
        scaled *= np.linalg.norm(x) / np.linalg.norm(scaled)
        rows, columns = p.shape
        return p * (1 - lr * self.wd) - lr * math.sqrt(max(1.0, rows / columns)) * scaled


class AdaMuon:
    """arXiv 2507.11005 as published: X from the sign of the momentum, element by element over its RMS in time."""

    def __init__(self, decay: float, eps: float, wd: float) -> None:
        self.momentum, self.decay, self.eps, self.wd = Momentum(decay), decay, eps, wd
        self.second: Any = 0.0

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        x = jordan(np.sign(self.momentum.ahead(g)), 5, 1e-7)
        self.second = self.decay * self.second + (1 - self.decay) * x**2
        scaled = x / (np.sqrt(self.second) + self.eps)
        scaled *= 0.2 * math.sqrt(p.size) / (np.linalg.norm(scaled) + self.eps)
        moved: Floats = p * (1 - lr * self.wd) - lr * scaled
        return moved


class Hyperball:
    """arXiv 2606.16899: weights and updates have fixed Frobenius norms."""

    def __init__(self, direction: Callable[[Floats, int], Floats]) -> None:
        self.direction = direction

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        radius = np.linalg.norm(p)
        u = self.direction(g, t)
        q = p - lr * radius * u / np.linalg.norm(u)
        result: Floats = radius * q / np.linalg.norm(q)
        return result


class AdamDirection:
    """Adam's step, bias-corrected, eps after the root."""

    def __init__(self, beta1: float, beta2: float, eps: float) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m: Any = 0.0
        self.v: Any = 0.0

    def __call__(self, g: Floats, t: int) -> Floats:
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        corrected = np.sqrt(self.v / (1 - self.beta2**t))
        result: Floats = self.m / (1 - self.beta1**t) / (corrected + self.eps)
        return result


class AdamW:
    """Decoupled decay around Adam's step."""

    def __init__(self, beta1: float, beta2: float, eps: float, wd: float, ratio: float = 1.0) -> None:
        self.direction, self.wd, self.ratio = AdamDirection(beta1, beta2, eps), wd, ratio

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        lr = lr * self.ratio
        return p - lr * self.wd * p - lr * self.direction(g, t)


# ---------------------------------------------------------------- Scion


class Lmo:
    """arXiv 2502.07529, Algorithm 2: p = (1 - lr) p + lr lmo(m), without the (1 - lr) when unconstrained."""

    def __init__(self, decay: float, lmo: Callable[[Floats], Floats], shrink: float, ratio: float = 1.0) -> None:
        self.momentum, self.lmo = Momentum(decay, nesterov=False), lmo
        self.shrink, self.ratio = shrink, ratio

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        lr = lr * self.ratio
        return (1 - lr * self.shrink) * p + lr * self.lmo(self.momentum.ahead(g))


# ---------------------------------------------------------------- Sophia


class SophiaG:
    """The authors' code: the average of squared sampled gradients, times rho and the tokens of a batch."""

    def __init__(
        self, betas: tuple[float, float], rho: float, eps: float, tokens: int, interval: int, wd: float
    ) -> None:
        (self.beta1, self.beta2), self.rho, self.eps, self.tokens = betas, rho, eps, tokens
        self.interval, self.wd = interval, wd
        self.m: Any = 0.0
        self.h: Any = 0.0

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        if t > 1 and (t - 1) % self.interval == 0:  # after the steps k, 2k, ...
            self.h = self.beta2 * self.h + (1 - self.beta2) * probes["sampled_gradient"] ** 2
        p = p * (1 - lr * self.wd)
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        ratio = np.minimum(np.abs(self.m) / (self.rho * self.tokens * self.h + self.eps), 1)
        result: Floats = p - lr * np.sign(self.m) * ratio
        return result


class SophiaH:
    """Algorithm 3 of the paper with a bias-corrected momentum."""

    def __init__(self, betas: tuple[float, float], gamma: float, eps: float, interval: int, wd: float) -> None:
        (self.beta1, self.beta2), self.gamma, self.eps = betas, gamma, eps
        self.interval, self.wd = interval, wd
        self.m: Any = 0.0
        self.h: Any = 0.0

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        if t > 1 and (t - 1) % self.interval == 0:
            self.h = self.beta2 * self.h + (1 - self.beta2) * probes["hessian_diagonal"]
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        ratio = self.m / (1 - self.beta1**t) / np.maximum(self.gamma * self.h, self.eps)
        result: Floats = p - lr * self.wd * p - lr * np.minimum(1, np.maximum(-1, ratio))
        return result


# ---------------------------------------------------------------- SOAP and Shampoo


def pieces(length: int, size: int) -> list[slice]:
    """An axis in blocks."""
    return [slice(begin, min(begin + size, length)) for begin in range(0, length, size)]


class Blocked:
    """One oracle per block of a matrix."""

    def __init__(self, make: Callable[[], Any], size: int) -> None:
        self.make, self.size = make, size
        self.blocks: dict[tuple[int, int], Any] = {}

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        result = np.empty_like(p)
        for row, rows in enumerate(pieces(p.shape[0], self.size)):
            for column, columns in enumerate(pieces(p.shape[1], self.size)):
                oracle = self.blocks.setdefault((row, column), self.make())
                result[rows, columns] = oracle.step(p[rows, columns], g[rows, columns], lr, t, {})
        return result


class Soap:
    """arXiv 2409.11321, Algorithm 3, with what the authors' code adds: a first step that only prepares."""

    def __init__(
        self, betas: tuple[float, float], shampoo_beta: float, eps: float, frequency: int, wd: float, longest: int
    ) -> None:
        (self.beta1, self.beta2), self.shampoo_beta, self.eps = betas, shampoo_beta, eps
        self.frequency, self.wd, self.longest = frequency, wd, longest
        self.grams: list[Any] = [None, None]
        self.bases: list[Any] = [None, None]
        self.initial: list[Any] = [None, None]

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        if t == 1:
            self.m, self.v = np.zeros_like(p), np.zeros_like(p)  # m stays in the space of the gradient
            for side, x in enumerate((g, g.T)):
                self.grams[side] = (1 - self.shampoo_beta) * x @ x.T
                if len(x) <= self.longest:
                    self.bases[side] = np.linalg.eigh(self.grams[side])[1][:, ::-1]
                else:
                    self.bases[side] = np.eye(len(x))
            self.initial = list(self.bases)
            return p
        left, right = self.bases
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * (left.T @ g @ right) ** 2
        inside = (left.T @ self.m @ right) / (np.sqrt(self.v) + self.eps)
        lr_t = lr * math.sqrt(1 - self.beta2 ** (t - 1)) / (1 - self.beta1 ** (t - 1))
        p = p - lr_t * left @ inside @ right.T
        p = p - lr * self.wd * p
        for side, x in enumerate((g, g.T)):
            self.grams[side] = self.shampoo_beta * self.grams[side] + (1 - self.shampoo_beta) * x @ x.T
        if (t - 1) % self.frequency == 0:
            for side in (0, 1):
                basis, gram = self.bases[side], self.grams[side]
                if len(gram) > self.longest:
                    continue
                order = np.argsort(-np.diag(basis.T @ gram @ basis), kind="stable")
                self.v = self.v[order] if side == 0 else self.v[:, order]
                self.bases[side] = np.linalg.qr(gram @ basis[:, order])[0]
        return p


class Shampoo:
    """arXiv 1802.09568 with averages, grafted onto Adam as in arXiv 2309.06497."""

    def __init__(
        self, betas: tuple[float, float], eps: float, graft_beta2: float, graft_eps: float, frequency: int, wd: float
    ) -> None:
        (self.beta1, self.beta2), self.eps, self.frequency, self.wd = betas, eps, frequency, wd
        self.adam = AdamDirection(self.beta1, graft_beta2, graft_eps)
        self.grams: list[Any] = [0.0, 0.0]
        self.roots: list[Any] = []

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        for side, x in enumerate((g, g.T)):
            self.grams[side] = self.beta2 * self.grams[side] + (1 - self.beta2) * x @ x.T
        if t % self.frequency == 0:
            self.roots = [self.root(gram / (1 - self.beta2**t)) for gram in self.grams]
        u = self.adam(g, t)
        if self.roots:
            direction = self.roots[0] @ (self.adam.m / (1 - self.beta1**t)) @ self.roots[1]
            u = direction * (np.linalg.norm(u) / np.linalg.norm(direction))
        return p - lr * self.wd * p - lr * u

    def root(self, gram: Floats) -> Floats:
        """(M + eps)^(-1/4): two inverse square roots."""
        half = np.linalg.inv(scipy.linalg.sqrtm(gram + self.eps * np.eye(len(gram))))
        result: Floats = scipy.linalg.sqrtm(half).real
        return result


# ---------------------------------------------------------------- Kron


class Kron:
    """PSGD Kron as in the published code, with explicit diagonal matrices where factors are diagonal."""

    def __init__(self, knobs: Mapping[str, Any], *, triangular: bool, wd: float) -> None:
        self.knobs, self.triangular, self.wd = knobs, triangular, wd
        self.m: Any = 0.0
        self.waited = 0
        self.factors: dict[tuple[int, int], list[Floats]] = {}

    def updates_now(self, t: int) -> bool:
        """An anneal of the probability that is met by waiting."""
        knobs = self.knobs
        anneal = math.exp(-knobs["update_prob_decay"] * (t - 1 - knobs["update_prob_flat_start"]))
        probability = min(1.0, max(knobs["preconditioner_update_probability"], anneal))
        self.waited += 1
        if self.waited < 1 / probability:
            return False
        self.waited = 0
        return True

    def step(self, p: Floats, g: Floats, lr: float, t: int, probes: Mapping[str, Floats]) -> Floats:
        knobs, noise = self.knobs, probes["noise"]
        if knobs["normalize_grads"]:
            g = g / np.linalg.norm(g)
        self.m = knobs["beta1"] * self.m + (1 - knobs["beta1"]) * g
        mean = self.m / (1 - knobs["beta1"] ** t)
        updating = self.updates_now(t)
        if updating:
            mean = mean + math.sqrt(np.finfo(np.float32).eps) * np.abs(mean).mean() * noise
        u = np.empty_like(mean)
        if mean.ndim == 1:
            u = self.block((0, 0), mean[None], noise[None], updating, vector=True)[0]
        else:
            size = knobs["block_size"] if self.triangular and knobs["partition_grads_into_blocks"] else max(p.shape)
            for row, rows in enumerate(pieces(p.shape[0], size)):
                for column, columns in enumerate(pieces(p.shape[1], size)):
                    place = rows, columns
                    u[place] = self.block((row, column), mean[place], noise[place], updating)
        u = u * min(1.0, 1.1 / math.sqrt((u**2).mean()))
        moved: Floats = p - lr * (u + self.wd * p)
        return moved

    def block(self, key: tuple[int, int], g: Floats, v: Floats, updating: bool, vector: bool = False) -> Floats:
        """Preconditioned gradient of one block."""
        scale = self.knobs["preconditioner_init_scale"] ** (1 if vector else 0.5)
        first = [np.eye(1) if vector else scale * np.eye(len(g)), scale * np.eye(g.shape[1])]
        left, right = self.factors.setdefault(key, first)
        if updating:
            a = left @ g @ right.T
            b = scipy.linalg.solve_triangular(left, v, trans="T")
            b = scipy.linalg.solve_triangular(right, b.T, trans="T").T
            new_left = left if vector else self.moved(left, a @ a.T, b @ b.T)
            left, right = self.factors[key] = [new_left, self.moved(right, a.T @ a, b.T @ b)]
        result: Floats = left.T @ left @ g @ right.T @ right
        return result

    def moved(self, q: Floats, of_a: Floats, of_b: Floats) -> Floats:
        """One descent step of a factor."""
        rate = self.knobs["preconditioner_lr"]
        longest = self.knobs["max_size_triangular"]
        if not self.triangular or len(q) > longest:
            gain = np.diag(of_a) - np.diag(of_b)
            moved: Floats = q - rate * np.diag(gain / (np.diag(of_a) + np.diag(of_b)).max()) @ q
            return moved
        both = of_a + of_b
        row = both[np.argmax((both**2).sum(0))]
        row = row @ both
        bound = np.linalg.norm(both @ row) / np.linalg.norm(row)
        result: Floats = q - rate / bound * np.triu(of_a - of_b) @ q
        return result
