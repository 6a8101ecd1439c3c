"""SkyPilot's own command line, run as a process: its answers as data, and what an error of it means.

`sky` has an environment of its own (more than a hundred packages), so it is started like ssh and sbatch are. What is relied
on was read from and tried with SkyPilot 0.14.1.
"""

from __future__ import annotations

import functools
import json
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optsweep_tui.dispatch import told

TERMINAL = frozenset(
    ("SUCCEEDED", "CANCELLED", "FAILED", "FAILED_SETUP", "FAILED_PRECHECKS", "FAILED_NO_RESOURCE", "FAILED_CONTROLLER")
)
"""States that a managed job does not leave (ManagedJobStatus of sky/jobs/state.py)."""
QUEUE = ("jobs", "queue", "--all", "--verbose", "--output", "json")
NO_JOBS = ("no in-progress managed jobs", "no managed jobs", "jobs controller is not up", "controller is stopped")
"""What `sky jobs queue` says, with an error, where nothing runs: before the first job, and when its controller has stopped
itself, which it does only without jobs (autostop of ClusterNotUpError, sky/backends/backend_utils.py)."""
ASK_SECONDS = 120.0
LAUNCH_SECONDS = 1800.0
"""The first job of all brings up SkyPilot's own controller, which takes minutes."""
NAME = re.compile(r"os-([0-9a-f]{32})-a([1-9][0-9]{0,8})")
MISSING = "sky is not installed"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command came back with."""

    returncode: int
    """127: it is not there; 124: it did not end in time."""
    out: str
    error: str

    @property
    def words(self) -> str:
        """The reason of a failure, one line without control characters."""
        lines = [line for line in map(told.plain, _plain(self.error or self.out).splitlines()) if line]
        named = [line for line in lines if re.match(r"(sky\.exceptions\.)?\w*(Error|Exception)\b|Error: ", line)]
        text = (named or lines or ["no reason given"])[-1]
        return " ".join(re.sub(r"^sky\.exceptions\.\w+: ", "", text).split())[:400]


def program() -> str | None:
    """Where `sky` is: on PATH, else beside this interpreter."""
    beside = Path(sys.executable).with_name("sky")
    return shutil.which("sky") or (str(beside) if beside.exists() else None)


def call(arguments: Sequence[str], seconds: float = ASK_SECONDS, *, before: Callable[[], None] | None = None) -> Said:
    """Run `sky` with arguments, no shell.

    Args:
        before: called when all is there, just before the process starts; what it raises keeps that from starting.
    """
    path = program()
    if path is None:
        return Said(returncode=127, out="", error=MISSING)
    if before is not None:
        before()
    try:
        ended = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            start_new_session=True,  # Ctrl-C here is not meant for it
        )
    except subprocess.TimeoutExpired:
        return Said(returncode=124, out="", error=f"sky {' '.join(arguments[:2])} did not end within {seconds:g} s")
    except OSError as error:
        return Said(returncode=127, out="", error=f"sky cannot be started: {error.strerror}")
    return Said(returncode=ended.returncode, out=ended.stdout, error=ended.stderr)


class Calls:
    """Calls in the background that nobody waits for at the end: `sky` goes on by itself, its answer is asked for later.

    Those that have not begun by then never do.
    """

    def __init__(self, workers: int, name: str) -> None:
        """Nothing starts yet.

        Args:
            workers: most calls at a time.
            name: of the threads.
        """
        self._queue: queue.SimpleQueue[tuple[Future[Said], Callable[[], Said]]] = queue.SimpleQueue()
        self._workers, self._name = workers, name
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """No call begins any more: what another process finds noted from now on is all that was begun."""
        with self._lock:
            self._closed = True

    def begin(self, note: Callable[[], None]) -> None:
        """Note that a call begins.

        Raises:
            RuntimeError: none may begin any more.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("this controller is ending")
            note()

    def submit(self, work: Callable[..., Said], *arguments: Any) -> Future[Said]:
        """Begin a call, or have it wait for its turn."""
        future: Future[Said] = Future()
        self._queue.put((future, functools.partial(work, *arguments)))
        if len(self._threads) < self._workers:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def _work(self) -> None:
        while True:
            future, work = self._queue.get()
            if self._closed:
                future.set_result(Said(returncode=124, out="", error="this controller is ending"))
                continue
            try:
                future.set_result(work())
            except Exception as error:  # a full disk here, for one: said like any answer of sky
                future.set_result(Said(returncode=1, out="", error=f"{type(error).__name__}: {error}"))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One managed job."""

    job: int
    name: str
    status: str
    recoveries: int
    reason: str

    @property
    def active(self) -> bool:
        """It may run, or run again."""
        return self.status not in TERMINAL


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One answer of the queue: all that is decided from SkyPilot is decided from one of these."""

    started: float
    """Monotonic seconds at which the question was asked."""
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    """By name; ours only."""

    def active(self, name: str) -> bool:
        """Whether some job of that name may still run."""
        return any(row.active for row in self.rows.get(name, ()))

    @property
    def active_count(self) -> int:
        """Jobs of ours that are not over."""
        return sum(row.active for rows in self.rows.values() for row in rows)


def snapshot(said: Said, started: float) -> Snapshot | None:
    """The queue as it was answered; None: it was not."""
    if said.returncode != 0:
        text = f"{said.error} {said.out}".lower()
        empty = said.returncode not in (124, 127) and any(words in text for words in NO_JOBS)
        return Snapshot(started=started) if empty else None
    jobs = _document(said.out)
    if jobs is None:
        return None
    rows: dict[str, list[Row]] = {}
    for entry in jobs:
        row = _row(entry)
        if row is not None:
            rows.setdefault(row.name, []).append(row)
    return Snapshot(started=started, rows=rows)


def _document(text: str) -> list[Any] | None:
    """The JSON list in what was printed; lines before it are SkyPilot's talk."""
    for match in re.finditer(r"^\[", _plain(text), re.MULTILINE):
        try:
            found, _ = json.JSONDecoder().raw_decode(_plain(text), match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, list):
            return found
    return None


def _row(entry: Any) -> Row | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("job_id"), int):
        return None
    name, status = entry.get("job_name"), entry.get("status")
    if not isinstance(name, str) or not NAME.fullmatch(name) or not isinstance(status, str):
        return None
    recoveries = entry.get("recovery_count")
    return Row(
        job=entry["job_id"],
        name=name,
        status=told.plain(status, 40).rpartition(".")[2],
        recoveries=recoveries if isinstance(recoveries, int) else 0,
        reason=told.plain(entry.get("failure_reason") or entry.get("details") or "", 300),
    )


def _plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


# ---------------------------------------------------------------- what an error means

_REFUSED = (
    "resourcesunavailable", "no cloud access", "nocloudaccess", "not enabled", "credential", "is not a supported",
    "not found in catalog", "invalid", "not supported", "no launchable resource", "no resource satisfying", "permission",
    "access denied", "forbidden", "does not exist", "usage: sky", "quota", "unauthorized", "nosuchbucket", "notsupported",
)  # fmt: skip
"""Words of errors after which the same submission would fail again."""
_UNREACHABLE = (
    "connectionerror", "connection refused", "failed to connect", "timed out", "name resolution", "temporary failure",
    "api server is not", "did not end within", "max retries",
)  # fmt: skip
_GATEWAY = re.compile(
    r"\b(?:http(?:/[0-9.]+)?|status(?:[ _]code)?|error(?: code)?)[ :=]{1,3}50[234]\b"
    r"|\b50[234]\b[ ,:]*(?:message=)?['\"]?(?:server error|bad gateway|service unavailable|gateway time-?out)"
)
"""An error of HTTP that says that nobody has answered; the same digits in an id or a path say nothing."""
_HINTS = (
    (MISSING, "uv tool install 'skypilot[aws,gcp]==0.14.*', or pip install 'optsweep[skypilot]' here"),
    ("credential", "sky check says which clouds can be used, and what each needs"),
    ("no cloud access", "sky check says which clouds can be used, and what each needs"),
    ("not enabled", "sky check says which clouds can be used, and what each needs"),
    ("accelerator", "sky show-gpus -a lists them: mend accelerators in hosts.toml"),
    ("resource", "sky show-gpus -a lists what there is: mend accelerators, infra or use_spot in hosts.toml"),
    ("quota", "ask the cloud for more, or set another infra in hosts.toml"),
    ("bucket", "make that bucket, or mend storage in hosts.toml"),
)


def meaning(said: Said) -> str:
    """What a failed command says: "missing", "unreachable" (nothing is known), "refused" (never), "unknown"."""
    if said.returncode == 127:
        return "missing"
    text = f"{said.error} {said.out}".lower()
    if said.returncode == 124 or any(words in text for words in _UNREACHABLE) or _GATEWAY.search(text):
        return "unreachable"
    return "refused" if any(words in text for words in _REFUSED) else "unknown"


def hint_for(text: str) -> str:
    """What to do about an error."""
    lowered = text.lower()
    return next((hint for words, hint in _HINTS if words in lowered), "sky jobs queue and sky check tell more")
