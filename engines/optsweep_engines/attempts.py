"""What a training machine knows of an attempt: who claimed it, whether that process lives, how old its lease is; stdlib only."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from optsweep_engines import folder


def seen(run_folder: Path, number: int) -> dict[str, Any]:
    """phase, claim, lease_age_seconds and newest of one attempt, as this machine can judge it.

    `phase` is absent, waiting (unclaimed), alive (its lock is held), silent (claimed by this machine, lock free, no
    exit.json: dead), foreign (claimed on another machine that shares the folder, where this one cannot see the lock's
    holder), or ended.
    """
    attempt_folder = run_folder / f"a{number}"
    known = folder.attempts(run_folder)
    answer: dict[str, Any] = {"phase": "absent", "claim": {}, "lease_age_seconds": None}
    answer["newest"] = known[-1][0] if known else 0
    if not attempt_folder.is_dir():
        return answer
    claim = folder.read_claim(attempt_folder)
    if claim is not None:
        answer["claim"] = dataclasses.asdict(claim)
    if (attempt_folder / folder.EXIT).exists():
        return answer | {"phase": "ended"}
    if not (attempt_folder / folder.CLAIM).exists():
        return answer | {"phase": "waiting"}
    answer["lease_age_seconds"] = lease_age(attempt_folder)
    if folder.lock_held(attempt_folder):
        return answer | {"phase": "alive"}
    if claim is not None and claim.host != os.uname().nodename and claim.boot_id != folder.boot_id():
        return answer | {"phase": "foreign"}
    ended = (attempt_folder / folder.EXIT).exists()  # it may have ended between the two looks
    return answer | {"phase": "ended" if ended else "silent"}


def lease_age(attempt_folder: Path) -> float | None:
    """Seconds since the lease was renewed: by the clock of this boot where it is of this boot, else by the file's time."""
    try:
        lease = folder.read_json(attempt_folder / folder.LEASE)
        if isinstance(lease, dict) and lease.get("boot_id") == folder.boot_id():
            return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - float(lease["uptime_seconds"]))
        return max(0.0, time.time() - (attempt_folder / folder.LEASE).stat().st_mtime)
    except (ValueError, TypeError, KeyError, OSError):
        return None
