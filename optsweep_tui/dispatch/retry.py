"""When an ended attempt is followed by another: preempted and lost ones always, failures once more, loops never."""

from __future__ import annotations

import os
import time
from pathlib import Path

from optsweep_engines import deaths
from optsweep_tui import rundir
from optsweep_tui.rundir import RunState

FAILED_ATTEMPTS = 2
"""An engine that says "failed" is tried this often in all: the second time shows that it was no accident."""


def wants_attempt(run_folder: Path, state: RunState, now: float | None = None) -> bool:
    """True when a new attempt should be opened now."""
    if state.state not in ("planned", "lost", "failed") or os.path.exists(f"{run_folder}/{rundir.CANCEL}"):
        return False
    if state.state == "planned":
        return True
    if rundir.is_imported(run_folder):
        return False
    if state.state == "lost":
        barren = deaths.barren(run_folder)
        if barren >= deaths.BARREN_ATTEMPTS:
            return False
        return (time.time() if now is None else now) - _ended_at(state) >= deaths.pause_seconds(barren)
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
        return deaths.barren(run_folder) >= deaths.BARREN_ATTEMPTS
    return state.finished


def _failures(run_folder: Path) -> int:
    return sum(
        deaths.table(path / rundir.RECORD).get("status") == "failed"
        or deaths.table(path / rundir.EXIT).get("reason") == "failed"
        for path in deaths.since_retry(run_folder)
    )
