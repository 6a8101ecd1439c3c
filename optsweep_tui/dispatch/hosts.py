"""The hosts that runs can go to, and what each is doing now: slots, queue, devices, how busy, when last heard of.

`Looker(workspace).look()` reads files and /proc and asks nvidia-smi; nothing here waits for another machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from optsweep_engines import folder, survey
from optsweep_engines.engine import engine_names
from optsweep_engines.shim import LEASE_SECONDS
from optsweep_tui import rundir
from optsweep_tui.core import Host
from optsweep_tui.dispatch import hostsfile, links
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.protocol import load_dispatcher
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace, visible_gpus

STALE_SECONDS = 3 * LEASE_SECONDS
"""A worker renews its lease every LEASE_SECONDS: after three of them it may hang, though its lock says that it lives."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One place for a run."""

    number: int
    pid: int | None
    """The worker that holds the slot; None where it is free."""
    run_id: str | None
    """What the worker trains now."""
    lease_age_seconds: float | None
    """Since the worker last renewed its lease, by the clock of the machine that wrote it."""

    @property
    def stale(self) -> bool:
        """The worker has missed three renewals."""
        return self.lease_age_seconds is not None and self.lease_age_seconds > STALE_SECONDS


@dataclass(frozen=True, kw_only=True)
class Device:
    """CPU cores, or one GPU."""

    name: str
    busy_percent: float | None
    """Of its time since the look before (a GPU: of the last second or so); None before a second look."""
    used_bytes: int | None
    total_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class HostLook:
    """One host now."""

    host: Host
    engines: tuple[str, ...] = ()
    slots: tuple[Slot, ...] = ()
    devices: tuple[Device, ...] = ()
    queued: int = 0
    """Attempts in the queue that no worker has taken."""
    drained: bool = False
    contact_seconds: float | None = None
    """Age of what is shown; None = never heard of."""
    load: float | None = None
    """Processes that want a core, mean of the last minute."""
    free_disk_bytes: int | None = None
    problem: str = ""
    """Why nothing can be said of it."""

    @property
    def busy(self) -> int:
        """Slots with a run."""
        return sum(slot.run_id is not None for slot in self.slots)


def names(workspace: Workspace) -> list[str]:
    """Hosts that runs can go to: this machine and those of hosts.toml."""
    return ["local", *hostsfile.read(workspace)]


def drain(workspace: Workspace, name: str, *, on: bool = True) -> None:
    """Let a host finish what it runs and start nothing more, or start again. What is queued stays queued.

    Raises:
        OptsweepError: no such host, or the workspace cannot be written.
    """
    if name not in names(workspace):
        raise UnknownName("host", name, names(workspace))
    if name != "local":
        hostsfile.set_drained(workspace, name, on)
        return
    marker = workspace.ensure().queue / name / folder.DRAINED
    try:
        if on:
            marker.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.write_atomic(marker, b"")
        else:
            marker.unlink(missing_ok=True)
    except OSError as error:
        raise rundir.unwritable(marker.parent, error) from None


class Looker:
    """Looks at all hosts; remembers the counters of the look before, for how busy a machine was in between."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._survey = survey.Survey()
        self._gpus: bool | None = None
        self._host: Host | None = None
        """Found once: reading the entry points of every package takes longer than all the rest of a look."""
        self._engines: tuple[str, ...] | None = None

    def look(self) -> list[HostLook]:
        """Every host, one that cannot be looked at with the reason."""
        try:
            entries = hostsfile.read(self._workspace)
            found = []
        except OptsweepError as error:
            entries = {}
            host = Host(name="hosts.toml", backend="ssh", slots=0, device="unknown")
            found = [HostLook(host=host, problem=str(error))]
        return [self._here(), *(self._elsewhere(entry) for entry in entries.values()), *found]

    def _here(self) -> HostLook:
        try:
            self._host = self._host or load_dispatcher("local", self._workspace).host
        except OptsweepError as error:
            host = Host(name="local", backend="local", slots=0, device="unknown")
            return HostLook(host=host, problem=str(error))
        return self._local(self._host)

    def _elsewhere(self, entry: HostEntry) -> HostLook:
        """What the process that talks to a host wrote down last; nothing is asked here."""
        link = links.read_link(self._workspace, entry.name)
        device = (link.device if link else "") or entry.device
        slots = entry.slots or (link.slots if link else 0)
        host = Host(
            name=entry.name,
            backend=entry.backend,
            slots=slots,
            device=device,
            address=entry.ssh or entry.sky.storage or None,
        )
        if link is None:
            why = "" if entry.backend != "ssh" else f"never asked. optsweep hosts check {entry.name} asks it"
            return HostLook(host=host, drained=entry.drained, problem=why)
        age = max(0.0, time.time() - link.heard_at) if link.heard_at else None
        problem = link.error if link.state != "connected" else link.held
        seen = self._seen(entry.name)
        engines = tuple(engine for engine in ("jax", "torch") if engine in (link.libraries or {}))
        return dataclasses.replace(
            seen,
            host=host,
            engines=engines,
            drained=entry.drained or seen.drained,
            contact_seconds=age,
            problem=problem,
        )

    def _seen(self, name: str) -> HostLook:
        nothing = HostLook(host=Host(name=name, backend="ssh", slots=0, device="unknown"))
        try:
            data = json.loads((links.folder_of(self._workspace, name) / "look.json").read_bytes())
            return dataclasses.replace(
                nothing,
                slots=tuple(Slot(**slot) for slot in data["slots"][:1024]),
                devices=tuple(Device(**device) for device in data["devices"][:64]),
                queued=int(data["queued"]),
                drained=bool(data["drained"]),
                load=None if data["load"] is None else float(data["load"]),  # a cluster has none
                free_disk_bytes=None if data["free_disk_bytes"] is None else int(data["free_disk_bytes"]),
            )
        except (OSError, ValueError, TypeError, KeyError):
            return nothing

    def _local(self, host: Host) -> HostLook:
        if self._engines is None:
            self._engines = tuple(engine_names())
        queue = self._workspace.queue / host.name
        running, queued = survey.queue_state(queue, self._workspace.runs)
        try:
            disk = os.statvfs(self._workspace.root)
            free: int | None = disk.f_bavail * disk.f_frsize
        except OSError:
            free = None
        return HostLook(
            host=host,
            engines=self._engines,
            slots=tuple(Slot(**slot) for slot in survey.slots(queue, host.slots, running)),
            devices=(Device(**self._survey.cores()), *self._graphics(host)),
            queued=queued,
            drained=(queue / folder.DRAINED).exists(),
            contact_seconds=0.0,
            load=os.getloadavg()[0],
            free_disk_bytes=free,
        )

    def _graphics(self, host: Host) -> Iterable[Device]:
        if self._gpus is None:
            self._gpus = host.device == "cuda" or bool(visible_gpus())
        return gpu_devices(survey.gpu_text()) if self._gpus else ()


def gpu_devices(text: str) -> list[Device]:
    """What nvidia-smi printed as devices; a field that it does not know ("[N/A]") is None."""
    return [Device(**entry) for entry in survey.gpus(text)]
