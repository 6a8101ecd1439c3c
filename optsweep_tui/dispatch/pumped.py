"""What the dispatchers of other machines have in common: their verbs work on files here, and a thread does the talking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optsweep_tui import rundir
from optsweep_tui.dispatch import links
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.links import Link
from optsweep_tui.dispatch.pump import Pump
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace


class PumpedDispatcher:
    """A dispatcher with a pump."""

    pump: Pump

    def __init__(self, workspace: Workspace, entry: HostEntry) -> None:
        self._workspace, self.entry = workspace, entry
        self._cached: dict[str, RunState] = {}

    @property
    def link(self) -> Link:
        """How the other side answers."""
        return self.pump.link

    @property
    def usable(self) -> bool:
        """It answers, and may be given runs."""
        return self.link.state == "connected" and not self.entry.drained

    def forget(self, run_id: str) -> None:
        """Read this run's files at the next poll."""
        self._cached.pop(run_id, None)

    def poll(self, run_ids: Iterable[str]) -> Mapping[str, RunState]:
        """States as they were last told; read again where the pump has changed something."""
        states = {}
        changed, self.pump.changed = self.pump.changed, set()
        for run_id in run_ids:
            known = self._cached.get(run_id)
            if known is None or run_id in changed or not self._unchanged(known):
                known = self._cached[run_id] = self._state(run_id)
            states[run_id] = known
        return states

    def _unchanged(self, known: RunState) -> bool:
        """Whether a state can be taken as it was: the pump of this process would have told."""
        return self.pump.holds and known.state in ("submitting", "queued", "running")

    def _state(self, run_id: str) -> RunState:
        """What the files say now."""
        return rundir.state_of(self._workspace.runs / run_id)

    def advance(self) -> None:
        """Have what waits brought there, and what there is to run kept running."""
        if links.open_attempts(self._workspace, self.entry.name):
            self.pump.start()
            self.pump.wake()

    def gc(self) -> int:
        """The pump clears away what runs that are over have left there."""
        return 0
