"""Where the runs of a chart reported spikes of the gradient or the loss: read from their events, again only when those change."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from optsweep_tui import rundir
from optsweep_tui.app.views import history
from optsweep_tui.charts.chart import Floats
from optsweep_tui.settings import Workspace

EVERY_SECONDS = 4.0
"""Between two looks at the events of runs that go on."""
_Stamp = tuple[tuple[str, int, int], ...]


class Spikes:
    """The spikes of the runs on the screen."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[_Stamp, Floats | None]] = {}
        self._found: Mapping[str, Floats] = {}

    def load(self, workspace: Workspace, run_ids: Sequence[str]) -> Mapping[str, Floats]:
        """Run id -> steps, rising, of those that have any; the very same mapping while nothing has changed. For a thread."""
        kept, changed = {}, len(self._kept) != len(run_ids)
        for run_id in run_ids:
            where = workspace.runs / run_id
            stamp, before = _stamp(where), self._kept.get(run_id)
            if before is None or before[0] != stamp:
                before, changed = (stamp, _steps(where)), True
            kept[run_id] = before
        if changed:
            self._kept = kept
            self._found = {run_id: steps for run_id, (_, steps) in kept.items() if steps is not None}
        return self._found


def moment(alive: bool) -> int:
    """Changes when it is time to look again: every few seconds while a run goes on."""
    return int(time.monotonic() / EVERY_SECONDS) if alive else 0


def _stamp(where: Path) -> _Stamp:
    found = []
    for _, attempt in _attempts(where):
        try:
            seen = os.stat(attempt / rundir.EVENTS)
        except OSError:
            continue
        found.append((attempt.name, seen.st_size, seen.st_mtime_ns))
    return tuple(found)


def _steps(where: Path) -> Floats | None:
    try:
        return history.spikes([{"events": rundir.events(attempt)} for _, attempt in _attempts(where)])
    except (OSError, RecursionError):  # a run that is being removed, a line of brackets
        return None


def _attempts(where: Path) -> list[tuple[int, Path]]:
    try:
        return rundir.attempts(where)
    except OSError:
        return []
