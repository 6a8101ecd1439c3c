"""The thread that knows the state of every run: reads what may have changed, and posts a new snapshot when it did."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from optsweep_engines import folder
from optsweep_tui import flow, rundir
from optsweep_tui.app.model import RunRow, Snapshot, StudyInfo, cell_order
from optsweep_tui.core import Scalar
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

INTERVAL_SECONDS = 0.5
"""Between two looks at runs that are alive."""
PARTIAL_SECONDS = 1.0
"""Between two snapshots while the runs are read for the first time: each costs the screen a redraw of all."""
SHARE = 0.03
"""Largest part of the time that may go into looking: with very many runs the looks get rarer."""
LONGEST_SECONDS = 5.0
"""Between two looks at most: one that read 2,000 new runs is no measure of the next."""
LOCK_SECONDS = 2.0
"""Between two looks at the lock of a live run that writes nothing."""
FULL_LOOK_SECONDS = 10.0
"""Between two readings of all files of a live run whose folders stand still: another study may have taken it in."""
SETTLED = frozenset({"planned", *rundir.FINISHED})
"""A run in one of these states stays in it until its folder changes (a new attempt, a cancel marker)."""


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """Time stamps and sizes of what a live run changes; None for what is not there."""

    folder: tuple[int, int] | None
    attempt: tuple[int, int] | None
    metrics: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Live:
    """A run that was alive at the last full look."""

    state: rundir.RunState
    stamps: Stamps
    read_at: float
    """By the monotonic clock: when all of its files were read."""
    locked_at: float
    """When its lock, which tells of a silent death, was asked last."""

    def still(self, stamps: Stamps) -> Live | None:
        """The same state, looked at now: its folders and its lock say that nothing has happened. None: it must be read."""
        now = time.monotonic()
        same = (stamps.folder, stamps.attempt) == (self.stamps.folder, self.stamps.attempt)
        if not same or now - self.read_at >= FULL_LOOK_SECONDS:
            return None
        if now - self.locked_at < LOCK_SECONDS:
            return replace(self, stamps=stamps)
        where = self.state.attempt_folder
        held = self.state.state == "running" and where is not None and folder.lock_held(where)
        return replace(self, stamps=stamps, locked_at=now) if held else None


class Feed(threading.Thread):
    """Looks at the run folders and calls back with a snapshot.

    A finished or waiting run is read once and again only when the time stamp of its folder changes, which every new
    attempt and every cancel marker does; so a look at 10,000 finished runs costs 10,000 stats.
    """

    def __init__(
        self,
        workspace: Workspace,
        on_snapshot: Callable[[Snapshot], None],
        on_trouble: Callable[[str], None] = lambda text: None,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        """
        Args:
            workspace: whose runs.
            on_snapshot: called from this thread when something has changed.
            on_trouble: called from this thread with what went wrong, once per cause.
            interval: seconds between two looks at least.
        """
        super().__init__(name="optsweep-feed", daemon=True)
        self._workspace, self._interval = workspace, interval
        self._on_snapshot, self._on_trouble = on_snapshot, on_trouble
        self._rows: dict[str, RunRow] = {}
        self._seen: dict[str, int] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._posted: tuple[tuple[RunRow, ...], tuple[StudyInfo, ...]] | None = None
        self._posted_at = 0.0
        self._live: dict[str, Live] = {}
        self._complaints: set[str] = set()
        self._order: list[str] = []
        self._order_of: set[str] = set()
        self._stamps: dict[str, int] = {}
        self._baselines: dict[str, str] = {}

    def poke(self) -> None:
        """Look again at once: the user has just changed something."""
        self._wake.set()

    def stop(self) -> None:
        """Let the thread end, and wait for it a little."""
        self._stopping = True
        self._wake.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout=2.0)

    def run(self) -> None:
        """The loop of the thread."""
        while not self._stopping:
            self._wake.clear()
            started = time.monotonic()
            try:
                self.look()
            except Exception as error:  # without this thread the app would show the past as the present
                self._complain(f"reading the runs: {type(error).__name__}: {error}")
            cost = time.monotonic() - started
            self._wake.wait(min(max(self._interval, cost / SHARE - cost), LONGEST_SECONDS))

    def _complain(self, text: str) -> None:
        """Once per cause."""
        if text not in self._complaints:
            self._complaints.add(text)
            self._on_trouble(text)

    def look(self) -> None:
        """One look at all runs; posts a snapshot if anything changed, and in between while there is much to read."""
        ids = self._run_ids()
        for gone in self._rows.keys() - set(ids):
            del self._rows[gone]
            self._seen.pop(gone, None)
            self._live.pop(gone, None)
        for place, run_id in enumerate(ids):
            if self._stopping:
                return
            self._read(run_id)
            if (
                place % 32 == 31
                and time.monotonic() - self._posted_at >= PARTIAL_SECONDS
                and len(self._rows) < len(ids)
            ):
                self._post(ids, read=place + 1)
        self._post(ids, read=len(ids))

    def _run_ids(self) -> list[str]:
        try:
            return rundir.run_ids(self._workspace.runs)
        except OSError:
            return list(self._rows)  # the disk is away for a moment: keep what is known

    def _read(self, run_id: str) -> None:
        """Bring one run up to date; a folder that cannot be read (yet) is left out and tried again."""
        where = self._workspace.runs / run_id
        try:
            changed_at = os.stat(where).st_mtime_ns
            if self._seen.get(run_id) == changed_at:
                return
            known, live = self._rows.get(run_id), self._live.get(run_id)
            if known is not None and live is not None:
                still = live.still(_stamps(where, known.line.attempt))
                if still is not None:
                    self._live[run_id] = still
                    if still.stamps.metrics != live.stamps.metrics:  # it writes, and nothing else has happened to it
                        line = flow.run_line(self._workspace, run_id, live.state)
                        self._rows[run_id] = replace(known, line=line)
                    return
            state = None if rundir.is_imported(where) else rundir.state_of(where)
            line = flow.run_line(self._workspace, run_id, state)
            studies = tuple(rundir.studies_of(where))
            if known is None:
                cell = flow.cell_of(self._workspace, run_id)
                knobs = self._knobs(run_id)
                self._rows[run_id] = RunRow(line=line, cell=cell, studies=studies, knobs=knobs).labelled()
            elif studies != known.studies:
                self._rows[run_id] = replace(known, line=line, studies=studies).labelled()
            elif line != known.line:
                self._rows[run_id] = replace(known, line=line)
        except (OptsweepError, OSError, KeyError, TypeError, ValueError):
            self._rows.pop(run_id, None)
            self._seen.pop(run_id, None)
            self._live.pop(run_id, None)
            return
        if state is not None and line.state in ("running", "queued"):
            now = time.monotonic()
            self._live[run_id] = Live(state=state, stamps=_stamps(where, line.attempt), read_at=now, locked_at=now)
        else:
            self._live.pop(run_id, None)
        if line.state in SETTLED and studies:
            self._seen[run_id] = changed_at
        else:
            self._seen.pop(run_id, None)

    def _knobs(self, run_id: str) -> Mapping[str, Scalar]:
        """Hyperparameters of a run, the very mapping that its spec holds."""
        where = self._workspace.runs / run_id
        if rundir.is_imported(where):
            return rundir.read_import(where).spec.hyperparameters or {}
        return flow.spec_of(self._workspace, run_id).hyperparameters

    def _in_order(self) -> list[str]:
        """Known runs cell by cell, by lr and seed: sorted here, where 100,000 of them hold up no key."""
        if len(self._order) != len(self._rows) or self._order_of != self._rows.keys():
            self._order = sorted(self._rows, key=lambda run_id: cell_order(self._rows[run_id]))
            self._order_of = set(self._order)
        return self._order

    def _post(self, ids: list[str], read: int) -> None:
        rows = tuple(self._rows[run_id] for run_id in self._in_order())
        studies = self._studies(rows)
        if self._posted is not None and read == len(ids) and self._posted == (rows, studies):
            return
        finished = read == len(ids)
        self._posted = (rows, studies) if finished else None
        self._posted_at = time.monotonic()
        by_id = {row.run_id: row for row in rows}
        self._on_snapshot(Snapshot(rows=rows, studies=studies, read=read, total=len(ids), by_id=by_id))

    def _studies(self, rows: tuple[RunRow, ...]) -> tuple[StudyInfo, ...]:
        """Studies with a file, the newest file first, then those known from runs only."""
        try:
            stamps = {path.stem: path.stat().st_mtime_ns for path in self._workspace.studies.glob("*.json")}
            if stamps != self._stamps:
                entries = {
                    str(entry["name"]): str(entry.get("baseline", "adamw")) for entry in flow.studies(self._workspace)
                }
                self._stamps, self._baselines = stamps, entries
        except OSError:
            pass  # what was known stays
        names = sorted(self._baselines, key=lambda name: (-self._stamps.get(name, 0), name))
        others = sorted({name for row in rows for name in row.studies} - set(names))
        return tuple(StudyInfo(name=name, baseline=self._baselines.get(name, "adamw")) for name in [*names, *others])


def _stamps(where: Path, attempt: int) -> Stamps:
    newest = where / f"a{attempt}"
    return Stamps(folder=_stamp(where), attempt=_stamp(newest), metrics=_stamp(newest / rundir.METRICS))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
