"""The `ssh` back-end: runs on one host behind OpenSSH, opened here intent first, run there by the same workers as here."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from optsweep_tui import rundir
from optsweep_tui.core import Host
from optsweep_tui.dispatch import opening, retry
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.links import Link
from optsweep_tui.dispatch.pump import Pump
from optsweep_tui.dispatch.pumped import PumpedDispatcher
from optsweep_tui.dispatch.teamsite import site_of
from optsweep_tui.settings import Workspace

CONNECT_SECONDS = 40.0
"""How long the first word of a host is waited for: a little more than `channel.START_SECONDS`."""


class SshDispatcher(PumpedDispatcher):
    """One host. All of its verbs work on files here; a thread (`Pump`) makes the host agree with them."""

    def __init__(self, workspace: Workspace, entry: HostEntry, partition: str | None = None) -> None:
        super().__init__(workspace, entry)
        self.pump = Pump(workspace, site_of(workspace, entry))

    @property
    def host(self) -> Host:
        """As far as it is known: slots and device are the host's own word."""
        link = self.link
        return Host(
            name=self.entry.name,
            backend="ssh",
            slots=self.entry.slots or link.slots or 1,
            device=link.device or (self.entry.device if self.entry.device != "auto" else "cpu"),
            address=self.entry.ssh,
        )

    def connect(self, seconds: float = CONNECT_SECONDS) -> Link:
        """Start talking to the host and wait for its first word; the link says what came of it."""
        self.pump.start()
        self.pump.tried(seconds)
        return self.link

    def runs_engine(self, engine: str) -> bool:
        """Whether the host has what an engine needs, and is meant for it."""
        if self.entry.engine is not None and self.entry.engine != engine:
            return False
        needs = {"torch": "torch", "jax": "jax"}.get(engine)
        libraries = self.link.libraries
        return needs is None or not libraries or needs in libraries

    def intent(self, *, asked: bool, why: str) -> dict[str, Any]:
        """Body of the intent of an attempt that goes to this host."""
        hello = self.pump.site.hello
        root, host, mesh = hello.get("root", self.entry.root), self.host, self.entry.mesh or self._workspace.mesh
        return {
            "host": host.name,
            "device": host.device,
            "threads": 1 if host.device == "cpu" else max(1, int(hello.get("cores", 1)) // host.slots),
            "data_root": f"{root}/data",
            "checkpoint_seconds": self._workspace.checkpoint_seconds,
            "asked": asked,
            "why": why,
            "submitted_at": time.time(),
            **({"mesh": mesh} if mesh else {}),
        }

    def submit(self, run_ids: Iterable[str], *, asked: bool = False, packs: Sequence[Sequence[str]] = ()) -> list[str]:
        """Open the next attempt of every run that should have one; packs go one by one over ssh."""
        submitted = []
        for run_id in run_ids:
            state = rundir.state_of(self._workspace.runs / run_id)
            if state.state in ("submitting", "queued"):
                opening.complete(self._workspace, state, self.intent(asked=asked, why="its opening was cut short"))
            elif asked or retry.wants_attempt(self._workspace.runs / run_id, state):
                intent = self.intent(asked=asked, why=opening.why(state, asked))
                if opening.opened(self._workspace, run_id, state.attempt + 1, intent):
                    submitted.append(run_id)
        self.advance()
        return submitted

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Leave the marker here; the pump takes it there."""
        for run_id in run_ids:
            rundir.cancel(self._workspace.runs / run_id)
        self.pump.wake()

    def leave(self) -> None:
        """Begin to let go of the host."""
        self.pump.leave()

    def close(self) -> None:
        """Let go of the host; what runs there goes on."""
        self.pump.stop()
