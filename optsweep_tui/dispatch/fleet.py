"""Several hosts as one dispatcher: each run goes where it would end first, and on exactly one host at a time.

Which host an attempt is on is in its intent. Where several hosts could take it, they are asked to write the choice down
before it is made (`Placements`), so that another controller, on another machine, makes the same one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optsweep_tui import rundir
from optsweep_tui.core import Host
from optsweep_tui.dispatch import hostsfile, links, opening, placing, retry, told
from optsweep_tui.dispatch.lines import spec_of
from optsweep_tui.dispatch.local import LocalDispatcher
from optsweep_tui.dispatch.mirror import Attempt
from optsweep_tui.dispatch.placements import Placements
from optsweep_tui.dispatch.protocol import Dispatcher, build
from optsweep_tui.dispatch.sshhost import SshDispatcher
from optsweep_tui.errors import OptsweepError
from optsweep_tui.rundir import RunState
from optsweep_tui.settings import Workspace

CONNECT_SECONDS = 40.0
SKEW_SECONDS = 5.0
"""A clock further off than this is worth a word."""
MEASURED_RUNS = 500
"""Newest finished runs that the speed of hosts is taken from."""


class Fleet:
    """The dispatcher of a workspace with hosts."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._entries = hostsfile.read(workspace)
        self._stamp = 0
        """Time of hosts.toml when it was last read."""
        self._choices = placing.Choices(workspace)
        self._local: LocalDispatcher | None = None
        self._members: dict[str, Any] = {}
        self._host_of: dict[tuple[str, int], str] = {}
        self._states: dict[str, RunState] = {}
        self._placements = Placements(self._others)
        self._measured: dict[str, float] | None = None
        self._whole: set[Attempt] = set()
        """Openings that are known to be whole."""
        self.attend()

    def attend(self) -> None:
        """Talk to every host that has attempts of this workspace."""
        for name in self._entries:
            if links.open_attempts(self._workspace, name):
                self._member(name)

    def _reread_if_changed(self) -> None:
        """A host that is drained, changed or taken out while this controller drives counts from now on."""
        with contextlib.suppress(OSError):
            stamp = hostsfile.path_of(self._workspace).stat().st_mtime_ns
            if stamp != self._stamp:
                with contextlib.suppress(OptsweepError):  # half edited: as it was until it is whole
                    self.reread()
                    self._stamp = stamp

    def reread(self) -> None:
        """Take up changes of hosts.toml: a host that changed or went is let go."""
        entries = hostsfile.read(self._workspace)
        for name in list(self._members):
            base = name.partition(":")[0]
            if entries.get(base) != self._entries.get(base):
                member = self._members.pop(name)
                if hasattr(member, "close"):
                    member.close()
        self._entries = entries
        self.attend()

    # ------------------------------------------------------------ members

    @property
    def host(self) -> Host:
        """All of them as one: slots are the sum."""
        members = [member.host for member in self._members.values()]
        device = members[0].device if members else "cpu"
        return Host(name="fleet", backend="fleet", slots=sum(host.slots for host in members) or 1, device=device)

    @property
    def local(self) -> LocalDispatcher:
        """This machine as a member."""
        if self._local is None:
            self._local = LocalDispatcher(self._workspace)
        return self._local

    def _member(self, name: str) -> Any:
        """The dispatcher of a host (NAME or NAME:PARTITION); it starts to connect.

        Raises:
            OptsweepError: no such host.
        """
        if name not in self._members:
            base, _, partition = name.partition(":")
            if base not in self._entries:
                raise OptsweepError(
                    f"host {base} is no longer in hosts.toml", f"optsweep hosts add {base} --ssh TARGET adds it again"
                )
            self._members[name] = build(self._workspace, self._entries[base], partition or None)
            pump = getattr(self._members[name], "pump", None)
            if pump is not None:
                pump.start()
        return self._members[name]

    @property
    def elsewhere(self) -> int:
        """Runs that another controller has given to a host that is not in hosts.toml here: they are not started twice."""
        return len(self._placements.elsewhere)

    @property
    def awaited(self) -> list[str]:
        """Submissions of which it is not known whether they were taken, a line each."""
        pumps = [getattr(member, "pump", None) for member in self._members.values()]
        return sorted(words for pump in pumps for words in list(getattr(pump, "awaited", {}).values()))

    def _others(self) -> list[Any]:
        """Members behind ssh, every host of hosts.toml among them: they remember where runs are."""
        found = []
        for name, entry in self._entries.items():
            if entry.ssh:
                found.append(self._member(name))
        return found

    def connect(self, names: Iterable[str], seconds: float = CONNECT_SECONDS) -> dict[str, str]:
        """Wait for the first word of these hosts; name -> why it cannot be used, for those that cannot."""
        members = {name: self._member(name) for name in names if name != "local"}
        deadline = time.monotonic() + seconds
        problems = {}
        for name, member in members.items():
            if hasattr(member, "connect"):
                link = member.connect(max(0.0, deadline - time.monotonic()))
                if link.state != "connected":
                    problems[name] = link.error or f"host {name} did not answer within {seconds:g} s"
                elif link.held:
                    problems[name] = link.held
            if getattr(member, "entry", None) is not None and member.entry.drained:
                problems[name] = f"host {name} is drained. optsweep hosts drain {name} --off lets it start runs again"
        return problems

    def unheard(self) -> list[str]:
        """Hosts that were called and have not answered yet, nor been given up."""
        pumps = {name: getattr(member, "pump", None) for name, member in self._members.items()}
        return sorted({name.partition(":")[0] for name, pump in pumps.items() if pump and not pump.tried(0.0)})

    def lacking(self, engines: Iterable[str], names: Iterable[str]) -> dict[str, str]:
        """Connected hosts that can run none of these engines, with the reason."""
        found = {}
        wanted = sorted(engines)
        for name in names:
            member: Any = self._member(name) if name != "local" else None
            if hasattr(member, "runs_engine") and not any(member.runs_engine(engine) for engine in wanted):
                only = member.entry.engine
                if only and only not in wanted:
                    found[name] = (
                        f"host {name} is for runs of engine {only} alone, these are of {' and '.join(wanted)}. "
                        f"Delete hosts.{name}.engine in hosts.toml, or choose another host"
                    )
                    continue
                there = ", ".join(f"{key} {value}" for key, value in (member.link.libraries or {}).items())
                found[name] = (
                    f"host {name} cannot run engine {' or '.join(wanted)}: its {member.entry.python} has {there or 'neither'}. "
                    f"pip install {' '.join(wanted)} there, or set hosts.{name}.python"
                )
        return found

    def cautions(self, names: Iterable[str]) -> list[str]:
        """What a user should know of hosts that can be used all the same."""
        found = []
        for name in names:
            link = getattr(self._members.get(name), "link", None)
            if link is not None and abs(link.skew_seconds) > SKEW_SECONDS:
                found.append(
                    f"the clock of host {name} is {abs(link.skew_seconds):.0f} s "
                    f"{'ahead' if link.skew_seconds > 0 else 'behind'}: times shown from there are off by it, "
                    "durations and results are not; start its time service (timedatectl set-ntp true)"
                )
        return found

    # ------------------------------------------------------------ the verbs

    def submit(self, run_ids: Iterable[str], *, asked: bool = False, packs: Sequence[Sequence[str]] = ()) -> list[str]:
        """Open the next attempt of every run that should have one, each on one host; returns the ids opened."""
        self._reread_if_changed()
        here: list[str] = []
        cut: list[RunState] = []
        away: list[tuple[RunState, str | None]] = []
        for run_id in run_ids:
            state = self._states.get(run_id) or rundir.state_of(self._workspace.runs / run_id)
            on = self._on(state)
            if state.state in ("submitting", "queued") and on != "local" and not asked:
                if (run_id, state.attempt) not in self._whole:
                    cut.append(state)
            elif on in (None, "local") and (self._choices.of(run_id) == placing.LOCAL or state.state == "queued"):
                here.append(run_id)
            elif asked or retry.wants_attempt(self._workspace.runs / run_id, state):
                away.append((state, on))
        self._complete(cut, asked)
        submitted = self.local.submit(here, asked=asked, packs=packs) if here else []
        fitting = {state.run_id: fits for state, _ in away if (fits := self._fitting(state.run_id))}
        away = [pair for pair in away if pair[0].run_id in fitting]
        choice = self._chosen([(state, on, state.attempt + 1) for state, on in away], fitting)
        return submitted + self._opened([state for state, _ in away], choice, asked)

    def _complete(self, cut: Sequence[RunState], asked: bool) -> None:
        """Openings that another controller may have left half: each is looked at once."""
        lost = [state for state in cut if self._on(state) is None]
        fitting = {state.run_id: fits for state in lost if (fits := self._fitting(state.run_id))}
        lost = [state for state in lost if state.run_id in fitting]
        choice = self._chosen([(state, None, state.attempt) for state in lost], fitting)
        for state in cut:
            name = self._on(state) or choice.get((state.run_id, state.attempt))
            if not name or name.partition(":")[0] not in self._entries:
                continue
            member = self._member(name)
            if hasattr(member, "intent"):
                intent = member.intent(asked=asked, why="its opening was cut short")
                opening.complete(self._workspace, state, intent)
                member.forget(state.run_id)
                self._whole.add((state.run_id, state.attempt))
            else:
                member.submit([state.run_id], asked=asked)

    def _fitting(self, run_id: str) -> list[str]:
        """The chosen hosts that could take a run now."""
        engine = spec_of(self._workspace, run_id).engine
        found = []
        for name in self._choices.of(run_id):
            if name == "local":
                found.append(name)
            elif name.partition(":")[0] in self._entries:
                member = self._member(name)
                if getattr(member, "usable", True) and getattr(member, "runs_engine", lambda _: True)(engine):
                    found.append(name)
        return found

    def _chosen(
        self, wanted: Sequence[tuple[RunState, str | None, int]], fitting: Mapping[str, list[str]]
    ) -> dict[Attempt, str]:
        """(run, attempt) -> host, written down on the hosts.

        Args:
            wanted: a run, the host of its attempt before, the number of the attempt that is to be opened.
        """
        if not wanted:
            return {}
        names = sorted({name for fits in fitting.values() for name in fits})
        places = {place.name: place for place in self._places(names)}
        choice: dict[Attempt, str] = {}
        for state, before, number in wanted:
            flops = spec_of(self._workspace, state.run_id).trained_flops
            fits = fitting[state.run_id]
            # A checkpoint stays where it was written: the next attempt goes there if it can.
            name = before if before in fits else placing.best((places[fit] for fit in fits), flops)
            assert name is not None
            places[name] = dataclasses.replace(places[name], load_flops=places[name].load_flops + flops)
            choice[state.run_id, number] = name
        return self._placements.agreed(choice)

    def _opened(self, states: Sequence[RunState], choice: Mapping[Attempt, str], asked: bool) -> list[str]:
        """Open the attempts on the hosts that were agreed on."""
        opened: list[str] = []
        batches: dict[str, list[str]] = {}
        for state in states:
            number = state.attempt + 1
            name = choice.get((state.run_id, number), "")
            if name == "local":
                batches.setdefault(name, []).append(state.run_id)
            elif name.partition(":")[0] in self._entries:
                member = self._member(name)
                if not hasattr(member, "intent"):
                    batches.setdefault(name, []).append(state.run_id)
                    continue
                intent = member.intent(asked=asked, why=opening.why(state, asked))
                if opening.opened(self._workspace, state.run_id, number, intent):
                    opened.append(state.run_id)
                    self._whole.add((state.run_id, number))
                member.forget(state.run_id)
            self._states.pop(state.run_id, None)
        for name, ids in batches.items():
            opened += (self.local if name == "local" else self._member(name)).submit(ids, asked=asked)
            for run_id in ids:
                self._states.pop(run_id, None)
        for name in set(choice.values()) - {"local", ""}:
            self._member(name).advance()
        return opened

    def _places(self, names: Sequence[str]) -> list[placing.Place]:
        devices = {}
        slots = {}
        for name in names:
            host = self.local.host if name == "local" else self._member(name).host
            devices[name], slots[name] = host.device, max(1, host.slots)
        speeds = placing.speeds(self._speeds(), devices)
        return [
            placing.Place(name=name, slots=slots[name], speed=speeds[name], load_flops=self._load(name))
            for name in names
        ]

    def _load(self, name: str) -> float:
        total = 0.0
        for run_id, _ in links.open_attempts(self._workspace, name.partition(":")[0]):
            try:
                total += spec_of(self._workspace, run_id).trained_flops
            except OptsweepError:
                continue
        return total

    def _speeds(self) -> dict[str, float]:
        """host -> median FLOP/s of its finished runs; measured once per controller."""
        if self._measured is None:
            rates: dict[str, list[float]] = {}
            for run_id in self._some_native():
                state = rundir.state_of(self._workspace.runs / run_id)
                if state.record is not None and state.record.train_seconds > 0 and state.state == "done":
                    on = rundir.host_of(state.attempt_folder) or "local"
                    rates.setdefault(on, []).append(
                        spec_of(self._workspace, run_id).trained_flops / state.record.train_seconds
                    )
            self._measured = {name: statistics.median(values) for name, values in rates.items()}
        return self._measured

    def _some_native(self) -> list[str]:
        """Runs that were trained here or on our hosts: enough of them for a median."""
        runs = self._workspace.runs
        native = (run_id for run_id in reversed(rundir.run_ids(runs)) if not rundir.is_imported(runs / run_id))
        return list(itertools.islice(native, MEASURED_RUNS))

    def _on(self, state: RunState) -> str | None:
        """The host of a run's newest attempt; None before the first, or where its opening was cut short."""
        if state.attempt == 0:
            return None
        key = (state.run_id, state.attempt)
        if key not in self._host_of:
            name = rundir.host_of(state.attempt_folder)
            if name is None:
                return None
            self._host_of[key] = name
        return self._host_of[key]

    def poll(self, run_ids: Iterable[str]) -> Mapping[str, RunState]:
        """States now; those of this machine are settled, those elsewhere are as their hosts last said."""
        states: dict[str, RunState] = {}
        by_host: dict[str, list[str]] = {}
        for run_id in run_ids:
            known = self._states.get(run_id)
            on = self._on(known) if known is not None else None
            if known is None or on is None:
                known = rundir.state_of(self._workspace.runs / run_id)
                on = self._on(known)
            if on is None or (on != "local" and on.partition(":")[0] not in self._entries):
                states[run_id] = rundir.state_of(self._workspace.runs / run_id)  # nobody tells of it: its files do
            else:
                by_host.setdefault(on, []).append(run_id)
        for name, ids in by_host.items():
            states |= self.local.poll(ids) if name == "local" else self._member(name).poll(ids)
        self._states |= states
        return states

    def advance(self) -> None:
        """Every member that has something to do."""
        if self._local is not None or any(on == "local" for on in self._host_of.values()):
            self.local.advance()
        for member in self._members.values():
            member.advance()

    def cancel(self, run_ids: Iterable[str]) -> None:
        """The marker here; pumps take it to the hosts."""
        rundir.cancel_all(self._workspace.runs, run_ids)
        for member in self._members.values():
            member.advance()

    def gc(self) -> int:
        """Stale entries of the queue here; hosts tidy theirs at each connection."""
        return self.local.gc()

    def drop_checkpoints(self) -> dict[str, tuple[int, int]]:
        """Remove the checkpoints of done runs on the hosts; host -> (folders, bytes), for those that answer."""
        done: dict[str, list[str]] = {}
        for run_id in rundir.native_ids(self._workspace.runs):
            state = rundir.state_of(self._workspace.runs / run_id)
            on = rundir.host_of(state.attempt_folder) if state.state == "done" else None
            name = (on or "").partition(":")[0]
            if name in self._entries and (self._entries[name].ssh is not None or self._entries[name].sky.storage):
                done.setdefault(name, []).append(run_id)
        self.connect(done)
        found = {}
        for name, ids in done.items():
            if self._member(name).link.state == "connected":
                with contextlib.suppress(OptsweepError):
                    answer, _ = self._member(name).pump.site.call("drop_checkpoints", {"run_ids": ids})
                    found[name] = told.removed(answer)
        return found

    def drop_states(self, wanted: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, dict[str, Any]]:
        """Remove states that runs keep on hosts; host -> its answer (count, bytes, dropped: run ids), of those that answer.

        Args:
            wanted: host -> run id -> steps.
        """
        self.connect(list(wanted))
        found = {}
        for name, states in wanted.items():
            if self._member(name).link.state == "connected":
                with contextlib.suppress(OptsweepError):
                    asked = {run_id: list(steps) for run_id, steps in states.items()}
                    found[name] = self._member(name).pump.site.call("drop_states", {"states": asked})[0]
        return found

    def close(self) -> None:
        """Let go of every host."""
        # All at once: hosts that hang at the connection are not waited for in turn.
        for member in self._members.values():
            if hasattr(member, "leave"):
                member.leave()
        for member in self._members.values():
            if hasattr(member, "close"):
                member.close()

    def flush(self, seconds: float) -> dict[str, str]:
        """Have every host with open attempts asked once more; name -> why it could not be, for those that could not."""
        members = {name: member for name, member in self._members.items() if hasattr(member, "pump")}
        due = {}
        for name, member in members.items():
            if links.open_attempts(self._workspace, name):
                member.pump.start()
                due[name] = member.pump.ticks + 2  # the one that is going on may have begun before this call
                member.pump.wake()
        deadline = time.monotonic() + seconds
        while due and time.monotonic() < deadline:
            for name in list(due):
                if members[name].pump.ticks >= due[name] or members[name].link.state != "connected":
                    if members[name].pump.tried(max(0.0, deadline - time.monotonic())):
                        del due[name]
                else:
                    members[name].pump.wake()
            time.sleep(0.02)
        waited = {name: m.link for name, m in members.items() if links.open_attempts(self._workspace, name)}
        return {name: link.error for name, link in waited.items() if link.state != "connected" and link.error}


def greeting(workspace: Workspace, entry: hostsfile.HostEntry) -> str:
    """Connect to a new host once; what is wrong with it, or nothing.

    Raises:
        OptsweepError: it keeps its files where another host of hosts.toml does; it is taken out again.
    """
    if entry.backend != "ssh":
        return ""
    member = build(workspace, entry)
    assert isinstance(member, SshDispatcher)
    try:
        link = member.connect()
        for other in hostsfile.read(workspace).values():
            known = links.read_link(workspace, other.name) if other.name != entry.name else None
            if known is not None and known.host_id and known.host_id == link.host_id:
                hostsfile.remove(workspace, entry.name)
                raise OptsweepError(
                    f"host {entry.name} keeps its files where host {other.name} does: the same machine, or a shared home",
                    f"another machine with that home needs --root of its own: --root ~/.optsweep-{entry.name}",
                )
        return link.held if link.state == "connected" else link.error
    finally:
        member.close()


_fleets: dict[Workspace, Fleet] = {}


def of(workspace: Workspace) -> Fleet:
    """The one fleet of a workspace in this process: each host is talked to by one thread of it."""
    if workspace not in _fleets:
        _fleets[workspace] = Fleet(workspace)
    _fleets[workspace].reread()
    return _fleets[workspace]


def dispatcher(workspace: Workspace) -> Dispatcher:
    """The dispatcher of a workspace: this machine alone where no run was ever sent elsewhere."""
    return of(workspace) if workspace.sends_elsewhere else LocalDispatcher(workspace)
