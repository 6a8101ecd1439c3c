"""The worker of a machine that trains each run together with others: `python -m optsweep_engines.shim_team --team FILE ...`.

The first machine takes runs from its queue in its order and waits for the others (`meeting`); they train what it says, so
that two controllers, or a controller that dies in between, cannot put them out of step. Each holds a claim, lease and lock
of its own; only the attempt folder of the first is read by anybody. What ends on one ends on all. Stdlib only.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hmac
import json
import os
import queue as queues
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from optsweep_engines import attempts, folder, sources, team, workers
from optsweep_engines.meeting import Meeting
from optsweep_engines.membership import Membership
from optsweep_engines.run import EXIT_FAILED
from optsweep_engines.shim import GRACE_SECONDS, LEASE_SECONDS, POLL_SECONDS, Shim, hold_slot, work_queue
from optsweep_engines.team import Gone, Team, Wire

MEETING_SECONDS = 120.0
"""How long the first machine waits for the others; OPTSWEEP_MEETING_SECONDS says otherwise."""
COMING_SECONDS = 0.5
"""Between two looks of a worker for the first machine."""
WORD_SECONDS = 5.0
"""From the failure of one engine until the others are ended: they may have to say why, too."""
END_SECONDS = 10.0
"""From the end of the first machine's engine until those of the others are killed."""


def _ending(reason: str, error: str | None = None) -> dict[str, Any]:
    return {"returncode": None, "signal": None, "reason": reason, "error": error}


class LeadShim(Shim):
    """The worker of the first machine."""

    together = True

    def __init__(self, environment: dict[str, str], file: Path) -> None:
        super().__init__(environment)
        self._own, self._file = dict(environment), file
        self._meeting: Meeting | None = None

    def _train(self, locks: dict[Path, int]) -> list[dict[str, Any]]:
        [path] = locks  # what goes over ssh goes one by one
        self.close_engine()  # it may hold a place among others that are gone
        try:
            ours = team.read(self._file)  # it may have changed since the attempt before
            self._meeting = meeting = Meeting(ours, path)
        except (ValueError, OSError) as error:
            return [self._no_place(error)]
        try:
            ended = self._gathered(path, meeting)
            if ended is not None:
                return [ended]
            try:
                place = meeting.go()
            except OSError as error:
                return [self._no_place(error)]
            self._environment = {**self._own, team.VARIABLE: json.dumps(dataclasses.asdict(place))}
            endings = super()._train(locks)
            return [self._judged(path, endings[0], meeting)]
        finally:
            if meeting.trouble is not None and self._engine is not None:
                self._engine.signal(signal.SIGKILL)  # it would wait for the others
            meeting.end()
            self._meeting = None
            self.close_engine()

    def _no_place(self, error: Exception) -> dict[str, Any]:
        """The machine's fault, not the run's: nothing else is taken until a controller starts a worker anew."""
        self._stopping = True
        return _ending("lost", f"the machines cannot meet: {error}")

    def _gathered(self, path: Path, meeting: Meeting) -> dict[str, Any] | None:
        """Wait for all; the ending where they do not come."""
        try:
            patience = float(self._own.get("OPTSWEEP_MEETING_SECONDS", MEETING_SECONDS))
        except ValueError:
            return _ending("failed", "OPTSWEEP_MEETING_SECONDS is no number of seconds")
        limit, lease_due = time.monotonic() + patience, 0.0
        while True:
            now = time.monotonic()
            if now >= lease_due:
                self._renew(path, os.getpid())
                lease_due = now + LEASE_SECONDS
            if (path.parent / folder.CANCEL).exists():
                return _ending("cancelled")
            if self.stopping() or meeting.stop_wanted:
                return _ending("preempted")
            if meeting.trouble is not None:
                return _ending("lost" if meeting.trouble.lost else "failed", meeting.trouble.text)
            missing = meeting.missing
            if not meeting.begun and not missing:
                meeting.begin()
            elif meeting.begun and meeting.ready:
                return None
            elif missing and now > limit:
                self._stopping = (
                    True  # whatever is queued would wait as long in vain: a controller starts a worker anew
                )
                why = meeting.absence()
                names = f"worker{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
                return _ending("lost", f"{names} did not come within {patience:g} s{f': {why}' if why else ''}")
            time.sleep(POLL_SECONDS / 4)

    def _cut_short(self) -> dict[str, Any] | None:
        assert self._meeting is not None
        if self._meeting.stop_wanted:
            self._stopping = True
        trouble = self._meeting.trouble
        if trouble is None or (not trouble.lost and time.monotonic() - trouble.since < WORD_SECONDS):
            return None
        return _ending("lost" if trouble.lost else "failed", trouble.text)

    def _judged(self, path: Path, ending: dict[str, Any], meeting: Meeting) -> dict[str, Any]:
        """A failure that the loss of a worker explains is none of the run."""
        if ending.get("returncode") != EXIT_FAILED:
            return ending
        limit = time.monotonic() + 2.0
        while meeting.trouble is None and time.monotonic() < limit:
            time.sleep(0.02)
        if meeting.trouble is None or not meeting.trouble.lost:
            return ending
        (path / folder.RECORD).unlink(missing_ok=True)
        return _ending("lost", meeting.trouble.text)


class FollowShim(Shim):
    """The worker of a further machine."""

    together = True

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__(environment)
        self._own = dict(environment)
        self._member: Membership | None = None
        self._stop_said: float | None = None

    def take(self, wire: Wire, attempt_folder: Path, process: int) -> None:
        """Wait with the others for the beginning of an attempt, and train it.

        Args:
            process: number of this machine.
        """
        self._member = member = Membership(wire, attempt_folder, process)
        self._stop_said = None
        try:
            while member.files is None and member.over is None and not self.stopping():
                time.sleep(POLL_SECONDS / 4)
            if member.files is not None and member.over is None and not self.attempt(attempt_folder):
                with contextlib.suppress(Gone):
                    wire.say(**{"is": "ended", "status": None, "error": "the attempt is not to be had there"})
        finally:
            member.close()
            self._member = None
            shutil.rmtree(attempt_folder / folder.CHECKPOINTS, ignore_errors=True)  # copies

    def _train(self, locks: dict[Path, int]) -> list[dict[str, Any]]:
        [path] = locks
        assert self._member is not None
        member = self._member
        try:
            try:
                ended = self._prepared(path, member)
            except Gone as error:
                ended = _ending("lost", f"the first machine was cut off: {error}")
            if ended is not None:
                return [ended]
            self._environment = {**self._own, team.VARIABLE: json.dumps(dataclasses.asdict(member.place))}  # type: ignore[arg-type]
            [ending] = super()._train(locks)
            self._report(path, ending)
            return [ending]
        finally:
            self.close_engine()

    def _prepared(self, path: Path, member: Membership) -> dict[str, Any] | None:
        """Have what the attempt begins with, and wait for the word to start; the ending where it does not come."""
        self._renew(path, os.getpid())
        if member.lacking:
            member.wire.say(**{"is": "need", "names": member.lacking})
        lease_due, ready = time.monotonic() + LEASE_SECONDS, False
        while member.place is None:
            if member.over is not None:
                return _ending("lost", member.over or "the first machine ended it before it began")
            if self.stopping():
                with contextlib.suppress(Gone):
                    member.wire.say(**{"is": "stop"})
                return _ending("preempted")
            if not ready and not member.lacking:
                member.wire.say(**{"is": "ready"})
                ready = True
            if time.monotonic() >= lease_due:
                self._renew(path, os.getpid())
                lease_due = time.monotonic() + LEASE_SECONDS
            time.sleep(POLL_SECONDS / 4)
        return None

    def _report(self, path: Path, ending: dict[str, Any]) -> None:
        """Tell the first machine how it ended here."""
        assert self._member is not None
        error = ""
        with contextlib.suppress(ValueError, OSError):
            record = folder.read_json(path / folder.RECORD)
            error = str((record or {}).get("error") or "") if isinstance(record, dict) else ""
        if ending.get("signal"):
            error = f"its engine was killed by signal {ending['signal']}"
        with contextlib.suppress(Gone):
            self._member.wire.say(**{"is": "ended", "status": ending.get("returncode"), "error": error})

    def _stop_now(self) -> bool:
        """What is asked of this machine is decided by the first one for all; only where it does not, the engine is ended."""
        if not self._stopping:
            return False
        if self._stop_said is None:
            self._stop_said = time.monotonic()
            with contextlib.suppress(Gone):
                assert self._member is not None
                self._member.wire.say(**{"is": "stop"})
        return time.monotonic() - self._stop_said > GRACE_SECONDS

    def _cut_short(self) -> dict[str, Any] | None:
        member = self._member
        if member is None or member.over is None:
            return None
        if member.over:
            return _ending("lost", member.over)
        if time.monotonic() - member.over_since > END_SECONDS:
            return _ending("lost", "its engine did not end when that of the first machine had")
        return None


def follow(shim: FollowShim, file: Path, queue: Path, runs: Path) -> None:
    """Train what the first machine trains, while there is anything in the queue here.

    Args:
        file: team.json, read again each time.

    Raises:
        ValueError: it is none.
    """
    while not shim.stopping() and _waiting(queue, runs):
        ours = team.read(file)
        if ours.leads:
            return
        connections: list[socket.socket] = []
        with contextlib.suppress(OSError):  # a name that is not known now
            connections = team.reached(ours)
        found = first_of([Wire(connection) for connection in connections], ours, runs, shim)
        if found is None:
            time.sleep(COMING_SECONDS)
        else:
            shim.take(*found, ours.process)


def first_of(wires: list[Wire], ours: Team, runs: Path, shim: Shim) -> tuple[Wire, Path] | None:
    """The connection that is the first machine's, and the attempt that it trains; the others are hung up.

    All are heard at once: what listens on a port before the first machine's may be anything, and say nothing.
    """
    heard: queues.SimpleQueue[tuple[Wire, Path | None]] = queues.SimpleQueue()

    def hear(wire: Wire) -> None:
        where = None
        try:
            where = met(wire, ours, runs, shim)
        except (Gone, KeyError, TypeError, ValueError, ArithmeticError, OSError):
            pass  # somebody else's port
        finally:
            heard.put((wire, where))

    for wire in wires:
        threading.Thread(target=hear, args=(wire,), daemon=True).start()
    found, limit = None, time.monotonic() + 2 * team.HELLO_SECONDS
    silent = len(wires)
    while silent and found is None and not shim.stopping() and time.monotonic() < limit:
        with contextlib.suppress(queues.Empty):
            wire, where = heard.get(timeout=POLL_SECONDS)
            silent -= 1
            found = None if where is None else (wire, where)
    for wire in wires:
        if found is None or wire is not found[0]:
            wire.close()
    return found


def met(wire: Wire, ours: Team, runs: Path, shim: Shim) -> Path | None:
    """The attempt that the first machine trains, each side having proved itself; None where it cannot be trained here.

    Raises:
        Gone, KeyError, TypeError, ValueError: that is not the first machine. OSError: this machine's disk.
    """
    said = wire.heard()
    run_id, number = team.words(said["run"], 32), team.whole(said["attempt"], 1, team.LARGEST_ATTEMPT)
    if said["optsweep"] != "meeting" or not folder.is_run_id(run_id):
        raise ValueError("no meeting")
    where = runs / run_id / f"a{number}"
    key, nonces = ours.key(run_id, number), (team.words(said["nonce"], 64), team.nonce())
    why = _unfit(where)
    own = team.proof(key, "worker", ours.process, nonces)
    wire.say(
        process=ours.process,
        nonce=nonces[1],
        proof=own,
        code=sources.digest(),
        why=why,
        never=(where / folder.EXIT).exists(),
    )
    answer = wire.heard()
    if not hmac.compare_digest(team.proof(key, "first", ours.process, nonces), team.words(answer["proof"], 64)):
        raise ValueError("no meeting of ours")
    wire.seal(team.line_key(key, ours.process, nonces), "worker", "first")
    if answer.get("leave"):
        shim.stop(0, None)  # a worker from before an update: a controller starts another
        return None
    return None if why else where


def _unfit(where: Path) -> str:
    """Why an attempt cannot be trained here; empty where it can."""
    if not (where / folder.INTENT).exists():
        return "does not have this run"
    if not folder.is_beside(where):
        return "has this run as a host of its own"
    if (where / folder.EXIT).exists():
        return "has ended this attempt already"
    if (where.parent / folder.CANCEL).exists():
        return "was told that the run is cancelled"
    return "holds it already" if (where / folder.CLAIM).exists() else ""


def _waiting(queue: Path, runs: Path) -> bool:
    """Whether an attempt waits here, after what died was settled and what is over dropped. No worker is beside this one."""
    found = False
    for entry, run_id, attempt in sorted(workers.entries(queue)):
        where = runs / run_id / attempt
        if where.is_dir() and not folder.is_beside(where):
            continue  # of this machine as a host of its own
        newest = folder.attempts(where.parent)
        if (where / folder.CLAIM).exists() and not (where / folder.EXIT).exists():
            attempts.settle(where)
        elif newest and newest[-1][1].name != attempt:
            attempts.withdraw(where, "superseded")
        if not where.is_dir() or (where / folder.EXIT).exists() or (where.parent / folder.CANCEL).exists():
            (queue / entry).unlink(missing_ok=True)
        else:
            found = True
    return found


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, take the slot, work."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.shim_team", description=__doc__)
    parser.add_argument("--queue", type=Path, required=True, help="folder of queue entries")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--team", type=Path, required=True, help="team.json of this machine")
    parser.add_argument("--slot", type=int, default=0, help="number of this slot")
    parser.add_argument("--gpu", help="show only these GPUs to the engine")
    options = parser.parse_args(arguments)
    environment = dict(os.environ)
    if options.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = options.gpu
    leads = team.read(options.team).leads
    shim = LeadShim(environment, options.team) if leads else FollowShim(environment)
    signal.signal(signal.SIGTERM, shim.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    slot = hold_slot(options.queue / f"slot-{options.slot}.lock")
    if slot is None:
        return 0
    try:
        if isinstance(shim, FollowShim):
            follow(shim, options.team, options.queue, options.runs.resolve())
        else:
            work_queue(shim, options.queue, options.runs.resolve())
    finally:
        shim.close()
    os.close(slot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
