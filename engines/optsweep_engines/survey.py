"""A machine as it is now: slots and what they train, queue, cores, GPUs, memory, disk; reads files and /proc; stdlib only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optsweep_engines import attempts, folder, workers

QUERY_SECONDS = 5.0
"""The longest that nvidia-smi may take."""
_GPU_FIELDS = "index,name,utilization.gpu,memory.used,memory.total"


def queue_state(queue: Path, runs: Path) -> tuple[dict[int, tuple[str, Path]], int]:
    """(pid of a worker -> run and attempt folder that it trains, entries that nobody has taken)."""
    running: dict[int, tuple[str, Path]] = {}
    queued = 0
    for _, run_id, attempt in workers.entries(queue):
        attempt_folder = runs / run_id / attempt
        if not (attempt_folder / folder.CLAIM).exists():
            queued += attempt_folder.is_dir() and not (attempt_folder.parent / folder.CANCEL).exists()
            continue
        claim = folder.read_claim(attempt_folder)
        if claim is not None and not (attempt_folder / folder.EXIT).exists() and claim.holder_alive:
            running[claim.pid] = (run_id, attempt_folder)
    return running, queued


def slots(queue: Path, count: int, running: dict[int, tuple[str, Path]]) -> list[dict[str, Any]]:
    """Each slot as {"number", "pid", "run_id", "lease_age_seconds"}."""
    found = []
    for number in range(count):
        pid = slot_holder(queue / f"slot-{number}.lock")
        run_id, attempt_folder = running.get(pid or 0, (None, None))
        age = None if attempt_folder is None else attempts.lease_age(attempt_folder)
        found.append({"number": number, "pid": pid, "run_id": run_id, "lease_age_seconds": age})
    return found


def slot_holder(lock: Path) -> int | None:
    """The worker that holds a slot; a shared lock, held for a moment, does not stand in a worker's way long."""
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


def cpu_ticks() -> tuple[int, int]:
    """(busy, all) clock ticks of the machine since it started; /proc/stat, first line (proc(5))."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(fields) - fields[3] - fields[4], sum(fields)


def memory() -> tuple[int | None, int | None]:
    """(used, all) bytes of main memory; those of the control group, or of `ulimit -v`, where they allow less."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total = int(lines["MemTotal"].split()[0]) * 1024
        used = total - int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None, None
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        if limit < total:
            used, total = int(Path("/sys/fs/cgroup/memory.current").read_text()), limit
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return used, total if limit == resource.RLIM_INFINITY else min(total, limit)


def usable_cores() -> int:
    """CPU cores that this process may use: its affinity, cut by the control group's quota."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return max(1, cores)


def gpu_indices() -> tuple[str, ...]:
    """Indices of the NVIDIA GPUs that may be used here, without importing a framework."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() and name.strip() != "-1")
    return tuple(_nvidia_smi("--query-gpu=index", "--format=csv,noheader").split())


def gpu_text() -> str:
    """What nvidia-smi says of every GPU, for `gpus`; empty without one."""
    return _nvidia_smi(f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits")


def _nvidia_smi(*options: str) -> str:
    try:
        answer = subprocess.run(
            ["nvidia-smi", *options], capture_output=True, text=True, timeout=QUERY_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def gpus(text: str) -> list[dict[str, Any]]:
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
            {
                "name": f"GPU {fields[0]} {fields[1]}",
                "busy_percent": number(fields[2]),
                "used_bytes": None if used is None else round(used * 2**20),
                "total_bytes": None if total is None else round(total * 2**20),
            }
        )
    return found


class Survey:
    """Looks at one machine again and again; how busy the cores were is measured between two looks."""

    def __init__(self) -> None:
        self._ticks: tuple[int, int] | None = None

    def cores(self) -> dict[str, Any]:
        """All cores as one device."""
        busy, total = cpu_ticks()
        before, self._ticks = self._ticks, (busy, total)
        share = None
        if before is not None and total > before[1]:
            share = 100.0 * (busy - before[0]) / (total - before[1])
        used, size = memory()
        count = len(os.sched_getaffinity(0))
        return {"name": f"{count} CPU cores", "busy_percent": share, "used_bytes": used, "total_bytes": size}

    def devices(self, graphics: bool) -> Iterable[dict[str, Any]]:
        """Cores, and GPUs where there are any."""
        return [self.cores(), *(gpus(gpu_text()) if graphics else [])]

    def look(self, queue: Path, runs: Path, slot_count: int, graphics: bool) -> dict[str, Any]:
        """Everything of it as plain data."""
        running, queued = queue_state(queue, runs)
        disk = os.statvfs(runs)
        return {
            "slots": slots(queue, slot_count, running),
            "devices": list(self.devices(graphics)),
            "queued": queued,
            "drained": (queue / folder.DRAINED).exists(),
            "load": os.getloadavg()[0],
            "free_disk_bytes": disk.f_bavail * disk.f_frsize,
        }
