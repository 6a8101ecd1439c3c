"""Runs on this machine: one warm worker per slot (a pinned core or a GPU), a queue on disk, so the controller may die.

The queue is a folder of empty files `<order>.<run_id>.a<n>`. Workers outlive the controller and take entries by
claiming the attempt; any controller that comes later finds the same state in the same files.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from optsweep_engines import attempts as settling
from optsweep_engines import folder, workers
from optsweep_tui import rundir
from optsweep_tui.core import Host
from optsweep_tui.dispatch import retry
from optsweep_tui.errors import OptsweepError
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace, usable_cores


class LocalDispatcher:
    """The `local` back-end."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        gpus = workspace.gpus
        if workspace.device == "cuda" and not gpus:
            raise OptsweepError("device cuda is asked for, but no NVIDIA GPU is visible here", 'set device = "cpu"')
        self._gpus = gpus
        # A run takes all chips of a TPU, and a second process could not open them.
        self._tpu = workspace.device == "tpu"
        slots = workspace.run_slots
        device = "cuda" if gpus else "tpu" if self._tpu else "cpu"
        self.host = Host(name="local", backend="local", slots=slots, device=device)
        self._queue = workspace.queue / "local"
        self._bench = workers.Bench(
            queue=self._queue,
            runs=workspace.runs,
            slots=slots,
            gpus=tuple(gpus),
            gpus_per_run=workspace.gpus_per_run,
            pinned=not self._tpu,
        )
        self._workers: list[subprocess.Popen[bytes]] = []
        self._queued: dict[str, RunState] = {}
        """Runs that the last look found queued: thousands of them cost one look at two files each."""

    def submit(self, run_ids: Iterable[str], *, asked: bool = False, packs: Sequence[Sequence[str]] = ()) -> list[str]:
        """Open and queue the next attempt of every run that should have one.

        The attempt's folder is made exclusively, so two controllers open one attempt; its intent is on disk before its
        queue entry, and an intent without an entry (a controller that died in between) gets the entry here.
        """
        self._queue.mkdir(mode=0o700, parents=True, exist_ok=True)
        queued = {name.partition(".")[2] for name in os.listdir(self._queue)}
        submitted: list[str] = []
        together = {run_id: [f"{member}.a1" for member in pack] for pack in packs for run_id in pack}
        if together:
            submitted, run_ids = self._submit_packs(packs, together, run_ids)
        for run_id in run_ids:
            known = self._queued.get(run_id)
            if known is not None and not asked and f"{run_id}.a{known.attempt}" in queued:
                continue
            run_folder = self._workspace.runs / run_id
            state = rundir.state_of(run_folder)
            if state.state == "queued" and state.attempt_folder is not None:
                name = f"{run_id}.a{state.attempt}"
                if name not in queued:
                    self._write_intent(state.attempt_folder, asked)
                    workers.enqueue(self._queue, name)
            elif (asked and not rundir.is_imported(run_folder)) or retry.wants_attempt(run_folder, state):
                attempt_folder = run_folder / f"a{state.attempt + 1}"
                try:
                    attempt_folder.mkdir(mode=0o700)
                except FileExistsError:
                    continue  # another controller was quicker: the attempt is its own
                try:
                    self._write_intent(attempt_folder, asked)
                except OSError:
                    attempt_folder.rmdir()  # a full disk: leave no attempt that was never intended
                    raise
                workers.enqueue(self._queue, f"{run_id}.{attempt_folder.name}")
                submitted.append(run_id)
        return submitted

    def _submit_packs(
        self, packs: Sequence[Sequence[str]], together: Mapping[str, list[str]], run_ids: Iterable[str]
    ) -> tuple[list[str], list[str]]:
        """Open the first attempts of packs whose runs have none yet; returns the ids queued, and the runs left.

        The intents of a pack are all on disk before its first queue entry: a worker sees it whole.
        """
        wanted = list(run_ids)
        submitted: list[str] = []
        for pack in packs:
            opened = []
            for run_id in pack:
                run_folder = self._workspace.runs / run_id
                if run_id not in wanted or rundir.state_of(run_folder).state != "planned":
                    continue
                try:
                    (run_folder / "a1").mkdir(mode=0o700)
                except FileExistsError:
                    continue
                self._write_intent(run_folder / "a1", False, together[run_id])
                opened.append(run_id)
            for run_id in opened:
                workers.enqueue(self._queue, f"{run_id}.a1")
            submitted += opened
        return submitted, [run_id for run_id in wanted if run_id not in submitted]

    def _write_intent(self, attempt_folder: Path, asked: bool, pack: Sequence[str] = ()) -> None:
        if (attempt_folder / rundir.INTENT).exists():
            return
        intent = {
            "host": self.host.name,
            "device": self.host.device,
            "threads": 1 if self.host.device == "cpu" else max(1, usable_cores() // self.host.slots),
            "data_root": str(self._workspace.data),
            "checkpoint_seconds": self._workspace.checkpoint_seconds,
            "asked": asked,
            "submitted_at": time.time(),
            **({"mesh": self._workspace.mesh} if self._workspace.mesh else {}),
            **({"pack": list(pack)} if len(pack) > 1 else {}),
        }
        folder.write_json(attempt_folder / rundir.INTENT, intent)

    def poll(self, run_ids: Iterable[str]) -> dict[str, RunState]:
        """States now. An attempt whose lock is free although it has no exit.json is settled first."""
        states = {}
        for run_id in run_ids:
            known = self._queued.pop(run_id, None)
            if known is not None and rundir.still_queued(known):
                states[run_id] = self._queued[run_id] = known
                continue
            run_folder = self._workspace.runs / run_id
            state = rundir.state_of(run_folder)
            if state.state == "orphan" and state.attempt_folder is not None:
                settling.settle(state.attempt_folder)
                state = rundir.state_of(run_folder)
            states[run_id] = state
            if state.state == "queued":
                self._queued[run_id] = state
        return states

    def advance(self) -> None:
        """Start a worker for each free slot while the queue holds unclaimed entries, unless the host is drained."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        if self._queue.is_dir():
            self._workers += workers.advance(self._bench)

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Mark each run cancelled; shims look for the marker several times a second."""
        rundir.cancel_all(self._workspace.runs, run_ids)

    def gc(self) -> int:
        """Drop queue entries of attempts that have ended or are gone."""
        return workers.tidy(self._queue, self._workspace.runs)
