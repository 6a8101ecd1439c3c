"""An optimizer under test, a catalogue's rule or a user's class alike: it is started on tensors and steps on gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from array_api_compat import torch as torch_namespace
from torch import Tensor

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Knob, Service
from optsweep_engines.optimizers.catalogue import optimizer
from optsweep_engines.optimizers.user import Found
from optsweep_engines.optimizers.user_knobs import Signature, signature
from optsweep_engines.properties.services import services as toy_services
from optsweep_engines.properties.tensors import Floats, factor, start
from optsweep_engines.properties.training import STEPS, Training
from optsweep_engines.spec import Scalar
from optsweep_engines.torch_engine.user import ClassOptimizer


class Trained(Protocol):
    """Some tensors under one optimizer."""

    knobs: dict[str, Scalar]
    items: dict[str, Parameter]
    done: int

    def step(self, grads: Mapping[str, Floats], lr: Any = None) -> None:
        """One step; `lr` = peak x schedule, None = the knob x `tensors.factor`."""

    def values(self) -> dict[str, Floats]:
        """Parameters by name."""

    def evaluated(self) -> dict[str, Floats]:
        """The values that a model is evaluated at, by name."""

    def arrays(self) -> dict[str, Tensor]:
        """Parameters and state, as they are held, by name."""

    def saved(self) -> bytes:
        """What a checkpoint holds."""

    def load(self, data: bytes, done: int) -> None:
        """Take up what `saved` gave after so many steps."""


class Start(Protocol):
    """Starts an optimizer on tensors."""

    def __call__(
        self,
        items: Sequence[Parameter],
        given: Mapping[str, Scalar] | None = None,
        *,
        dtype: torch.dtype | None = None,
        steps: int = STEPS,
        services: Mapping[str, Service] | None = None,
        starts: Callable[[Parameter], Floats] = start,
    ) -> Trained:
        """Starting values and an empty state; None = the subject's own dtype, the services of `properties.services`."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One optimizer and what a test must know of it."""

    name: str
    knobs: tuple[Knob, ...]
    start: Start
    is_rule: bool
    """True: it sees stacked banks; False: a torch.optim class, which sees one tensor per layer."""
    dtypes: tuple[torch.dtype, ...]
    state_floats: Callable[[Sequence[Parameter], Mapping[str, Scalar]], float] | None = None
    """Numbers of state by formula; None where there is none."""
    situations: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    """Knob -> knobs under which it shows: matrices that are cut, updates that are rare, ..."""
    values: Mapping[str, Scalar] = field(default_factory=dict)
    """Knob -> the value to try, where half of the default says nothing."""


# ---------------------------------------------------------------- rules


class RuleTraining(Training):
    """A rule in torch, with what it holds."""

    def values(self) -> dict[str, Floats]:
        return {name: value.double().numpy() for name, value in self.params.items()}  # bfloat16 has no numpy type

    def arrays(self) -> dict[str, Tensor]:
        state = {f"state {name} {key}": value for name, held in self.states.items() for key, value in held.items()}
        return {f"param {name}": value for name, value in self.params.items()} | state

    def saved(self) -> bytes:
        return safetensors.torch.save({name: value.contiguous().clone() for name, value in self.arrays().items()})

    def load(self, data: bytes, done: int) -> None:
        loaded = safetensors.torch.load(data)
        self.done = done
        self.params = {name: loaded[f"param {name}"] for name in self.params}
        self.states = {name: {key: loaded[f"state {name} {key}"] for key in held} for name, held in self.states.items()}


def to_torch(dtype: torch.dtype) -> Callable[[npt.NDArray[Any]], Tensor]:
    """numpy -> torch at a type."""
    return lambda array: torch.from_numpy(np.array(array)).to(dtype)


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """The array library that a rule runs in under test."""

    training: Callable[..., Trained]
    """A `Training` with the library's `values`, `arrays`, `saved` and `load`."""
    xp: Any
    """The array namespace of the rules."""
    to: Callable[[torch.dtype], Callable[[npt.NDArray[Any]], Any]]
    """A type -> numpy to the library's arrays at that type."""


TORCH = Arrays(training=RuleTraining, xp=torch_namespace, to=to_torch)


def of_rule(
    name: str,
    *,
    on: Arrays = TORCH,
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64),
    own: bool = False,
    situations: Mapping[str, Mapping[str, Scalar]] | None = None,
    values: Mapping[str, Scalar] | None = None,
) -> Subject:
    """A rule of the catalogue, or a registered one.

    Args:
        on: where its arrays are.
        own: a user's, whose costs are not declared.
    """
    entry = optimizer(name)

    def begin(
        items: Sequence[Parameter],
        given: Mapping[str, Scalar] | None = None,
        *,
        dtype: torch.dtype | None = None,
        steps: int = STEPS,
        services: Mapping[str, Service] | None = None,
        starts: Callable[[Parameter], Floats] = start,
    ) -> Trained:
        convert = on.to(dtype or torch.float64)
        asked = services or toy_services()

        def converted(service: Service) -> Service:
            return lambda item, step: convert(service(item, step))

        return on.training(
            name,
            items,
            given,
            steps=steps,
            xp=on.xp,
            to_xp=convert,
            services={key: converted(service) for key, service in asked.items()},
            starts=starts,
        )

    return Subject(
        name=name,
        knobs=entry.knobs,
        start=begin,
        is_rule=True,
        dtypes=dtypes,
        state_floats=None if own else entry.state_floats,
        situations=situations or {},
        values=values or {},
    )


# ---------------------------------------------------------------- classes


class ClassTraining:
    """A user's torch.optim class on the engine's own adapter."""

    def __init__(
        self,
        found: Found,
        label: str,
        made: Signature,
        items: Sequence[Parameter],
        given: Mapping[str, Scalar],
        dtype: torch.dtype,
        starts: Callable[[Parameter], Floats],
    ) -> None:
        known = {knob.name: knob for knob in made.knobs}
        base: dict[str, Scalar] = {knob.name: knob.default for knob in made.knobs}
        base["lr"] = 0.02 if base["lr"] is None else base["lr"]
        if "weight_decay" in base:
            base["weight_decay"] = base["weight_decay"] or 0.1  # so that what it does shows
        self.knobs: dict[str, Scalar] = {name: known[name].checked(value) for name, value in {**base, **given}.items()}
        self.items = {item.name: item for item in items}
        self.convert = to_torch(dtype)
        self.params = {item.name: self.convert(starts(item)) for item in items}
        self.optimizer = ClassOptimizer(found, made, self.knobs, items, self.params, label=label, seed=0)
        self.done = 0

    def step(self, grads: Mapping[str, Floats], lr: Any = None) -> None:
        self.done += 1
        lr = float(self.knobs["lr"] or 0.0) * factor(self.done) if lr is None else lr
        self.optimizer.step({name: self.convert(grad) for name, grad in grads.items()}, self.done, lr)

    def values(self) -> dict[str, Floats]:
        return {name: value.double().numpy().copy() for name, value in self.params.items()}

    def evaluated(self) -> dict[str, Floats]:
        with self.optimizer.evaluated():
            return self.values()

    def arrays(self) -> dict[str, Tensor]:
        state = {f"state {name}": value for name, value in self.optimizer.tensors().items()}
        return {f"param {name}": value for name, value in self.params.items()} | state

    def saved(self) -> bytes:
        tensors = {name: value.contiguous().clone() for name, value in self.arrays().items()}
        return safetensors.torch.save(tensors, {"notes": json.dumps(self.optimizer.notes())})

    def load(self, data: bytes, done: int) -> None:
        loaded = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        notes = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["notes"])
        self.done = done
        for name, value in self.params.items():
            value.copy_(loaded.pop(f"param {name}"))
        self.optimizer.load(notes, {name.removeprefix("state "): value for name, value in loaded.items()})


def of_class(found: Found, label: str) -> Subject:
    """A user's torch.optim class; in float32, as the engine's parameters are."""
    made = signature(found.target, ("params",), f"{label}: {found.name}")

    def begin(
        items: Sequence[Parameter],
        given: Mapping[str, Scalar] | None = None,
        *,
        dtype: torch.dtype | None = None,
        steps: int = STEPS,
        services: Mapping[str, Service] | None = None,
        starts: Callable[[Parameter], Floats] = start,
    ) -> Trained:
        return ClassTraining(found, label, made, items, given or {}, dtype or torch.float32, starts)

    return Subject(name=found.name, knobs=made.knobs, start=begin, is_rule=False, dtypes=(torch.float32, torch.float64))
