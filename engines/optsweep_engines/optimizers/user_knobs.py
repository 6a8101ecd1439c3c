"""The knobs of a user's own optimizer: the keyword parameters of its constructor or function, typed by their defaults."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal

from optsweep_engines.families import FEATURES
from optsweep_engines.optimizers.base import Knob
from optsweep_engines.optimizers.knobs import FIELD_ALIASES, RUN_KNOBS
from optsweep_engines.optimizers.user import OwnOptimizerError
from optsweep_engines.spec import Scalar

IMPLEMENTATION = frozenset({"foreach", "fused", "capturable", "differentiable", "maximize", "compile"})
"""Parameters of torch's optimizers that choose how, not what, is computed (or its sign): no knobs, left at their defaults."""

RUN_NAMES = frozenset(
    {name for knob in RUN_KNOBS for name in (knob.name, *knob.aliases)}
    | {*FIELD_ALIASES, *FIELD_ALIASES.values(), "seq_len", "dtype", "accumulation"}
    | {"validation_tokens", "validation_interval", "simulate_epochs"}
    | set(FEATURES)
    | {"seed", "seeds", "engine", "dataset", "optimizer", "model", "chinchilla", "around"}
)
"""Names that mean something of the run: a parameter called so becomes `own_NAME`."""

LOWEST_LR, HIGHEST_LR = 1e-12, 1e6


@dataclass(frozen=True, kw_only=True)
class OwnKnob(Knob):
    """A knob with a type and no declared range; a choice without choices takes any text, a default of None allows None."""

    def checked(self, value: Scalar, where: str = "") -> Scalar:
        if value is None and self.default is None:
            if self.name == "lr":
                raise ValueError(f"{where}: lr has no default; give one, --set lr=0.001")
            return None
        if self.kind == "choice" and not self.choices:
            if isinstance(value, str):
                return value
            raise ValueError(f"{where}: {self.name} = {value!r} is not a text")
        return Knob.checked(self, value, where)


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One parameter of the user's code and the knobs that it is made of: one, or one per entry of a tuple."""

    parameter: str
    knobs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Signature:
    """What a user's code takes."""

    knobs: tuple[OwnKnob, ...]
    """`lr` first."""
    arguments: tuple[Argument, ...]
    fixed: tuple[str, ...]
    """Parameters left at their defaults: no number, text, switch or tuple of them."""


def signature(target: Any, given: Sequence[str], where: str) -> Signature:
    """Knobs of a class's constructor or of a function.

    Args:
        given: parameters that the engine fills in ("params"; or those of a rule).
        where: the optimizer's name, for messages.

    Raises:
        OwnOptimizerError: there is a parameter without a default that the engine knows nothing of, or no lr.
    """
    parameters = list(inspect.signature(target).parameters.values())
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    knobs: dict[str, OwnKnob] = {}
    arguments: list[Argument] = []
    fixed: list[str] = []
    positional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    rest = [item for item in parameters if item.kind not in positional and item.name not in given]
    for item in rest:
        if item.default is inspect.Parameter.empty and item.name != "lr":
            raise OwnOptimizerError(
                f'{where} needs "{item.name}", which has no default',
                f"a run can give it {', '.join(given)}, lr and parameters with defaults",
            )
        if item.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise OwnOptimizerError(f'{where}: "{item.name}" cannot be given by name', "drop the / of its signature")
        if item.name in IMPLEMENTATION:
            continue
        made = _knobs_of(item, hints.get(item.name, item.annotation))
        if not made:
            fixed.append(item.name)
            continue
        for knob in made:
            if knob.name in knobs:
                raise OwnOptimizerError(f'{where}: two parameters make the knob "{knob.name}"', "rename one of them")
            knobs[knob.name] = knob
        arguments.append(Argument(parameter=item.name, knobs=tuple(knob.name for knob in made)))
    if "lr" not in knobs:
        raise OwnOptimizerError(f'{where} takes no "lr"', "the schedule sets it at every step")
    ordered = sorted(knobs.values(), key=lambda knob: knob.name != "lr")
    return Signature(knobs=tuple(ordered), arguments=tuple(arguments), fixed=tuple(fixed))


def check_step(target: Any, where: str) -> None:
    """Refuse a class whose `step` cannot be called as the engine does: without arguments, with every gradient filled in.

    Raises:
        OwnOptimizerError: it asks for more, a closure for one.
    """
    try:
        _, *parameters = inspect.signature(target.step).parameters.values()
    except (TypeError, ValueError):
        return  # not written in Python
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    asked = [
        item.name for item in parameters if item.default is inspect.Parameter.empty and item.kind not in open_ended
    ]
    if asked:
        raise OwnOptimizerError(
            f'{where}: step() needs "{asked[0]}"',
            "a run calls step() without arguments, with every p.grad filled in; give it a default where it can do without",
        )


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # names that exist for a type checker only
        return {}


def _knobs_of(item: inspect.Parameter, hint: Any) -> list[OwnKnob]:
    default = None if item.default is inspect.Parameter.empty else item.default
    if item.name == "lr":
        known = (
            isinstance(default, int | float) and not isinstance(default, bool) and LOWEST_LR <= default <= HIGHEST_LR
        )
        return [
            OwnKnob(
                name="lr", kind="float", default=default if known else None, doc="peak learning rate", low=LOWEST_LR,
                high=HIGHEST_LR, scale="log", aliases=("learning_rate",),
            )
        ]  # fmt: skip
    if isinstance(default, tuple) and default:
        hinted = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
        types = hinted if len(hinted) == len(default) else (None,) * len(default)
        entries = [
            _knob(f"beta{index}" if item.name == "betas" else f"{item.name}_{index}", value, kind, item.name)
            for index, (value, kind) in enumerate(zip(default, types, strict=True), start=1)
        ]
        return [entry for entry in entries if entry is not None] if None not in entries else []
    knob = _knob(item.name, default, hint, item.name)
    return [] if knob is None else [knob]


def _knob(name: str, default: Any, hint: Any, parameter: str) -> OwnKnob | None:
    """The knob of one value; None where its type cannot be told or typed on a command line."""
    union = typing.get_origin(hint) in (typing.Union, UnionType)
    kinds = [kind for kind in (typing.get_args(hint) if union else (hint,)) if kind is not type(None)]

    def hinted(*wanted: type) -> bool:  # by identity: what stands in a hint need not be hashable
        return bool(kinds) and all(any(kind is each for each in wanted) for kind in kinds)

    choices: tuple[str, ...] = ()
    literal = next((part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is Literal), None)
    if literal is not None and all(isinstance(entry, str) for entry in typing.get_args(literal)):
        choices = typing.get_args(literal)
    kind: Literal["float", "int", "bool", "choice"]
    if isinstance(default, bool) or (default is None and hinted(bool)):
        kind = "bool"
    elif isinstance(default, int | float):
        if not math.isfinite(default):
            return None
        kind = "int" if isinstance(default, int) and not any(each is float for each in kinds) else "float"
    elif isinstance(default, str) or choices or (default is None and hinted(str)):
        kind = "choice"
    elif default is None and hinted(int, float):
        kind = "int" if hinted(int) else "float"
    else:
        return None
    number = kind in ("int", "float")
    lowered = name.lower()
    return OwnKnob(
        name=f"own_{lowered}" if lowered in RUN_NAMES else lowered,
        kind=kind,
        default=default,
        doc=f"parameter {parameter} of the user's optimizer",
        low=-math.inf if number else None,
        high=math.inf if number else None,
        scale="linear" if number else "categorical",
        choices=choices,
    )


def call_arguments(made: Signature, knobs: Mapping[str, Scalar]) -> dict[str, Any]:
    """Keyword arguments from a run's knobs: floats are floats (1 stays 1.0), tuples are put together."""
    kinds = {knob.name: knob.kind for knob in made.knobs}

    def typed(name: str) -> Any:
        value = knobs[name]
        return float(value) if kinds[name] == "float" and value is not None else value

    return {
        item.parameter: typed(item.knobs[0])
        if len(item.knobs) == 1 and not _tuple(item)
        else tuple(map(typed, item.knobs))
        for item in made.arguments
    }


def _tuple(item: Argument) -> bool:
    return item.knobs[0] not in (item.parameter.lower(), f"own_{item.parameter.lower()}")
