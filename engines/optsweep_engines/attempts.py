"""What a training machine knows of an attempt, and how it ends one whose processes are gone; stdlib only."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

from optsweep_engines import folder

SETTLE_SECONDS = 5.0
"""How long a killed process group is waited for."""


def seen(run_folder: Path, number: int) -> dict[str, Any]:
    """phase, claim, lease_age_seconds, cancelled and newest of one attempt, as this machine can judge it.

    `phase` is absent, waiting (unclaimed), alive (its lock is held), silent (claimed by this machine, lock free, no
    exit.json: dead), foreign (claimed on another machine that shares the folder, where this one cannot see the lock's
    holder), or ended.
    """
    attempt_folder = run_folder / f"a{number}"
    known = folder.attempts(run_folder)
    answer: dict[str, Any] = {"phase": "absent", "claim": {}, "lease_age_seconds": None}
    answer["newest"] = known[-1][0] if known else 0
    answer["cancelled"] = (run_folder / folder.CANCEL).exists()
    if not attempt_folder.is_dir():
        return answer
    claim = folder.read_claim(attempt_folder)
    if claim is not None:
        answer["claim"] = dataclasses.asdict(claim)
    if (attempt_folder / folder.EXIT).exists():
        return answer | {"phase": "ended"}
    if not (attempt_folder / folder.CLAIM).exists():
        return answer | {"phase": "waiting"}
    answer["lease_age_seconds"] = lease_age(attempt_folder, any_boot=True)
    if folder.lock_held(attempt_folder):
        return answer | {"phase": "alive"}
    if claim is not None and claim.host != os.uname().nodename and claim.boot_id != folder.boot_id():
        return answer | {"phase": "foreign"}
    ended = (attempt_folder / folder.EXIT).exists()  # it may have ended between the two looks
    return answer | {"phase": "ended" if ended else "silent"}


def lease_age(attempt_folder: Path, *, any_boot: bool = False) -> float | None:
    """Seconds since the lease was renewed, by the clock of the boot that renewed it; None where that is not this boot.

    Args:
        any_boot: then by the time of the file: of a machine that shares this folder, for one.
    """
    try:
        lease = folder.read_json(attempt_folder / folder.LEASE)
        if isinstance(lease, dict) and lease.get("boot_id") == folder.boot_id():
            return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - float(lease["uptime_seconds"]))
        if any_boot:
            return max(0.0, time.time() - (attempt_folder / folder.LEASE).stat().st_mtime)
    except (ValueError, TypeError, KeyError, OSError):
        return None
    return None


def settle(
    attempt_folder: Path, error: str = "shim and engine were gone without a word", *, gone: bool = False
) -> bool:
    """Write the exit.json that a dead shim could not: its free lock proves that shim and engine are gone.

    Returns whether the attempt has ended now. A claim of another machine is not judged, unless the caller has proof of
    its own that it is `gone`: its job is over for the scheduler, and its lease stands still.
    """
    claim = folder.read_claim(attempt_folder)
    if not gone and claim is not None and claim.host != os.uname().nodename and claim.boot_id != folder.boot_id():
        return False
    kill_engine(attempt_folder)
    if (attempt_folder / folder.EXIT).exists():
        return True
    if folder.lock_held(attempt_folder):
        return False
    ending = {"returncode": None, "signal": None, "reason": "lost", "ended_at": time.time(), "error": error}
    with contextlib.suppress(FileNotFoundError):
        folder.write_reserved(attempt_folder / folder.EXIT, ending)
    return True


def kill_engine(attempt_folder: Path) -> None:
    """Fence: kill the engine that the lease names, if that very process (pid, start time, boot) still lives."""
    try:
        lease = folder.read_json(attempt_folder / folder.LEASE)
    except (ValueError, OSError):
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


def withdraw(attempt_folder: Path, reason: str = "withdrawn", error: str | None = None) -> bool:
    """End an attempt that nobody has claimed, by claiming it; False where somebody has, or it has ended."""
    if (attempt_folder / folder.EXIT).exists():
        return False
    try:
        lock = folder.take_claim(attempt_folder)
    except FileNotFoundError:
        return False
    if lock is None:
        return False
    try:
        ending = {"returncode": None, "signal": None, "reason": reason, "ended_at": time.time(), "error": error}
        folder.write_json(attempt_folder / folder.EXIT, ending)
    finally:
        os.close(lock)
    return True
