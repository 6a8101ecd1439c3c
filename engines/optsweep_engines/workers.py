"""The queue and the slots of one machine: entries that wait, workers that take them, each in a session of its own; stdlib only.

The queue is a folder of empty files `<order>.<run_id>.a<n>`, the slots are files that workers hold locked. Whoever looks
later, another controller or the same one after a reboot, finds the same state in the same files.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optsweep_engines import folder


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a machine offers to runs."""

    queue: Path
    runs: Path
    slots: int
    gpus: tuple[str, ...] = ()
    """Shown to the slots in this order, `gpus_per_run` to each; empty: slots are cores, or a whole TPU."""
    gpus_per_run: int = 1
    pinned: bool = True
    """Without GPUs: pin each slot to a core."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Beside what this process has: PYTHONPATH of the staged engine, the user's env file."""
    team: Path | None = None
    """team.json where this machine trains each run together with others."""


def entries(queue: Path) -> Iterator[tuple[str, str, str]]:
    """(file name, run id, attempt) of every entry of a queue, unsorted."""
    try:
        names = os.listdir(queue)
    except FileNotFoundError:
        return
    for entry in names:
        run_id, _, attempt = entry.partition(".")[2].partition(".")
        if folder.is_run_id(run_id):
            yield entry, run_id, attempt


def enqueue(queue: Path, name: str) -> None:
    """Put `<run_id>.a<n>` at the end of a queue."""
    order = time.time_ns() // 1000
    handle = os.open(queue / f"{order:020d}.{name}", os.O_WRONLY | os.O_CREAT, 0o600)
    os.close(handle)


def waiting(bench: Bench) -> int:
    """Entries that nobody has claimed."""
    return sum(1 for _ in _unclaimed(bench))


def _unclaimed(bench: Bench) -> Iterator[Path]:
    for _, run_id, attempt in entries(bench.queue):
        where = bench.runs / run_id / attempt
        if not (where / folder.CLAIM).exists() and not (where / folder.EXIT).exists():
            yield where


def advance(bench: Bench) -> list[subprocess.Popen[bytes]]:
    """Start a worker for each free slot while entries wait, unless the machine is drained."""
    if (bench.queue / folder.DRAINED).exists():
        return []
    # The same folder may serve a host alone and together with others: each has workers of its own kind.
    ours = (where for where in _unclaimed(bench) if folder.is_together(where) is (bench.team is not None))
    count = sum(1 for _ in itertools.islice(ours, bench.slots))
    started: list[subprocess.Popen[bytes]] = []
    for slot in range(bench.slots):
        if len(started) >= count:
            break
        if slot_free(bench.queue, slot):
            started.append(start_worker(bench, slot))
    return started


def slot_free(queue: Path, slot: int) -> bool:
    """Whether no worker holds a slot."""
    handle = os.open(queue / f"slot-{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def start_worker(bench: Bench, slot: int) -> subprocess.Popen[bytes]:
    """Start the shim of one slot; it outlives this process and whatever connection this process hangs on."""
    module = "optsweep_engines.shim" if bench.team is None else "optsweep_engines.shim_team"
    command = [sys.executable, "-m", module, "--queue", str(bench.queue)]
    command += ["--runs", str(bench.runs), "--slot", str(slot), *_device(bench, slot)]
    command += ["--team", str(bench.team)] if bench.team is not None else []
    log = os.open(bench.queue / f"slot-{slot}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **bench.environment},
        )
    finally:
        os.close(log)


def _device(bench: Bench, slot: int) -> Sequence[str]:
    if bench.gpus:
        groups = max(1, len(bench.gpus) // bench.gpus_per_run)
        first = slot % groups * bench.gpus_per_run  # more slots than GPUs share them
        return ["--gpu", ",".join(bench.gpus[first : first + bench.gpus_per_run])]
    if not bench.pinned:
        return []
    cores = sorted(os.sched_getaffinity(0))
    return ["--core", str(cores[slot % len(cores)])]


def tidy(queue: Path, runs: Path) -> int:
    """Drop entries of attempts that have ended or are gone; returns how many."""
    dropped = 0
    for entry, run_id, attempt in entries(queue):
        where = runs / run_id / attempt
        if not where.is_dir() or (where / folder.EXIT).exists():
            with contextlib.suppress(FileNotFoundError):
                (queue / entry).unlink()
                dropped += 1
    return dropped
