"""Two small problems that every optimizer must get down on: a quadratic over tensors of every shape, a model that learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Service
from optsweep_engines.properties.services import probe, services
from optsweep_engines.properties.subject import Subject
from optsweep_engines.properties.tensors import ALL_SHAPES, Floats, parameter, start
from optsweep_engines.spec import Scalar

# Tried in this order; the families differ by orders of magnitude.
LEARNING_RATES = (0.1, 0.03, 0.3, 1.0, 0.01, 0.003, 3.0)
STEPS = 80


class Problem(Protocol):
    """Something to minimise."""

    items: tuple[Parameter, ...]
    goal: float
    """Share of the first loss that must be reached."""

    def start(self, item: Parameter) -> Floats:
        """Where a tensor starts."""

    def loss_and_gradients(self, values: Mapping[str, Floats]) -> tuple[float, dict[str, Floats]]:
        """At the values given."""

    def services(self) -> Mapping[str, Service]:
        """Arrays beside the gradient, at the values of the last call."""


class Quadratic:
    """Half the squared distance to a point that is as far from zero as the start: a rule may keep a tensor's norm."""

    items = ALL_SHAPES
    goal = 0.1

    def start(self, item: Parameter) -> Floats:
        return start(item)

    def loss_and_gradients(self, values: Mapping[str, Floats]) -> tuple[float, dict[str, Floats]]:
        grads = {item.name: values[item.name] - np.flip(start(item), axis=-1) for item in self.items}
        return sum(0.5 * float((grad**2).sum()) for grad in grads.values()), grads

    def services(self) -> Mapping[str, Service]:
        ones = {"hessian_diagonal": lambda item, step: np.ones(item.shape)}
        return {**services(), **ones, "sampled_gradient": lambda item, step: np.ones(item.shape)}


class TokenModel:
    """Two residual layers that learn which token follows each of twenty; exact gradients, the whole table per step."""

    tokens, width, inner, layers = 20, 12, 18, 2
    goal = 0.25

    def __init__(self) -> None:
        self.items: tuple[Parameter, ...] = (
            parameter("embedding", (self.tokens, self.width)),
            parameter("norm", (self.layers, self.width), stacked=True),
            parameter("mlp_gate", (self.layers, self.inner, self.width), stacked=True),
            parameter("mlp_out", (self.layers, self.width, self.inner), stacked=True),
            parameter("norm", (self.width,)),
            parameter("head", (self.tokens, self.width)),
        )
        self.successor = torch.from_numpy(np.random.Generator(np.random.PCG64(7)).permutation(self.tokens))
        self.params: dict[str, Tensor] = {}

    def start(self, item: Parameter) -> Floats:
        return np.ones(item.shape) if item.role == "norm" else 0.6 * start(item)

    def logits(self) -> Tensor:
        embedding, norms, gate, out, final, head = (self.params[item.name] for item in self.items)
        x = embedding
        for layer in range(self.layers):
            x = x + torch.tanh(self.normed(x) * norms[layer] @ gate[layer].T) @ out[layer].T
        return self.normed(x) * final @ head.T

    @staticmethod
    def normed(x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)

    def loss_and_gradients(self, values: Mapping[str, Floats]) -> tuple[float, dict[str, Floats]]:
        self.params = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in values.items()}
        loss = torch.nn.functional.cross_entropy(self.logits(), self.successor)
        return float(loss.detach()), self.gradients(loss)

    def gradients(self, loss: Tensor) -> dict[str, Floats]:
        grads = torch.autograd.grad(loss, list(self.params.values()))
        return {name: grad.numpy() for name, grad in zip(self.params, grads, strict=True)}

    def services(self) -> Mapping[str, Service]:
        def sampled_gradient(item: Parameter, step: int) -> Floats:
            logits = self.logits()
            generator = torch.Generator().manual_seed(step)
            labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
            return self.gradients(torch.nn.functional.cross_entropy(logits, labels))[item.name]

        def hessian_diagonal(item: Parameter, step: int) -> Floats:
            loss = torch.nn.functional.cross_entropy(self.logits(), self.successor)
            probes = {each.name: torch.from_numpy(np.asarray(probe(each, step))) for each in self.items}
            grads = torch.autograd.grad(loss, list(self.params.values()), create_graph=True)
            along = sum((grad * probes[name]).sum() for name, grad in zip(self.params, grads, strict=True))
            assert isinstance(along, Tensor)
            [curved] = torch.autograd.grad(along, [self.params[item.name]])
            product: Any = (probes[item.name] * curved).numpy()
            return np.asarray(product)

        return {"noise": probe, "sampled_gradient": sampled_gradient, "hessian_diagonal": hessian_diagonal}


PROBLEMS: dict[str, type[Quadratic] | type[TokenModel]] = {"quadratic": Quadratic, "model": TokenModel}


def reached(subject: Subject, problem: Problem, lr: float) -> float:
    """Final loss over the first, at the values that the rule is evaluated at, without weight decay."""
    given: dict[str, Scalar] = {"lr": lr}
    if any(knob.name == "weight_decay" for knob in subject.knobs):
        given["weight_decay"] = 0.0
    training = subject.start(problem.items, given, steps=STEPS, services=problem.services(), starts=problem.start)
    first, _ = problem.loss_and_gradients(training.values())
    for step in range(STEPS):
        _, grads = problem.loss_and_gradients(training.values())
        training.step(grads, lr * (1 - step / STEPS))
    return problem.loss_and_gradients(training.evaluated())[0] / first
