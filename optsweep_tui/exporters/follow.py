"""The thread that copies the runs of a workspace into sinks while they go on; it never slows, stops or fails a run.

It reads the run folders like any other onlooker. Trouble with a sink (a full disk, a folder that cannot be written) ends
that sink with one line; the runs go on, and the next command with the same sink takes the copy up where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from optsweep_tui import rundir
from optsweep_tui.errors import OptsweepError
from optsweep_tui.exporters import sinks
from optsweep_tui.exporters.runs import ExportedRun, exported

INTERVAL_SECONDS = 1.0
"""Between two looks, at least."""
PAUSE_SHARE = 20.0
"""A look is followed by a pause this many times as long: the cores are for training."""
LOCK = ".optsweep.lock"


class Tail:
    """The metric lines of one run, each step once, read on from where the last look ended."""

    def __init__(self, run_folder: Path) -> None:
        self._folder = run_folder
        self._offsets: dict[int, int] = {}
        self._held: dict[str, Any] | None = None
        self._last = -1

    def read(self) -> list[dict[str, Any]]:
        """New rows by rising step. The newest is held back for one look: another line may complete its step."""
        found: list[dict[str, Any]] = []
        fresh = False
        for attempt, attempt_folder in rundir.attempts(self._folder):
            lines, self._offsets[attempt] = rundir.whole_lines(
                attempt_folder / rundir.METRICS, self._offsets.get(attempt, 0)
            )
            for line in lines:
                row = _row(line)
                if row is None or row["step"] <= self._last:
                    continue
                fresh = True
                if self._held is not None and row["step"] == self._held["step"]:
                    self._held |= row
                elif self._held is None or row["step"] > self._held["step"]:
                    found += self._released()
                    self._held = row
        return found if fresh else found + self._released()

    def _released(self) -> list[dict[str, Any]]:
        if self._held is None:
            return []
        row, self._held = self._held, None
        self._last = row["step"]
        return [row]


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return row if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**53 else None


class Sink:
    """One folder that copies go into; another process that writes into it is left alone."""

    def __init__(self, kind: str, root: Path) -> None:
        self.name = f"{kind}:{root}"
        self._make, self._root = sinks.KINDS[kind], root
        self._copies: dict[str, sinks.Copy] = {}
        self._tails: dict[str, Tail] = {}
        self.ended: set[str] = set()
        """Runs whose end is in it: nothing more comes of them."""
        self._lock: int | None = None

    def held(self) -> bool:
        """This process has the folder for itself."""
        if self._lock is None:
            self._root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            self._lock = handle
        return True

    def take(self, run: ExportedRun) -> None:
        """Copy what is new of a run."""
        copy = self._copies.get(run.run_id)
        if copy is None:
            copy = self._copies[run.run_id] = self._make(self._root, run)
            self._tails[run.run_id] = Tail(run.run_folder)
        tail = self._tails[run.run_id]
        rows = tail.read()
        if run.state.finished:
            rows += tail.read()  # nothing more comes: what was held back as well
        copy.rows([row for row in rows if row["step"] > copy.last_step])
        if run.state.finished:
            if not copy.closed:
                copy.end(run)
            copy.close()
            self.ended.add(run.run_id)
            del self._copies[run.run_id], self._tails[run.run_id]

    def close(self) -> None:
        """Let go of every file."""
        for copy in self._copies.values():
            with contextlib.suppress(OSError):
                copy.close()
        self._copies.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Follower(threading.Thread):
    """Copies runs into sinks, look by look."""

    def __init__(self, runs_root: Path, targets: Iterable[tuple[str, Path]], say: Callable[[str], None]) -> None:
        """
        Args:
            targets: (kind, folder) of each sink.
            say: called from this thread with a line about a sink that had to stop.
        """
        super().__init__(name="optsweep-sinks", daemon=True)
        self._runs, self._say = runs_root, say
        self._sinks = [Sink(kind, root) for kind, root in dict.fromkeys(targets)]
        self._wanted: tuple[str, ...] = ()
        self._stop_asked = threading.Event()
        self._told: set[str] = set()

    def watch(self, run_ids: Iterable[str]) -> None:
        """Follow these runs."""
        self._wanted = tuple(run_ids)

    def stop(self) -> None:
        """Make one last look and end."""
        self._stop_asked.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        """The loop of the thread."""
        pause = 0.0
        while not self._stop_asked.wait(max(INTERVAL_SECONDS, pause)):
            began = time.monotonic()
            self.look()
            pause = PAUSE_SHARE * (time.monotonic() - began)
        self.look()
        for sink in self._sinks:
            sink.close()

    def look(self) -> None:
        """Everything that is new, into every sink that works."""
        for sink in list(self._sinks):
            try:
                if not sink.held():
                    self._tell(sink, "another optsweep copies into it: left to that one")
                    continue
                for run in self._exported(run_id for run_id in self._wanted if run_id not in sink.ended):
                    sink.take(run)
            except (OSError, ValueError, OptsweepError) as error:
                self._sinks.remove(sink)
                sink.close()
                why = getattr(error, "strerror", None) or " ".join(str(error).split())
                self._tell(sink, f"stopped: {why}. The runs go on; the same sink takes its copies up again next time")

    def _exported(self, wanted: Iterable[str]) -> Iterator[ExportedRun]:
        for run_id in wanted:
            if rundir.is_imported(self._runs / run_id) or not rundir.attempts(self._runs / run_id):
                continue  # trained elsewhere, or not begun
            studies = rundir.studies_of(self._runs / run_id)
            found, _ = exported(self._runs, [(run_id, studies[0] if studies else "default")])
            yield from found

    def _tell(self, sink: Sink, line: str) -> None:
        if sink.name not in self._told:
            self._told.add(sink.name)
            self._say(f"sink {sink.name} {line}")
