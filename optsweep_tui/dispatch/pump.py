"""One thread per host that makes workspace and host agree: puts what is new there, brings what is new here, again and again.

Everything that it does follows from files, so it may be killed anywhere, and any other process goes on in its place. What
cannot be reached is left as it is: only the host's own word, by its locks and exit files, ends an attempt.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.core import RunSpec, read_by
from optsweep_tui.dispatch import links, told
from optsweep_tui.dispatch.links import Link
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.site import Parcel, Unreachable
from optsweep_tui.dispatch.sshsite import SshSite
from optsweep_tui.dispatch.teamsite import TeamSite
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

TICK_SECONDS = 0.5
"""Between two questions to a host with open attempts: what it writes is seen here within a second."""
IDLE_SECONDS = 2.0
LOOK_SECONDS = 2.0
LINK_SECONDS = 5.0
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Waits after connections that failed in a row."""
_STATES = {"waiting": "queued", "alive": "running", "silent": "running", "foreign": "running", "ended": "running"}


class Pump:
    """The agreement with one host."""

    def __init__(self, workspace: Workspace, site: SshSite) -> None:
        self._workspace, self.site = workspace, site
        self._turn = links.Turn(workspace, site.name)
        self._states: dict[Attempt, str] = {}
        self._told: set[str] = set()
        """Runs whose cancel marker is there."""
        self._failures = 0
        self._greeted: Mapping[str, Any] | None = None
        """The hello of the connection that was greeted: any call opens another one where that broke."""
        self._looked = 0.0
        self._link = links.read_link(workspace, site.name) or Link(state="unreachable")
        self._written = 0.0
        self._wake = threading.Event()
        self._settled = threading.Event()
        self.ticks = 0
        """Agreements, or failed tries, so far."""
        self._stop = False
        self._thread: threading.Thread | None = None
        self.changed: set[str] = set()
        """Runs whose files here have changed state since somebody looked."""

    # ------------------------------------------------------------ the thread

    def start(self) -> None:
        """Begin, if it has not begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"host {self.site.name}", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """There is something new to do."""
        self._wake.set()

    def leave(self) -> None:
        """Begin to end, without waiting for it."""
        self._stop = True
        self._wake.set()
        self.site.hang_up()

    def stop(self) -> None:
        """End the thread and the connection."""
        self.leave()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        self.site.close()
        self._turn.leave()

    def tried(self, seconds: float) -> bool:
        """Wait until a first attempt to connect has ended one way or the other; a second one where the first was cut."""
        deadline = time.monotonic() + seconds
        while self._settled.wait(max(0.0, deadline - time.monotonic())):
            if self.link.state != "unreachable" or self.ticks > 1 or time.monotonic() >= deadline:
                return True
            time.sleep(0.02)
        return False

    @property
    def holds(self) -> bool:
        """Whether this process is the one that talks to the host."""
        return self._turn.held

    @property
    def link(self) -> Link:
        """How the host is, as this process knows, or as the one that talks to it wrote."""
        if self._turn.held:
            return self._link
        return links.read_link(self._workspace, self.site.name) or self._link

    def _run(self) -> None:
        while not self._stop:
            wait = IDLE_SECONDS
            if self._turn.take():
                wait = self._try()
            self.ticks += 1
            self._settled.set()
            self._wake.wait(wait)
            self._wake.clear()

    def _try(self) -> float:
        """One agreement; returns the seconds until the next."""
        try:
            busy = self.tick()
            self._failures = 0
            return TICK_SECONDS if busy else IDLE_SECONDS
        except Unreachable as error:
            self._say("unreachable", str(error))
        except OptsweepError as error:
            self._say("refused", str(error))
        except OSError as error:
            self._say("refused", f"{error.filename or self._workspace.root} here: {error.strerror or error}")
        except Exception as error:  # a host may answer anything: the thread goes on, and says what came
            self.site.close()
            self._say(
                "refused",
                f"host {self.site.name} answered with nonsense: {type(error).__name__}: {told.plain(error, 200)}",
            )
        self._failures += 1
        return BACKOFF_SECONDS[min(self._failures, len(BACKOFF_SECONDS)) - 1]

    # ------------------------------------------------------------ one agreement

    def tick(self) -> bool:
        """Bring both sides to agreement; True while attempts are open.

        Raises:
            OptsweepError: the host cannot be reached or used. OSError: this machine's disk.
        """
        hello = self.site.connect()
        if hello is not self._greeted:
            try:
                self._greet(hello)
            except BaseException:
                self.site.close()  # what could not be greeted is asked anew, never used as it is
                raise
            self._greeted = hello
        attempts = self._open()
        fresh = [attempt for attempt in attempts if self._states[attempt] == "submitting"]
        problem = self.site.problem() if isinstance(self.site, TeamSite) else None
        if fresh and problem is None:
            self._submit(fresh)
        self._pass_cancels(attempts)
        known = [attempt for attempt in attempts if self._states.get(attempt) in ("queued", "running")]
        if known:
            self._learn(known)
        if known or time.monotonic() - self._looked > LOOK_SECONDS:
            self.site.call("advance")
        self._look()
        self.site.mirror.keep()
        self._say("connected", "", "" if problem is None else str(problem))
        return bool(attempts)

    def _greet(self, hello: Mapping[str, Any]) -> None:
        self._told.clear()
        host_id = host_id_of(hello)
        if str(hello["device"]) == "cuda" and not hello["gpus"]:
            raise OptsweepError(
                f"host {self.site.name}: device cuda is asked for, but no NVIDIA GPU is visible there",
                f'set hosts.{self.site.name}.device = "cpu", or mend its driver (nvidia-smi)',
            )
        before = self._link.host_id
        if before and before != host_id and any(state != "submitting" for state in self._acknowledged()):
            raise OptsweepError(
                f"host {self.site.name} has not the files that it had: {hello['root']} is another folder than before",
                f"is its disk mounted? If it was set up anew: optsweep hosts rm {self.site.name} --lost, then add it again",
            )
        self.site.call("drain", {"on": self.site.entry.drained})
        stale = links.given_up(self._workspace, host_id)
        if stale:
            answer, _ = self.site.call("fence", {"attempts": [list(attempt) for attempt in stale]})
            links.fenced(self._workspace, host_id, [a for a in stale if f"{a[0]}.a{a[1]}" in answer["ended"]])
        self._link = dataclasses.replace(
            self._link,
            host_id=host_id,
            slots=int(hello["slots"]),
            device=str(hello["device"])[:20],
            skew_seconds=round(self.site.skew_seconds, 3),
            libraries={str(key)[:40]: str(value)[:40] for key, value in dict(hello["libraries"]).items()},
            gpus=tuple(str(name)[:100] for name in list(hello["gpus"])[:64]),
            hostname=str(hello["hostname"])[:100],
        )

    def _acknowledged(self) -> Iterator[str]:
        """States of the open attempts."""
        for attempt in links.open_attempts(self._workspace, self.site.name):
            yield str((rundir.remote(self.site.mirror.folder_of(attempt)) or {}).get("state", "submitting"))

    def _open(self) -> list[Attempt]:
        """The attempts that are to be looked after, those that are over taken out."""
        found = []
        for attempt in links.open_attempts(self._workspace, self.site.name):
            where = self.site.mirror.folder_of(attempt)
            if attempt not in self._states:
                if (where / rundir.EXIT).exists() or not where.is_dir():
                    self._drop(attempt)
                    links.mark_closed(self._workspace, self.site.name, attempt)
                    continue
                self._states[attempt] = str((rundir.remote(where) or {}).get("state", "submitting"))
            found.append(attempt)
        for attempt in set(self._states) - set(found):
            del self._states[attempt]
        return found

    def _submit(self, attempts: Sequence[Attempt]) -> None:
        """Put attempts there; what was cancelled meanwhile is put too, unqueued, and ended: no late message can start it."""
        parcels, cancelled, specs = [], [], []
        for attempt in attempts:
            where = self.site.mirror.folder_of(attempt)
            intent, spec = links.read_plain(where / rundir.INTENT), _spec(where.parent)
            if intent is None or spec is None:
                continue  # a broken folder is told by `ls`; the others go on
            specs.append(spec)
            off = (where.parent / rundir.CANCEL).exists()
            cancelled += [attempt] if off else []
            parcels.append(Parcel(run_id=attempt[0], attempt=attempt[1], intent=intent, enqueue=not off))
        staged = self.site.stage(read_by(specs))
        # Whoever opened the attempt need not have been connected: only the host knows where its folders are.
        parcels = [
            dataclasses.replace(parcel, intent={**parcel.intent, "data_root": staged.data}) for parcel in parcels
        ]
        answers = self.site.put(parcels)
        for parcel in parcels:
            attempt = (parcel.run_id, parcel.attempt)
            if answers[parcel.name] == "stale":
                self._end_here(attempt, "stale", "a newer attempt of this run is on the host already")
            else:
                self._set(attempt, "queued", {})
        if cancelled:
            self._withdraw(cancelled, "cancelled")

    def _withdraw(self, attempts: Sequence[Attempt], reason: str) -> None:
        self.site.call("withdraw", {"attempts": [list(attempt) for attempt in attempts], "reason": reason})

    def withdraw(self, attempts: Sequence[Attempt]) -> None:
        """Take attempts back that have not begun: they will be tried elsewhere."""
        self._withdraw(attempts, "withdrawn")

    def _pass_cancels(self, attempts: Sequence[Attempt]) -> None:
        marked = {run_id for run_id, _ in attempts if (self._workspace.runs / run_id / rundir.CANCEL).exists()}
        if marked - self._told:
            self.site.cancel(sorted(marked - self._told))
        self._told = marked

    def _learn(self, attempts: Sequence[Attempt]) -> None:
        """Ask for news until a reply is not full any more."""
        left = list(attempts)
        while left and not self._stop:
            rows = self.site.news(left)
            off = [attempt for attempt, row in rows.items() if row.get("phase") == "waiting" and row.get("cancelled")]
            if off:
                self._withdraw(off, "cancelled")
            more = []
            for attempt, row in rows.items():
                if row.get("claim") and self._states[attempt] != "running":
                    self._set(attempt, "running", row)  # who claimed it is told even of a run that has ended already
                if self.site.mirror.end(attempt, row):
                    self._closed(attempt)
                    continue
                phase = row.get("phase")
                if phase == "absent":
                    self._end_here(attempt, "lost", "its host does not have it any more")
                    continue
                state = _STATES[str(phase)]
                if state != self._states[attempt]:
                    self._set(attempt, state, row)
                if phase == "ended" or any(news[2] for news in row["files"].values()):
                    more.append(attempt)
            came = any(news[2] for row in rows.values() for news in row["files"].values())
            ended = any(row.get("phase") == "ended" for row in rows.values())
            left = more if came and (ended or _full(rows)) else []

    def _set(self, attempt: Attempt, state: str, row: Mapping[str, Any], *, waits: str = "") -> None:
        """Write down what the host last said of an attempt, and what it waits for where that is not plain."""
        data = {
            "host": self.site.name,
            "state": state,
            "claim": told.claim(row.get("claim")),
            "changed_at": time.time(),
        } | ({"waits": waits} if waits else {})
        links.write_plain(self.site.mirror.folder_of(attempt) / rundir.REMOTE, data)
        self._states[attempt] = state
        self.changed.add(attempt[0])

    def _end_here(self, attempt: Attempt, reason: str, error: str) -> None:
        ending = {"returncode": None, "signal": None, "reason": reason, "error": error, "ended_at": time.time()}
        folder.write_json(self.site.mirror.folder_of(attempt) / rundir.EXIT, ending)
        self.site.mirror.forget([attempt])
        self._closed(attempt)

    def _closed(self, attempt: Attempt) -> None:
        self._drop(attempt)
        links.mark_closed(self._workspace, self.site.name, attempt)
        self._states.pop(attempt, None)
        self.changed.add(attempt[0])

    def _drop(self, attempt: Attempt) -> None:
        """Further machines are to hold nothing of it, before it is forgotten here."""
        if isinstance(self.site, TeamSite):
            self.site.over(attempt)

    def _look(self) -> None:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            answer, _ = self.site.call("look")
            path = links.folder_of(self._workspace, self.site.name) / "look.json"
            links.write_plain(path, {**told.look(answer), "looked_at": time.time()})

    def _say(self, state: str, error: str, held: str = "") -> None:
        """Write the link down when it changes, and now and then."""
        now = time.time()
        same = (state, error, held) == (self._link.state, self._link.error, self._link.held)
        self._link = dataclasses.replace(
            self._link,
            state=state,
            error=error,
            held=held,
            heard_at=now if state == "connected" else self._link.heard_at,
            since=self._link.since if same and self._link.since else now,
            written_at=now,
        )
        if not same or time.monotonic() - self._written > LINK_SECONDS:
            try:
                path = links.folder_of(self._workspace, self.site.name) / "link.json"
                links.write_plain(path, dataclasses.asdict(self._link))
                self._written = time.monotonic()
            except OSError:
                return  # a full disk here: the display waits, the runs do not


def host_id_of(hello: Mapping[str, Any]) -> str:
    """The name that a host has given itself: it becomes part of file names here.

    Raises:
        ValueError: it cannot be one.
    """
    host_id = str(hello["host_id"])
    if not host_id.isascii() or not host_id.isalnum() or len(host_id) > 64:
        raise ValueError("a host id that is none")
    return host_id


def _spec(run_folder: Path) -> RunSpec | None:
    try:
        return rundir.read_spec(run_folder)
    except OptsweepError:
        return None


def _full(rows: Mapping[Attempt, Mapping[str, Any]]) -> bool:
    """Whether a reply was so large that there is likely more."""
    return sum(int(news[2]) for row in rows.values() for news in row["files"].values()) > 4 << 20
