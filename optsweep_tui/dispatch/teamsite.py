"""Several machines that train each run together, as one `Site`: the first one is asked, the others are kept in step with it.

What is put goes to the others first, so that the first machine never begins what they do not have. The truth about an
attempt is the first one's alone; when it is over there, what the others may still hold of it is ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optsweep_engines import folder, team
from optsweep_tui.dispatch import fingerprint, hostsfile, links
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.site import Parcel, Staged, Unreachable
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.dispatch.told import plain
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

FIRST_SECONDS = 40.0
"""How long the others are waited for the first time; later the first machine is heard while they are dialled."""
ADVANCE_SECONDS = 5.0
"""Between two times that the others are told to keep their workers going."""
AGAIN_SECONDS = 10.0
"""Between two tries to reach a worker that did not answer."""
LIBRARIES = ("jax", "jaxlib", "torch", "numpy")
"""Whose versions have to be the same on all machines."""
WAITING = ("cancel", "drop_checkpoints", "drop_states", "gc", "advance")
"""Verbs that the others are told, too, as they are."""


class WorkerSite(SshSite):
    """One of the further machines."""

    def __init__(self, workspace: Workspace, entry: HostEntry) -> None:
        super().__init__(workspace, entry)
        self.greeted: Mapping[str, Any] | None = None
        """The hello of the connection over which it was told who the others are."""
        self.again = 0.0
        """Monotonic seconds before which it is not tried again."""
        self.failure: OptsweepError | None = None
        """Why it could not be connected the last time."""
        self.dialling: threading.Thread | None = None

    def dial(self) -> threading.Thread:
        """Connect, in a thread of its own."""
        if self.dialling is None or not self.dialling.is_alive():
            self.dialling = threading.Thread(target=self._dial, name=f"host {self.name}", daemon=True)
            self.dialling.start()
        return self.dialling

    def _dial(self) -> None:
        try:
            self.connect()
            self.failure = None
        except OptsweepError as error:
            self.failure = error
        except Exception as error:  # a host may answer anything
            self.failure = OptsweepError(f"host {self.name} answered with nonsense: {type(error).__name__}")
        self.again = time.monotonic() + AGAIN_SECONDS

    def _packed(self, parcel: Parcel) -> dict[str, Any]:
        """Without the states that the run is to keep: the first machine keeps them."""
        packed = super()._packed(parcel)
        packed["files"].pop(folder.KEEP, None)
        return packed


class TeamSite(SshSite):
    """The first machine, and the others behind it."""

    def __init__(self, workspace: Workspace, entry: HostEntry) -> None:
        super().__init__(workspace, entry)
        self.others = [WorkerSite(workspace, other) for other in others_of(entry)]
        self._told: Mapping[str, Any] | None = None
        self._secret = ""
        self._staged_there: dict[str, Staged] = {}
        self._dialled = False
        self._advanced = 0.0

    # ------------------------------------------------------------ keeping them in step

    def problem(self) -> OptsweepError | None:
        """Connect what is not connected; why no run can begin now, naming the worker."""
        found: OptsweepError | None = None
        try:
            hello = self.connect()
            if self._told is not hello:
                answer, _ = self.call("team", self._team(0))
                self._secret = str(answer["secret"])
                if answer.get("deaf"):
                    raise OptsweepError(
                        f"{self.entry.ssh} cannot listen at {coordinator(self.entry)[0]}: {plain(answer['deaf'], 200)}",
                        f'set hosts.{self.name}.coordinator = "ADDRESS:FIRST-LAST" to its own one that the others reach',
                    )
                self._told = hello
        except OptsweepError as error:
            return error
        away = [other for other in self.others if not other.connected and time.monotonic() >= other.again]
        dials = [other.dial() for other in away]
        limit = time.monotonic() + (0.0 if self._dialled else FIRST_SECONDS)
        for thread in dials:
            thread.join(max(0.0, limit - time.monotonic()))
        self._dialled = True
        for index, other in enumerate(self.others, start=1):
            try:
                self._greet(other, index, hello)
            except OptsweepError as error:
                found = found or error
        return found

    def _greet(self, other: WorkerSite, index: int, first: Mapping[str, Any]) -> None:
        """Have a worker know the others, and end what it should not run any more.

        Raises:
            Unreachable, OptsweepError: it cannot train with the first machine now.
        """
        if not other.connected:
            step = f"optsweep hosts check {self.name} tells more"
            raise other.failure or Unreachable(f"host {other.name} does not answer", step)
        try:
            hello = other.hello
            if other.greeted is not hello:
                why = unlike(first, hello)
                if why:
                    raise OptsweepError(
                        f"host {other.name} has {why}", "machines that train together need the same versions"
                    )
                if hello["host_id"] == first["host_id"]:
                    raise OptsweepError(
                        f"host {other.name} keeps its files where the first machine does",
                        f"set hosts.{self.name}.root to a folder of each machine's own disk",
                    )
                for twin in self.others:
                    if twin is not other and twin.connected and twin.hello.get("host_id") == hello["host_id"]:
                        raise OptsweepError(
                            f"host {other.name} keeps its files where worker {twin.entry.ssh} does",
                            f"one machine under two names? Leave one in hosts.{self.name}.workers, or give each a disk",
                        )
                for name in hostsfile.read(self._workspace):
                    known = links.read_link(self._workspace, name) if name != self.name else None
                    if known is not None and known.host_id == hello["host_id"]:
                        raise OptsweepError(
                            f"host {other.name} keeps its files where host {name} does",
                            f"optsweep hosts rm {name}, or give one of them another root",
                        )
                other.call("team", self._team(index))
                other.greeted = hello
            self._end_what_is_over(other, str(hello["host_id"]))
        except OptsweepError:
            other.again = time.monotonic() + AGAIN_SECONDS
            other.greeted = None
            raise

    def _team(self, process: int) -> dict[str, Any]:
        address, ports = coordinator(self.entry)
        data = {
            "process": process, "workers": [self.entry.ssh, *self.entry.workers], "address": address, "ports": list(ports),
        }  # fmt: skip
        return {**data, "secret": self._secret} if process else data

    def _end_what_is_over(self, other: WorkerSite, host_id: str) -> None:
        stale = links.given_up(self._workspace, host_id)
        if stale:
            why = "its attempt is over on the first machine"
            answer, _ = other.call("fence", {"attempts": [list(attempt) for attempt in stale], "why": why})
            links.fenced(self._workspace, host_id, [a for a in stale if f"{a[0]}.a{a[1]}" in answer["ended"]])

    def over(self, attempt: Attempt) -> None:
        """An attempt has ended on the first machine: the others are to hold nothing of it."""
        for host_id in self._ids().values():
            links.give_up(self._workspace, host_id, [attempt])

    def abandon(self, attempts: Sequence[Attempt]) -> None:
        """End attempts on the others now, and on those that do not answer when they come back."""
        for attempt in attempts:
            self.over(attempt)
        for thread in [other.dial() for other in self.others if not other.connected]:
            thread.join(FIRST_SECONDS)
        for other in self.others:
            if other.connected:
                with contextlib.suppress(OptsweepError):
                    self._end_what_is_over(other, str(other.hello["host_id"]))

    def _ids(self) -> dict[str, str]:
        """Host id of every worker that was ever greeted, by its target."""
        known = links.read_plain(self._ids_path) or {}
        found = {str(name): str(host_id) for name, host_id in known.items() if str(host_id).isalnum()}
        for other in self.others:
            if other.greeted is not None and found.get(str(other.entry.ssh)) != other.greeted["host_id"]:
                found[str(other.entry.ssh)] = str(other.greeted["host_id"])
                folder.write_json(self._ids_path, found)
        return found

    @property
    def _ids_path(self) -> Any:
        return links.folder_of(self._workspace, self.name) / "workers.json"

    # ------------------------------------------------------------ the verbs of a site

    def call(self, verb: str, header: dict[str, Any] | None = None, body: bytes = b"", seconds: float = 45.0) -> Any:
        """One message to the first machine, and to the others where they are to do the same."""
        answer = super().call(verb, header, body, seconds)
        if verb == "advance" and time.monotonic() - self._advanced < ADVANCE_SECONDS:
            return answer
        if verb == "advance":
            self._advanced = time.monotonic()
        if verb in WAITING:
            self._also(verb, header or {})
        elif verb == "withdraw":
            self._also("fence", {"attempts": _pairs(answer[0].get("withdrawn", []))})
        elif verb == "fence":
            self._also("fence", {"attempts": _pairs(answer[0].get("ended", []))})
        return answer

    def _also(self, verb: str, header: Mapping[str, Any]) -> None:
        for other in self.others:
            if other.greeted is not None and other.connected:
                try:
                    other.call(verb, dict(header))
                except OptsweepError:
                    other.greeted = None  # it is asked anew, and then ends what is over

    def stage(self, datasets: Iterable[tuple[str, str]]) -> Staged:
        """On all of them.

        Raises:
            Unreachable, OptsweepError: as `Site.stage`, naming the worker.
        """
        wanted = list(datasets)
        problem = self.problem()
        if problem is not None:
            raise problem
        for other in self.others:
            self._staged_there[other.name] = other.stage(wanted)
        return super().stage(wanted)

    def put(self, parcels: Sequence[Parcel]) -> dict[str, str]:
        """To the others first: the first machine begins nothing that they do not have."""
        for other in self.others:
            staged = self._staged_there[other.name]
            own = [
                dataclasses.replace(parcel, intent={**parcel.intent, "data_root": staged.data, "beside": True})
                for parcel in parcels
            ]
            other.put(own)
            self._ids()
        return super().put([dataclasses.replace(p, intent={**p.intent, "together": True}) for p in parcels])

    def hang_up(self) -> None:
        """All of them."""
        super().hang_up()
        for other in self.others:
            other.hang_up()

    def close(self) -> None:
        """All of them."""
        super().close()
        for other in getattr(self, "others", ()):
            other.close()
            other.greeted = None


def others_of(entry: HostEntry) -> list[HostEntry]:
    """The further machines of an entry, as entries of their own; their names are for messages."""
    return [
        dataclasses.replace(
            entry, name=f"{entry.name} worker {target}", ssh=target, workers=(str(entry.ssh),), drained=False
        )
        for target in entry.workers
    ]


def site_of(workspace: Workspace, entry: HostEntry) -> SshSite:
    """The site of a host behind ssh: one machine, or several that train together."""
    return TeamSite(workspace, entry) if entry.workers else SshSite(workspace, entry)


def coordinator(entry: HostEntry) -> tuple[str, tuple[int, int]]:
    """Address and ports of the first machine, as the others reach it."""
    if entry.coordinator is None:
        assert entry.ssh is not None
        return fingerprint.address(entry.ssh).hostname, team.PORTS
    match = hostsfile.COORDINATOR.fullmatch(entry.coordinator)
    assert match is not None
    ports = (int(match[3]), int(match[4])) if match[3] else team.PORTS
    return match[1].strip("[]"), ports


def unlike(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In which versions two machines differ; empty where they are alike."""
    found = []
    if str(first["python"]).rpartition(".")[0] != str(other["python"]).rpartition(".")[0]:
        found.append(f"Python {other['python']}, the first machine {first['python']}")
    here, there = dict(first["libraries"]), dict(other["libraries"])
    for name in LIBRARIES:
        if here.get(name) != there.get(name):
            found.append(f"{name} {there.get(name, 'missing')}, the first machine {here.get(name, 'none')}")
    return "; ".join(found)


def _pairs(names: Sequence[str]) -> list[list[Any]]:
    """[run id, number] of "<run id>.a<n>"."""
    split = [str(name).partition(".a") for name in names]
    return [[run_id, int(number)] for run_id, _, number in split if number.isdigit()]
