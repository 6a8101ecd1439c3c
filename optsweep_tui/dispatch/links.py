"""Small files that tell every process of a workspace how its hosts are: link.json, look.json, open attempts, given-up ones.

One process at a time talks to a host (a lock says which); all others read these files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.settings import Workspace

STALE_SECONDS = 30.0
"""A link that nobody has renewed for so long says how things were, not how they are."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """The connection to a host as some process last knew it."""

    state: str
    """connected, unreachable, or refused (it answers and cannot be used)."""
    error: str = ""
    held: str = ""
    """Why a host that answers can begin no run now: a further machine that trains with it does not answer, for one."""
    heard_at: float = 0.0
    """Unix seconds of the last answer, by this machine's clock; 0 = never."""
    since: float = 0.0
    """Unix seconds at which this state began."""
    written_at: float = 0.0
    host_id: str = ""
    slots: int = 0
    device: str = ""
    skew_seconds: float = 0.0
    libraries: dict[str, str] | None = None
    gpus: tuple[str, ...] = ()
    hostname: str = ""

    @property
    def fresh(self) -> bool:
        """Some process is at it now."""
        return time.time() - self.written_at < STALE_SECONDS


def folder_of(workspace: Workspace, host: str) -> Path:
    """Where the files of a host are."""
    return workspace.queue / host


def read_link(workspace: Workspace, host: str) -> Link | None:
    """The last word on a host; None without any."""
    try:
        data = json.loads((folder_of(workspace, host) / "link.json").read_bytes())
        data["gpus"] = tuple(data.get("gpus", ()))
        return Link(**data)
    except (OSError, ValueError, TypeError):
        return None


def read_plain(path: Path) -> dict[str, Any] | None:
    """The table in a small file; None where there is none that can be read."""
    try:
        data = folder.read_json(path)
    except (ValueError, OSError):
        return None
    return data if isinstance(data, dict) else None


def write_plain(path: Path, data: Any) -> None:
    """A file that may be lost in a crash of the machine, but is never seen half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        temporary.write_text(json.dumps(data), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def unreachable(workspace: Workspace, host: str) -> bool:
    """Whether a host is known not to answer now: for display."""
    link = read_link(workspace, host)
    return link is not None and link.fresh and link.state != "connected"


# ---------------------------------------------------------------- which attempts are open where


def _open_folder(workspace: Workspace, host: str) -> Path:
    return folder_of(workspace, host) / "open"


def mark_open(workspace: Workspace, host: str, attempt: Attempt) -> None:
    """An attempt is now this host's to run."""
    where = _open_folder(workspace, host)
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(where / f"{attempt[0]}.a{attempt[1]}", os.O_WRONLY | os.O_CREAT, 0o600))


def mark_closed(workspace: Workspace, host: str, attempt: Attempt) -> None:
    """All of it is in the workspace."""
    (_open_folder(workspace, host) / f"{attempt[0]}.a{attempt[1]}").unlink(missing_ok=True)


def open_attempts(workspace: Workspace, host: str) -> list[Attempt]:
    """The attempts of a host that are not all here yet, in the order of their names."""
    return _attempts(_open_folder(workspace, host))


def _attempts(where: Path) -> list[Attempt]:
    try:
        names = os.listdir(where)
    except OSError:
        return []
    found = []
    for name in sorted(names):
        run_id, _, number = name.partition(".a")
        if folder.is_run_id(run_id) and number.isdigit() and 0 < int(number) < 10**9:
            found.append((run_id, int(number)))
    return found


# ---------------------------------------------------------------- hosts that were given up


def _fence_folder(workspace: Workspace, host_id: str) -> Path:
    assert host_id.isalnum()
    return workspace.queue / ".given-up" / host_id


def give_up(workspace: Workspace, host_id: str, attempts: Iterable[Attempt]) -> None:
    """Remember what is to be ended on a machine, should it ever come back."""
    where = _fence_folder(workspace, host_id)
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    for run_id, number in attempts:
        os.close(os.open(where / f"{run_id}.a{number}", os.O_WRONLY | os.O_CREAT, 0o600))
    folder.sync_folder(where)


def given_up(workspace: Workspace, host_id: str) -> list[Attempt]:
    """What is to be ended on a machine that has come back."""
    return _attempts(_fence_folder(workspace, host_id))


def fenced(workspace: Workspace, host_id: str, attempts: Iterable[Attempt]) -> None:
    """They have ended there."""
    for run_id, number in attempts:
        (_fence_folder(workspace, host_id) / f"{run_id}.a{number}").unlink(missing_ok=True)


class Turn:
    """The lock of the one process that talks to a host."""

    def __init__(self, workspace: Workspace, host: str) -> None:
        self._path = folder_of(workspace, host) / "pump.lock"
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._handle is not None

    def take(self) -> bool:
        """Whether it is ours, now or already."""
        if self._handle is not None:
            return True
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def leave(self) -> None:
        """Let another process have it."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = None
