"""Catalogue rules as an `optax.GradientTransformation`, for JAX programs outside optsweep: optax.apply_updates and all.

entry = optimizer("muon")
made = gradient_transformation(entry, resolve_knobs("muon", {"lr": 0.02}), parameter_table(shape))
state = made.init(params);  updates, state = made.update(grads, state, params)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optsweep_engines.jax_engine.optimizer import Optimizer, States
from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import OptimizerEntry
from optsweep_engines.spec import Scalar

EVENTS_LOOKED_AT = 1000
"""Steps over which a rule is asked whether it does something on some of them only."""


class RuleState(NamedTuple):
    """State of the transformation."""

    count: Any
    """Steps done."""
    states: States


def gradient_transformation(
    entry: OptimizerEntry,
    knobs: Mapping[str, Scalar],
    table: Sequence[Parameter],
    *,
    lr: Callable[[Any], Any] | float | None = None,
    total_steps: int = 0,
    tokens_per_step: int = 0,
) -> optax.GradientTransformation:
    """The rules of an optimizer over a dict of parameters by name.

    Args:
        knobs: every knob, resolved.
        table: what each parameter is: roles decide which rule it gets.
        lr: learning rate, or a function of the steps done; None: the knob.

    Raises:
        ValueError: from `update` under jit, where a rule decides by the number of the step what it does (a refresh of a
            basis, a Hessian estimate): such a rule runs with a plain step number, or in the engine.
    """
    optimizer = Optimizer(entry, knobs, table, total_steps=total_steps, tokens_per_step=tokens_per_step)
    eventful = any(optimizer.events(step) for step in range(1, EVENTS_LOOKED_AT + 1))

    def init(params: Any) -> RuleState:
        return RuleState(0 if eventful else jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(grads: Any, state: RuleState, params: Any = None) -> tuple[Any, RuleState]:
        if params is None:
            raise ValueError(optax.NO_PARAMS_MSG if hasattr(optax, "NO_PARAMS_MSG") else "give the parameters")
        if eventful and isinstance(state.count, jax.core.Tracer):
            raise ValueError(f"{entry.name} decides by the step's number what it does: call update outside jit")
        step = state.count + 1
        events = optimizer.events(int(step)) if eventful else ()
        if optimizer.services(events):
            raise ValueError(f"{entry.name} needs {', '.join(optimizer.services(events))} from the engine")
        rate = float(knobs["lr"] or 0.0) if lr is None else lr(state.count) if callable(lr) else lr
        number = step if eventful else step.astype(jnp.float32)
        moved, states = optimizer.update(params, grads, state.states, rate, number, {}, events)
        return {name: moved[name] - params[name] for name in moved}, RuleState(step, states)

    return optax.GradientTransformation(init, update)
