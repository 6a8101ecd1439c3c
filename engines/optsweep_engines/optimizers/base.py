"""What an optimizer is: an update rule written once over an array namespace, its knobs, and which rule each tensor gets.

A rule is a pure function `(xp, param, grad, state, step, hp) -> (param, state)`. Both engines run it, and numpy float64
is its reference. A stacked bank [layers, ...] means that many separate tensors: norms, scales and products are taken
over the last axes only. Neither `step` nor `hp.lr` may decide a Python branch, for they may be traced; every other
field of `hp` may.

What happens on some steps only (an eigenbasis made anew, a Hessian estimate taken in) is decided on the host, where the
step is a plain number: `Rule.events(step, knobs)` names it, the caller puts the names in `hp.events`, where they may
decide a branch, and an engine that compiles does so once per set of names. A name that is in SERVICES also calls for an
array from outside the rule, in `hp.extra` under that name. `at_step` does both, before every update.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from optsweep_engines.models import Parameter
from optsweep_engines.spec import Scalar, canonical_scalar

Array: TypeAlias = Any
"""An array of the namespace `xp`: numpy, torch or JAX."""

State: TypeAlias = dict[str, Array]
"""What a rule keeps between steps for one tensor or bank, by name."""

Service: TypeAlias = Callable[[Parameter, int], Array]
"""(tensor or bank, step from 1) -> the array that a rule calls for at that step, of the parameter's shape and dtype."""

SERVICES: dict[str, str] = {
    "noise": "standard normal numbers: `noise.normal`, a pure function of seed, step and the tensor's name",
    "sampled_gradient": "gradient, at the parameters before the step and not clipped, of the mean loss per token against "
    "labels drawn from the model's own distribution",
    "hessian_diagonal": "u * (H u): u standard normal, H the Hessian of the mean loss per token at the parameters before "
    "the step",
}
"""Arrays beside the gradient that an engine provides on the steps whose events name them."""

NEEDS: dict[str, str] = {
    **SERVICES,
    "total_steps": "the number of steps of the whole run: hp.total_steps",
    "tokens_per_step": "the tokens of one batch: hp.tokens_per_step",
    "prepare": "sums over all tensors before each update: Rule.prepare, called by `advance`",
    "eval_params": "validation and the final model take Rule.eval_params, not the values that gradients are taken at",
}
"""Everything beyond gradients that an entry may ask of the engine in `needs`."""

CAUTIOUS = "cautious_weight_decay"
"""Knob that turns the mask of `cautiously_decayed` on."""


@dataclass(frozen=True, kw_only=True)
class Knob:
    """One declared number of an optimizer or of the run: its meaning, its default, the values it may take."""

    name: str
    kind: Literal["float", "int", "bool", "choice"]
    default: Scalar
    doc: str
    low: float | None = None
    """Smallest value allowed; None for bool and choice."""
    high: float | None = None
    """Largest value allowed."""
    scale: Literal["log", "linear", "categorical"] = "linear"
    """How a sweep of it is spaced."""
    choices: tuple[str, ...] = ()
    """Values of a choice."""
    aliases: tuple[str, ...] = ()
    """Published names, the reference study's first."""
    published: tuple[Scalar, ...] = ()
    """Values swept in the reference study, arXiv 2509.02046."""
    roles: str = "all"
    """Which tensors it acts on, in words."""
    only_with: tuple[str, ...] = ()
    """Knobs of the same entry: where all of these are off or 0, this one does nothing."""

    def checked(self, value: Scalar, where: str = "") -> Scalar:
        """The value in the knob's own type.

        Raises:
            ValueError: naming the knob, the value and what is allowed.
        """
        place = f"{where}: " if where else ""
        if self.kind == "choice":
            if value not in self.choices:
                raise ValueError(f"{place}{self.name} = {value!r} is not one of {', '.join(self.choices)}")
            return value
        if self.kind == "bool":
            if isinstance(value, bool | int | float) and value in (0, 1):
                return bool(value)
            raise ValueError(f"{place}{self.name} = {value!r} is neither true nor false")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{place}{self.name} = {value!r} is not a number")
        assert self.low is not None and self.high is not None, f"knob {self.name} declares no range"
        if not self.low <= value <= self.high:
            raise ValueError(f"{place}{self.name} = {value:g} is outside {self.low:g} to {self.high:g}")
        if self.kind == "int":
            if value != int(value):
                raise ValueError(f"{place}{self.name} = {value:g} is not a whole number")
            return int(value)
        return canonical_scalar(float(value))


Iterate: TypeAlias = Callable[[Array, Sequence[tuple[float, float, float]]], Array]
"""(X [..., rows, columns] with rows <= columns, (a, b, c) per step) -> X after steps X = a X + (b A + c A A) X, A = X X^T."""

Scope: TypeAlias = Literal["bank", "tensor", "number"]
"""What of a bank an update has to see together; see Rule.scope."""


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """What an update may read beside its arrays; `hp["beta1"]` is the knob beta1."""

    lr: Any
    """Learning rate of this step for this tensor: peak x schedule x the group's ratio. May be traced."""
    weight_decay: float
    """Of this tensor: 0 where decay does not apply."""
    knobs: Mapping[str, Scalar]
    """Every resolved knob, with the group's overrides."""
    tensor: Parameter
    """Name, role, axes and heads of the tensor."""
    total_steps: int = 0
    """Steps of the whole run; 0 where it is not known (a rule that needs it says so in its entry)."""
    tokens_per_step: int = 0
    """Tokens of one batch; 0 where it is not known."""
    events: frozenset[str] | None = None
    """What this step does beside its plain part, set by `at_step`; None until then."""
    extra: Mapping[str, Array] = field(default_factory=dict)
    """Arrays that the events call for, by their name in SERVICES, and what Rule.prepare returned."""
    iterate: Iterate | None = None
    """An engine's own way to run Newton-Schulz steps, in the type of its matrix products; None: as the formula reads."""

    def __getitem__(self, name: str) -> Any:
        return self.knobs[name]

    def happens(self, event: str) -> bool:
        """Whether this step's events name it."""
        assert self.events is not None, f"{self.tensor.name}: at_step was not called for this step"
        return event in self.events


def no_events(step: int, knobs: Mapping[str, Scalar]) -> frozenset[str]:
    """Every step is alike."""
    return frozenset()


Prepare: TypeAlias = Callable[
    [Any, Sequence[Array], Sequence[Array], Sequence[State], Any, Sequence[Hyper]], Mapping[str, Array]
]
"""(xp, params, grads, states, step, hps) -> arrays that every update of the rule finds in hp.extra. Pure."""


def lr_decay(state: State, step: Any, hp: Hyper) -> Any:
    """The share of a parameter that decoupled weight decay takes at a step, usual convention: lr x weight_decay."""
    return hp.lr * hp.weight_decay


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One update rule, with its costs as formulas over shapes."""

    name: str
    init: Callable[[Any, Array, Hyper], State]
    """(xp, param, hp) -> state before the first step."""
    update: Callable[[Any, Array, Array, State, Any, Hyper], tuple[Array, State]]
    """(xp, param, grad, state, step, hp) -> (param, state); step counts from 1.

    The engine may overwrite `grad` after the call: a rule that keeps it keeps a copy.
    """
    state_floats: Callable[[Parameter, Mapping[str, Scalar]], float]
    """(parameter, knobs) -> numbers kept for it."""
    flops: Callable[[Parameter, Mapping[str, Scalar]], float]
    """(parameter, knobs) -> floating-point operations of one update, rare events spread over all steps."""
    events: Callable[[int, Mapping[str, Scalar]], frozenset[str]] = no_events
    """(step from 1, knobs) -> what that step does beside its plain part; pure, and called on the host."""
    prepare: Prepare | None = None
    """Sums over all tensors of the rule, before their updates; None where each tensor is on its own."""
    eval_params: Callable[[Any, Array, State, Hyper], Array] | None = None
    """(xp, param, state, hp) -> the values to evaluate and to keep, where gradients are taken elsewhere."""
    decay_rate: Callable[[State, Any, Hyper], Any] | None = lr_decay
    """(state before the step, step, hp) -> share of the parameter that weight decay takes; None: not decoupled."""
    decays_last: bool = False
    """The share is of the parameter after the update, not before it."""
    scope: Scope = "bank"
    """How an engine may lay banks together or cut them, without a change of the result.

    "bank": not at all. "tensor": every tensor is updated apart, and of `hp.tensor` only its axes and is_hidden_matrix
    are read: banks of one tensor shape may become one, or several. Every state has one entry per tensor, in front.
    "number": every number is updated apart and nothing of `hp.tensor` is read: any run of numbers may be a vector of its
    own. A state of another shape than the parameter is the same for all tensors and does not depend on them.
    """


@dataclass(frozen=True, kw_only=True)
class Group:
    """What one tensor gets: a rule, a multiple of the learning rate, a weight decay."""

    rule: Rule
    lr_ratio: float
    weight_decay: float
    overrides: Mapping[str, Scalar] = field(default_factory=dict)
    """Knobs that this group sees with another value than the optimizer's own."""


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry:
    """One line of the optimizer catalogue."""

    name: str
    family: str
    """Kind of rule, to group tables: "adam", "sgd", "matrix", ..."""
    doc: str
    """One line: what the update does."""
    formula: str
    """The rule as text, one assignment per line."""
    papers: tuple[tuple[str, str], ...]
    """(title, link)."""
    knobs: tuple[Knob, ...]
    """Its own, `lr` first; the run's knobs (warmup, clipping, ...) are apart."""
    route: Callable[[Parameter, Mapping[str, Scalar]], Group]
    """(parameter, knobs) -> what it gets, decided by its role."""
    routing: str
    """The same in words."""
    aliases: tuple[str, ...] = ()
    """Published names."""
    studies: Mapping[str, str] = field(default_factory=dict)
    """Study -> the name it has there."""
    needs: frozenset[str] = frozenset()
    """Engine services beyond gradients that the rule calls for: names of NEEDS."""
    decay_convention: Literal["lr_wd", "coupled", "none"] = "lr_wd"
    """What weight_decay means: p shrinks by lr x wd per step, wd x p is part of the gradient or update, or there is none."""
    schedule: str = "cosine"
    """Schedule that it is used with unless another is named."""
    run_defaults: Mapping[str, Scalar] = field(default_factory=dict)
    """Defaults of the run's knobs (warmup, max_grad_norm, ...) where the rule's own code has others than RUN_KNOBS."""
    refuses: Callable[[str, Mapping[str, Scalar]], str | None] = lambda schedule_name, knobs: None
    """(schedule, resolved knobs) -> why the rule cannot be run so, or None. Asked when a run is planned."""
    mup_power: float | None = None
    """muP: the power of the width ratio that multiplies the learning rate of hidden matrices (-1 for Adam: an update whose
    entries have a size of their own; 0 for Muon, whose matrices have). None: not defined, muP is refused. Decided by the
    coordinate check of `tests/numerics/test_mup.py`."""
    keeps_norms: bool = False
    """Matrices keep their norm: one that starts at zero would stay there, so such a model is refused."""
    extra_gradients: Callable[[Mapping[str, Scalar]], float] = lambda knobs: 0.0
    """knobs -> passes over the batch that a step takes beside its own, in gradients, rare ones spread over all steps."""

    def knob(self, name: str) -> Knob | None:
        """The knob of a name or alias, matched without case."""
        return find_knob(self.knobs, name)

    def state_floats(self, parameters: Iterable[Parameter], knobs: Mapping[str, Scalar]) -> float:
        """Numbers kept between steps for all of these tensors."""
        return sum(rule.state_floats(item, hp.knobs) for item in parameters for rule, hp in [hyper(self, item, knobs)])

    def flops_per_step(
        self, parameters: Iterable[Parameter], knobs: Mapping[str, Scalar], tokens_per_step: int = 0
    ) -> float:
        """Floating-point operations of one update of all of these tensors.

        Args:
            tokens_per_step: of one batch; passes over it that the rule asks for count 6 per multiplied weight and token.
        """
        items = tuple(parameters)
        rules = sum(rule.flops(item, hp.knobs) for item in items for rule, hp in [hyper(self, item, knobs)])
        weights = sum(item.count for item in items if item.is_hidden_matrix or item.role == "head")
        return rules + self.extra_gradients(knobs) * 6.0 * weights * tokens_per_step


def decay_of(parameter: Parameter, knobs: Mapping[str, Scalar]) -> float:
    """The knob weight_decay where the tensor's role takes it; norms and biases do not."""
    return float(knobs["weight_decay"] or 0.0) if parameter.decays else 0.0


def to_all(rule: Rule) -> Callable[[Parameter, Mapping[str, Scalar]], Group]:
    """The route that gives every tensor one rule; norms and biases are not decayed."""
    return lambda parameter, knobs: Group(rule=rule, lr_ratio=1.0, weight_decay=decay_of(parameter, knobs))


TO_ALL = "every tensor; norms and biases are not decayed"
"""`to_all` in words."""


def per_number(count: float) -> Callable[[Parameter, Mapping[str, Scalar]], float]:
    """The cost formula: so many floats or operations per number of the tensor, whatever the knobs."""
    return lambda parameter, knobs: count * parameter.count


def find_knob(knobs: Iterable[Knob], name: str) -> Knob | None:
    """The knob of a name or alias among these, matched without case; None if there is none."""
    wanted = name.lower()
    return next((knob for knob in knobs if wanted in (knob.name, *knob.aliases)), None)


def hyper(
    entry: OptimizerEntry,
    parameter: Parameter,
    knobs: Mapping[str, Scalar],
    *,
    lr: Any = 0.0,
    total_steps: int = 0,
    tokens_per_step: int = 0,
) -> tuple[Rule, Hyper]:
    """The rule of one tensor and its `hp` at a learning rate (peak x schedule; the group's ratio is applied here).

    Under muP the learning rate of a hidden matrix is scaled by width, and its decoupled decay the other way, so that the
    share that decay takes per step does not depend on the width.

    Raises:
        ValueError: the optimizer does not suit the model, see `unsuited`.
    """
    reason = unsuited(entry, parameter)
    if reason is not None:
        raise ValueError(reason)
    group = entry.route(parameter, knobs)
    own = {**knobs, **group.overrides}
    cautious = own.get(CAUTIOUS) and group.weight_decay
    by_width = 1.0 if parameter.width_ratio is None else mup_factor(entry, parameter.width_ratio)
    return cautiously_decayed(group.rule) if cautious else group.rule, Hyper(
        lr=lr * (group.lr_ratio * by_width),
        weight_decay=group.weight_decay / by_width if entry.decay_convention == "lr_wd" else group.weight_decay,
        knobs=own,
        tensor=parameter,
        total_steps=total_steps,
        tokens_per_step=tokens_per_step,
    )


def unsuited(entry: OptimizerEntry, parameter: Parameter) -> str | None:
    """Why an optimizer cannot train a model that has this tensor, in one line; None if it can."""
    if parameter.width_ratio is not None and entry.mup_power is None:
        return f"muP (mup_base_width) is not defined for {entry.name}"
    if entry.keeps_norms and parameter.is_hidden_matrix and parameter.init_std == 0:
        return f"{entry.name} keeps the norm of every matrix, and {parameter.name} of this model starts at zero"
    return None


def mup_factor(entry: OptimizerEntry, width_ratio: float) -> float:
    """What muP multiplies a learning rate with."""
    return float(width_ratio ** (entry.mup_power or 0.0))


def at_step(rule: Rule, hp: Hyper, step: int, services: Mapping[str, Service] | None = None) -> Hyper:
    """`hp` with the events of one step and the arrays that they call for.

    Args:
        step: counts from 1, a plain number.
        services: by their name in SERVICES; asked on the steps that need them only.

    Raises:
        ValueError: the rule calls for a service that is not given.
    """
    events = rule.events(step, hp.knobs)
    extra = {}
    for name in sorted(events & SERVICES.keys()):
        if services is None or name not in services:
            raise ValueError(f"{rule.name} needs {name} at step {step}: {SERVICES[name]}")
        extra[name] = services[name](hp.tensor, step)
    return dataclasses.replace(hp, events=events, extra=extra)


@functools.cache
def cautiously_decayed(rule: Rule) -> Rule:
    """The rule with cautious weight decay: only numbers that the update itself does not push away from zero are decayed.

    With q the update without decay and r the share that decay takes, p = q - r p where (p - q) p >= 0, else p = q;
    https://arxiv.org/abs/2510.12402. It works on any rule whose decay is decoupled.
    """
    rate = rule.decay_rate
    assert rate is not None, f"the weight decay of {rule.name} is not decoupled"

    def update(xp: Any, param: Array, grad: Array, state: State, step: Any, hp: Hyper) -> tuple[Array, State]:
        moved, new = rule.update(xp, param, grad, state, step, dataclasses.replace(hp, weight_decay=0.0))
        decayed = moved - rate(state, step, hp) * (moved if rule.decays_last else param)
        return xp.where((param - moved) * param >= 0, decayed, moved), new

    return dataclasses.replace(rule, name=f"{rule.name}, cautious decay", update=update)


def advance(
    xp: Any,
    rule: Rule,
    params: Sequence[Array],
    grads: Sequence[Array],
    states: Sequence[State],
    step: Any,
    hps: Sequence[Hyper],
) -> list[tuple[Array, State]]:
    """One step of all tensors of a rule, with hps from `at_step`: `prepare` where it has one, then each update."""
    if rule.prepare is not None:
        extra = rule.prepare(xp, params, grads, states, step, hps)
        hps = [dataclasses.replace(hp, extra={**hp.extra, **extra}) for hp in hps]
    return [
        rule.update(xp, param, grad, state, step, hp)
        for param, grad, state, hp in zip(params, grads, states, hps, strict=True)
    ]
