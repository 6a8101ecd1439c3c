"""When an ended attempt is followed by another: preempted and lost ones always, failures once more, loops never."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.rundir import RunState

FAILED_ATTEMPTS = 2
"""An engine that says "failed" is tried this often in all: the second time shows that it was no accident."""
BARREN_ATTEMPTS = 5
"""Deaths in a row without a step gained after which a run is given up (a kernel that kills for memory, mostly)."""
BLAMELESS = ("preempted", "withdrawn", "superseded", "stale", "cancelled", "given up")
"""Ends of attempts that say nothing against the run: it was moved, or its machine was taken away."""
BACKOFF_SECONDS = 0.5
BACKOFF_LIMIT_SECONDS = 60.0


def wants_attempt(run_folder: Path, state: RunState, now: float | None = None) -> bool:
    """True when a new attempt should be opened now."""
    if state.state not in ("planned", "lost", "failed") or os.path.exists(f"{run_folder}/{rundir.CANCEL}"):
        return False
    if state.state == "planned":
        return True
    if rundir.is_imported(run_folder):
        return False
    if state.state == "lost":
        barren = _barren(run_folder)
        if barren >= BARREN_ATTEMPTS:
            return False
        ended = _ended_at(state)
        wait = 0.0 if barren <= 1 else min(BACKOFF_LIMIT_SECONDS, BACKOFF_SECONDS * 2.0 ** (barren - 2))
        return (time.time() if now is None else now) - ended >= wait
    return state.state == "failed" and _failures(run_folder) < FAILED_ATTEMPTS


def _ended_at(state: RunState) -> float:
    """When an attempt was known to have ended, by this machine's clock: that of a host may be off by hours."""
    told = float((state.exit or {}).get("ended_at") or 0.0)
    try:
        return min(told, os.stat(f"{state.attempt_folder}/{rundir.EXIT}").st_mtime)
    except OSError:
        return told


def given_up(run_folder: Path, state: RunState) -> bool:
    """True when a run is over for the controller: finished for good, or not worth another attempt."""
    if rundir.is_imported(run_folder):
        return True
    if state.state == "failed":
        return _failures(run_folder) >= FAILED_ATTEMPTS
    if state.state == "lost":
        return _barren(run_folder) >= BARREN_ATTEMPTS
    return state.finished


def _steps_reached(attempt_folder: Path) -> int:
    row = rundir.last_metric(attempt_folder)
    return int(row["step"]) if row else 0


def _since_retry(run_folder: Path) -> list[Path]:
    """Attempts from the newest one that a user asked for explicitly on: an asked retry starts the count anew."""
    found = [path for _, path in folder.attempts(run_folder)]
    for index in range(len(found) - 1, -1, -1):
        if _json(found[index] / rundir.INTENT).get("asked"):
            return found[index:]
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        data = folder.read_json(path)
    except (ValueError, OSError):
        return {}
    return data if isinstance(data, dict) else {}


def _barren(run_folder: Path) -> int:
    """Ended attempts at the end of the line that got no further than the best one before them."""
    count, reached = 0, 0
    for path in _since_retry(run_folder):
        steps = _steps_reached(path)
        moved = _json(path / rundir.EXIT).get("reason") in BLAMELESS
        count = 0 if steps > reached or moved else count + 1
        reached = max(reached, steps)
    return count


def _failures(run_folder: Path) -> int:
    return sum(
        _json(path / rundir.RECORD).get("status") == "failed" or _json(path / rundir.EXIT).get("reason") == "failed"
        for path in _since_retry(run_folder)
    )
