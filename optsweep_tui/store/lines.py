"""JSON lines to columns: whole blocks at once by Arrow where every line is plain, line by line where one is not.

Arrow's parser does a million points in 0.3 s on one core, Python's in 2 s, but one bad line makes Arrow refuse the whole
block. So a block goes to Arrow only with the columns it is known to have; when anything is out of the ordinary the block
is read again line by line, bad lines are counted and located, and the columns are learned anew.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FAST_COLUMNS = 512
"""Blocks with more different keys are read line by line: Arrow would hold keys x lines numbers."""
BLOCK_KEYS = 50_000
"""More different keys in a block are left out: a store takes fewer, and each costs half a kilobyte of memory."""
ARROW_LINES = 4000
"""Loading Arrow takes as long as reading so many lines without it."""
SMALL_LINES = 30
"""Fewer are read line by line at once: calling Arrow costs half a millisecond."""
MAX_KEY_LENGTH = 200
"""Longer names are not metrics; their values are left out."""
MAX_STEP = 2**53
"""A step beyond this is garbage: it is no longer a whole number in a float."""

_NOT_FINITE = r"[-+]?(?:nan(?:\([a-z0-9_]*\))?|inf(?:inity)?|1\.?#(?:inf|ind|qnan|snan|j)[0-9]*)"
# RE2, which Arrow uses, and Python read this the same way.
NOT_FINITE_TEXT = rf"^\s*{_NOT_FINITE}\s*$"
_IS_NOT_FINITE = re.compile(NOT_FINITE_TEXT, re.IGNORECASE | re.ASCII)
_NOT_FINITE_BARE = re.compile(rf"(?<=[:\[,])(\s*)(?:{_NOT_FINITE}|none|n/a)(?=\s*[,}}\]])", re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"

Numbers = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values of one key in the order of the file."""

    name: str
    steps: Steps
    """[points]"""
    values: Numbers
    """[points]; NaN stands for null and for everything that is not finite."""


@dataclass(kw_only=True)
class Points:
    """What a block of metric lines holds."""

    series: list[Series] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    """(line number within the block from 0, reason) of every line that was skipped."""
    lines: int = 0
    first_step: int | None = None
    last_step: int | None = None
    """Smallest and largest."""
    ascending: bool = True
    """Every step is larger than the one before."""
    end_step: int | None = None
    """Step of the last line."""
    begin_step: int | None = None
    """Step of the first line."""

    @property
    def count(self) -> int:
        return sum(len(item.steps) for item in self.series)


class MetricParser:
    """Reads blocks of metrics.jsonl; remembers the columns from block to block and file to file."""

    def __init__(self, patience: int = ARROW_LINES) -> None:
        """Arrow is not asked before so many lines have come."""
        self._columns: dict[str, str] = {}
        self._patience = patience
        self.slow_blocks = 0
        """Blocks that were read line by line."""

    def parse(self, block: bytes) -> Points:
        """Whole lines (the block ends with a newline) to points; never raises for what the lines hold."""
        block = block.removeprefix(_BOM)
        lines = block.count(b"\n")
        self._patience -= lines
        points = self._fast(block, lines)
        if points is None and lines > 4 * SMALL_LINES:
            self._slow(_head(block, SMALL_LINES))  # for the columns
            points = self._fast(block, lines)
        if points is None:
            self.slow_blocks += 1
            points = self._slow(block)
        points.lines = lines
        return points

    def _fast(self, block: bytes, lines: int) -> Points | None:
        """None where Arrow is not the right reader."""
        if lines < SMALL_LINES or self._patience > 0 or "step" not in self._columns:
            return None
        # Loaded here, so that few lines do without.
        from optsweep_tui.store import blocks

        columns = blocks.read(block, lines, self._columns)
        if columns is None:
            return None
        steps = columns.steps
        if lines and (steps.min() < 0 or steps.max() > MAX_STEP):
            return None
        series = []
        for name, (valid, values) in columns.values.items():
            kept = steps if valid is None else steps[valid]
            series.append(Series(name=name, steps=kept, values=_finite(values)))
        return _described(Points(series=series), steps)

    def _slow(self, block: bytes) -> Points:
        points = Points()
        columns: dict[str, tuple[list[int], list[float]]] = {}
        kinds: dict[str, str] = {"step": "step"}
        all_steps: list[int] = []
        for number, line in enumerate(block.split(b"\n")[:-1]):
            if not line.strip():
                continue
            try:
                row = read_object(line)
                step = _step(row)
            except ValueError as error:
                points.bad.append((number, str(error)))
                continue
            all_steps.append(step)
            for name, value in row.items():
                column = columns.get(name)
                if column is None or type(value) is not float:
                    if name == "step" or len(name) > MAX_KEY_LENGTH:
                        continue
                    kinds[name] = _kind(value, kinds.get(name))
                    value = _number(value)
                    if value is None or (column is None and len(columns) >= BLOCK_KEYS):
                        continue
                    column = columns.setdefault(name, ([], []))
                column[0].append(step)
                column[1].append(value)
        for name, (steps, values) in columns.items():
            points.series.append(Series(name=name, steps=np.array(steps, np.int64), values=_finite(np.array(values))))
        self._learn(kinds)
        return _described(points, np.array(all_steps, np.int64))

    def _learn(self, kinds: Mapping[str, str]) -> None:
        """Columns for the next blocks: what this one held, with what earlier ones held while that is few."""
        union = {**self._columns, **kinds}
        chosen = union if len(union) <= 64 else dict(kinds)
        self._columns = chosen if len(chosen) <= FAST_COLUMNS else {}


def read_object(line: bytes) -> dict[str, Any]:
    """One JSON object; NaN and infinity in any usual spelling are null.

    Raises:
        ValueError: says in a few words why the line cannot be used.
    """
    try:
        text = line.strip().removeprefix(_BOM).decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    try:
        row = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        try:
            row = _LENIENT.decode(_NOT_FINITE_BARE.sub(r"\1null", text))
        except (ValueError, RecursionError):
            raise ValueError("not JSON") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return printable(row) if "\\u" in text else row


def printable(value: Any) -> Any:
    """The same without halves of surrogate pairs: JSON can write them, UTF-8 cannot."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    return value


def whole_lines(block: bytes) -> Iterator[tuple[int, bytes]]:
    """(line number from 0, line) of the lines that are not blank."""
    for number, line in enumerate(block.split(b"\n")[:-1]):
        if line.strip():
            yield number, line


def _head(block: bytes, lines: int) -> bytes:
    """The first lines of a block."""
    end = 0
    for _ in range(lines):
        end = block.find(b"\n", end) + 1
    return block[:end]


def _null(_text: str) -> None:
    return None


def _integer(text: str) -> int | None:
    """Python refuses to read integers of more than 4300 digits; a float ends at 309."""
    return int(text) if len(text) < 400 else None


# Made once: json.loads with an option builds a decoder for every line.
_DECODER = json.JSONDecoder(parse_constant=_null)
_LENIENT = json.JSONDecoder(parse_constant=_null, parse_int=_integer)


def _step(row: dict[str, Any]) -> int:
    step = row.get("step")
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if isinstance(step, bool) or not isinstance(step, int):
        raise ValueError('no whole number "step"')
    if not 0 <= step <= MAX_STEP:
        raise ValueError(f'"step" is out of range: {str(step)[:30]}')
    return step


def _number(value: Any) -> float | None:
    """The value as a float, NaN for null and for what is not finite; None for what is no number."""
    if value is None:
        return math.nan
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        try:
            return float(value) if math.isfinite(value) else math.nan
        except OverflowError:
            return math.nan
    if isinstance(value, str) and _IS_NOT_FINITE.search(value):
        return math.nan
    return None


def _kind(value: Any, known: str | None) -> str:
    """How Arrow is to read a value like this; a number once is a number always, so that its exceptions are noticed."""
    if known == "number" or value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return "number"
    return "flag" if isinstance(value, bool) else "text"


def _finite(values: Numbers) -> Numbers:
    values = values.astype(np.float64, copy=False)
    bad = ~np.isfinite(values)
    return np.where(bad, np.nan, values) if bad.any() else values


def _described(points: Points, steps: Steps) -> Points:
    """Fill in what is known about the steps of all lines, in the order of the file."""
    if len(steps):
        points.first_step, points.last_step = int(steps.min()), int(steps.max())
        points.begin_step, points.end_step = int(steps[0]), int(steps[-1])
        points.ascending = bool((np.diff(steps) > 0).all())
    return points
