"""The engine process: `python -m optsweep_engines.run runs/<id>/a<n>` trains one attempt; the same on every host.

With `--serve FD` it stays warm and takes attempts from the shim over a socket, one at a time: importing a framework
costs seconds, a short run not much more.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import json
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optsweep_engines import folder, kept, sources, spare, team
from optsweep_engines.engine import Preempted, Superseded, load_engine
from optsweep_engines.spec import RunRecord, RunSpec

EXIT_FAILED = 1
EXIT_PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: try again later
EXIT_SUPERSEDED = 76
KEPT_CHECKPOINTS = 2
PR_SET_PDEATHSIG = 1  # linux/prctl.h

_stop_signal = False


class AttemptLog:
    """The RunLog of one attempt folder: whole lines, one O_APPEND write each."""

    def __init__(self, attempt_folder: Path, *, alone: bool = True) -> None:
        """Open the streams.

        Args:
            alone: False: in a pack, whose members are cancelled by their marker, without a signal to the process.
        """
        self._alone = alone
        self._folder = self.attempt_folder = attempt_folder
        self.run_folder = attempt_folder.parent
        self.runs_root = self.run_folder.parent
        self.attempt = int(attempt_folder.name[1:])
        self.optimizer_file = self.run_folder / folder.OPTIMIZER
        intent = folder.read_json(attempt_folder / folder.INTENT) or {}
        self.data_root = Path(intent.get("data_root", "data"))
        self.device = str(intent.get("device", "auto"))
        self.threads = int(intent.get("threads", 1))
        self.mesh: str | None = intent.get("mesh")
        self.diagnostics: dict[str, Any] | None = folder.read_json(self.run_folder / folder.DIAGNOSTICS)
        self._keeps = kept.unmet(self.run_folder)
        self._keeps_read = time.monotonic()
        self._checkpoint_seconds = float(intent.get("checkpoint_seconds", 30.0))
        self._last_checkpoint = self._looked = time.monotonic()
        self._metrics = self._open(folder.METRICS)
        self._events = self._open(folder.EVENTS)
        self._sequence = 0
        self.last_row: dict[str, Any] = {}

    def _open(self, name: str) -> int:
        return os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Close both streams."""
        os.close(self._metrics)
        os.close(self._events)

    def metric(self, row: dict[str, Any]) -> None:
        """Append one metrics line; a value that is not finite becomes null."""
        clean = {
            key: (None if isinstance(value, float) and not math.isfinite(value) else value)
            for key, value in row.items()
        }
        _write_line(self._metrics, clean)
        self.last_row = clean

    def event(self, kind: str, **fields: Any) -> None:
        """Append one events line."""
        self._sequence += 1
        _write_line(self._events, {"seq": self._sequence, "time": time.time(), "kind": kind, **fields})

    def stop_requested(self) -> str | None:
        """ "cancelled" where the run carries a cancel marker, else "preempted"; None until a signal came.

        In a pack the marker is looked for about once a second, for no signal comes for a single member.
        """
        if not _stop_signal:
            if self._alone or time.monotonic() - self._looked < 1.0:
                return None
            self._looked = time.monotonic()
            return "cancelled" if (self.run_folder / folder.CANCEL).exists() else None
        return "cancelled" if (self.run_folder / folder.CANCEL).exists() else "preempted"

    def checkpoint_due(self) -> bool:
        """True once the interval has passed since the last checkpoint (or since the start)."""
        return time.monotonic() - self._last_checkpoint >= self._checkpoint_seconds

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Publish a checkpoint under a name that carries its step and checksum; keep the newest two of this attempt."""
        where = self._folder / folder.CHECKPOINTS
        self._publish(where, step, write)
        for _, stale, _ in kept.listed(where)[KEPT_CHECKPOINTS:]:
            stale.unlink(missing_ok=True)
        self._last_checkpoint = time.monotonic()

    def save_kept(self, step: int, write: Callable[[Path], None]) -> None:
        """Publish the state after so many steps beside the attempts, where it stays, and other runs begin with it."""
        self._publish(self.run_folder / folder.KEPT, step, write)
        self._keeps = self._keeps - {step}
        self._tell_kept(step)

    def tell_kept(self) -> None:
        """Events of the states asked for that an earlier attempt kept: it may have been killed before it said so."""
        for step in sorted(kept.wanted(self.run_folder) & set(kept.steps(self.run_folder))):
            self._tell_kept(step)

    def _tell_kept(self, step: int) -> None:
        """By the hash of its parameters others begin with it, on whichever machine it lies."""
        for found, path, _ in kept.listed(self.run_folder / folder.KEPT):
            if found == step:
                with contextlib.suppress(ValueError, OSError):  # whoever begins with a damaged one is told
                    told = kept.read(path, self.run_folder.name, step)
                    self.event("kept", step=step, parameters_sha256=told.parameters_sha256)
                return

    @property
    def keeps(self) -> set[int]:
        """Steps whose state is asked for and not kept; what was asked for since is seen within a second."""
        if time.monotonic() - self._keeps_read > 1.0:
            self._keeps = kept.unmet(self.run_folder)
            self._keeps_read = time.monotonic()
        return self._keeps

    def _publish(self, where: Path, step: int, write: Callable[[Path], None]) -> None:
        """A file whose name carries step and checksum, whole or not at all."""
        where.mkdir(exist_ok=True)
        temporary = where / f".writing-{self.attempt}"
        for number in range(1, self.attempt + 1):  # of attempts that were killed; a newer one may be writing
            (where / f".writing-{number}").unlink(missing_ok=True)
        try:
            write(temporary)
            digest = kept.sha256_of(temporary)
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            self.require_newest()
            os.replace(temporary, where / kept.name_of(step, digest))
        except BaseException:
            temporary.unlink(missing_ok=True)  # half a checkpoint on a full disk would keep it full
            raise
        folder.sync_folder(where)

    def require_newest(self) -> None:
        """Raise Superseded when a newer attempt exists or the run folder was taken away."""
        numbers = [number for number, _ in folder.attempts(self.run_folder)]
        if not numbers or numbers[-1] != self.attempt:
            raise Superseded

    def checkpoints(self) -> Iterator[tuple[int, Path]]:
        """Valid checkpoints of all attempts and states kept, newest first; a wrong checksum is passed over with an event.

        While a state is asked for that is not kept yet, those after it are of no use.
        """

        def refused(path: Path) -> None:
            self.event("checkpoint_refused", file=path.name, reason="checksum differs")

        for step, path, _ in kept.valid_states(self.run_folder, self.keeps, refused):
            yield step, path


def _write_line(handle: int, row: dict[str, Any]) -> None:
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    written = os.write(handle, line)
    if written != len(line):
        raise OSError(28, "disk full: a line was cut")  # ENOSPC gives a short write first


def train_attempt(attempt_folder: Path, shared: Callable[[AttemptLog], Any] = lambda log: log) -> int:
    """Train one attempt to its end and write record.json; returns the exit status for exit.json.

    Args:
        shared: makes what the engine gets from the log, where several processes train together.
    """
    global _stop_signal
    _stop_signal = False
    log = AttemptLog(attempt_folder)
    try:
        spec = _spec_of(attempt_folder)
        log.require_newest()
        log.event("started", pid=os.getpid(), engine=spec.engine)
        log.tell_kept()
        record = load_engine(spec.engine).train(spec, shared(log))
    except Preempted:
        log.event("preempted")
        return EXIT_PREEMPTED
    except Superseded:
        return EXIT_SUPERSEDED
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()  # into log.txt, which a full disk refuses
        record = _failed(attempt_folder, log, error)
    return _written(attempt_folder, log, record)


def _with_others(log: AttemptLog) -> Any:
    """The log of an attempt that several machines train; the log itself where this one trains alone.

    Raises:
        ValueError: the engine cannot.
    """
    place = team.place()
    if place is None:
        return log
    name = _spec_of(log.attempt_folder).engine
    together = getattr(load_engine(name), "together", None)
    if together is None:
        raise ValueError(f"engine {name} trains on one machine: send its runs to a host without workers")
    return together(log, place)


def train_pack(attempt_folders: list[Path]) -> list[int]:
    """Train attempts of one shape in one program; each gets its own record. Returns their exit statuses.

    An error of the pack is one of each of its members: they are tried again one by one, where the guilty one shows.
    """
    global _stop_signal
    _stop_signal = False
    logs = [AttemptLog(path, alone=False) for path in attempt_folders]
    try:
        specs = [_spec_of(path) for path in attempt_folders]
        for spec, log in zip(specs, logs, strict=True):
            log.require_newest()
            log.event("started", pid=os.getpid(), engine=spec.engine, pack=len(specs))
            log.tell_kept()
        engine: Any = load_engine(specs[0].engine)
        records = engine.train_pack(specs, logs)
    except Superseded:
        return [EXIT_PREEMPTED] * len(logs)  # a newer attempt of one of them: the others go on from their checkpoints
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        records = [_failed(path, log, error) for path, log in zip(attempt_folders, logs, strict=True)]
    statuses = []
    for path, log, record in zip(attempt_folders, logs, records, strict=True):
        if record is None:
            log.event("preempted")
            log.close()
            statuses.append(EXIT_PREEMPTED)
        else:
            statuses.append(_written(path, log, record))
    return statuses


def _spec_of(attempt_folder: Path) -> RunSpec:
    spec = RunSpec.from_dict(folder.read_json(attempt_folder.parent / folder.SPEC) or {})
    if spec.run_id != attempt_folder.parent.name:
        raise ValueError(f"spec.json hashes to {spec.run_id}, the folder is {attempt_folder.parent.name}")
    return spec


def _written(attempt_folder: Path, log: AttemptLog, record: RunRecord) -> int:
    """Write the record, where this is still the newest attempt; returns the exit status."""
    record = dataclasses.replace(record, versions={**record.versions, sources.VERSION: sources.digest()})
    try:
        log.require_newest()
        folder.write_reserved(attempt_folder / folder.RECORD, record.to_dict())
    except Superseded:
        return EXIT_SUPERSEDED
    finally:
        log.close()
    return EXIT_FAILED if record.status in ("failed", "oom") else 0


def _first_step(run_folder: Path) -> int:
    """Steps of its trunk that a branch has not trained itself; 0 of another run, or where its spec cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return RunSpec.from_dict(folder.read_json(run_folder / folder.SPEC) or {}).first_step
    return 0


def _failed(attempt_folder: Path, log: AttemptLog, error: Exception) -> RunRecord:
    line = " ".join(f"{type(error).__name__}: {error}".split())[:2000]
    with contextlib.suppress(OSError):  # the record has a reserve for a full disk, the event has none
        log.event("failed", error=line)
    return RunRecord(
        run_id=attempt_folder.parent.name,
        attempt=log.attempt,
        status="oom" if isinstance(error, MemoryError) else "failed",
        train_loss=log.last_row.get("train_loss"),
        val_loss=None,
        steps=log.last_row.get("step", 0),
        started_from_step=_first_step(attempt_folder.parent) if log.last_row else 0,
        tokens=log.last_row.get("tokens", 0),
        train_seconds=log.last_row.get("train_seconds", 0.0),
        tokens_per_second=None,
        peak_bytes=None,
        optimizer_state_bytes=None,
        device=log.device,
        versions={"python": sys.version.split()[0], sources.VERSION: sources.digest()},
        error=line,
    )


def _on_term(_number: int, _frame: object) -> None:
    global _stop_signal
    _stop_signal = True


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the shim dies: an engine without its shim must not train on."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _redirect(attempt_folder: Path) -> None:
    """Send everything that is printed, by libraries too, to the attempt's log.txt."""
    handle = os.open(attempt_folder / folder.LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def serve(channel: socket.socket) -> None:
    """Take attempts from the shim until it closes the channel: a path with its lock in, an exit status out.

    Several paths, one a line, with a lock each, are a pack; as many statuses come back.
    """
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, 65536, folder.LARGEST_PACK)
        if not data:
            return
        attempt_folders = [Path(line) for line in data.decode().split("\n")]
        _redirect(attempt_folders[0])
        if len(attempt_folders) == 1:
            statuses = [train_attempt(attempt_folders[0], _with_others)]
        else:
            statuses = train_pack(attempt_folders)
        _flush()
        for descriptor in descriptors:
            os.close(descriptor)
        channel.sendall(bytes(statuses))


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.run", description=__doc__)
    parser.add_argument("attempt", nargs="?", type=Path, help="an attempt folder, runs/<id>/a<n>")
    parser.add_argument("--serve", type=int, metavar="FD", help="take attempts from this socket")
    parser.add_argument("--parent", type=int, metavar="PID", help="die with this process")
    options = parser.parse_args(arguments)
    spare.use()
    signal.signal(signal.SIGTERM, _on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.parent:
        _die_with_parent(options.parent)
    if options.serve is not None:
        serve(socket.socket(fileno=options.serve))
        return 0
    if options.attempt is None:
        parser.error("an attempt folder is needed")
    return train_attempt(options.attempt.resolve())


if __name__ == "__main__":
    sys.exit(main())
