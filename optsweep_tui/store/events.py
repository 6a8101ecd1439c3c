"""Lines of events.jsonl as rows of the table event."""

from __future__ import annotations

import json
import math
from typing import Any

from optsweep_tui.store.lines import read_object, whole_lines
from optsweep_tui.store.rows import Row, unix_time


def event_rows(run: int, attempt: int, data: bytes) -> tuple[list[Row], list[tuple[int, str]]]:
    """Rows of a block of whole lines, and (line number from 0, reason) of each that is none."""
    found: list[Row] = []
    bad: list[tuple[int, str]] = []
    for number, line in whole_lines(data):
        try:
            found.append(_event_row(run, attempt, read_object(line)))
        except ValueError as error:
            bad.append((number, str(error)))
    return found, bad


def _event_row(run: int, attempt: int, row: dict[str, Any]) -> Row:
    """The row of `event`; what is not seq, time and kind stays JSON."""
    seq = row.pop("seq", None)
    moment, kind = row.pop("time", None), row.pop("kind", None)
    whole = isinstance(seq, int) and not isinstance(seq, bool) and abs(seq) < 2**63
    return {
        "run": run,
        "attempt": attempt,
        "seq": seq if whole else None,
        "time": unix_time(moment),
        "kind": kind if isinstance(kind, str) else None,
        "data": json.dumps(_plain(row)),
    }


def _plain(value: Any) -> Any:
    """The same with null for infinities and with floats for integers that JSON readers do not take."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) >= 2**63:
        return float(value) if abs(value) < 10**308 else None
    return value
