"""Everything of one run: spec, attempts, events, logs; for `show`, `logs` and the app's run screen."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.dispatch.lines import run_line, spec_of
from optsweep_tui.settings import Workspace


def everything(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """All that is known of one run: spec, state, studies, attempts with their events, record."""
    run_folder = workspace.runs / run_id
    state = rundir.state_of(run_folder)
    found = []
    for number, path in rundir.attempts(run_folder):
        row = rundir.last_metric(path)
        found.append(
            {
                "attempt": number,
                "folder": str(path),
                "host": rundir.host_of(path),
                "claim": _tolerant_json(path / rundir.CLAIM) or (rundir.remote(path) or {}).get("claim") or None,
                "waits": (rundir.remote(path) or {}).get("waits"),
                "intent": _tolerant_json(path / rundir.INTENT),
                "exit": _tolerant_json(path / rundir.EXIT),
                "last_step": row["step"] if row else 0,
                "events": rundir.events(path),
            }
        )
    return {
        "run_id": run_id,
        "line": dataclasses.asdict(run_line(workspace, run_id, state)),
        "studies": rundir.studies_of(run_folder),
        "spec": (state.imported.spec if state.imported else spec_of(workspace, run_id)).to_dict(),
        "origin": state.imported.to_dict() if state.imported else None,
        "record": state.record.to_dict() if state.record else None,
        "attempts": found,
    }


def _tolerant_json(path: Path) -> Any:
    try:
        data = folder.read_json(path)
    except (ValueError, OSError):
        return None
    return data if isinstance(data, dict) else None


def log_lines(workspace: Workspace, run_id: str, *, last: int, follow: bool) -> Iterator[dict[str, Any]]:
    """The log, events and metric lines of a run's newest attempt as {"attempt", "source", "text"}, oldest first."""
    run_folder = workspace.runs / run_id
    offsets: dict[Path, int] = {}
    first = True
    while True:
        state = rundir.state_of(run_folder)
        fresh: list[dict[str, Any]] = []
        if state.attempt_folder is not None:
            for source, name in (("event", rundir.EVENTS), ("metric", rundir.METRICS), ("log", rundir.LOG)):
                path = state.attempt_folder / name
                lines, offsets[path] = rundir.whole_lines(path, offsets.get(path, 0))
                chosen = lines[-last:] if first else lines
                fresh += [{"attempt": state.attempt, "source": source, "text": line} for line in chosen]
        yield from fresh[-last:] if first and not follow else fresh
        if not follow or (state.finished and not fresh):
            return
        first = False
        time.sleep(workspace.poll_seconds)
