"""The hosts that runs can go to, and what each is doing now: slots, queue, devices, how busy, when last heard of.

`Looker(workspace).look()` reads files and /proc and asks nvidia-smi; nothing here waits for another machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from optsweep_engines import folder
from optsweep_engines.engine import engine_names
from optsweep_engines.shim import LEASE_SECONDS
from optsweep_tui import rundir
from optsweep_tui.core import Host
from optsweep_tui.dispatch.protocol import ENTRY_POINT_GROUP, load_dispatcher
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace, visible_gpus

STALE_SECONDS = 3 * LEASE_SECONDS
"""A worker renews its lease every LEASE_SECONDS: after three of them it may hang, though its lock says that it lives."""
QUERY_SECONDS = 5.0
"""The longest that nvidia-smi may take."""
_GPU_FIELDS = "index,name,utilization.gpu,memory.used,memory.total"


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


def names() -> list[str]:
    """Hosts that runs can go to: each registered back-end is one."""
    return sorted(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))


def drain(workspace: Workspace, name: str, *, on: bool = True) -> None:
    """Let a host finish what it runs and start nothing more, or start again. What is queued stays queued.

    Raises:
        OptsweepError: no such host, or the workspace cannot be written.
    """
    if name not in names():
        raise UnknownName("host", name, names())
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
        self._ticks: tuple[int, int] | None = None
        self._gpus: bool | None = None
        self._hosts: dict[str, Host] = {}
        """Found once: reading the entry points of every package takes longer than all the rest of a look."""
        self._engines: tuple[str, ...] | None = None

    def look(self) -> list[HostLook]:
        """Every host, one that cannot be looked at with the reason."""
        found = []
        for name in self._hosts or names():
            try:
                host = self._hosts.get(name) or load_dispatcher(name, self._workspace).host
            except OptsweepError as error:
                found.append(
                    HostLook(host=Host(name=name, backend=name, slots=0, device="unknown"), problem=str(error))
                )
                continue
            found.append(self._local(host) if host.backend == "local" else HostLook(host=host))
        if not any(look.problem for look in found):
            self._hosts = {look.host.name: look.host for look in found}
        return found

    def _local(self, host: Host) -> HostLook:
        if self._engines is None:
            self._engines = tuple(engine_names())
        queue = self._workspace.queue / host.name
        running, queued = _queue(queue, self._workspace.runs)
        try:
            disk = os.statvfs(self._workspace.root)
            free: int | None = disk.f_bavail * disk.f_frsize
        except OSError:
            free = None
        return HostLook(
            host=host,
            engines=self._engines,
            slots=tuple(_slots(queue, host.slots, running)),
            devices=(self._cores(), *self._graphics(host)),
            queued=queued,
            drained=(queue / folder.DRAINED).exists(),
            contact_seconds=0.0,
            load=os.getloadavg()[0],
            free_disk_bytes=free,
        )

    def _cores(self) -> Device:
        count = len(os.sched_getaffinity(0))
        busy, total = _cpu_ticks()
        before, self._ticks = self._ticks, (busy, total)
        share = None
        if before is not None and total > before[1]:
            share = 100.0 * (busy - before[0]) / (total - before[1])
        used, size = _memory()
        return Device(name=f"{count} CPU cores", busy_percent=share, used_bytes=used, total_bytes=size)

    def _graphics(self, host: Host) -> Iterable[Device]:
        if self._gpus is None:
            self._gpus = host.device == "cuda" or bool(visible_gpus())
        return _gpus() if self._gpus else ()


def _queue(queue: Path, runs: Path) -> tuple[dict[int, tuple[str, Path]], int]:
    """(pid of a worker -> run and attempt folder that it trains, entries that nobody has taken)."""
    running: dict[int, tuple[str, Path]] = {}
    queued = 0
    try:
        entries = os.listdir(queue)
    except OSError:
        return running, queued
    for entry in entries:
        run_id, _, attempt = entry.partition(".")[2].partition(".")
        if not folder.is_run_id(run_id):
            continue
        attempt_folder = runs / run_id / attempt
        if not (attempt_folder / folder.CLAIM).exists():
            queued += attempt_folder.is_dir() and not (attempt_folder.parent / folder.CANCEL).exists()
            continue
        claim = folder.read_claim(attempt_folder)
        if claim is not None and not (attempt_folder / folder.EXIT).exists() and claim.holder_alive:
            running[claim.pid] = (run_id, attempt_folder)
    return running, queued


def _slots(queue: Path, count: int, running: dict[int, tuple[str, Path]]) -> Iterable[Slot]:
    for number in range(count):
        pid = _holder(queue / f"slot-{number}.lock")
        run_id, attempt_folder = running.get(pid or 0, (None, None))
        age = None if attempt_folder is None else _lease_age(attempt_folder)
        yield Slot(number=number, pid=pid, run_id=run_id, lease_age_seconds=age)


def _holder(lock: Path) -> int | None:
    """The worker that holds a slot, without ever taking the lock alone: a shared one does not stand in a worker's way long."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        with contextlib.suppress(ValueError, OSError):
            return int(os.read(handle, 32))
        return None
    finally:
        os.close(handle)


def _lease_age(attempt_folder: Path) -> float | None:
    try:
        lease = folder.read_json(attempt_folder / folder.LEASE)
        if not isinstance(lease, dict) or lease.get("boot_id") != folder.boot_id():
            return None
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - float(lease["uptime_seconds"]))
    except (ValueError, TypeError, KeyError, OSError):
        return None


def _cpu_ticks() -> tuple[int, int]:
    """(busy, all) clock ticks of the machine since it started; /proc/stat, first line (proc(5))."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(fields) - fields[3] - fields[4], sum(fields)


def _memory() -> tuple[int | None, int | None]:
    """(used, all) bytes of main memory; those of the control group where it allows less."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total = int(lines["MemTotal"].split()[0]) * 1024
        used = total - int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None, None
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        if limit < total:
            return int(Path("/sys/fs/cgroup/memory.current").read_text()), limit
    return used, total


def _gpus() -> list[Device]:
    query = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return gpu_devices(answer.stdout) if answer.returncode == 0 else []


def gpu_devices(text: str) -> list[Device]:
    """What nvidia-smi printed as devices; a field that it does not know ("[N/A]") is None."""

    def number(field: str) -> float | None:
        try:
            return float(field)
        except ValueError:
            return None

    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 5:
            continue
        used, total = number(fields[3]), number(fields[4])
        found.append(
            Device(
                name=f"GPU {fields[0]} {fields[1]}",
                busy_percent=number(fields[2]),
                used_bytes=None if used is None else round(used * 2**20),
                total_bytes=None if total is None else round(total * 2**20),
            )
        )
    return found
