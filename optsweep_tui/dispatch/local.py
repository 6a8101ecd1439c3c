"""Runs on this machine: one warm worker per slot (a pinned core or a GPU), a queue on disk, so the controller may die.

The queue is a folder of empty files `<order>.<run_id>.a<n>`. Workers outlive the controller and take entries by
claiming the attempt; any controller that comes later finds the same state in the same files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.core import Host
from optsweep_tui.dispatch import retry
from optsweep_tui.errors import OptsweepError
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace, usable_cores, visible_gpus

SETTLE_SECONDS = 5.0
"""How long a killed process group is waited for."""


class LocalDispatcher:
    """The `local` back-end."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        gpus = visible_gpus() if workspace.device in ("auto", "cuda") else []
        if workspace.device == "cuda" and not gpus:
            raise OptsweepError("device cuda is asked for, but no NVIDIA GPU is visible here", 'set device = "cpu"')
        self._gpus = gpus
        # A run takes all chips of a TPU, and a second process could not open them.
        self._tpu = workspace.device == "tpu"
        slots = len(gpus) if gpus else 1 if self._tpu else workspace.slots
        device = "cuda" if gpus else "tpu" if self._tpu else "cpu"
        self.host = Host(name="local", backend="local", slots=slots, device=device)
        self._queue = workspace.queue / "local"
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
                    self._enqueue(name)
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
                self._enqueue(f"{run_id}.{attempt_folder.name}")
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
                self._enqueue(f"{run_id}.a1")
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

    def _enqueue(self, name: str) -> None:
        order = time.time_ns() // 1000
        handle = os.open(self._queue / f"{order:020d}.{name}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.close(handle)

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
                self._settle(state.attempt_folder)
                state = rundir.state_of(run_folder)
            states[run_id] = state
            if state.state == "queued":
                self._queued[run_id] = state
        return states

    def _settle(self, attempt_folder: Path) -> None:
        """Write the exit.json that a dead shim could not: its free lock proves that shim and engine are gone."""
        claim = folder.read_claim(attempt_folder)
        if claim is not None and claim.host != os.uname().nodename and claim.boot_id != folder.boot_id():
            return  # claimed on another machine that shares this folder: not ours to judge
        _kill_engine(attempt_folder)
        if folder.lock_held(attempt_folder) or (attempt_folder / rundir.EXIT).exists():
            return
        ending: dict[str, Any] = {"returncode": None, "signal": None, "reason": "lost", "ended_at": time.time()}
        ending["error"] = "shim and engine were gone without a word"
        with contextlib.suppress(FileNotFoundError):
            folder.write_reserved(attempt_folder / rundir.EXIT, ending)

    def advance(self) -> None:
        """Start a worker for each free slot while the queue holds unclaimed entries, unless the host is drained."""
        self._workers = [worker for worker in self._workers if worker.poll() is None]
        if (self._queue / folder.DRAINED).exists():
            return
        waiting = self._waiting()
        if not waiting:
            return
        for slot in range(self.host.slots):
            if waiting <= 0:
                return
            if self._slot_free(slot):
                self._workers.append(self._start_worker(slot))
                waiting -= 1

    def _waiting(self) -> int:
        count = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(self._queue):
                _, _, name = entry.partition(".")
                run_id, _, attempt = name.partition(".")
                if folder.is_run_id(run_id) and not (self._workspace.runs / run_id / attempt / rundir.CLAIM).exists():
                    count += 1
                    if count >= self.host.slots:
                        break
        return count

    def _slot_free(self, slot: int) -> bool:
        handle = os.open(self._queue / f"slot-{slot}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(handle)

    def _start_worker(self, slot: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "optsweep_engines.shim", "--queue", str(self._queue)]
        command += ["--runs", str(self._workspace.runs), "--slot", str(slot)]
        if self._gpus:
            command += ["--gpu", self._gpus[slot]]
        elif not self._tpu:
            cores = sorted(os.sched_getaffinity(0))
            command += ["--core", str(cores[slot % len(cores)])]
        log = os.open(self._queue / f"slot-{slot}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        finally:
            os.close(log)

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Mark each run cancelled; shims look for the marker several times a second."""
        for run_id in run_ids:
            rundir.cancel(self._workspace.runs / run_id)

    def gc(self) -> int:
        """Drop queue entries of attempts that have ended or are gone."""
        dropped = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(self._queue):
                _, _, name = entry.partition(".")
                run_id, _, attempt = name.partition(".")
                where = self._workspace.runs / run_id / attempt
                if folder.is_run_id(run_id) and (not where.is_dir() or (where / rundir.EXIT).exists()):
                    (self._queue / entry).unlink(missing_ok=True)
                    dropped += 1
        return dropped


def _kill_engine(attempt_folder: Path) -> None:
    """Fence: kill the engine that the lease names, if that very process (pid, start time, boot) still lives."""
    try:
        lease = folder.read_json(attempt_folder / rundir.LEASE)
    except ValueError:
        lease = None
    if not isinstance(lease, dict) or lease.get("boot_id") != folder.boot_id():
        return
    pid, start = lease.get("engine_pid"), lease.get("engine_start")
    if not isinstance(pid, int) or pid <= 1 or start is None or folder.process_start(pid) != start:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    limit = time.monotonic() + SETTLE_SECONDS
    while folder.process_start(pid) == start and time.monotonic() < limit:
        time.sleep(0.01)
