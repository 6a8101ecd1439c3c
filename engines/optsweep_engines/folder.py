"""Names inside runs/<id>/ and the atomic operations on them, for shim, engine and controller alike; stdlib only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SPEC = "spec.json"
OPTIMIZER = "optimizer.py"
DIAGNOSTICS = "diagnostics.json"
KEEP = "keep.json"
"""Steps whose state the run is asked to keep; no part of its id."""
KEPT = "kept"
STUDIES = "studies"
CANCEL = "cancel"
INTENT = "intent.json"
CLAIM = "claim"
LEASE = "lease"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
LOG = "log.txt"
CHECKPOINTS = "ckpt"
RECORD = "record.json"
EXIT = "exit.json"
RESERVE = ".reserve"
DRAINED = "drained"
"""Marker in the queue of a host that is to start nothing more."""

RESERVE_BYTES = 8192
"""Set aside at the claim, so that record.json and exit.json can be written when the disk is full."""

LARGEST_PACK = 64
"""Attempts that one engine process takes together, each with its lock (the kernel passes at most 253)."""

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ATTEMPT = re.compile(r"a([1-9][0-9]{0,8})")


def is_run_id(name: str) -> bool:
    """True for 32 lower-case hex digits and nothing else."""
    return _RUN_ID.fullmatch(name) is not None


def attempt_number(name: str) -> int:
    """Number of the attempt whose folder has this name; 0 for any other name."""
    match = _ATTEMPT.fullmatch(name)
    return int(match[1]) if match else 0


def attempts(run_folder: Path) -> list[tuple[int, Path]]:
    """(number, folder) of every attempt, in order; empty if the run folder is gone."""
    found = []
    try:
        with os.scandir(run_folder) as entries:
            for entry in entries:
                number = attempt_number(entry.name)
                if number and entry.is_dir():
                    found.append((number, Path(entry.path)))
    except FileNotFoundError:
        return []
    return sorted(found)


def sync_folder(folder: Path | str) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path | str, data: bytes, *, durable: bool = True) -> None:
    """Write a whole file or nothing: temporary file, fsync, rename, fsync of the folder.

    Args:
        durable: False: the caller syncs the disk after a batch.
    """
    parent, name = os.path.split(path)
    temporary = f"{parent or '.'}/.{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "wb", buffering=0) as handle:
            rest = memoryview(data)
            while rest:
                rest = rest[handle.write(rest) :]
            if durable:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(parent or ".")


def write_new(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a whole file under a name that is free, or nothing; of two writers one succeeds.

    Args:
        durable: False: the caller syncs the folder after a batch.

    Raises:
        FileExistsError: the name is taken.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def write_json(path: Path | str, data: Any, *, durable: bool = True) -> None:
    """`write_atomic` of one JSON document."""
    write_atomic(path, (json.dumps(data, sort_keys=True, allow_nan=False) + "\n").encode(), durable=durable)


def read_json(path: Path) -> Any | None:
    """The document, or None where the file does not exist.

    Raises:
        ValueError: the file is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reserve(attempt_folder: Path) -> None:
    """Set disk blocks aside for the two files that must not fail."""
    for name in (RECORD, EXIT):
        write_atomic(attempt_folder / (RESERVE + name), b" " * RESERVE_BYTES)


def write_reserved(path: Path, data: Any) -> None:
    """`write_json`; on a full disk the text goes into the blocks set aside, which are then renamed."""
    try:
        write_json(path, data)
    except OSError as error:
        spare = path.with_name(RESERVE + path.name)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not spare.exists():
            raise
        text = (json.dumps(data, sort_keys=True, allow_nan=False) + "\n").encode()
        if len(text) > RESERVE_BYTES:
            slim = {key: value for key, value in data.items() if len(str(value)) < 500}
            text = (json.dumps(slim, sort_keys=True, allow_nan=False) + "\n").encode()
        with open(spare, "r+b") as handle:
            handle.write(text.rjust(RESERVE_BYTES))
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(spare, path)
        sync_folder(path.parent)
    else:
        with contextlib.suppress(OSError):
            path.with_name(RESERVE + path.name).unlink(missing_ok=True)


def pack_of(attempt_folder: Path) -> list[Path]:
    """The attempts that were queued as one pack with this one, itself among them, leader first; [itself] elsewhere."""
    try:
        intent = read_json(attempt_folder / INTENT)
    except ValueError:
        intent = None
    names = intent.get("pack") if isinstance(intent, dict) else None
    found = []
    for name in names if isinstance(names, list) else []:
        run_id, _, attempt = str(name).partition(".")
        if is_run_id(run_id) and _ATTEMPT.fullmatch(attempt):
            found.append(attempt_folder.parent.parent / run_id / attempt)
    return found[:LARGEST_PACK] if attempt_folder in found else [attempt_folder]


def is_beside(attempt_folder: Path) -> bool:
    """Whether another machine leads this attempt: it is never trained alone."""
    return bool(_intent(attempt_folder).get("beside"))


def is_together(attempt_folder: Path) -> bool:
    """Whether several machines train this attempt, this one the first of them or another."""
    intent = _intent(attempt_folder)
    return bool(intent.get("together") or intent.get("beside"))


def _intent(attempt_folder: Path) -> dict[str, Any]:
    try:
        intent = read_json(attempt_folder / INTENT)
    except ValueError:
        return {}
    return intent if isinstance(intent, dict) else {}


def boot_id() -> str:
    """Identifies this boot of this machine: pids of another boot mean nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def process_start(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when there is no such process. A pid alone is reused."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who holds an attempt."""

    pid: int
    start: int
    boot_id: str
    host: str
    token: str
    claimed_at: float
    """Unix seconds, for display only."""
    job: str | None = None
    """The scheduler's name of what claimed it ("4711_3"); None outside a scheduler."""

    @property
    def holder_alive(self) -> bool:
        return self.boot_id == boot_id() and process_start(self.pid) == self.start


def take_claim(attempt_folder: Path, job: str | None = None) -> int | None:
    """Claim an attempt: returns the descriptor whose lock is held until every process that has it is gone.

    The lock is taken on a temporary file which is then linked to its name, so a claim is never seen unlocked while its
    holder lives. Returns None when somebody else has claimed it.

    Args:
        job: the scheduler's name of the caller, where one has started it.
    """
    temporary = attempt_folder / f".claim.{os.getpid()}.{time.monotonic_ns()}"
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        claim = Claim(
            pid=os.getpid(),
            start=process_start(os.getpid()) or 0,
            boot_id=boot_id(),
            host=os.uname().nodename,
            token=os.urandom(8).hex(),
            claimed_at=time.time(),
            job=job,
        )
        os.write(handle, json.dumps(asdict(claim)).encode())
        os.fsync(handle)
        os.link(temporary, attempt_folder / CLAIM)
    except FileExistsError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(attempt_folder)
    return handle


def read_claim(attempt_folder: Path) -> Claim | None:
    """The claim of an attempt; None when there is none (or when it cannot be read)."""
    try:
        data = read_json(attempt_folder / CLAIM)
        return None if data is None else Claim(**data)
    except (ValueError, TypeError):
        return None


def lock_held(attempt_folder: Path) -> bool:
    """True while the shim or the engine of the attempt lives on this machine.

    A free lock on the same boot is proof of death. On another boot the answer is False too.
    """
    try:
        handle = os.open(attempt_folder / CLAIM, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)
