"""What every back-end offers: idempotent verbs keyed by (run_id, attempt); none may call a run dead that it cannot reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

from optsweep_tui.core import Host
from optsweep_tui.dispatch import hostsfile
from optsweep_tui.errors import UnknownName
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace

ENTRY_POINT_GROUP = "optsweep.dispatchers"
IN_TREE = {
    "local": "optsweep_tui.dispatch.local:LocalDispatcher",
    "skypilot": "optsweep_tui.dispatch.skypilot:SkyDispatcher",
    "slurm": "optsweep_tui.dispatch.slurm:SlurmDispatcher",
    "ssh": "optsweep_tui.dispatch.sshhost:SshDispatcher",
}
"""Back-ends of this package; pyproject.toml registers the same, but an older installation need not know all of them."""


class Dispatcher(Protocol):
    """One way to run attempts on one host."""

    @property
    def host(self) -> Host:
        """Where they run."""

    def submit(self, run_ids: Iterable[str], *, asked: bool = False, packs: Sequence[Sequence[str]] = ()) -> list[str]:
        """Open the next attempt of each run that needs one, intent first, and queue it; returns the ids queued.

        `asked`: the user wants another attempt, whatever the state and the count of failures say. `packs`: runs whose
        first attempts one engine process is to take together; a later attempt of such a run is one by itself.
        """

    def poll(self, run_ids: Iterable[str]) -> Mapping[str, RunState]:
        """States now, dead attempts settled."""

    def advance(self) -> None:
        """Keep the slots busy: start workers where the queue has entries and a slot is free."""

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Leave the cancel marker of each run; what runs is stopped by its own shim."""

    def gc(self) -> int:
        """Remove what no run needs any more (stale queue entries); returns how many."""


def load_dispatcher(name: str, workspace: Workspace) -> Dispatcher:
    """The dispatcher of one host: "local", or a name of hosts.toml, with ":PARTITION" behind it where there are some.

    Raises:
        OptsweepError: no such host, or its back-end is not installed.
    """
    if name == "local":
        dispatcher: Dispatcher = _back_end("local")(workspace)
        return dispatcher
    base, _, partition = name.partition(":")
    return build(workspace, hostsfile.entry_of(workspace, base), partition or None)


def build(workspace: Workspace, entry: hostsfile.HostEntry, partition: str | None = None) -> Dispatcher:
    """The dispatcher of an entry of hosts.toml."""
    dispatcher: Dispatcher = _back_end(entry.backend)(workspace, entry, partition)
    return dispatcher


def _back_end(name: str) -> Any:
    if name in IN_TREE:
        module, _, attribute = IN_TREE[name].partition(":")
        return getattr(import_module(module), attribute)
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise UnknownName("back-end", name, {*IN_TREE, *found}, hint="(optsweep doctor lists the hosts)")
    return found[name].load()
