"""One skypilot host as its thread knows it: the storage, what SkyPilot accepts, its newest answer, and what is under way."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from optsweep_engines import mounted
from optsweep_tui.dispatch import links, sky_commands, sky_pieces, sky_task
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.pump import Pump
from optsweep_tui.dispatch.site import Unreachable
from optsweep_tui.dispatch.sky_commands import Said, Snapshot
from optsweep_tui.dispatch.sky_mirror import SkyMirror
from optsweep_tui.dispatch.sky_storage import Storage
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

ASK_SECONDS = 20.0
"""Between two questions to the queue: each costs some seconds of a core and a connection to SkyPilot's controller."""
SOON_SECONDS = 5.0
"""The same where something hangs on the answer."""
REFUSED_SECONDS = 60.0
"""Between two tries of what was refused: somebody may have mended it."""
LONGEST_REFUSED_SECONDS = 1800.0
LOOK_SECONDS = 10.0
"""Between two looks at a run in a bucket: each is a request that costs something."""
NEAR_SECONDS = 0.5
"""The same in a folder of this machine."""
WORKERS = 4
"""Processes of `sky` at a time."""
MOST_JOBS = 50
"""Jobs of ours that are not over, without max_submitted."""


class SkyPlace:
    """What a `Pump` wants of a site."""

    def __init__(self, workspace: Workspace, entry: HostEntry) -> None:
        self.name, self.entry = entry.name, entry
        self.storage = Storage(entry.sky.storage, entry.name)
        journal = workspace.queue / entry.name / "offsets.json"
        self.mirror = SkyMirror(workspace.runs, journal, self.storage, entry.name)

    def hang_up(self) -> None:
        """No connection is open."""

    def call(self, verb: str, header: dict[str, Any], body: bytes = b"", seconds: float = 0.0) -> Any:
        """What a `Fleet` asks of any host: only the checkpoints of runs can be taken away.

        Raises:
            OptsweepError: the storage does not answer, or something else is asked.
        """
        if verb != "drop_checkpoints":
            raise OptsweepError(
                f"host {self.name}: its storage keeps no such thing", "optsweep show RUN tells where it is"
            )
        found = [self.storage.drop_checkpoints(run_id) for run_id in header["run_ids"]]
        return {"count": sum(count for count, _ in found), "bytes": sum(size for _, size in found)}, b""

    def over(self, attempt: Attempt) -> None:
        """An attempt has ended here."""

    def close(self) -> None:
        """None is."""


class SkyHost(Pump):
    """What is asked; nothing here changes a run."""

    def __init__(self, workspace: Workspace, entry: HostEntry) -> None:
        self.place = SkyPlace(workspace, entry)
        super().__init__(workspace, cast(SshSite, self.place))
        self.entry, self.storage, self.mirror = entry, self.place.storage, self.place.mirror
        self.snapshot: Snapshot | None = None
        """The newest answer of the queue."""
        self.began = time.monotonic()
        self.held: dict[Attempt, str] = {}
        """Ended attempts whose job may go on -> its name: the run is its own until that is settled."""
        self.ended_at: dict[Attempt, float] = {}
        self._calls = sky_commands.Calls(WORKERS, f"sky {entry.name}")
        self._asking: tuple[concurrent.futures.Future[Said], float] | None = None
        self._ask_at = 0.0
        self._accepted: concurrent.futures.Future[Said] | None = None
        self._hold_until = 0.0
        self._refusals = 0
        self._refused = ""
        """Why nothing is submitted until `_hold_until`."""
        self._trouble: tuple[str, str] | None = None
        self._staged = False
        self._marked_at = -LOOK_SECONDS
        self._away = ""
        """Why the queue did not answer last time."""
        self._asked_at = 0.0

    @property
    def most(self) -> int:
        """Jobs of ours that are not over at a time."""
        return self.entry.sky.max_submitted or MOST_JOBS

    @property
    def look_seconds(self) -> float:
        """Between two looks at the same files."""
        return NEAR_SECONDS if self.storage.local else LOOK_SECONDS

    def leave(self) -> None:
        """See `Pump.leave`. What waits for its turn at `sky` is left to the next controller."""
        super().leave()
        self._calls.close()

    # ------------------------------------------------------------ the storage

    def _prepared(self) -> None:
        """Have engine and scripts in the storage, and see that it is the one that it was.

        Raises:
            Unreachable: it does not answer, or has not its mark any more. OptsweepError: it keeps us out.
        """
        if time.monotonic() - self._marked_at < self.look_seconds:
            return
        self._marked_at = time.monotonic()
        mark = self.storage.table(mounted.MARK)
        if mark is None:
            self._marked_at = -LOOK_SECONDS
            if self._link.host_id and any(state != "submitting" for state in self._acknowledged()):
                raise Unreachable(
                    f"host {self.entry.name}: storage {self.entry.sky.storage} has not the files that it had",
                    "is it mounted, and is hosts.toml as before?",
                )
            mark = {"host_id": hashlib.sha256(f"{time.time_ns()} {self.entry.sky.storage}".encode()).hexdigest()[:16]}
            self.storage.write(mounted.MARK, repr(mark).replace("'", '"').encode() + b"\n")
        host_id = str(mark.get("host_id", ""))[:16]
        self._link = dataclasses.replace(
            self._link,
            host_id=host_id if host_id.isalnum() else "unknown",
            slots=self.most,
            device=sky_pieces.device_of(self.entry),
        )
        if not self._staged:
            sky_pieces.require_secrets(self.entry)
            for name, data in sky_pieces.pieces(self.entry).items():
                if self.storage.read(name, 64 << 20) != data:
                    self.storage.write(name, data)
            self._staged = True

    # ------------------------------------------------------------ SkyPilot

    def _ask(self, soon: bool) -> None:
        """Ask the queue now and then, in the background; take what came."""
        if self._asking is not None:
            future, started = self._asking
            if not future.done():
                return
            self._asking, said = None, future.result()
            self._ask_at = time.monotonic() + (SOON_SECONDS if soon else ASK_SECONDS)
            answer = sky_commands.snapshot(said, started)
            if answer is not None:
                self.snapshot, self._away = answer, ""
            else:
                self._away = f"host {self.entry.name}: sky says: {said.words}"
        wait = min(self._ask_at, self._asked_at + SOON_SECONDS) if soon else self._ask_at
        if time.monotonic() >= wait:
            self._asked_at = time.monotonic()
            self._asking = self._calls.submit(sky_commands.call, sky_commands.QUEUE), self._asked_at

    def fresh(self, since: float) -> Snapshot | None:
        """The newest answer, if it was asked for after `since` (monotonic seconds)."""
        return self.snapshot if self.snapshot is not None and self.snapshot.started > since else None

    def accept(self) -> None:
        """Have SkyPilot find a machine such as hosts.toml asks for, without starting one.

        Raises:
            OptsweepError: it is not there, or there is none.
        """
        self._accepted = self._accepted or self._calls.submit(accepted, self._workspace, self.entry)
        said = self._accepted.result()
        if said.returncode != 0 and sky_commands.meaning(said) in ("missing", "refused"):
            raise refusal(self.entry, said)

    def _accepts(self) -> bool:
        """Whether jobs may be submitted now."""
        if time.monotonic() < self._hold_until:
            return False
        if self._accepted is None:
            self._accepted = self._calls.submit(accepted, self._workspace, self.entry)
        if not self._accepted.done():
            return False
        said = self._accepted.result()
        if said.returncode == 0:
            self._refused = ""
            return True
        self._accepted = None
        if sky_commands.meaning(said) in ("refused", "missing"):
            self._refuse(said)
        else:
            self._hold_until = time.monotonic() + REFUSED_SECONDS
            self._away = f"host {self.entry.name}: sky says: {said.words}"
        return False

    def _refuse(self, said: Said) -> None:
        """Submit nothing for a while: SkyPilot has refused it."""
        self._hold(str(refusal(self.entry, said)))

    def _hold(self, why: str) -> None:
        """Submit nothing for a while, longer each time until a run has begun."""
        wait = min(LONGEST_REFUSED_SECONDS, REFUSED_SECONDS * 2**self._refusals)
        self._hold_until, self._refusals = time.monotonic() + wait, self._refusals + 1
        self._refused = why


def accepted(workspace: Workspace, entry: HostEntry) -> Said:
    """What SkyPilot says to the resources of hosts.toml."""
    path = links.folder_of(workspace, entry.name) / "sky" / "trial.yaml"
    _written(path, sky_task.trial(entry))
    return sky_commands.call(["launch", "--dryrun", "--yes", str(path)], sky_commands.ASK_SECONDS)


def launched(path: Path, text: str, entry: HostEntry, attempt: Attempt, before: Callable[[], None]) -> Said:
    """Submit a managed job. Its answer may be lost; it is asked for by name before any second one.

    Args:
        before: notes on the disk that `sky` is started now: one that was never started is not asked for.
    """
    _written(path, text)
    secrets = ["--secret-file", str(Path(entry.env_file).expanduser())] if entry.env_file else []
    argv = ["jobs", "launch", "--yes", "--detach-run", "--name", sky_task.name_of(attempt), *secrets, str(path)]
    return sky_commands.call(argv, sky_commands.LAUNCH_SECONDS, before=before)


def _written(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def cancelled(jobs: Sequence[int]) -> Said:
    """Cancel managed jobs by their numbers."""
    return sky_commands.call(["jobs", "cancel", "--yes", *map(str, jobs)])


def refusal(entry: HostEntry, said: Said) -> OptsweepError:
    """What a person is told of a refusal."""
    words = sky_commands.MISSING if said.returncode == 127 else f"sky says: {said.words}"
    return OptsweepError(f"host {entry.name}: {words}", sky_commands.hint_for(f"{words} {said.error}"))


def folder_of(workspace: Workspace, entry: HostEntry) -> Path:
    """Where tasks and notes of submissions are."""
    return links.folder_of(workspace, entry.name) / "sky"


def json_intent(intent: dict[str, Any], datasets: set[tuple[str, str]]) -> dict[str, Any]:
    """An intent as the node reads it: which datasets it needs; where they are there is the node's own affair."""
    return {**intent, "datasets": sorted(map(list, datasets))}
