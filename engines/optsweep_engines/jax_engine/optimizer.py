"""A catalogue optimizer as pure functions over parameter banks: `init`, `update`, `evaluated`; what `train` compiles."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from optsweep_engines.jax_engine import ordered
from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import SERVICES, Hyper, OptimizerEntry, Rule, advance, hyper
from optsweep_engines.optimizers.orthogonal import Coefficients
from optsweep_engines.spec import Scalar

States: TypeAlias = dict[str, dict[str, jax.Array]]
"""Bank -> kind -> array."""

Events: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""(bank, what its rule does on this step beside its plain part); banks without any are left out. A key of programs."""


class Optimizer:
    """The update rules of one run, bound to the banks of a model by name; holds no array itself."""

    def __init__(
        self,
        entry: OptimizerEntry,
        knobs: Mapping[str, Scalar],
        table: Sequence[Parameter],
        *,
        total_steps: int,
        tokens_per_step: int,
        dtype: Any = None,
        platform: str = "cpu",
    ) -> None:
        """Give every bank its rule.

        Args:
            knobs: every knob of the entry, resolved.
            dtype: of the products in Newton-Schulz; None: that of the parameters.
            platform: "cpu", "gpu" or "tpu".
        """
        self.platform = platform
        self.rules: dict[str, Rule] = {}
        self.hps: dict[str, Hyper] = {}
        """At peak learning rate 1: `hp.lr` is the group's ratio."""
        self.groups: dict[Rule, list[str]] = defaultdict(list)
        for item in table:
            rule, hp = hyper(entry, item, knobs, lr=1.0, total_steps=total_steps, tokens_per_step=tokens_per_step)
            if dtype is not None:
                hp = dataclasses.replace(hp, iterate=lambda x, steps: iterated(x, steps, dtype))
            self.rules[item.name], self.hps[item.name] = rule, hp
            self.groups[rule].append(item.name)

    def events(self, step: int) -> Events:
        """What the rules do at a step, counted from 1; decided on the host."""
        found = ((name, tuple(sorted(rule.events(step, self.hps[name].knobs)))) for name, rule in self.rules.items())
        return tuple((name, events) for name, events in found if events)

    @staticmethod
    def services(events: Events) -> dict[str, list[str]]:
        """Service of the engine -> banks that call for it."""
        asked: dict[str, list[str]] = defaultdict(list)
        for name, own in events:
            for service in own:
                if service in SERVICES:
                    asked[service].append(name)
        return asked

    def init(self, params: Mapping[str, jax.Array]) -> States:
        """The states before the first step."""
        return {name: rule.init(jnp, params[name], self.hps[name]) for name, rule in self.rules.items()}

    def update(
        self,
        params: Mapping[str, jax.Array],
        grads: Mapping[str, jax.Array],
        states: States,
        lr: Any,
        step: Any,
        extra: Mapping[str, Mapping[str, jax.Array]],
        events: Events = (),
        given: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, jax.Array], States]:
        """One step of every bank.

        Args:
            lr: peak learning rate x schedule; may be traced.
            step: counts from 1; may be traced.
            extra: service -> bank -> the array that the bank's rule called for.
            events: of this step.
            given: knobs that are traced numbers, by name; weight_decay multiplies the decay of the banks that decay.
        """
        happening = dict(events)
        ready: dict[str, Hyper] = {}
        for name, hp in self.hps.items():
            own = happening.get(name, ())
            arrays = {service: extra[service][name] for service in own if service in SERVICES}
            decay: Any = hp.weight_decay
            knobs: Mapping[str, Any] = hp.knobs
            ratio: Any = hp.lr
            if given:
                knobs = {**hp.knobs, **{knob: value for knob, value in given.items() if knob in hp.knobs}}
                ratio = given.get(f"lr of {name}", ratio)
                decay = given.get(f"decay of {name}", decay)
            ready[name] = dataclasses.replace(
                hp, lr=lr * ratio, weight_decay=decay, knobs=knobs, events=frozenset(own), extra=arrays
            )
        new_params, new_states = dict(params), dict(states)
        xp = ordered.namespace(self.platform)
        for rule, names in self.groups.items():
            moved = advance(
                xp,
                rule,
                [params[name] for name in names],
                [grads[name] for name in names],
                [states[name] for name in names],
                step,
                [ready[name] for name in names],
            )
            for name, (param, state) in zip(names, moved, strict=True):
                new_params[name], new_states[name] = param, state
        return new_params, new_states

    @property
    def swaps(self) -> bool:
        """Whether a rule takes its gradients elsewhere than where the model is evaluated."""
        return any(rule.eval_params is not None for rule in self.groups)

    def evaluated(self, params: Mapping[str, jax.Array], states: States) -> dict[str, jax.Array]:
        """The values to evaluate and to keep."""
        found = dict(params)
        for name, rule in self.rules.items():
            if rule.eval_params is not None:
                found[name] = rule.eval_params(jnp, params[name], states[name], self.hps[name])
        return found


def iterated(x: jax.Array, steps: Sequence[Coefficients], dtype: Any) -> jax.Array:
    """`orthogonal.iterated` with its products in another type."""
    kept, x = x.dtype, x.astype(dtype)
    for a, b, c in steps:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.astype(kept)
