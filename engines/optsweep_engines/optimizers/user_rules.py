"""A user's rule function, Rule or OptimizerEntry as an entry of the catalogue's own form, ready for any engine."""

from __future__ import annotations

import dataclasses
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from array_api_compat import numpy as numpy_namespace

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import (
    TO_ALL,
    Array,
    Group,
    Hyper,
    Knob,
    OptimizerEntry,
    Rule,
    State,
    decay_of,
)
from optsweep_engines.optimizers.knobs import weight_decay
from optsweep_engines.optimizers.user import RULE_PARAMETERS, Found, OwnOptimizerError, error_line, unknown_flops
from optsweep_engines.optimizers.user_knobs import OwnKnob, Signature, call_arguments, signature
from optsweep_engines.spec import Scalar

KNOBS = "KNOBS"
"""Name of a module's tuple of Knob, for a file that holds a bare Rule."""


def entry_of(found: Found, name: str, label: str) -> OptimizerEntry:
    """The entry under the name that it has in results.

    Raises:
        OwnOptimizerError: its parameters cannot be knobs, or an entry is not complete.
    """
    if found.kind == "entry":
        entry: OptimizerEntry = found.target
        if not entry.knobs or entry.knobs[0].name != "lr":
            raise OwnOptimizerError(
                f"{label}: the first knob of {found.name} is not lr", "knobs = (learning_rate(...),)"
            )
        return dataclasses.replace(entry, name=name, aliases=())
    if found.kind == "rule":
        return _entry(found.target, name, _declared(found, label), found.target.update)
    made = signature(found.target, RULE_PARAMETERS, f"{label}: {found.name}")
    return _entry(rule_of(found, made, name, label), name, made.knobs, found.target)


def _declared(found: Found, label: str) -> tuple[Knob, ...]:
    """The knobs of a file with a bare Rule: its KNOBS, else lr and weight_decay."""
    module = sys.modules.get(found.target.update.__module__)
    knobs = getattr(module, KNOBS, None)
    if knobs is None:
        return (OwnKnob(name="lr", kind="float", default=None, doc="peak learning rate", low=1e-12, high=1e6, scale="log"),
                weight_decay(0.0))  # fmt: skip
    if not isinstance(knobs, tuple) or not all(isinstance(knob, Knob) for knob in knobs):
        raise OwnOptimizerError(
            f"{label}: {KNOBS} is not a tuple of Knob", "from optsweep_engines.optimizers.base import Knob"
        )
    if not knobs or knobs[0].name != "lr":
        raise OwnOptimizerError(f"{label}: the first of {KNOBS} is not lr", "the schedule sets it at every step")
    return knobs


def _entry(rule: Rule, name: str, knobs: tuple[Knob, ...], documented: Callable[..., Any]) -> OptimizerEntry:
    decays = any(knob.name == "weight_decay" for knob in knobs)

    def route(parameter: Parameter, values: Mapping[str, Scalar]) -> Group:
        return Group(rule=rule, lr_ratio=1.0, weight_decay=decay_of(parameter, values) if decays else 0.0)

    return OptimizerEntry(
        name=name,
        family="own",
        doc=(inspect.getdoc(documented) or "a user's own rule").splitlines()[0],
        formula="",
        papers=(),
        knobs=knobs,
        route=route,
        routing=TO_ALL if decays else "every tensor",
        decay_convention="lr_wd" if decays else "none",
    )


def rule_of(found: Found, made: Signature, name: str, label: str) -> Rule:
    """The rule of a function: its keyword parameters are filled in, an exception says where in the file it was raised.

    `lr` is the learning rate of the step and the tensor, `weight_decay` that of the tensor (0 for norms and biases).
    The state before the first step comes from the function `NAME_init`, else `init`, of the same module; without one
    the rule has no state.
    """
    module = sys.modules[found.target.__module__]
    start = getattr(module, f"{found.name}_init", None) or getattr(module, "init", None)

    def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
        values = call_arguments(made, hp.knobs)
        if "lr" in values:
            values["lr"] = hp.lr
        if "weight_decay" in values:
            values["weight_decay"] = hp.weight_decay
        try:
            result = found.target(xp, param, grad, state, step, hp, **values)
        except Exception as error:
            raise _told(error, label, module.__file__) from error
        return _checked(result, param, state, f"{label}: {found.name}")

    def init(xp: Any, param: Array, hp: Hyper) -> State:
        if start is None:
            return {}
        try:
            state = start(xp, param, hp)
        except Exception as error:
            raise _told(error, label, module.__file__) from error
        if not isinstance(state, dict) or any(not hasattr(value, "shape") for value in state.values()):
            raise OwnOptimizerError(f"{label}: {start.__name__} does not return a dict of arrays", 'return {"m": ...}')
        return state

    def state_floats(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
        hp = Hyper(lr=0.0, weight_decay=0.0, knobs=knobs, tensor=parameter)
        arrays = init(numpy_namespace, np.zeros(parameter.shape), hp).values()
        return float(sum(math.prod(value.shape) for value in arrays))

    return Rule(name=name, init=init, update=update, state_floats=state_floats, flops=unknown_flops, decay_rate=None)


def _told(error: Exception, label: str, filename: str | None) -> Exception:
    """The same with its place; what means "out of memory" to an engine stays as it is."""
    if isinstance(error, MemoryError) or "memory" in str(error).lower():
        return error
    return OwnOptimizerError(error_line(error, label, filename), "mend that line")


def _checked(result: Any, param: Array, state: State, where: str) -> tuple[Array, State]:
    """The pair that a rule returns, of the shapes that it was given."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise OwnOptimizerError(
            f"{where} does not return (param, state)", "return the new parameter and a dict of arrays"
        )
    moved, new = result
    if getattr(moved, "shape", None) != param.shape:
        raise OwnOptimizerError(f"{where} returns a parameter of another shape than {tuple(param.shape)}", "")
    if set(new) != set(state):
        raise OwnOptimizerError(
            f"{where} returns the state {sorted(new)}, it began with {sorted(state)}",
            "define init(xp, param, hp) that returns the state before the first step",
        )
    return moved, new
