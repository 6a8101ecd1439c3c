"""The filter language of the run table: `opt:muon,soap lr>0.01 state:running loss<3.3 -seed:0 "plain words"`.

`compiled(text)` gives a function from a run to yes or no; what is wrong with a text is said with the place where it is.
Every word must fit. `field:value` is equality (texts: any of a comma separated list, `*` for anything), `= != < <= > >=`
compare, a word without a field is looked for anywhere, `-` in front turns a word around, quotes keep blanks and signs.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from optsweep_tui.app.model import RunRow

Test = Callable[[RunRow], bool]
SAME = 6e-3
"""Numbers that are typed agree with longer ones to about two digits: 0.33 is a third of 1, 2e-2 is 0.02."""
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_WORD = re.compile(
    r"(?P<minus>-?)(?P<field>[A-Za-z_][A-Za-z0-9_./]*)(?P<sign>!=|>=|<=|:|=|>|<)(?P<value>.*)", re.DOTALL
)


class FilterError(ValueError):
    """What is wrong with a filter, and where."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.message, self.column = message, column


@dataclass(frozen=True, kw_only=True)
class Field:
    """Something of a run that can be asked for."""

    meaning: str
    number: Callable[[RunRow], float | None] | None = None
    text: Callable[[RunRow], str] | None = None


def _texts(take: Callable[[RunRow], object], meaning: str) -> Field:
    return Field(meaning=meaning, text=lambda row: str(take(row) or "").lower())


def _numbers(take: Callable[[RunRow], float | None], meaning: str) -> Field:
    return Field(meaning=meaning, number=take)


FIELDS: dict[str, Field] = {
    "opt": _texts(lambda row: row.line.optimizer, "optimizer"),
    "model": _texts(lambda row: row.line.model, "model"),
    "state": _texts(
        lambda row: row.line.state, "planned, queued, running, done, diverged, failed, oom, cancelled, lost"
    ),
    "study": _texts(lambda row: "\n".join(row.studies), "name of a study"),
    "engine": _texts(lambda row: row.line.engine, "torch or jax"),
    "host": _texts(lambda row: row.line.host, "where it runs; empty for an imported run"),
    "dataset": _texts(lambda row: row.cell.dataset, "name of the dataset"),
    "id": _texts(lambda row: row.run_id, "first digits of the run id"),
    "c": _numbers(lambda row: row.line.chinchilla, "Chinchilla ratio: 1/4, 0.25, 8"),
    "lr": _numbers(lambda row: row.line.lr, "peak learning rate"),
    "seed": _numbers(lambda row: row.line.seed, "seed"),
    "loss": _numbers(lambda row: row.line.loss, "final validation loss, else newest training loss, nats per token"),
    "step": _numbers(lambda row: row.line.step, "optimizer steps done"),
    "steps": _numbers(lambda row: row.line.steps, "optimizer steps planned"),
    "tokens": _numbers(lambda row: row.cell.tokens, "training tokens planned"),
    "try": _numbers(lambda row: row.line.attempt, "number of the attempt"),
    "rate": _numbers(lambda row: row.line.tokens_per_second, "tokens per second"),
    "eta": _numbers(lambda row: row.line.eta_seconds, "seconds to go"),
}
ALIASES = {"optimizer": "opt", "chinchilla": "c", "ratio": "c", "attempt": "try", "run": "id"}
PREFIXED = {"id"}
"""Fields of which the start is enough."""


def compiled(text: str, knobs: Mapping[str, Any] | None = None) -> Test:
    """A test for runs.

    Args:
        text: the filter; an empty one lets everything through.
        knobs: names of hyperparameters that may be asked for beside the fields (their values do not matter).

    Raises:
        FilterError: an open quote, an unknown field, or a value of the wrong kind.
    """
    tests = [_test(word, column, knobs or {}) for word, column in _words(text)]
    if len(tests) == 1:
        return tests[0]
    return lambda row: all(test(row) for test in tests)


def _words(text: str) -> Iterator[tuple[str, int]]:
    """Words with their places; quotes keep blanks together and stay on the word."""
    place = 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        start, quoted = place, False
        while place < len(text) and (quoted or not text[place].isspace()):
            quoted ^= text[place] == '"'
            place += 1
        if quoted:
            raise FilterError('a quote is open: close it with "', text.rindex('"'))
        yield text[start:place], start


def _test(word: str, column: int, knobs: Mapping[str, Any]) -> Test:
    found = _WORD.fullmatch(word)
    if found is None:
        turned = word.startswith("-") and len(word) > 1
        wanted = word[turned:].replace('"', "").lower()
        return (lambda row: wanted not in row.words) if turned else (lambda row: wanted in row.words)
    name = found["field"].lower()
    field = _field(name, column + len(found["minus"]), knobs)
    sign, value = found["sign"], found["value"].replace('"', "").lower()
    at = column + found.start("value")
    if not value:
        raise FilterError(f"{found['field']}{sign} what? a value is missing", at)
    test = _compared(name, field, sign, value, at)
    return (lambda row: not test(row)) if found["minus"] else test


def _field(name: str, column: int, knobs: Mapping[str, Any]) -> Field:
    name = ALIASES.get(name, name)
    if name in FIELDS:
        return FIELDS[name]
    if name in knobs:
        return _knob(name)
    close = difflib.get_close_matches(name, [*FIELDS, *ALIASES, *knobs], n=1)
    hint = (
        f"did you mean {close[0]}?"
        if close
        else f"fields: {' '.join(FIELDS)}, and every knob; quote plain words with signs"
    )
    raise FilterError(f"there is no field {name}: {hint}", column)


def _knob(name: str) -> Field:
    """A hyperparameter: a number where it is one, else a text."""

    def number(row: RunRow) -> float | None:
        value = row.knobs.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def text(row: RunRow) -> str:
        value = row.knobs.get(name)
        return "" if value is None else str(value).lower()

    return Field(meaning="hyperparameter", number=number, text=text)


def _compared(name: str, field: Field, sign: str, value: str, column: int) -> Test:
    if sign in _OPERATORS:
        if field.number is None:
            raise FilterError(f"{name} is a text: it has no order, write {name}:{value}", column - len(sign))
        return _ordered(field.number, _OPERATORS[sign], _number(name, value, column))
    test = _equal(name, field, value, column)
    return (lambda row: not test(row)) if sign == "!=" else test


def _ordered(take: Callable[[RunRow], float | None], compare: Callable[[float, float], bool], wanted: float) -> Test:
    def test(row: RunRow) -> bool:
        value = take(row)
        return value is not None and compare(value, wanted)  # a NaN compares to nothing

    return test


def _equal(name: str, field: Field, value: str, column: int) -> Test:
    """Any of a comma separated list."""
    choices = value.split(",")
    tests: list[Test] = []
    for choice in choices:
        if not choice:
            raise FilterError(f"{name}:{value} has an empty entry in its list", column)
        numeric = field.number is not None and (field.text is None or _as_number(choice) is not None)
        if numeric and field.number is not None:
            tests.append(_near(field.number, _number(name, choice, column)))
        elif field.text is not None:
            tests.append(_like(field.text, choice + "*" if name in PREFIXED else choice))
    return tests[0] if len(tests) == 1 else lambda row: any(test(row) for test in tests)


def _near(take: Callable[[RunRow], float | None], wanted: float) -> Test:
    def test(row: RunRow) -> bool:
        value = take(row)
        return value is not None and math.isclose(value, wanted, rel_tol=SAME)

    return test


def _like(take: Callable[[RunRow], str], wanted: str) -> Test:
    """Equality, or a pattern with `*`; a run with several entries (studies) needs one that fits."""
    if "*" not in wanted:
        return lambda row: wanted in take(row).split("\n")
    pattern = re.compile(".*".join(map(re.escape, wanted.split("*"))))
    return lambda row: any(pattern.fullmatch(entry) for entry in take(row).split("\n"))


def _number(name: str, text: str, column: int) -> float:
    found = _as_number(text)
    if found is None:
        raise FilterError(f'{name} is a number, "{text}" is none: write 0.02, 2e-2 or 1/4', column)
    return found


_SCALES = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


def _as_number(text: str) -> float | None:
    """0.02, 2e-2, 1/4, 3.1M."""
    scale = _SCALES.get(text[-1:], 1.0) if text[:-1] else 1.0
    try:
        return float(Fraction(text[:-1] if scale != 1.0 else text)) * scale
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
