"""The lines of metrics.jsonl as they are read while they are written: which count, and the newest; stdlib only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optsweep_engines.folder import METRICS


def last_metric(attempt_folder: Path, tail_bytes: int = 16384) -> dict[str, Any] | None:
    """The newest whole metric line of an attempt; None before the first. Reads the end of the file only."""
    try:
        with open(attempt_folder / METRICS, "rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - tail_bytes))
            lines = handle.read().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if is_metric(row):
            return dict(row)
    return None


def is_metric(row: Any) -> bool:
    """A metric line as the store takes it: a table with a step that could be one."""
    step = row.get("step") if isinstance(row, dict) else None
    return isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**53
