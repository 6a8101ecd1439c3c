"""The thread that tails the runs on the screen and says, a few times a second at most, which of them have changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from optsweep_tui.live.runstore import RunStore
from optsweep_tui.live.tailer import RunTail

INTERVAL_SECONDS = 0.25
"""Between two looks, and between two messages: 4 Hz."""
KEEP_RUNS = 200
"""Runs that stay in memory after nobody watches them any more."""


class Poller(threading.Thread):
    """Reads the files of the watched runs into a store.

    Polling, not inotify: one stat per file and look costs 2 microseconds, and it works on network file systems.
    """

    def __init__(
        self,
        store: RunStore,
        on_change: Callable[[frozenset[str]], None],
        *,
        interval: float = INTERVAL_SECONDS,
        keep_runs: int = KEEP_RUNS,
    ) -> None:
        """
        Args:
            store: where the rows go.
            on_change: called from this thread with the runs that changed since the last call.
            interval: seconds between two looks.
            keep_runs: unwatched runs that stay in memory.
        """
        super().__init__(name="optsweep-live", daemon=True)
        self._store, self._on_change, self._interval, self._keep = store, on_change, interval, keep_runs
        self._wanted: dict[str, Path] = {}
        self._tails: dict[str, RunTail] = {}
        self._caught_up: set[str] = set()
        self._wake = threading.Event()
        self._stopping = False
        self._lock = threading.Lock()

    def watch(self, folders: Mapping[str, Path]) -> None:
        """Follow these runs and no others."""
        with self._lock:
            if dict(folders) == self._wanted:
                return
            self._wanted = dict(folders)
        self._wake.set()

    def stop(self) -> None:
        """Let the thread end, and wait for it a little."""
        self._stopping = True
        self._wake.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout=2.0)

    def caught_up(self) -> bool:
        """Everything that the watched files held when they were last looked at is in the store."""
        with self._lock:
            return self._wanted.keys() <= self._caught_up

    def garbage(self, run_id: str) -> int:
        """Lines of a run that were no metric rows."""
        tail = self._tails.get(run_id)
        return tail.garbage if tail else 0

    def run(self) -> None:
        """The loop of the thread."""
        changed: set[str] = set()
        told_at = 0.0
        while not self._stopping:
            self._wake.clear()
            busy = self._look(changed)
            now = time.monotonic()
            if changed and now - told_at >= self._interval:
                self._on_change(frozenset(changed))
                changed.clear()
                told_at = now
            if busy:
                time.sleep(0.001)  # hands the interpreter over to the screen
            else:
                self._wake.wait(self._interval)

    def _look(self, changed: set[str]) -> bool:
        """One chunk of each watched run; True while there is more to read."""
        with self._lock:
            wanted = self._wanted
        for run_id in wanted.keys() - self._tails.keys():
            self._tails[run_id] = RunTail(wanted[run_id])
        surplus = [run_id for run_id in self._tails if run_id not in wanted][: max(0, len(self._tails) - self._keep)]
        for run_id in surplus:
            del self._tails[run_id]
        self._store.forget(surplus)
        busy = False
        for run_id in wanted:
            tail = self._tails[run_id]
            for batch in tail.read():
                self._store.apply(run_id, batch)
                changed.add(run_id)
            if tail.more:
                busy = True
            else:
                with self._lock:
                    self._caught_up.add(run_id)
        with self._lock:
            self._caught_up &= self._tails.keys()
        return busy
