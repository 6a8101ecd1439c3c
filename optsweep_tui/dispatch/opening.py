"""Opening an attempt for another machine: its folder, then its intent, each made by exactly one of any number of controllers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.dispatch import links
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace


def why(state: RunState, asked: bool) -> str:
    """The reason of a new attempt, from the state before it; `show RUN` prints it."""
    if asked:
        return "asked for"
    if state.attempt == 0:
        return "first"
    return f"a{state.attempt} {state.state}: {state.error or 'no reason given'}"[:300]


def opened(workspace: Workspace, run_id: str, number: int, intent: Mapping[str, Any]) -> bool:
    """Make an attempt; False where another controller has made it.

    The intent is on disk before anything is asked of the host. A controller that dies in between leaves a folder that
    `complete` finishes.
    """
    where = workspace.runs / run_id / f"a{number}"
    try:
        where.mkdir(mode=0o700)
    except FileExistsError:
        return False
    try:
        if not intended(where, intent):
            return False
    except OSError:
        where.rmdir()  # a full disk: leave no attempt that was never intended
        raise
    _announce(workspace, run_id, number, where, str(intent["host"]))
    return True


def complete(workspace: Workspace, state: RunState, intent: Mapping[str, Any]) -> None:
    """Finish an opening that was cut short: the intent where there is none, and what follows from it."""
    where = state.attempt_folder
    if where is None or (where / rundir.EXIT).exists():
        return
    host = rundir.host_of(where)
    if host is None:
        intended(where, intent)
        host = rundir.host_of(where)
    if host not in (None, "local"):
        _announce(workspace, state.run_id, state.attempt, where, str(host))


def intended(where: Path, intent: Mapping[str, Any]) -> bool:
    """Write the intent of an attempt, durably; False where there is one already."""
    try:
        folder.write_new(where / rundir.INTENT, (json.dumps(dict(intent), sort_keys=True) + "\n").encode())
    except FileExistsError:
        return False
    return True


def _announce(workspace: Workspace, run_id: str, number: int, where: Path, host: str) -> None:
    if not (where / rundir.REMOTE).exists():
        links.write_plain(where / rundir.REMOTE, {"host": host, "state": "submitting", "changed_at": time.time()})
    links.mark_open(workspace, host, (run_id, number))
