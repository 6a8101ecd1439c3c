"""The `skypilot` back-end: each attempt a managed job of SkyPilot on a machine of its own, with its files in a bucket.

Attempts are opened here intent first; a thread (`SkyPump`) submits them and reads what nodes write into the storage.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Any

from optsweep_engines.shim_batch import CONTINUED
from optsweep_tui import rundir
from optsweep_tui.core import Host
from optsweep_tui.dispatch import opening, retry, sky_commands, sky_host, sky_pieces
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.links import Link
from optsweep_tui.dispatch.pumped import PumpedDispatcher
from optsweep_tui.dispatch.sky_pump import SkyPump
from optsweep_tui.errors import OptsweepError
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace

CONNECT_SECONDS = 150.0
"""SkyPilot's own server starts with the first question, which takes 15 s here, and asks the clouds."""


class SkyDispatcher(PumpedDispatcher):
    """One host of hosts.toml with `backend = "skypilot"`."""

    pump: SkyPump

    def __init__(self, workspace: Workspace, entry: HostEntry, partition: str | None = None) -> None:
        super().__init__(workspace, entry)
        self.pump = SkyPump(workspace, entry)

    @property
    def host(self) -> Host:
        """Slots are the jobs that may be under way at a time."""
        return Host(
            name=self.entry.name,
            backend="skypilot",
            slots=self.pump.most,
            device=sky_pieces.device_of(self.entry),
            address=self.entry.sky.infra or self.entry.sky.storage,
        )

    def connect(self, seconds: float = CONNECT_SECONDS) -> Link:
        """Wait for the first word of the storage, and have SkyPilot say whether it could find such a machine."""
        if sky_commands.program() is None:
            missing = sky_host.refusal(self.entry, sky_commands.call(()))
            return dataclasses.replace(self.link, state="refused", error=str(missing))
        self.pump.start()
        self.pump.tried(max(seconds, CONNECT_SECONDS))
        if self.link.state == "refused" or not self.pump.holds:
            return self.link
        try:
            if self.link.state == "connected":
                self.pump.accept()
        except OptsweepError as error:
            return dataclasses.replace(self.link, state="refused", error=str(error))
        return self.link

    def runs_engine(self, engine: str) -> bool:
        """Whether the host is meant for it; only a node could tell whether it has the library."""
        return self.entry.engine is None or self.entry.engine == engine

    def _intent(self, *, asked: bool, why: str) -> dict[str, Any]:
        """Body of the intent of an attempt that goes to this host; where datasets are, the node says itself."""
        device = self.host.device
        return {
            "host": self.entry.name,
            "device": device if device != "cuda" else "auto",
            "threads": self.entry.sky.cpus or 1,
            "checkpoint_seconds": self._workspace.checkpoint_seconds,
            "asked": asked,
            "why": why,
            "submitted_at": time.time(),
        }

    def submit(self, run_ids: Iterable[str], *, asked: bool = False, packs: Sequence[Sequence[str]] = ()) -> list[str]:
        """Open the next attempt of every run that should have one; packs go one by one, a job each."""
        submitted = []
        for run_id in run_ids:
            state = rundir.state_of(self._workspace.runs / run_id)
            if state.state in ("submitting", "queued") and not asked:
                opening.complete(self._workspace, state, self._intent(asked=False, why="its opening was cut short"))
            elif asked or (retry.wants_attempt(self._workspace.runs / run_id, state) and not self._goes_on(state)):
                intent = self._intent(asked=asked, why=opening.why(state, asked))
                if opening.opened(self._workspace, run_id, state.attempt + 1, intent):
                    submitted.append(run_id)
                    self.forget(run_id)
        self.advance()
        return submitted

    def _goes_on(self, state: RunState) -> bool:
        """True while SkyPilot may start the job of an ended attempt again: then that opens the next one."""
        if state.state != "lost" or state.attempt == 0 or (state.exit or {}).get("reason") not in CONTINUED:
            return False
        attempt = (state.run_id, state.attempt)
        active = self.pump.job_active(attempt)
        if active is False:
            return False
        self.pump.held.setdefault(attempt, self.pump.job_of(attempt))
        self.pump.start()
        return True

    def _state(self, run_id: str) -> RunState:
        """As the storage last told it; a run whose job will go on is queued."""
        state = super()._state(run_id)
        if state.state == "lost" and self._goes_on(state):
            return dataclasses.replace(state, state="queued")
        return state

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Leave the marker here; the pump takes it into the storage, and jobs that wait out of the queue."""
        rundir.cancel_all(self._workspace.runs, run_ids)
        self.pump.start()
        self.pump.wake()

    def leave(self) -> None:
        """Begin to let go."""
        self.pump.leave()

    def close(self) -> None:
        """Let go; what runs there goes on."""
        self.pump.stop()
