"""A user's own optimizer file: how it is named, read, found, and what its parameters mean. Needs no framework."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from optsweep_engines.families import FEATURES
from optsweep_engines.optimizers import user
from optsweep_engines.optimizers.knobs import RUN_KNOBS
from optsweep_engines.optimizers.user import OwnOptimizerError, Source
from optsweep_engines.optimizers.user_knobs import call_arguments, check_step, signature
from optsweep_tui import grid


def source(text: str, label: str = "./mine.py") -> Source:
    return Source(label=label, stem="mine", content=text.encode())


RULE = "def rule(xp, param, grad, state, step, hp, *, lr=0.1):\n    return param - lr * grad, {}\n"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("./mine.py:My", ("./mine.py", "My")),
        ("mine.py", ("mine.py", None)),
        ("a.b/c.py:X", ("a.b/c.py", "X")),
        ("mine.py:", ("mine.py", None)),
        ("adamw", None),
        ("pytorch_optimizer:Lion", None),
    ],
)
def test_a_reference_is_a_file_and_a_name(reference: str, expected: object) -> None:
    assert user.split_reference(reference) == expected


def test_another_content_is_another_name_and_both_answer_to_the_plain_one() -> None:
    one, other = (user.own_name("mine", "My", source(text).sha256) for text in ("a", "b"))
    assert one != other
    for name in (one, other):
        assert user.matches(name, "mine:my") and user.matches(name, name.upper()) and user.is_own(name)
        assert user.target_name(name) == "My"
    assert not user.matches(one, other)
    assert not user.matches("adamw", "mine:My") and not user.is_own("adamw")


def test_a_file_is_read_whole_or_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_bytes(b"#" * (user.FILE_LIMIT + 1))
    (tmp_path / "folder.py").mkdir()
    for name, words in (("gone.py", "does not exist"), ("folder.py", "is a folder"), ("large.py", "more than 1 MiB")):
        with pytest.raises(OwnOptimizerError, match=words):
            user.read(tmp_path / name, name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:\n", "mine.py line 1: SyntaxError"),
        ("\n1 / 0\n", "mine.py line 2: ZeroDivisionError: division by zero"),
        ("import a_module_that_is_not_there\n", "line 1: ModuleNotFoundError"),
        ("raise SystemExit('bye')\n", "line 1: SystemExit: bye"),
        ("def f():\n    raise KeyError('x')\nf()\n", "mine.py line 2: KeyError"),
        ("\0", "mine.py"),
    ],
)
def test_a_file_that_cannot_be_executed_is_one_line_with_its_place(text: str, words: str) -> None:
    with pytest.raises(OwnOptimizerError) as caught:
        user.run_module(source(text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("x = 1\n", None, "defines no optimizer"),
        (RULE + RULE.replace("rule", "other"), None, "defines 2 optimizers: rule, other"),
        (RULE, "rul", 'has no "rul"; did you mean "rule"?'),
        (RULE, "nothing_like_it", 'has no "nothing_like_it"'),
        ("def f(x): pass\n", "f", "f is a function, not an optimizer"),
        ("class C: pass\n", "C", "C is a class that is no torch.optim.Optimizer"),
        ("_rule = 1\n" + RULE.replace("rule(", "_rule("), None, "defines no optimizer"),
    ],
)
def test_what_is_no_optimizer_is_said_to_be_none(text: str, name: str | None, words: str) -> None:
    with pytest.raises(OwnOptimizerError) as caught:
        user.find(user.run_module(source(text)), name, "mine.py")
    assert words in str(caught.value)


def test_the_only_optimizer_of_a_file_needs_no_name() -> None:
    found = user.find(user.run_module(source(RULE + "def helper(x): return x\n")), None, "mine.py")
    assert (found.name, found.kind) == ("rule", "function")


def test_a_rule_object_stands_for_the_function_that_it_is_made_of() -> None:
    made = (
        "from optsweep_engines.optimizers.base import Rule\n"
        + RULE
        + ("mine = Rule(name='mine', init=lambda *a: {}, update=rule, state_floats=lambda *a: 0, flops=lambda *a: 1)\n")
    )
    assert user.find(user.run_module(source(made)), None, "mine.py").kind == "rule"


# ---------------------------------------------------------------- knobs


class Everything:
    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        ratios: tuple[float, int] = (1.0, 2),
        weight_decay: float = 0,
        steps: int = 5,
        nesterov: bool = False,
        mode: str = "fast",
        norm: Literal["rms", "l2"] = "rms",
        beta3: float | None = None,
        growth: float = math.inf,
        hook: Any = None,
        warmup_steps: int = 0,
        foreach: bool | None = None,
        N: int = 3,
    ) -> None: ...


def test_keyword_parameters_are_knobs_typed_by_their_defaults() -> None:
    made = signature(Everything, ("params",), "mine.py: Everything")
    kinds = {knob.name: (knob.kind, knob.default) for knob in made.knobs}
    assert kinds == {
        "lr": ("float", 1e-3),
        "beta1": ("float", 0.9),
        "beta2": ("float", 0.95),
        "ratios_1": ("float", 1.0),
        "ratios_2": ("int", 2),
        "weight_decay": ("float", 0),
        "steps": ("int", 5),
        "nesterov": ("bool", False),
        "mode": ("choice", "fast"),
        "norm": ("choice", "rms"),
        "beta3": ("float", None),
        "own_warmup_steps": ("int", 0),
        "n": ("int", 3),
    }
    assert made.fixed == ("growth", "hook")
    knobs = {knob.name: knob.checked(knob.default) for knob in made.knobs} | {"lr": 1, "beta1": 0}
    called = call_arguments(made, knobs)
    assert called["betas"] == (0.0, 0.95) and called["N"] == 3 and called["warmup_steps"] == 0
    assert type(called["lr"]) is float and type(called["weight_decay"]) is float and type(called["steps"]) is int
    assert "foreach" not in called and "hook" not in called


def test_a_parameter_named_as_something_of_the_run_can_still_be_set() -> None:
    names = {*grid.OPTIONS, *grid.SETTINGS, *FEATURES, *(knob.name for knob in RUN_KNOBS)}
    namespace: dict[str, Any] = {}
    exec(f"def named(params, lr=1.0, {', '.join(f'{name}=2' for name in sorted(names))}): ...", namespace)
    made = signature(namespace["named"], ("params",), "mine.py: X")
    assert {knob.name for knob in made.knobs} == {"lr", *(f"own_{name}" for name in names)}


def test_hints_decide_only_where_they_name_a_type_of_number() -> None:
    """A hint may be anything: what it holds need not be hashable, and a list of integers is no integer."""

    def hinted(
        params: Any,
        lr: float = 1.0,
        clip: Callable[[float], float] | None = None,
        steps: list[int] | None = None,
        size: int | None = None,
        share: int | float | None = None,
        quiet: bool | None = None,
        tag: str | None = None,
        start: float = 1,
    ) -> None: ...

    made = signature(hinted, ("params",), "mine.py: X")
    kinds = {knob.name: knob.kind for knob in made.knobs}
    assert kinds == {
        "lr": "float", "size": "int", "share": "float", "quiet": "bool", "tag": "choice", "start": "float",
    }  # fmt: skip
    assert made.fixed == ("clip", "steps")


def test_a_step_that_needs_an_argument_is_refused() -> None:
    class Needs:
        def step(self, closure: Any) -> None: ...

    class Can:
        def step(self, closure: Any = None, *args: Any, **kwargs: Any) -> None: ...

    check_step(Can, "mine.py: Can")
    with pytest.raises(OwnOptimizerError, match=r'mine\.py: Needs: step\(\) needs "closure"'):
        check_step(Needs, "mine.py: Needs")


@pytest.mark.parametrize(
    ("knob", "value", "words"),
    [("steps", 1.5, "whole number"), ("norm", "l1", "not one of rms, l2"), ("mode", 3, "is not a text"),
     ("nesterov", "yes", "neither true nor false"), ("lr", -1.0, "outside"), ("beta1", "x", "not a number")],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(knob: str, value: Any, words: str) -> None:
    made = signature(Everything, ("params",), "mine.py: Everything")
    declared = next(item for item in made.knobs if item.name == knob)
    with pytest.raises(ValueError, match=words):
        declared.checked(value)


def test_what_a_run_cannot_give_is_refused() -> None:
    def needs(params: Any, model: Any, lr: float = 1.0) -> None: ...
    def no_lr(params: Any, momentum: float = 0.9) -> None: ...
    def twice(params: Any, lr: float = 1.0, beta1: float = 0.1, betas: tuple[float, float] = (0.9, 0.9)) -> None: ...

    for target, words in ((needs, 'needs "model", which has no default'), (no_lr, 'takes no "lr"'), (twice, "beta1")):
        with pytest.raises(OwnOptimizerError, match=words):
            signature(target, ("params",), "mine.py: X")


def test_an_lr_without_a_default_must_be_given() -> None:
    def bare(params: Any, lr: float) -> None: ...

    (knob,) = signature(bare, ("params",), "mine.py: X").knobs
    assert knob.checked(0.1) == 0.1
    with pytest.raises(ValueError, match="lr has no default"):
        knob.checked(None)
