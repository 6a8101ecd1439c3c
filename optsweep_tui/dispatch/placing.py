"""Which hosts a run may go to, as the user chose at its launch, and which of them is best for the next one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optsweep_tui import rundir
from optsweep_tui.dispatch import hostsfile
from optsweep_tui.dispatch.links import read_link
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

LOCAL = ("local",)
GPU_SPEED = 50.0
"""A GPU slot against a core slot before anything was measured: only the order of filling hangs on it."""


def remember(workspace: Workspace, study: str, run_ids: Sequence[str], hosts: Sequence[str]) -> None:
    """Append a choice; the last one that names a run counts. Nothing is written while everything stays here."""
    path = workspace.placing
    if tuple(hosts) == LOCAL and not path.exists():
        return
    line = json.dumps({"study": study, "hosts": list(hosts), "runs": list(run_ids)}) + "\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line.encode())
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise rundir.unwritable(path, error) from None


class Choices:
    """The choices of a workspace, read when the file has grown."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._path = str(workspace.placing)
        self._offset = 0
        self._runs: dict[str, tuple[str, ...]] = {}
        self._studies: dict[str, tuple[str, ...]] = {}

    def of(self, run_id: str) -> tuple[str, ...]:
        """Hosts that a run may go to: its own, else those of its study (fresh seeds), else this machine."""
        self._read()
        if run_id not in self._runs:
            names = rundir.studies_of(self._workspace.runs / run_id) if self._studies else []
            self._runs[run_id] = next((self._studies[name] for name in names if name in self._studies), LOCAL)
        return self._runs[run_id]

    def names(self) -> list[str]:
        """Every host that was ever chosen, in the order of the choices."""
        self._read()
        return list(dict.fromkeys(name for hosts in self._studies.values() for name in hosts))

    def _read(self) -> None:
        try:
            if os.stat(self._path).st_size == self._offset:
                return
        except OSError:
            return
        lines, offset = rundir.whole_lines(self._workspace.placing, self._offset)
        if offset == self._offset:
            return
        self._offset = offset
        for line in lines:
            try:
                data = json.loads(line)
                hosts = tuple(str(name) for name in data["hosts"])
                if data["study"]:
                    self._studies[str(data["study"])] = hosts
                self._runs |= dict.fromkeys(map(str, data["runs"]), hosts)
            except (ValueError, KeyError, TypeError):
                continue


def chosen(workspace: Workspace, hosts: str | None, accelerator: str | None) -> tuple[str, ...]:
    """`--host a,b:partition` and `--accelerator X` as names of hosts.

    Raises:
        OptsweepError: an unknown host or partition, or no host has that accelerator.
    """
    known = hostsfile.read(workspace)
    names = [part.strip() for part in (hosts or "").split(",") if part.strip()]
    for name in names:
        base, _, partition = name.partition(":")
        if base != "local" and base not in known:
            raise UnknownName(
                "host", base, ["local", *known], hint="(optsweep hosts ls lists them, hosts add adds one)"
            )
        if partition and (base == "local" or partition not in known[base].partitions):
            choices = known[base].partitions if base in known else ()
            raise UnknownName("partition", partition, choices, where=f"host {base}", hint="(see hosts.toml)")
    if accelerator is None:
        return tuple(dict.fromkeys(names)) or LOCAL
    pool = names or list(known)
    wanted = accelerator.lower()
    fitting = []
    for name in pool:
        entry = known.get(name.partition(":")[0])
        link = read_link(workspace, name) if entry else None
        devices = " ".join(link.gpus).lower() if link else ""
        if entry and (wanted in entry.accelerator.lower() or wanted in devices):
            fitting.append(name)
    if not fitting:
        there = sorted({entry.accelerator for entry in known.values() if entry.accelerator})
        listed = f"hosts.toml names {', '.join(there)}" if there else "no host of hosts.toml names one"
        raise OptsweepError(
            f'no host has accelerator "{accelerator}": {listed}', 'write accelerator = "h100" into a host\'s table'
        )
    return tuple(dict.fromkeys(fitting))


@dataclass(frozen=True, kw_only=True)
class Place:
    """One host as the choice sees it."""

    name: str
    slots: int
    speed: float
    """FLOP/s of one slot, measured or guessed."""
    load_flops: float
    """Of the attempts that are open there."""


def best(places: Iterable[Place], flops: float) -> str:
    """The host on which the run would end first, everything that waits there counted; the first of equals."""
    return min(places, key=lambda place: (place.load_flops + flops) / (place.slots * place.speed)).name


def speeds(measured: Mapping[str, float], devices: Mapping[str, str]) -> dict[str, float]:
    """FLOP/s of a slot per host: its own, else the slowest measured of its kind of device, else a guess.

    Args:
        measured: host -> median over its finished runs.
        devices: host -> "cpu", "cuda" or "tpu".
    """
    found = {}
    for name, device in devices.items():
        alike = [rate for other, rate in measured.items() if devices.get(other) == device]
        base = min(measured.values()) if measured else 1.0
        guess = min(alike) if alike else base * (1.0 if device == "cpu" else GPU_SPEED)
        found[name] = measured.get(name) or guess
    return found
