"""The launch shim: `python -m optsweep_engines.shim --queue Q --runs R --slot 0` works one slot until its queue is empty.

For every attempt: claim it (never twice), hold its lock for life, start the engine in a session of its own, renew a
lease, pass a stop on, and write exit.json whatever happened. It outlives the controller. Stdlib only; `--attempt DIR`
runs one attempt and leaves, for schedulers that have a queue of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_engines.run import EXIT_PREEMPTED, EXIT_SUPERSEDED

LEASE_SECONDS = 10.0
"""Between two renewals of a lease."""
POLL_SECONDS = 0.2
"""Between two looks at the cancel marker and the lease."""
GRACE_SECONDS = 30.0
"""From TERM, on which the engine saves a checkpoint, to KILL."""


class EngineProcess:
    """One warm engine process and the socket to it."""

    def __init__(self, first_attempt: Path, environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = os.open(first_attempt / folder.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        command = [sys.executable, "-m", "optsweep_engines.run", "--serve", str(theirs.fileno())]
        self.process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            env=environment,
        )
        os.close(log)
        theirs.close()
        self.channel = ours

    @property
    def usable(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        """Signal the engine's whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Let the process end by itself, then make sure."""
        self.channel.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait()


class Shim:
    """Runs attempts one after the other on one slot."""

    together = False
    """Whether it trains attempts together with other machines, and none alone."""

    def __init__(self, environment: dict[str, str], job: str | None = None) -> None:
        """Nothing starts yet.

        Args:
            environment: of the engine.
            job: the scheduler's name of this process, for claims and endings.
        """
        self._environment = environment
        self._job = job
        self._engine: EngineProcess | None = None
        self._stopping = False

    def stop(self, _number: int, _frame: object) -> None:
        """Handler of TERM: end the attempt in hand as preempted, take no other."""
        self._stopping = True

    def stopping(self) -> bool:
        """True once TERM has come."""
        return self._stopping

    def close(self) -> None:
        """End the warm engine."""
        if self._engine is not None:
            self._engine.close()

    def close_engine(self) -> None:
        """End the warm engine, if there is one: the next attempt gets another."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _stop_now(self) -> bool:
        """Whether the engine is to stop because this worker is."""
        return self._stopping

    def _cut_short(self) -> dict[str, Any] | None:
        """The ending of an attempt that something beside its engine ends; looked at while it trains."""
        return None

    def attempt(self, attempt_folder: Path) -> bool:
        """Run one attempt to its end, with its pack where it has one; False when it was not ours to run."""
        locks = self._claimed(attempt_folder)
        if not locks:
            return False
        started = time.monotonic()
        try:
            for path in locks:
                folder.reserve(path)
            endings = self._train(locks)
        except OSError as error:
            self.close_engine()  # it may be training still: what is said to have ended must have ended
            ending: dict[str, Any] = {"returncode": None, "signal": None, "reason": "failed", "error": f"shim: {error}"}
            endings = [dict(ending) for _ in locks]
        for (path, lock), body in zip(locks.items(), endings, strict=True):
            body |= {"ended_at": time.time(), "seconds": round(time.monotonic() - started, 3)}
            body |= {"job": self._job} if self._job else {}
            try:
                folder.write_reserved(path / folder.EXIT, body)
            finally:
                os.close(lock)
        return True

    def _claimed(self, attempt_folder: Path) -> dict[Path, int]:
        """The attempt and what of its pack can be had, each with its lock; empty when it was not ours to run.

        A pack is claimed in its own order: where another shim holds an earlier member, it is about to take this one too.
        """
        locks: dict[Path, int] = {}
        for path in folder.pack_of(attempt_folder):
            run_folder = path.parent
            if folder.is_together(path) is not self.together:
                continue
            if (run_folder / folder.CANCEL).exists() or (path / folder.EXIT).exists():
                continue
            newest = folder.attempts(run_folder)
            if not newest or newest[-1][1].name != path.name:
                continue
            lock = folder.take_claim(path, self._job)
            if lock is not None:
                locks[path] = lock
            elif not locks:
                return {}
        return locks

    def _train(self, locks: dict[Path, int]) -> list[dict[str, Any]]:
        """Hand the attempts and their locks to the engine and wait; returns the bodies of their exit.json."""
        paths = list(locks)
        if self._engine is None or not self._engine.usable:
            if self._engine is not None:
                self._engine.close()
            self._engine = EngineProcess(paths[0], self._environment)
        engine = self._engine
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(engine.channel, [b"\n".join(os.fsencode(path) for path in paths)], list(locks.values()))
        cancels = [path.parent / folder.CANCEL for path in paths]
        lease_due, asked_at = 0.0, None
        while True:
            now = time.monotonic()
            if now >= lease_due:
                for path in paths:
                    self._renew(path, engine.process.pid)
                lease_due = now + LEASE_SECONDS
            # One member of a pack is cancelled by its marker, which the engine looks for; a signal would stop them all.
            ending = self._cut_short()
            if ending is not None:
                engine.signal(signal.SIGKILL)
                self.close_engine()
                return [dict(ending) for _ in paths]
            if asked_at is None and (self._stop_now() or all(cancel.exists() for cancel in cancels)):
                engine.signal(signal.SIGTERM)
                asked_at = now
            elif asked_at is not None and now - asked_at > GRACE_SECONDS:
                engine.signal(signal.SIGKILL)
            readable, _, _ = select.select([engine.channel], [], [], POLL_SECONDS)
            if readable:
                answer = b""
                with contextlib.suppress(ConnectionResetError):
                    answer = engine.channel.recv(len(paths))
                cancelled = [cancel.exists() for cancel in cancels]
                return self._endings(answer, asked_at is not None, cancelled)

    def _endings(self, answer: bytes, asked: bool, cancelled: list[bool]) -> list[dict[str, Any]]:
        assert self._engine is not None
        if answer and not asked:
            reasons = {EXIT_PREEMPTED: "preempted", EXIT_SUPERSEDED: "superseded"}
            return [
                {"returncode": status, "signal": None, "reason": reasons.get(status, "finished")} for status in answer
            ]
        engine, self._engine = self._engine, None
        engine.close()  # a process that was signalled, or died, serves no further attempt
        endings = []
        for index, marked in enumerate(cancelled):
            code = answer[index] if answer else engine.process.returncode
            reason = "cancelled" if marked else "preempted" if asked or code == EXIT_PREEMPTED else "finished"
            if not answer and not asked:
                reason = "died"
            killed = -code if code < 0 else None
            endings.append({"returncode": None if killed else code, "signal": killed, "reason": reason})
        return endings

    @staticmethod
    def _renew(attempt_folder: Path, engine_pid: int) -> None:
        lease = {
            "engine_pid": engine_pid,
            "engine_start": folder.process_start(engine_pid),
            "boot_id": folder.boot_id(),
            "renewed_at": time.time(),
            "uptime_seconds": time.clock_gettime(time.CLOCK_BOOTTIME),
        }
        try:
            folder.write_json(attempt_folder / folder.LEASE, lease)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise


def work_queue(shim: Shim, queue: Path, runs_root: Path) -> None:
    """Take the next unclaimed entry (`<order>.<run_id>.a<n>`) until none is left; an entry goes when its attempt ended.

    A queue with the marker of a drained host is left as it is: what runs is finished, nothing more is taken.
    """
    while not shim.stopping() and not (queue / folder.DRAINED).exists():
        for entry in sorted(os.listdir(queue)):
            _, _, name = entry.partition(".")
            run_id, _, attempt = name.partition(".")
            if not folder.is_run_id(run_id):
                continue
            target = runs_root / run_id / attempt
            if not target.is_dir() or (target / folder.EXIT).exists() or (target.parent / folder.CANCEL).exists():
                (queue / entry).unlink(missing_ok=True)
            elif not (target / folder.CLAIM).exists() and shim.attempt(target):
                (queue / entry).unlink(missing_ok=True)
                break
            if shim.stopping():
                return
        else:
            return


def hold_slot(path: Path) -> int | None:
    """Lock a slot for life; None when another shim has it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(20):  # a controller that looks whether the slot is free holds the lock for a moment
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(0.01)
    else:
        os.close(handle)
        return None
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, take the slot, work."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.shim", description=__doc__)
    parser.add_argument("--attempt", type=Path, help="run this one attempt folder")
    parser.add_argument("--queue", type=Path, help="folder of queue entries")
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--slot", type=int, default=0, help="number of this slot")
    parser.add_argument("--core", type=int, help="pin to this CPU core")
    parser.add_argument("--gpu", help="show only this GPU to the engine")
    options = parser.parse_args(arguments)
    environment = dict(os.environ)
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    if options.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = options.gpu
    shim = Shim(environment)
    signal.signal(signal.SIGTERM, shim.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if options.attempt is not None:
            return 0 if shim.attempt(options.attempt.resolve()) else 3
        if options.queue is None or options.runs is None:
            parser.error("--queue and --runs go together")
        slot = hold_slot(options.queue / f"slot-{options.slot}.lock")
        if slot is None:
            return 0
        work_queue(shim, options.queue, options.runs.resolve())
        os.close(slot)
    finally:
        shim.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
