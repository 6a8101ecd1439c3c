"""A machine behind ssh as a `Site`: everything goes through one channel to its resident helper."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from optsweep_engines import datafiles, frames
from optsweep_engines.helper import CARRIED
from optsweep_tui import rundir
from optsweep_tui.dispatch.channel import Channel
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.mirror import Attempt, Mirror
from optsweep_tui.dispatch.site import Parcel, Seen, Staged
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

BATCH = 500
"""Parcels in one message."""
ROOM = frames.BODY_BYTES


class SshSite:
    """One host; connects when it is first needed, and again after `close`."""

    def __init__(self, workspace: Workspace, entry: HostEntry) -> None:
        self.name = entry.name
        self.entry = entry
        self._workspace = workspace
        self._channel: Channel | None = None
        self._lock = threading.RLock()
        self._connecting: subprocess.Popen[bytes] | None = None
        self._hung_up = False
        self._staged: set[tuple[str, str]] = set()
        self.mirror = Mirror(workspace.runs, workspace.queue / entry.name / "offsets.json", entry.name)
        self.hello: dict[str, Any] = {}
        """What the host said of itself at the last connection; empty before the first."""
        self.skew_seconds = 0.0
        """Of the host's clock against this machine's, at the connection."""

    # ------------------------------------------------------------ connection

    @property
    def connected(self) -> bool:
        """Whether a channel is open now."""
        return self._channel is not None and self._channel.alive

    def connect(self) -> dict[str, Any]:
        """The host's hello; opens the channel where none is open."""
        with self._lock:
            if self._channel is None or not self._channel.alive:
                self.close()
                try:
                    channel = Channel(self.entry, self._started)
                finally:
                    self._connecting = None
                started = time.time()
                channel.call("gc")
                self.skew_seconds = float(channel.hello["time"]) - started
                self._channel = channel
                self.hello = channel.hello
                self._staged.clear()
            return self._channel.hello

    def _started(self, process: subprocess.Popen[bytes]) -> None:
        self._connecting = process
        if self._hung_up:
            self.hang_up()

    def hang_up(self) -> None:
        """Nothing more will be asked: a connection that is just being made is not waited for. From any thread."""
        self._hung_up = True
        process = self._connecting
        if process is not None:
            with contextlib.suppress(OSError):
                process.terminate()

    def call(self, verb: str, header: dict[str, Any] | None = None, body: bytes = b"", seconds: float = 45.0) -> Any:
        """One message to the helper: (header, body) of its answer; see `Channel.call`."""
        with self._lock:
            self.connect()
            assert self._channel is not None
            return self._channel.call(verb, header, body, seconds)

    def close(self) -> None:
        """Let go of the connection."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    # ------------------------------------------------------------ bringing

    def stage(self, datasets: Iterable[tuple[str, str]]) -> Staged:
        """The engine came with the connection; datasets are sent piece by piece, from where an earlier sending stopped."""
        hello = self.connect()
        for name, sha256 in datasets:
            if (name, sha256) not in self._staged:
                self._send_dataset(name, sha256)
                self._staged.add((name, sha256))
        root = str(hello["root"])
        return Staged(
            python=str(hello["executable"]),
            engine=str(hello["engine_home"]),
            data=f"{root}/data",
            runs=f"{root}/runs",
            root=root,
        )

    def _send_dataset(self, name: str, sha256: str) -> None:
        key = {"name": name, "sha256": sha256}
        state, _ = self.call("data_state", key)
        if state["there"]:
            return
        here = self._workspace.data / f"{name}-{sha256[:12]}"
        if not (here / "manifest.json").is_file():
            raise OptsweepError(f"{here}: dataset {name} is not prepared here", "optsweep run prepares it")
        for file in datafiles.FILES:
            offset = int(dict(state["sizes"]).get(file, 0))
            with open(here / file, "rb") as source:
                source.seek(offset)
                while piece := source.read(frames.BODY_BYTES):
                    self.call("data_piece", {**key, "file": file, "offset": offset}, piece)
                    offset += len(piece)
        self.call("data_end", key, seconds=600.0)

    def put(self, parcels: Sequence[Parcel]) -> dict[str, str]:
        """Specs and users' own optimizers go along."""
        answers: dict[str, str] = {}
        for start in range(0, len(parcels), BATCH):
            batch = [self._packed(parcel) for parcel in parcels[start : start + BATCH]]
            answer, _ = self.call("put", {"parcels": batch})
            answers |= {parcel.name: str(answer["answers"][parcel.name]) for parcel in parcels[start : start + BATCH]}
        return answers

    def _packed(self, parcel: Parcel) -> dict[str, Any]:
        run_folder = self._workspace.runs / parcel.run_id
        beside = {name: run_folder / name for name in CARRIED if (run_folder / name).exists()}
        return {
            "run_id": parcel.run_id,
            "attempt": parcel.attempt,
            "intent": dict(parcel.intent),
            "enqueue": parcel.enqueue,
            "spec": rundir.read_spec(run_folder).to_dict(),
            "files": {name: base64.b64encode(path.read_bytes()).decode() for name, path in beside.items()},
        }

    def write(self, name: str, data: bytes) -> str:
        """Under `files` of the root there."""
        return str(self.call("write", {"name": name}, data)[0]["path"])

    # ------------------------------------------------------------ what became of it

    def seen(self, attempts: Sequence[Attempt]) -> dict[Attempt, Seen]:
        """Phases only."""
        return {attempt: _seen(row) for attempt, row in self.news(attempts, room=0).items()}

    def refresh(self, attempts: Sequence[Attempt]) -> None:
        """Until everything that is there is here."""
        left = list(attempts)
        while left:
            rows = self.news(left)
            ended = [attempt for attempt, row in rows.items() if self.mirror.end(attempt, row)]
            left = [
                attempt
                for attempt, row in rows.items()
                if attempt not in ended and (row["files"] or row.get("phase") == "ended")
            ]
        self.mirror.keep(now=True)

    def news(self, attempts: Sequence[Attempt], room: int = ROOM) -> dict[Attempt, dict[str, Any]]:
        """One question about many attempts; what is new of their streams is written into the workspace.

        Raises:
            Unreachable, OptsweepError: as `Channel.call`; Misbehaving: the answer does not fit.
            OSError: it cannot be written here.
        """
        asked = list(attempts)
        question = [[run_id, number, self.mirror.marks((run_id, number))] for run_id, number in asked]
        answer, body = self.call("sync", {"attempts": question, "room": room})
        return self.mirror.take(asked, answer.get("rows"), body)

    def cancel(self, run_ids: Sequence[str]) -> None:
        """The marker, there."""
        self.call("cancel", {"run_ids": list(run_ids)})

    def scheduler(self, argv: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        """One command of the scheduler on that machine."""
        answer, _ = self.call("scheduler", {"argv": list(argv), "stdin": stdin}, seconds=90.0)
        return int(answer["returncode"]), str(answer["stdout"]), str(answer["stderr"])


def _seen(row: dict[str, Any]) -> Seen:
    names = {item.name for item in dataclasses.fields(Seen)}
    return Seen(**{key: value for key, value in row.items() if key in names})
