"""Every run of a workspace as a line, fast: what cannot have changed since the last listing is not read again.

The lines of runs that are over or wait are kept in `.listing.json`, each with the times of its run folder and of its newest
attempt's: a new attempt, a claim, a marker or a record changes one of them. The file may be deleted at any time.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

from optsweep_tui import rundir
from optsweep_tui.dispatch import links
from optsweep_tui.dispatch.lines import RunLine, run_line, shown_state
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

VERSION = 1
"""Raised when a line holds something else."""
NAME = ".listing.json"
SETTLED_NS = 2_000_000_000
"""A folder that changed more recently may change again within the resolution of its time."""
LEAST_RUNS = 500
"""Below it reading everything takes no time worth a file."""
_KEPT = frozenset((*rundir.FINISHED, "planned", "submitting", "queued", "lost"))
_FIELDS = tuple(item.name for item in dataclasses.fields(RunLine))
_STATE = _FIELDS.index("state")
_HOST = _FIELDS.index("host")

Entry = list[Any]
"""[time of the run folder, name of the newest attempt, time of its folder, values of the line]."""


def listing(workspace: Workspace) -> tuple[list[RunLine], dict[str, str]]:
    """(lines of all runs by id, run id -> why for those whose folder is broken)."""
    kept = _read(workspace)
    fresh: dict[str, Entry] = {}
    lines: list[RunLine] = []
    broken: dict[str, str] = {}
    now = time.time_ns()
    changed = False
    root = str(workspace.runs)
    for run_id in rundir.run_ids(workspace.runs):
        where = f"{root}/{run_id}"
        entry = kept.get(run_id)
        if entry is not None and _same(where, entry):
            fresh[run_id] = entry
            lines.append(_line(workspace, entry[3]))
            continue
        try:
            stamp = os.stat(where).st_mtime_ns
            state = None if rundir.is_imported(workspace.runs / run_id) else rundir.state_of(workspace.runs / run_id)
            newest = state.attempt_folder if state is not None else None
            attempt_stamp = newest.stat().st_mtime_ns if newest is not None else 0
            line = run_line(workspace, run_id, state)
        except (OptsweepError, OSError) as error:
            broken[run_id] = str(error)
            continue
        lines.append(line)
        raw = state.state if state is not None else line.state
        if raw in _KEPT and max(stamp, attempt_stamp) < now - SETTLED_NS:
            values = [getattr(line, name) for name in _FIELDS]
            values[_STATE] = raw
            fresh[run_id] = [stamp, newest.name if newest is not None else "", attempt_stamp, values]
            changed = True
    if len(lines) >= LEAST_RUNS and (changed or len(fresh) != len(kept)):
        _write(workspace, fresh)
    return lines, broken


def _same(where: str, entry: Entry) -> bool:
    try:
        return os.stat(where).st_mtime_ns == entry[0] and (
            not entry[1] or os.stat(f"{where}/{entry[1]}").st_mtime_ns == entry[2]
        )
    except OSError:
        return False


def _line(workspace: Workspace, values: list[Any]) -> RunLine:
    state = shown_state(workspace, values[_STATE], values[_HOST])
    line = RunLine.__new__(RunLine)
    vars(line).update(zip(_FIELDS, values, strict=True))  # as __init__ would, without a call per field
    vars(line)["state"] = state
    return line


def _read(workspace: Workspace) -> dict[str, Entry]:
    try:
        data = json.loads((workspace.root / NAME).read_bytes())
        runs = data["runs"] if data["version"] == VERSION and data["fields"] == list(_FIELDS) else {}
        return runs if isinstance(runs, dict) and all(_sound(entry) for entry in runs.values()) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _sound(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 4 and isinstance(entry[3], list) and len(entry[3]) == len(_FIELDS)


def _write(workspace: Workspace, runs: dict[str, Entry]) -> None:
    try:
        links.write_plain(workspace.root / NAME, {"version": VERSION, "fields": list(_FIELDS), "runs": runs})
    except OSError:
        return  # a workspace that cannot be written can still be listed
