"""Runs a catalogue optimizer's rules for some steps against gradients computed in float64, in numpy or torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import numpy as numpy_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Hyper, OptimizerEntry, Rule, Service, State, advance, at_step, hyper
from optsweep_engines.optimizers.catalogue import optimizer, resolve_knobs
from optsweep_engines.properties.services import services as toy_services
from optsweep_engines.properties.tensors import Floats, factor, gradient, start
from optsweep_engines.spec import Scalar

STEPS = 30


def knobs_of(name: str, given: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
    """Resolved knobs; a learning rate and a decay (where there is one) that show in thirty steps unless given."""
    showing: dict[str, Scalar] = {"lr": 0.02, "weight_decay": 0.1}
    return resolve_knobs(name, {**{key: showing[key] for key in showing if optimizer(name).knob(key)}, **(given or {})})


class Training:
    """Some tensors under one optimizer, trained together, as an engine does."""

    def __init__(
        self,
        name: str,
        items: Sequence[Parameter],
        given: Mapping[str, Scalar] | None = None,
        *,
        steps: int = STEPS,
        dtype: Any = np.float64,
        xp: Any = numpy_namespace,
        to_xp: Callable[[npt.NDArray[Any]], Any] = np.asarray,
        services: Mapping[str, Service] | None = None,
        starts: Callable[[Parameter], Floats] = start,
    ) -> None:
        """Starting values and empty states.

        Args:
            steps: of the whole run, as the rules are told; `step` may be called less often.
            dtype: numpy type of parameters and gradients before `to_xp`.
            services: None = those of `properties.services`.
        """
        self.entry: OptimizerEntry = optimizer(name)
        self.knobs = knobs_of(name, given)
        self.steps, self.dtype, self.xp, self.to_xp = steps, dtype, xp, to_xp
        self.services = toy_services(to_xp, dtype) if services is None else services
        self.items = {item.name: item for item in items}
        self.params: dict[str, Any] = {item.name: to_xp(starts(item).astype(dtype)) for item in items}
        self.groups: dict[Rule, list[str]] = {}
        self.states: dict[str, State] = {}
        self.done = 0
        for item in items:
            rule, hp = self.hyper(item)
            self.groups.setdefault(rule, []).append(item.name)
            self.states[item.name] = rule.init(xp, self.params[item.name], hp)

    def hyper(self, item: Parameter, lr: Any = 0.0) -> tuple[Rule, Hyper]:
        """Rule and hp of a tensor at a learning rate."""
        return hyper(self.entry, item, self.knobs, lr=lr, total_steps=self.steps, tokens_per_step=64)

    def step(self, grads: Mapping[str, Floats], lr: Any = None, step: Any = None) -> None:
        """One step of all tensors.

        Args:
            lr: peak x schedule; None = the knob x `factor`.
            step: what the rules are given for the step's number, where it is not the plain number.
        """
        self.done += 1
        lr = float(self.knobs["lr"] or 0.0) * factor(self.done) if lr is None else lr
        for rule, names in self.groups.items():
            hps = [at_step(rule, self.hyper(self.items[name], lr)[1], self.done, self.services) for name in names]
            new = advance(
                self.xp,
                rule,
                [self.params[name] for name in names],
                [self.to_xp(grads[name].astype(self.dtype)) for name in names],
                [self.states[name] for name in names],
                self.done if step is None else step,
                hps,
            )
            for name, (param, state) in zip(names, new, strict=True):
                self.params[name], self.states[name] = param, state

    def values(self) -> dict[str, Floats]:
        """Parameters by name."""
        return {name: np.asarray(value, dtype=np.float64) for name, value in self.params.items()}

    def evaluated(self) -> dict[str, Floats]:
        """The values that the model is evaluated at, by name."""
        final = self.values()
        for rule, names in self.groups.items():
            if rule.eval_params is not None:
                for name in names:
                    hp = self.hyper(self.items[name])[1]
                    value = rule.eval_params(self.xp, self.params[name], self.states[name], hp)
                    final[name] = np.asarray(value, dtype=np.float64)
        return final


def run(
    name: str,
    items: Sequence[Parameter],
    given: Mapping[str, Scalar] | None = None,
    *,
    gradients: Callable[[Parameter, Floats, int], Floats] = gradient,
    steps: int = STEPS,
    **options: Any,
) -> dict[str, Floats]:
    """Final parameters by name; options are those of `Training`."""
    training = Training(name, items, given, steps=steps, **options)
    for step in range(1, steps + 1):
        values = training.values()
        training.step({item.name: gradients(item, values[item.name], step) for item in items})
    return training.values()
