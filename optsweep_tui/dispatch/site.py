"""A machine that back-ends work on: the same few verbs for this one (`LocalSite`) and for one behind ssh (`SshSite`).

A back-end writes an attempt's intent into the workspace first. `put` then takes it to the machine, `refresh` brings
what the machine has of it back into the workspace, and both may be called again at any time: twice is once.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from optsweep_engines import attempts as judged
from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

SCHEDULER_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo")
"""Programs that `scheduler` starts; no other."""
SCHEDULER_SECONDS = 60.0


class Unreachable(OptsweepError):
    """A machine that does not answer: what runs there is not judged by that."""


@dataclass(frozen=True, kw_only=True)
class Staged:
    """Where things are on the machine; its own absolute paths."""

    python: str
    """Interpreter for shim and engine."""
    engine: str
    """Folder for PYTHONPATH that holds optsweep_engines; empty where the interpreter finds it by itself."""
    data: str
    """Folder of the prepared datasets: `data_root` of an intent."""
    runs: str
    """Folder of the run folders."""
    root: str
    """Folder of this program there; the other three lie in it, or in the workspace."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One attempt that is to be on the machine."""

    run_id: str
    attempt: int
    intent: Mapping[str, Any]
    """Body of intent.json there (`data_root` as the machine sees it)."""
    enqueue: bool
    """Put it into the machine's own queue (ssh); False: a scheduler starts it."""

    @property
    def name(self) -> str:
        return f"{self.run_id}.a{self.attempt}"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the machine says of one attempt, judged by its own clock, locks and processes."""

    phase: str
    """absent; waiting (nobody has claimed it); alive (its lock is held); silent (claimed, lock free, no exit.json:
    dead where the claim is of this boot of this machine); foreign (claimed on another machine that shares the folder);
    ended (exit.json is there)."""
    claim: Mapping[str, Any] = field(default_factory=dict)
    lease_age_seconds: float | None = None
    """Since the last renewal, by the machine's own clock; None without a lease."""
    cancelled: bool = False
    """The run carries a cancel marker there."""
    newest: int = 0
    """Number of the newest attempt of that run there."""


class Site(Protocol):
    """One machine."""

    name: str

    def stage(self, datasets: Iterable[tuple[str, str]]) -> Staged:
        """Bring engine and datasets (name, content hash) there, if they are not; cheap when they are.

        Raises:
            Unreachable: it does not answer.
            OptsweepError: it answers, and cannot be used (disk full, no Python): with the next step.
        """

    def put(self, parcels: Sequence[Parcel]) -> Mapping[str, str]:
        """Make the attempts' folders with spec and intent there; parcel name -> "new", "there", "ended" or "stale".

        "stale": a newer attempt of that run is there. Call it again after a lost answer: an attempt is made once.
        """

    def seen(self, attempts: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], Seen]:
        """What the machine says of these attempts (run id, number), all in one call."""

    def refresh(self, attempts: Sequence[tuple[str, int]]) -> None:
        """Bring metrics, events, log, record and exit.json of these attempts into the workspace, exit.json last."""

    def cancel(self, run_ids: Sequence[str]) -> None:
        """Leave the cancel marker of these runs there."""

    def write(self, name: str, data: bytes) -> str:
        """Write a file `name` (letters, digits, - _ . and /) under the machine's root; returns its path there."""

    def scheduler(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        """Run one of SCHEDULER_COMMANDS, no shell: (exit status, stdout, stderr); 127 where it is not installed."""

    def hang_up(self) -> None:
        """Nothing more will be asked: a connection that is just being made is not waited for. From any thread."""

    def close(self) -> None:
        """Let go of the connection; what runs there goes on."""


class LocalSite:
    """This machine, or a shared file system: the workspace's own folders are the machine's."""

    def __init__(self, workspace: Workspace, name: str = "local", python: str | None = None) -> None:
        self.name = name
        self._workspace = workspace
        self._python = python or sys.executable

    def stage(self, datasets: Iterable[tuple[str, str]]) -> Staged:
        """Nothing has to be brought."""
        place = self._workspace
        engine = str(Path(folder.__file__).resolve().parents[1])
        return Staged(
            python=self._python,
            engine=engine,
            data=str(place.data),
            runs=str(place.runs),
            root=str(place.queue / self.name),
        )

    def put(self, parcels: Sequence[Parcel]) -> dict[str, str]:
        """The folders are there: the back-end made them."""
        answers = {}
        for parcel in parcels:
            where = self._workspace.runs / parcel.run_id / f"a{parcel.attempt}"
            newest = rundir.attempts(where.parent)
            if newest and newest[-1][0] > parcel.attempt:
                answers[parcel.name] = "stale"
                continue
            if not (where / rundir.INTENT).exists():
                where.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.write_json(where / rundir.INTENT, dict(parcel.intent))
                answers[parcel.name] = "new"
            else:
                answers[parcel.name] = "ended" if (where / rundir.EXIT).exists() else "there"
        return answers

    def seen(self, attempts: Sequence[tuple[str, int]]) -> dict[tuple[str, int], Seen]:
        """By locks and files here."""
        return {
            (run_id, number): Seen(**judged.seen(self._workspace.runs / run_id, number)) for run_id, number in attempts
        }

    def refresh(self, attempts: Sequence[tuple[str, int]]) -> None:
        """They are here."""

    def cancel(self, run_ids: Sequence[str]) -> None:
        """The workspace's own marker is the one that a shim looks for."""
        for run_id in run_ids:
            rundir.cancel(self._workspace.runs / run_id)

    def write(self, name: str, data: bytes) -> str:
        """Into the folder of this host's queue."""
        path = self._workspace.queue / self.name / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.write_atomic(path, data)
        return str(path)

    def scheduler(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        """A process of this machine."""
        return run_scheduler(argv, stdin)

    def hang_up(self) -> None:
        """Nobody waits long for this machine."""

    def close(self) -> None:
        """Nothing is open."""


def run_scheduler(argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
    """Run a scheduler's command here; (127, "", reason) where it is not installed, 124 where it did not end in time."""
    if not argv or argv[0] not in SCHEDULER_COMMANDS:
        raise ValueError(f"{argv[:1]} is no command of the scheduler")
    program = shutil.which(argv[0])
    if program is None:
        return 127, "", f"{argv[0]} is not installed"
    try:
        ended = subprocess.run(
            [program, *argv[1:]], input=stdin, capture_output=True, text=True, timeout=SCHEDULER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"{argv[0]} did not end within {SCHEDULER_SECONDS:g} s"
    return ended.returncode, ended.stdout, ended.stderr
