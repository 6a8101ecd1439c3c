"""PROPERTIES: what every optimizer must do, whoever wrote it; each checks a Subject and says why it does not hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from optsweep_engines.models import Parameter
from optsweep_engines.optimizers.base import Knob
from optsweep_engines.optimizers.user import OwnOptimizerError
from optsweep_engines.properties.problems import LEARNING_RATES, PROBLEMS, reached
from optsweep_engines.properties.services import services
from optsweep_engines.properties.subject import Subject, Trained
from optsweep_engines.properties.tensors import ITEMS, ONE_EACH, Floats, error, pull, start
from optsweep_engines.spec import Scalar

STEPS = 14
"""Some more than the ten after which several rules do what they do now and then."""
BEFORE_SAVING = 7


class Violated(AssertionError):
    """A property does not hold; the text says where and by how much."""


@dataclass(frozen=True, kw_only=True)
class Property:
    """One thing that an optimizer must do."""

    name: str
    check: Callable[[Subject], str]
    """Returns a remark for the table, often empty.

    Raises:
        Violated: it does not hold.
    """


# ---------------------------------------------------------------- how a subject is driven


def trained(
    subject: Subject,
    given: Mapping[str, Scalar] | None = None,
    *,
    items: tuple[Parameter, ...] = ITEMS,
    steps: int = STEPS,
    dtype: torch.dtype | None = None,
) -> Trained:
    """Some steps."""
    training = subject.start(items, given, dtype=dtype)
    go(training, steps)
    return training


def go(training: Trained, steps: int) -> None:
    """Further steps."""
    for _ in range(steps):
        values = training.values()
        training.step({name: pull(item, values[name], training.done + 1) for name, item in training.items.items()})


RAISED = (ArithmeticError, RuntimeError, ValueError)
"""What an optimizer may raise on purpose; anything else is a mistake in its code and fails the property as such."""


def said(error: Exception) -> str:
    """An exception in one line."""
    return str(error) if isinstance(error, OwnOptimizerError) else " ".join(f"{type(error).__name__}: {error}".split())


def farthest(one: Mapping[str, Floats], other: Mapping[str, Floats]) -> float:
    """Largest relative difference over the tensors; infinite where only one side is finite."""
    with np.errstate(all="ignore"):
        found = [error(one[name], other[name]) for name in one]
    return max(math.inf if math.isnan(value) else value for value in found)


# ---------------------------------------------------------------- what it reaches


def converges(problem: str) -> Callable[[Subject], str]:
    """It gets down on a problem at one of the usual learning rates."""

    def check(subject: Subject) -> str:
        goal, found = PROBLEMS[problem].goal, {}
        raised: dict[float, str] = {}
        for lr in LEARNING_RATES:
            with np.errstate(all="ignore"):  # the largest rates may overflow
                try:
                    found[lr] = reached(subject, PROBLEMS[problem](), lr)
                except RAISED as error:  # as may a decomposition of what overflowed
                    found[lr], raised[lr] = math.inf, said(error)
            if found[lr] < goal:
                return f"{found[lr]:.2g} of the first loss at lr {lr:g}"
        if len(raised) == len(found):
            raise Violated(f"it raises at every learning rate tried: {raised[LEARNING_RATES[0]]}")
        tried = ", ".join(f"{value:.2g} at lr {lr:g}" for lr, value in sorted(found.items()))
        raise Violated(f"reached no less than {goal:g} of the first loss: {tried}")

    return check


# ---------------------------------------------------------------- what its knobs do


def other_values(knob: Knob, current: Scalar) -> list[Scalar]:
    """Other values that the knob allows, far enough away to show, the likeliest first."""
    if knob.kind == "bool":
        return [not current]
    if knob.kind == "choice":
        return [choice for choice in knob.choices if choice != current]
    assert knob.low is not None and knob.high is not None
    value = float(current or 0.0)
    if knob.kind == "int":
        near = [int(value) + 1 if value < knob.high else int(value) - 1]
        return [*near, *([2, 4, 1, 10 * int(value)] if math.isinf(knob.high) else [])]
    if (knob.scale == "log" or math.isinf(knob.high)) and 0 < abs(value) <= 1e-3 and knob.name != "lr":
        return [min(0.5, knob.high)]  # an epsilon: only a large one shows among gradients of 0.1
    if math.isinf(knob.high):
        return [value * 0.5, value * 2, value * 10] if value else [0.25, 1.0, 1e-3]
    half = value * 0.5 if value else knob.low + 0.25 * min(knob.high - knob.low, 1.0)
    return [half if knob.low <= half <= knob.high else min(value * 2, knob.high)]


def change_of(subject: Subject, knob: Knob, before: Trained) -> float:
    """How far another value of a knob takes the trajectory, relative; the first value that is accepted and shows.

    Raises:
        Violated: every other value is refused.
    """
    situation = subject.situations.get(knob.name, {})
    values = [subject.values[knob.name]] if knob.name in subject.values else other_values(knob, before.knobs[knob.name])
    found, refused = [], ""
    for value in values:
        try:
            after = trained(subject, {**situation, knob.name: value}, items=ONE_EACH)
        except ValueError as reason:
            refused = str(reason)
            continue
        assert after.knobs[knob.name] != before.knobs[knob.name]
        difference = max(farthest(after.values(), before.values()), farthest(after.evaluated(), before.evaluated()))
        found.append(difference)
        if difference > 1e-9:
            return difference
    if refused and not found:
        raise Violated(f"{knob.name} takes no other value: {refused}")
    return max(found, default=math.nan)


def every_knob_counts(subject: Subject) -> str:
    """Changing any declared knob changes the trajectory."""
    made: dict[tuple[tuple[str, Scalar], ...], Trained] = {}
    silent, untried = [], []
    for knob in subject.knobs:
        situation = tuple(subject.situations.get(knob.name, {}).items())
        if situation not in made:
            made[situation] = trained(subject, dict(situation), items=ONE_EACH)
        difference = change_of(subject, knob, made[situation])
        if math.isnan(difference):
            untried.append(knob.name)  # a text without declared choices
        elif difference <= 1e-9:
            silent.append(knob.name)
    rest = f"; no other value known for {', '.join(untried)}" if untried else ""
    if silent:
        raise Violated(f"{', '.join(silent)}: another value changes nothing in {STEPS} steps{rest}")
    return f"{len(subject.knobs) - len(untried)} knobs{rest}"


# ---------------------------------------------------------------- what it works on


def shapes(subject: Subject) -> str:
    """Every tensor moves and stays finite, and no state holds a NaN."""
    training = trained(subject)
    for name, array in training.arrays().items():
        if name.startswith("state") and torch.isnan(array).any():
            raise Violated(f"{name} holds a NaN after {STEPS} steps")
    for name, value in training.values().items():
        if not np.isfinite(value).all():
            raise Violated(f"{name} is not finite after {STEPS} steps")
        if np.array_equal(value, subject.start([training.items[name]]).values()[name]):
            raise Violated(f"{name} has not moved after {STEPS} steps")
    return f"{len(training.items)} tensors: 1-D, 2-D, stacked, square, tall, wide"


def bank_is_its_slices(subject: Subject) -> str:
    """A stacked bank gives what its layers give one by one."""
    if not subject.is_rule:
        return "by construction: the class sees one matrix or vector per layer"
    banks = trained(subject).values()
    parts: dict[str, tuple[Parameter, int | None]] = {}
    alone: list[Parameter] = []
    for bank in ITEMS:
        for index in range(bank.tensors):
            own = dataclasses.replace(bank, name=f"{bank.name} {index}", shape=bank.tensor_shape, stacked=False)
            alone.append(own)
            parts[own.name] = bank, index if bank.stacked else None

    def part_of(whole: Floats, layer: int | None) -> Floats:
        part: Floats = whole[... if layer is None else layer]
        return part

    def of_bank(item: Parameter, source: Callable[[Parameter, int], Floats], step: int) -> Floats:
        bank, layer = parts[item.name]
        return part_of(source(bank, step), layer)

    def starts(item: Parameter) -> Floats:
        bank, layer = parts[item.name]
        return part_of(start(bank), layer)

    training = subject.start(alone, services=services(of=of_bank), starts=starts)
    for step in range(1, STEPS + 1):
        values = training.values()
        grads = {}
        for key, (bank, layer) in parts.items():
            whole = np.zeros(bank.shape)
            whole[... if layer is None else layer] = values[key]
            grads[key] = part_of(pull(bank, whole, step), layer)
        training.step(grads)
    worst, where = 0.0, ""
    for key, value in training.values().items():
        bank, layer = parts[key]
        off = error(value, part_of(banks[bank.name], layer))
        worst, where = max((worst, where), (off, key))
    if not worst < 1e-6:
        raise Violated(f"{where} differs by {worst:.1e}: norms and products must be over the last axes only")
    return f"largest difference {worst:.0e}"


def keeps_types(subject: Subject) -> str:
    """Parameters and state keep their type and shape."""
    for dtype in subject.dtypes:
        training = subject.start(ITEMS, dtype=dtype)
        go(training, 0 if subject.is_rule else 2)
        before = {name: (array.dtype, array.shape) for name, array in training.arrays().items()}
        go(training, 3)
        for name, array in training.arrays().items():
            if name not in before:
                raise Violated(f"{name} appears after step {training.done - 3}")
            if array.shape != before[name][1]:
                raise Violated(f"{name} changes from {tuple(before[name][1])} to {tuple(array.shape)}")
            if array.dtype != (dtype if subject.is_rule else before[name][0]):
                raise Violated(f"{name} is {array.dtype}, not {dtype if subject.is_rule else before[name][0]}")
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in subject.dtypes)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal number by number, a NaN equal to a NaN."""
    return bool(((one == other) | ((one != one) & (other != other))).all())


def writes_into_nothing(subject: Subject) -> str:
    """A rule leaves its arguments as they were; a class works in place."""
    if not subject.is_rule:
        return "a torch.optim class works in place"
    training = trained(subject, steps=2)
    old = dict(training.arrays())
    copies = {name: array.clone() for name, array in old.items()}
    go(training, 1)
    for name, array in old.items():
        if not same(array, copies[name]):
            raise Violated(f"it writes into {name}, which it was given")
    return ""


# ---------------------------------------------------------------- what it keeps


def state_size(subject: Subject) -> str:
    """The state has the size of its formula; without one, it does not grow."""
    training = trained(subject, dtype=torch.float32, steps=2)

    def held() -> int:
        arrays = training.arrays().items()
        return sum(array.numel() * array.element_size() for name, array in arrays if name.startswith("state"))

    size, numbers = held(), sum(item.count for item in ITEMS)
    if subject.state_floats is not None:
        expected = 4 * subject.state_floats(ITEMS, training.knobs)
        if size != expected:
            raise Violated(f"{size} bytes, the formula says {expected:g}")
    else:
        go(training, STEPS - 2)
        if held() != size:
            raise Violated(f"{size} bytes after 2 steps, {held()} after {STEPS}")
    return f"{size / numbers:.3g} bytes per number of float32 parameters"


def saved_exactly(subject: Subject) -> str:
    """Saved in the middle and loaded, it goes on to the same bits."""
    straight, before = (trained(subject, steps=BEFORE_SAVING, dtype=torch.float32, items=ONE_EACH) for _ in range(2))
    fresh = trained(subject, steps=0, dtype=torch.float32, items=ONE_EACH)
    fresh.load(before.saved(), before.done)
    for training in (straight, fresh):
        go(training, STEPS - BEFORE_SAVING)
    for name, value in straight.values().items():
        if not np.array_equal(value, fresh.values()[name], equal_nan=True):
            raise Violated(f"{name} differs after saving at step {BEFORE_SAVING}: what it keeps elsewhere is lost")
    return "bit for bit"


def repeatable(subject: Subject) -> str:
    """The same twice gives the same bits."""
    one, other = (trained(subject, items=ONE_EACH, dtype=torch.float32).values() for _ in range(2))
    for name, value in one.items():
        if not np.array_equal(value, other[name], equal_nan=True):
            raise Violated(f"{name} differs between two equal runs")
    return "bit for bit"


# ---------------------------------------------------------------- what it is given


def not_finite(bad: float) -> Callable[[Subject], str]:
    """Of three steps the first has one bad number per tensor: every tensor shows it, or the optimizer raises.

    An infinite gradient may be legal (a sign has one); a NaN must not be swallowed.
    """

    def three_steps(subject: Subject, first: float | None) -> Trained:
        training = subject.start(ITEMS)
        with np.errstate(all="ignore"):
            for step in (1, 2, 3):
                grads = {item.name: pull(item, start(item), step) for item in ITEMS}
                if step == 1 and first is not None:
                    for grad in grads.values():
                        grad.flat[-1] = first
                training.step(grads)
        return training

    def check(subject: Subject) -> str:
        try:
            training = three_steps(subject, bad)
        except RAISED as error:
            three_steps(subject, None)  # an optimizer that raises here, too, shows nothing by raising there
            return f"it raises: {said(error)}"
        finite = [name for name, value in training.values().items() if not np.isnan(value).any()]
        if math.isnan(bad) and finite:
            raise Violated(f"{finite[0]} is finite three steps after a NaN in its gradient: training goes on unseen")
        return "the parameters show it" if math.isnan(bad) else ""

    return check


def zero_gradient(subject: Subject) -> str:
    """Gradients of zero, as rows of an embedding have that no batch drew: no number becomes NaN or infinite."""
    training = subject.start(ITEMS)
    for _ in range(3):
        training.step({item.name: np.zeros(item.shape) for item in ITEMS})
    go(training, 2)
    for name, value in training.values().items():
        if not np.isfinite(value).all():
            raise Violated(f"{name} is not finite after three gradients of zero: 0 / 0?")
    return ""


PROPERTIES: tuple[Property, ...] = (
    Property(name="converges on a quadratic", check=converges("quadratic")),
    Property(name="converges on a small model", check=converges("model")),
    Property(name="every knob changes the trajectory", check=every_knob_counts),
    Property(name="works on every shape", check=shapes),
    Property(name="a stacked bank is its slices", check=bank_is_its_slices),
    Property(name="keeps dtypes and shapes", check=keeps_types),
    Property(name="writes into no argument", check=writes_into_nothing),
    Property(name="state size", check=state_size),
    Property(name="saves and loads exactly", check=saved_exactly),
    Property(name="the same twice", check=repeatable),
    Property(name="a zero gradient is survived", check=zero_gradient),
    Property(name="a NaN gradient shows", check=not_finite(math.nan)),
    Property(name="an infinite gradient is survived or shown", check=not_finite(math.inf)),
)
"""The one list."""
