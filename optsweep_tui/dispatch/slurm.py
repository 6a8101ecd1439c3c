"""The `slurm` back-end: runs as tasks of job arrays, on this cluster's login node or through ssh to one.

Attempts are opened here intent first; a thread (`SlurmPump`) hands them over in arrays and learns what became of them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.core import Host
from optsweep_tui.dispatch import links, opening, retry
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.links import Link
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.pumped import PumpedDispatcher
from optsweep_tui.dispatch.site import LocalSite, Site
from optsweep_tui.dispatch.slurm_pump import SlurmPump
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.errors import OptsweepError
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace

CONNECT_SECONDS = 40.0
_pumps: dict[tuple[Workspace, str], SlurmPump] = {}
"""One per cluster and process: partitions share a connection and a question to the queue."""


class SlurmDispatcher(PumpedDispatcher):
    """One cluster, or one partition of it."""

    def __init__(self, workspace: Workspace, entry: HostEntry, partition: str | None = None) -> None:
        super().__init__(workspace, entry)
        self._partition = partition
        self.pump: SlurmPump = pump_of(workspace, entry)
        self._runs, self._marks = str(workspace.runs), str(links.folder_of(workspace, entry.name) / "open")
        self._opened: set[Attempt] = set()

    @property
    def name(self) -> str:
        """NAME, or NAME:PARTITION."""
        return f"{self.entry.name}:{self._partition}" if self._partition else self.entry.name

    @property
    def host(self) -> Host:
        """As far as it is known."""
        link = self.link
        device = self.entry.device
        if device == "auto":
            device = "cuda" if "gpu" in (self.entry.options(self._partition).gres or "") else "cpu"
        slots = self.entry.slots or link.slots or 1
        return Host(name=self.name, backend="slurm", slots=slots, device=device, address=self.entry.ssh)

    def connect(self, seconds: float = CONNECT_SECONDS) -> Link:
        """Start talking to the scheduler and wait for its first word; options that it refuses are said here."""
        self.pump.start()
        deadline = time.monotonic() + seconds
        self.pump.tried(seconds)
        while self.link.state != "connected" and not self.link.error and time.monotonic() < deadline:
            time.sleep(0.05)  # another process talks to it, and has not heard from it yet
        if self.link.state != "connected":
            return self.link
        try:
            if self._partition is not None and self.pump.holds:
                self.pump.accept(self._partition)
        except OptsweepError as error:
            return dataclasses.replace(self.link, state="refused", error=str(error))
        return self.link

    def runs_engine(self, engine: str) -> bool:
        """Whether the host is meant for it; only a job could tell whether its nodes have the library."""
        return self.entry.engine is None or self.entry.engine == engine

    # ------------------------------------------------------------ the verbs

    def submit(self, run_ids: Iterable[str], *, asked: bool = False, packs: Sequence[Sequence[str]] = ()) -> list[str]:
        """Open the next attempt of every run that should have one; packs go one by one, a task each."""
        submitted = []
        intent = self._intent(asked=asked)
        os.makedirs(self._marks, 0o700, exist_ok=True)
        for run_id in run_ids:
            state = self._cached.get(run_id)
            if state is None:
                state = rundir.state_of(self._workspace.runs / run_id)
            if state.state in ("submitting", "queued", "running") and state.attempt_folder is not None and not asked:
                self._attend(state)
            elif (asked or self._wants(state)) and self._open(
                run_id, state, intent | {"why": opening.why(state, asked)}
            ):
                submitted.append(run_id)
                self._cached.pop(run_id, None)
        if submitted:
            self.advance()
        return submitted

    def _wants(self, state: RunState) -> bool:
        return retry.wants_attempt(self._workspace.runs / state.run_id, state) and not self._task_goes_on(state)

    def _attend(self, state: RunState) -> None:
        """Have the pump look after an attempt: one whose opening was cut short, or that its task has opened itself."""
        attempt = (state.run_id, state.attempt)
        if attempt in self._opened:
            return
        assert state.attempt_folder is not None
        self._opened.add(attempt)
        if os.path.exists(f"{self._marks}/{attempt[0]}.a{attempt[1]}"):
            return
        if not (state.attempt_folder / rundir.EXIT).exists():
            why = "its opening was cut short"
            _written(f"{state.attempt_folder}/{rundir.INTENT}", self._intent(asked=False) | {"why": why})
            links.mark_open(self._workspace, self.entry.name, attempt)
            self.pump.wake()

    def _open(self, run_id: str, state: RunState, intent: Mapping[str, Any]) -> bool:
        """Make the next attempt; False where another controller has made it.

        The intent is made durable with all others of its array, before that is handed over.
        """
        attempt = (run_id, state.attempt + 1)
        where = f"{self._runs}/{run_id}/a{attempt[1]}"  # ten thousand of these: no Path objects
        try:
            os.mkdir(where, 0o700)
        except FileExistsError:
            return False
        try:
            if not _written(f"{where}/{rundir.INTENT}", intent):
                return False
        except OSError:
            os.rmdir(where)  # a full disk: leave no attempt that was never intended
            raise
        os.close(os.open(f"{self._marks}/{run_id}.a{attempt[1]}", os.O_WRONLY | os.O_CREAT, 0o600))
        self._opened.add(attempt)
        return True

    def _intent(self, *, asked: bool) -> dict[str, Any]:
        """What the intents of one submission have in common."""
        host = self.host
        return {
            "host": host.name,
            "device": host.device if host.device != "cuda" else "auto",
            "threads": self.entry.options(self._partition).cpus or 1,
            "data_root": str(
                self._workspace.data
            ),  # a cluster behind ssh gets its own when the attempt is brought there
            "checkpoint_seconds": self._workspace.checkpoint_seconds,
            "asked": asked,
            "submitted_at": time.time(),
            **({"mesh": self._workspace.mesh} if self._workspace.mesh else {}),
        }

    def _task_goes_on(self, state: RunState) -> bool:
        """True while the scheduler may start the task of an ended attempt again: then that opens the next one."""
        if state.state != "lost" or state.attempt_folder is None:
            return False
        attempt = (state.run_id, state.attempt)
        job = _job_of(state)
        if job is None:
            return False
        active = self.pump.task_active(attempt, job)
        if active is False:
            self.pump.held.pop(attempt, None)
            return False
        chunk = self.pump.chunks.of(attempt)
        if active and chunk is not None:
            self.pump.held.setdefault(attempt, chunk)
        self.pump.start()
        return True

    def _unchanged(self, known: RunState) -> bool:
        """Whether a state can be taken as it was: the pump would have told, or two looks at files say so."""
        if self.pump.holds and self.pump.state((known.run_id, known.attempt)) is not None:
            return known.state in ("queued", "running")
        return rundir.still_queued(known)

    def _state(self, run_id: str) -> RunState:
        state = rundir.state_of(self._workspace.runs / run_id)
        if state.state == "lost" and self._task_goes_on(state):
            return dataclasses.replace(state, state="queued")
        if state.state in ("queued", "running", "orphan"):
            self._attend(state)  # the controller that saw a task open it may have died before it had written that down
        known = self.pump.state((run_id, state.attempt))
        if state.state == "orphan" or (state.state == "queued" and known == "submitting"):
            # A free lock is no proof where the claim may be of another node: the pump looks into it.
            return dataclasses.replace(state, state="running" if state.state == "orphan" else "submitting")
        return state

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Leave the marker; the pump takes the tasks out of the scheduler, and what runs stops by itself."""
        rundir.cancel_all(self._workspace.runs, run_ids)
        self.pump.start()
        self.pump.wake()

    def close(self) -> None:
        """Let go of the scheduler; what runs there goes on."""
        for key, pump in list(_pumps.items()):
            if pump is self.pump:
                del _pumps[key]
        self.pump.stop()


def pump_of(workspace: Workspace, entry: HostEntry) -> SlurmPump:
    """The one thread of this process for a cluster."""
    key = (workspace, entry.name)
    if key not in _pumps or _pumps[key].entry != entry:
        _pumps[key] = SlurmPump(workspace, site_of(workspace, entry), entry)
    return _pumps[key]


def site_of(workspace: Workspace, entry: HostEntry) -> Site:
    """Where a cluster's commands run: on the login node behind ssh, else here."""
    if entry.ssh is not None:
        return SshSite(workspace, entry)
    python = None if entry.python == HostEntry(name="x", backend="slurm").python else entry.python
    return LocalSite(workspace, entry.name, python)


def _written(path: str, intent: Mapping[str, Any]) -> bool:
    """Write an intent under a name that is free, whole or not at all; False where there is one."""
    temporary = f"{path}.{os.getpid()}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, (json.dumps(dict(intent), sort_keys=True) + "\n").encode())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.close(handle)
        os.unlink(temporary)
    return True


def _job_of(state: RunState) -> str | None:
    """The task that had claimed an attempt; None where none had."""
    assert state.attempt_folder is not None
    claim = folder.read_claim(state.attempt_folder)
    if claim is not None:
        return claim.job
    told = rundir.remote(state.attempt_folder) or {}
    job = told.get("claim", {}).get("job") if isinstance(told.get("claim"), dict) else None
    return str(job) if job else None
