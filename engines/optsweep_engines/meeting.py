"""The first machine's side of a run over several: it waits for the others, hands them what they lack, hears when one is gone.

Threads listen and speak; the worker looks at `missing`, `ready` and `trouble` between two looks at its engine. Stdlib only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import folder, kept, sources, team
from optsweep_engines.spec import RunSpec
from optsweep_engines.team import Gone, Place, Team, Wire

CHECKPOINT, STATE = "checkpoint", "state"
"""What a file is to a run: its own newest state, or that of the run which it begins with."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why the attempt cannot go on."""

    text: str
    lost: bool
    """The worker, or its engine, went without a word: the run is tried again. False: its engine says that it failed."""
    since: float
    """Monotonic seconds."""


class Member:
    """A worker that has come."""

    def __init__(self, process: int, name: str, wire: Wire) -> None:
        self.process, self.name, self.wire = process, name, wire
        self.ready = False
        self.over = False
        """Its engine has ended well."""


class Meeting:
    """One attempt's."""

    def __init__(self, ours: Team, attempt_folder: Path) -> None:
        """Listen.

        Raises:
            OSError: the address is none of this machine, or no port is free.
        """
        self._team, self._folder = ours, attempt_folder
        self._run_id, self._attempt = attempt_folder.parent.name, folder.attempt_number(attempt_folder.name)
        self._key = ours.key(self._run_id, self._attempt)
        self._members: dict[int, Member] = {}
        self._unfit: dict[int, str] = {}
        """What workers said that came and cannot train."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._trouble: Trouble | None = None
        self._files: dict[str, Path] = {}
        self.begun = False
        self.stop_wanted = False
        """A worker is asked to stop by its own machine."""
        self._socket = team.listening(ours)
        for work in (self._accept, self._beat):
            threading.Thread(target=work, daemon=True).start()

    # ------------------------------------------------------------ what the worker looks at

    @property
    def missing(self) -> list[str]:
        """Workers that have not come."""
        with self._lock:
            return [name for index, name in enumerate(self._team.workers) if index and index not in self._members]

    def absence(self) -> str:
        """What is known of those that have not come, for a message."""
        return "; ".join(f"{self._team.workers[index]} {why}" for index, why in sorted(self._unfit.items()))

    @property
    def ready(self) -> bool:
        """All have claimed the attempt and have what it begins with."""
        with self._lock:
            return all(member.ready for member in self._members.values())

    @property
    def trouble(self) -> Trouble | None:
        """The first that there was."""
        return self._trouble

    def begin(self) -> None:
        """All are there: have them claim the attempt."""
        found = list(begins_with(self._folder))
        self._files = {path.name: path for _, _, path in found}
        self.begun = True
        told = [
            {"kind": kind, "run": run_id, "name": path.name, "size": path.stat().st_size}
            for kind, run_id, path in found
        ]
        self._say_all(do="begin", files=told)

    def go(self) -> Place:
        """Have all engines start; this machine's place."""
        place = Place(
            process=0, processes=len(self._team.workers), address=str(self._socket.getsockname()[0]),
            port=team.free_port(self._team), own_address=str(self._socket.getsockname()[0]),
            token=hmac.new(self._key, team.nonce().encode(), "sha256").hexdigest(),
        )  # fmt: skip
        self._say_all(do="go", place=dataclasses.asdict(place))
        return place

    def end(self) -> None:
        """The attempt is over on all of them."""
        self._ended.set()
        with self._lock:
            members = list(self._members.values())
        for member in members:
            with contextlib.suppress(Gone):
                member.wire.say(do="end")
            member.wire.close()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    # ------------------------------------------------------------ threads

    def _say_all(self, **message: Any) -> None:
        with self._lock:
            members = list(self._members.values())
        for member in members:
            with contextlib.suppress(Gone):  # its own thread notices
                member.wire.say(**message)

    def _beat(self) -> None:
        while not self._ended.wait(team.BEAT_SECONDS):
            with self._lock:
                members = list(self._members.values())
            for member in members:
                with contextlib.suppress(Gone):  # its own thread notices
                    member.wire.beat("do")

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._meet, args=(Wire(connection, team.COMER_SECONDS),), daemon=True).start()

    def _meet(self, wire: Wire) -> None:
        """One that has come: prove each other, then listen."""
        try:
            member = self._proved(wire)
            if member is None:
                wire.close()
                return
        except (Gone, KeyError, TypeError, ValueError):
            wire.close()  # nobody of ours
            return
        try:
            wire.patience(team.SILENT_SECONDS)
            while True:
                self._hear(member, wire.heard())
        except (Gone, KeyError, TypeError, ValueError, OSError) as error:
            wire.close()
            self._left(member, str(error))

    def _proved(self, wire: Wire) -> Member | None:
        own = team.nonce()
        wire.say(optsweep="meeting", run=self._run_id, attempt=self._attempt, nonce=own)
        said = wire.heard()
        process = team.whole(said["process"], 1, len(self._team.workers) - 1)
        nonces = own, team.words(said["nonce"], 64)
        if not hmac.compare_digest(team.proof(self._key, "worker", process, nonces), team.words(said["proof"], 64)):
            return None
        name = self._team.workers[process]
        other = said["code"] != sources.digest()
        wire.say(proof=team.proof(self._key, "first", process, nonces), leave=other)
        wire.seal(team.line_key(self._key, process, nonces), "first", "worker")
        why = "has another version of the engine" if other else str(said.get("why") or "")[:300]
        if said.get("never"):
            self._told(f"worker {name} {why}", lost=True)
        with self._lock:
            if why:
                self._unfit[process] = why
            elif process in self._unfit:
                del self._unfit[process]
            if why or self.begun or self._ended.is_set():
                return None
            before = self._members.get(process)
            member = self._members[process] = Member(process, name, wire)
        if before is not None:
            before.wire.close()
        return member

    def _hear(self, member: Member, message: dict[str, Any]) -> None:
        said = message.get("is")
        if said == "need":
            for name in message["names"]:
                path = self._files[str(name)]
                member.wire.say_file(path, path.stat().st_size, do="file", name=path.name)
        elif said == "ready":
            member.ready = True
        elif said == "stop":
            self.stop_wanted = True
        elif said == "ended":
            status, error = message.get("status"), str(message.get("error") or "")[:1000]
            member.over = status == 0
            if status is None:
                self._told(f"worker {member.name}: {error or 'its engine died'}", lost=True)
            elif status not in (0, 75, 76):  # preempted and superseded ones end everywhere
                self._told(f"worker {member.name}: {error or f'its engine ended with status {status}'}", lost=False)

    def _left(self, member: Member, how: str) -> None:
        with self._lock:
            if self._members.get(member.process) is not member:
                return  # it has come again
            if not self.begun:
                del self._members[member.process]
                return
        if not member.over and not self._ended.is_set():
            self._told(f"worker {member.name} was cut off: {how}", lost=True)

    def _told(self, text: str, *, lost: bool) -> None:
        with self._lock:
            if self._trouble is None or (lost and not self._trouble.lost):
                self._trouble = Trouble(text=text, lost=lost, since=time.monotonic())


def begins_with(attempt_folder: Path) -> list[tuple[str, str, Path]]:
    """(kind, run id, file) of the state that an attempt goes on from: its newest, else that of the one it starts from."""
    run_folder = attempt_folder.parent
    for _, path, _ in kept.valid_states(run_folder, kept.unmet(run_folder)):
        return [(CHECKPOINT, run_folder.name, path)]
    try:
        spec = RunSpec.from_dict(folder.read_json(run_folder / folder.SPEC) or {})
        return [] if spec.start is None else [(STATE, spec.start.run_id, kept.start_of(spec, run_folder.parent).path)]
    except (ValueError, TypeError, KeyError, OSError):
        return []  # the engine says what is wrong
