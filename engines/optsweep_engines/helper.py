"""The resident helper on a host: answers framed messages of known verbs on standard input and output; stdlib only.

`bootstrap.py` becomes it, one per ssh channel; when the channel ends, so does the helper, and nothing else. All state is
in files under the root, so any number of helpers may serve the same host, one after the other or at once.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from optsweep_engines import attempts, datafiles, envfile, folder, frames, kept, sources, survey, team, workers

Header = dict[str, Any]
Answer = tuple[Header, bytes]

SCHEDULER = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo")
SCHEDULER_SECONDS = 60.0
STREAMS = (folder.METRICS, folder.EVENTS, folder.LOG)
CARRIED = (folder.OPTIMIZER, folder.DIAGNOSTICS, folder.KEEP)
"""Files that may lie beside a spec: a user's own optimizer, what the engine is asked to tell, states that it is to keep."""
LIBRARIES = ("numpy", "torch", "jax", "jaxlib", "optax", "safetensors", "array-api-compat")
LARGEST_BATCH = 20_000
FENCE_SECONDS = 20.0
"""For fencing in one message: an answer is waited for 45 s."""
REACH_SECONDS = 10.0
"""For one machine to reach another."""
SMALL_BYTES = 4 << 20
"""Largest record, exit or spec file."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}){0,4}")


class Refused(Exception):
    """A message that asks for what this helper does not do; its text goes back to the controller."""


class Helper:
    """The verbs. Each takes a header and a body, and may be sent again after a lost answer: twice is once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs, self.queue, self.data = root / "runs", root / "queue", root / "data"
        self._placed = root / "placed"
        for path in (root, self.runs, self.queue, self.data, self._placed):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._survey = survey.Survey()
        self._bench: workers.Bench | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        self.verbs: dict[str, Callable[[Header, bytes], Answer]] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    def answer(self, header: Header, body: bytes) -> Answer:
        """One message to one answer; what goes wrong is an answer too."""
        verb = self.verbs.get(str(header.get("verb")))
        try:
            if verb is None:
                raise Refused(f"verb {str(header.get('verb'))[:40]!r} is not known")
            return verb(header, body)
        except OSError as error:
            return {"refused": f"{error.filename or self.root}: {error.strerror or error}", "errno": error.errno}, b""
        except (Refused, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            return {"refused": f"message refused: {type(error).__name__}: {error}"[:500]}, b""

    # ------------------------------------------------------------ the machine

    def do_hello(self, header: Header, _body: bytes) -> Answer:
        """What the host is, and what its slots are to be."""
        gpus = survey.gpu_indices()
        cores = survey.usable_cores()
        device = str(header.get("device", "auto"))
        if device == "auto":
            device = "cuda" if gpus else "cpu"
        together = bool(header.get("together"))  # then all that the machine has is for one run
        per_run = max(1, len(gpus) if together else int(header.get("gpus_per_run", 1)))
        usual = max(1, len(gpus) // per_run) if device == "cuda" else 1 if device == "tpu" else cores
        slots = min(int(header.get("slots") or usual), 1024)
        self._bench = workers.Bench(
            queue=self.queue,
            runs=self.runs,
            slots=slots,
            gpus=gpus if device == "cuda" else (),
            gpus_per_run=per_run,
            pinned=device == "cpu" and not together,
            environment=envfile.read(str(header["env_file"])) if header.get("env_file") else {},
            team=self.root / team.FILE if together else None,
        )
        return {
            "host_id": self._host_id(),
            "hostname": os.uname().nodename,
            "boot_id": folder.boot_id(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "executable": sys.executable,
            "engine_home": str(Path(folder.__file__).resolve().parents[1]),
            "code": sources.digest(),
            "root": str(self.root),
            "cores": cores,
            "gpus": [entry["name"] for entry in survey.gpus(survey.gpu_text())] if gpus else [],
            "device": device,
            "slots": slots,
            "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
            "engines": sorted(entry.name for entry in entry_points(group="optsweep.engines")),
            "time": time.time(),
        }, b""

    def _host_id(self) -> str:
        path = self.root / "host-id"
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                folder.write_new(path, os.urandom(8).hex().encode())
        return path.read_text().strip()

    def do_team(self, header: Header, _body: bytes) -> Answer:
        """With which machines this one trains each run; the first of them makes the secret that all are given.

        "deaf" of the answer says why it cannot listen at its address.
        """
        path = self.root / team.FILE
        before: Any = None
        with contextlib.suppress(ValueError):
            before = folder.read_json(path)
        same = isinstance(before, dict) and before.get("workers") == header["workers"]
        kept_secret = before.get("secret") if same else None  # who is a worker no more is to know none
        secret = str(header.get("secret") or kept_secret or os.urandom(32).hex())
        data = {name: header[name] for name in ("process", "workers", "address", "ports")} | {"secret": secret}
        made = team.made(data)
        if data != before:
            folder.write_json(path, data)
        deaf = ""
        if made.leads:
            try:
                team.bound(made.address, 0).close()
            except OSError as error:
                deaf = str(error.strerror or error)
        return {"secret": secret, "deaf": deaf}, b""

    def do_reach(self, header: Header, _body: bytes) -> Answer:
        """Whether the first machine's address works: it listens there for a moment, or this one says a word to it."""
        where = socket.getaddrinfo(str(header["address"]), int(header["port"]), type=socket.SOCK_STREAM)[0]
        with contextlib.closing(socket.socket(where[0], where[1])) as made:
            made.settimeout(REACH_SECONDS)
            made.connect(where[4])
            made.sendall(str(header["word"])[:64].encode())
            return {"heard": made.recv(64).decode(errors="replace")}, b""

    def do_listen(self, header: Header, _body: bytes) -> Answer:
        """Listen on two ports for so many words of `do_reach` on each and answer them, in the background; the ports."""
        made = team.two_listening(team.read(self.root / team.FILE))
        for each in made:
            threading.Thread(target=_echo, args=(each, min(int(header["words"]), 1024)), daemon=True).start()
        return {"ports": [each.getsockname()[1] for each in made]}, b""

    def do_look(self, _header: Header, _body: bytes) -> Answer:
        """The host as the Hosts screen shows it."""
        bench = self._ready()
        return self._survey.look(self.queue, self.runs, bench.slots, bool(bench.gpus)), b""

    def do_speed(self, header: Header, _body: bytes) -> Answer:
        """Bytes per second of a write with fsync, and free bytes, under the root."""
        size = min(int(header.get("bytes", 1 << 24)), 1 << 28)
        path = self.root / f".speed-{os.getpid()}"
        started = time.monotonic()
        try:
            with open(path, "wb") as file:
                for _ in range(max(1, size >> 20)):
                    file.write(bytes(1 << 20))
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
        disk = os.statvfs(self.root)
        return {
            "bytes_per_second": size / max(1e-6, time.monotonic() - started),
            "free_bytes": disk.f_bavail * disk.f_frsize,
        }, b""

    def do_trial(self, header: Header, _body: bytes) -> Answer:
        """Train one step of a tiny model with one engine, as a worker would."""
        engine = str(header["engine"])
        if engine not in {entry.name for entry in entry_points(group="optsweep.engines")}:
            raise Refused(f"engine {engine[:40]} is not known")
        bench = self._ready()
        command = [
            sys.executable,
            "-m",
            "optsweep_engines.trial",
            "--engine",
            engine,
            "--device",
            str(header["device"]),
        ]
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL,
                env={**os.environ, **bench.environment},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"trained": False, "why": "one step did not end within 300 s"}, b""
        last = (ended.stdout.strip().splitlines() or [""])[-1]
        with contextlib.suppress(ValueError):
            found = json.loads(last)
            if isinstance(found, dict):
                return {"trained": True, **found}, b""
        why = (ended.stderr.strip().splitlines() or [f"it ended with status {ended.returncode}"])[-1]
        return {"trained": False, "why": why[:500]}, b""

    # ------------------------------------------------------------ bringing

    def do_data_state(self, header: Header, _body: bytes) -> Answer:
        """Whether a dataset is here, else how much of it."""
        return datafiles.state(self.data, str(header["name"]), str(header["sha256"])), b""

    def do_data_piece(self, header: Header, body: bytes) -> Answer:
        """A piece of one file of a dataset."""
        place = datafiles.Incoming(self.data, str(header["name"]), str(header["sha256"]))
        return {"size": place.write(str(header["file"]), int(header["offset"]), body)}, b""

    def do_data_end(self, header: Header, _body: bytes) -> Answer:
        """Check the hash over every token and put the dataset in its place."""
        datafiles.Incoming(self.data, str(header["name"]), str(header["sha256"])).publish()
        return {"there": True}, b""

    def do_write(self, header: Header, body: bytes) -> Answer:
        """A file under the root's `files` folder: job scripts and lists of runs."""
        name = str(header["name"])
        if not _NAME.fullmatch(name):
            raise Refused(f"file name {name[:60]!r}")
        path = self.root / "files" / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.write_atomic(path, body)
        return {"path": str(path)}, b""

    def do_put(self, header: Header, _body: bytes) -> Answer:
        """Make attempts: folder, spec, the user's optimizer, intent; all of a batch before the first is queued."""
        parcels = [_parcel(entry) for entry in _list(header["parcels"])]
        answers = {}
        for parcel in parcels:
            answers[parcel["name"]] = self._made(parcel)
        queued = {f"{run_id}.{attempt}" for _, run_id, attempt in workers.entries(self.queue)}
        for parcel in parcels:
            name = parcel["name"]
            claimed = (self.runs / parcel["run_id"] / f"a{parcel['attempt']}" / folder.CLAIM).exists()
            if parcel["enqueue"] and answers[name] in ("new", "there") and name not in queued and not claimed:
                workers.enqueue(self.queue, name)
        if self._bench is not None and any(parcel["enqueue"] for parcel in parcels):
            self._children += workers.advance(self._bench)  # now: the controller may not live to ask for it
        return {"answers": answers}, b""

    def _made(self, parcel: Header) -> str:
        run_folder: Path = self.runs / parcel["run_id"]
        where = run_folder / f"a{parcel['attempt']}"
        if (where / folder.INTENT).exists():
            return "ended" if (where / folder.EXIT).exists() else "there"
        newest = folder.attempts(run_folder)
        if newest and newest[-1][0] > parcel["attempt"]:
            return "stale"
        run_folder.mkdir(mode=0o700, exist_ok=True)
        for name, content in parcel["files"].items():
            if name == folder.KEEP:  # a later attempt may be asked for more
                with contextlib.suppress(ValueError, RecursionError):  # what cannot be read asks for nothing, as here
                    kept.ask(run_folder, add=kept.asked_in(json.loads(content)))
            elif not (run_folder / name).exists():
                folder.write_atomic(run_folder / name, content)
        if not (run_folder / folder.SPEC).exists():
            folder.write_json(run_folder / folder.SPEC, parcel["spec"])
        (run_folder / folder.CANCEL).unlink(missing_ok=True)  # whoever asks for a new attempt wants the run
        where.mkdir(mode=0o700, exist_ok=True)
        try:
            folder.write_new(where / folder.INTENT, (json.dumps(parcel["intent"], sort_keys=True) + "\n").encode())
        except FileExistsError:
            return "there"
        return "new"

    def do_place(self, header: Header, _body: bytes) -> Answer:
        """Write down on which host an attempt is, once: `<run_id>.a<n>` -> host id of whoever was first."""
        answers = {}
        for name, host_id in _bounded(dict(header["places"])).items():
            run_id, _, attempt = str(name).partition(".a")
            if (
                not folder.is_run_id(run_id)
                or not re.fullmatch(r"[1-9][0-9]{0,8}", attempt)
                or not re.fullmatch(r"[0-9a-f]{16}", str(host_id))
            ):
                raise Refused(f"place {str(name)[:60]!r}")
            path = self._placed / f"{run_id}.a{int(attempt)}"
            try:
                folder.write_new(path, str(host_id).encode(), durable=False)
                answers[name] = str(host_id)
            except FileExistsError:
                answers[name] = path.read_text()[:16]
        folder.sync_folder(self._placed)
        return {"places": answers}, b""

    # ------------------------------------------------------------ running

    def do_advance(self, _header: Header, _body: bytes) -> Answer:
        """Keep the slots busy."""
        bench = self._ready()
        self._children = [child for child in self._children if child.poll() is None]
        self._children += workers.advance(bench)
        busy = sum(not workers.slot_free(self.queue, slot) for slot in range(bench.slots))
        return {"waiting": workers.waiting(bench), "busy": busy}, b""

    def do_cancel(self, header: Header, _body: bytes) -> Answer:
        """Leave the cancel marker of runs that are here."""
        for run_id in _list(header["run_ids"]):
            where = self.runs / _run_id(run_id)
            if where.is_dir() and not (where / folder.CANCEL).exists():
                folder.write_atomic(where / folder.CANCEL, b"")
        return {}, b""

    def do_withdraw(self, header: Header, _body: bytes) -> Answer:
        """End attempts that nobody has claimed: they will be tried on another host."""
        done = []
        for run_id, number in _pairs(header["attempts"]):
            if attempts.withdraw(self.runs / run_id / f"a{number}", str(header.get("reason", "withdrawn"))[:40]):
                done.append(f"{run_id}.a{number}")
        workers.tidy(self.queue, self.runs)
        return {"withdrawn": done}, b""

    def do_fence(self, header: Header, _body: bytes) -> Answer:
        """End attempts that were given to another host meanwhile: kill what runs, by pid, start time and boot.

        "gone": the caller has proof that what ran on another machine is over. Answers with those that have ended; what
        would take longer than FENCE_SECONDS is left for the next message.
        """
        gone, why = bool(header.get("gone")), str(header.get("why") or "fenced: its host had been given up")[:300]
        ended = []
        limit = time.monotonic() + FENCE_SECONDS
        for run_id, number in _pairs(header["attempts"]):
            where = self.runs / run_id / f"a{number}"
            if not where.is_dir() or (where / folder.EXIT).exists() or attempts.withdraw(where, "superseded"):
                ended.append(f"{run_id}.a{number}")
            elif time.monotonic() < limit:
                attempts.kill_engine(where)
                patience = time.monotonic() + attempts.SETTLE_SECONDS
                while folder.lock_held(where) and time.monotonic() < patience:
                    time.sleep(0.02)
                if attempts.settle(where, why, gone=gone):
                    ended.append(f"{run_id}.a{number}")
        return {"ended": ended}, b""

    def do_drain(self, header: Header, _body: bytes) -> Answer:
        """Start nothing more, or start again."""
        marker = self.queue / folder.DRAINED
        if header["on"]:
            folder.write_atomic(marker, b"")
        else:
            marker.unlink(missing_ok=True)
        return {}, b""

    def do_gc(self, _header: Header, _body: bytes) -> Answer:
        """Drop queue entries of attempts that have ended."""
        return {"dropped": workers.tidy(self.queue, self.runs)}, b""

    def do_drop_checkpoints(self, header: Header, _body: bytes) -> Answer:
        """Remove the checkpoints of runs that are done."""
        count = size = 0
        for run_id in _list(header["run_ids"]):
            for _, where in folder.attempts(self.runs / _run_id(run_id)):
                kept = where / folder.CHECKPOINTS
                if kept.is_dir() and (where / folder.EXIT).exists():
                    size += sum(path.stat().st_size for path in kept.iterdir())
                    count += 1
                    shutil.rmtree(kept, ignore_errors=True)
        return {"count": count, "bytes": size}, b""

    def do_drop_states(self, header: Header, _body: bytes) -> Answer:
        """Remove states that runs keep, of those whose newest attempt here has ended; they are not asked for any more."""
        count = size = 0
        dropped = []
        for run_id, steps in _bounded(dict(header["states"])).items():
            where, wanted = self.runs / _run_id(run_id), {_number(step) for step in _list(steps)}
            newest = folder.attempts(where)[-1:]
            if newest and not (newest[0][1] / folder.EXIT).exists():
                continue
            for step, path, _ in kept.listed(where / folder.KEPT):
                if step in wanted:
                    size += path.stat().st_size
                    count += 1
                    path.unlink(missing_ok=True)
            if where.is_dir():
                kept.ask(where, drop=wanted)
            dropped.append(run_id)
        return {"count": count, "bytes": size, "dropped": dropped}, b""

    # ------------------------------------------------------------ what became of it

    def do_sync(self, header: Header, _body: bytes) -> Answer:
        """Phases of attempts, dead ones settled, and what is new of their files, as much as one body holds."""
        rows, parts, room = [], [], min(int(header.get("room", frames.BODY_BYTES)), frames.BODY_BYTES)
        for entry in _list(header["attempts"]):
            run_id, number, marks = _run_id(entry[0]), _number(entry[1]), dict(entry[2])
            row, pieces = self._news(run_id, number, marks, room)
            rows.append(row)
            parts += pieces
            room -= sum(map(len, pieces))
        return {"rows": rows, "time": time.time()}, b"".join(parts)

    def _news(self, run_id: str, number: int, marks: Header, room: int) -> tuple[Header, list[bytes]]:
        """One attempt: its phase is read before its files, so that what has ended is complete.

        Args:
            marks: file name -> [inode, offset] that the controller has.
        """
        where = self.runs / run_id / f"a{number}"
        row = attempts.seen(self.runs / run_id, number)
        if row["phase"] == "silent" and attempts.settle(where):
            row["phase"] = "ended"
        over = row["phase"] == "ended"
        pieces, files, whole = [], {}, True
        for name in STREAMS:
            inode, offset = marks.get(name, (0, 0))
            news = _piece(where / name, int(inode), int(offset), room, over)
            if news is None:
                continue
            inode, offset, data, rest = news
            whole &= not rest
            if data or inode != marks.get(name, (0, 0))[0]:
                files[name] = [inode, offset, len(data)]
                pieces.append(data)
                room -= len(data)
        row["files"] = files
        if over and whole:
            for name in (folder.RECORD, folder.EXIT):
                row[name] = _small(where / name)
        return row, pieces

    def do_scheduler(self, header: Header, _body: bytes) -> Answer:
        """One command of the scheduler, as a list of arguments."""
        argv = [str(part) for part in _list(header["argv"])]
        if not argv or argv[0] not in SCHEDULER:
            raise Refused("that is no command of the scheduler")
        program = shutil.which(argv[0])
        if program is None:
            return {"returncode": 127, "stdout": "", "stderr": f"{argv[0]} is not installed"}, b""
        try:
            ended = subprocess.run(
                [program, *argv[1:]], input=str(header.get("stdin", "")), capture_output=True, text=True,
                timeout=SCHEDULER_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"returncode": 124, "stdout": "", "stderr": f"{argv[0]} did not end in time"}, b""
        return {"returncode": ended.returncode, "stdout": ended.stdout, "stderr": ended.stderr}, b""

    def _ready(self) -> workers.Bench:
        if self._bench is None:
            raise Refused("no hello came first")
        return self._bench


def _echo(listening: socket.socket, words: int) -> None:
    """Send back what comes, `words` times or until nobody comes any more."""
    listening.settimeout(3 * REACH_SECONDS)
    with contextlib.closing(listening), contextlib.suppress(OSError):
        for _ in range(words):
            connection, _ = listening.accept()
            with contextlib.closing(connection), contextlib.suppress(OSError):
                connection.settimeout(REACH_SECONDS)
                connection.sendall(connection.recv(64))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _bounded(value: dict[Any, Any]) -> dict[Any, Any]:
    if len(value) > LARGEST_BATCH:
        raise Refused("a table is too long")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > LARGEST_BATCH:
        raise Refused("a list is none, or too long")
    return value


def _run_id(value: Any) -> str:
    if not isinstance(value, str) or not folder.is_run_id(value):
        raise Refused(f"run id {str(value)[:60]!r}")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 10**9:
        raise Refused(f"attempt {str(value)[:60]!r}")
    return value


def _pairs(value: Any) -> list[tuple[str, int]]:
    return [(_run_id(run_id), _number(number)) for run_id, number in _list(value)]


def _parcel(entry: Any) -> Header:
    if not isinstance(entry, dict) or not isinstance(entry["spec"], dict) or not isinstance(entry["intent"], dict):
        raise Refused("a parcel without spec or intent")
    run_id, number, files = _run_id(entry["run_id"]), _number(entry["attempt"]), dict(entry.get("files") or {})
    if not set(files) <= set(CARRIED):
        raise Refused("a file that does not belong beside a spec")
    return {
        "run_id": run_id,
        "attempt": number,
        "name": f"{run_id}.a{number}",
        "spec": entry["spec"],
        "intent": entry["intent"],
        "files": {name: base64.b64decode(content, validate=True) for name, content in files.items()},
        "enqueue": bool(entry.get("enqueue")),
    }


def _piece(path: Path, inode: int, offset: int, room: int, over: bool) -> tuple[int, int, bytes, bool] | None:
    """(inode, offset, bytes from there, whether there is more) of a stream; None where there is no such file.

    Whole lines only while the attempt goes on. Another inode, or a file shorter than the offset, begins at 0.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != inode or status.st_size < offset:
                offset = 0
            if status.st_size == offset:
                return status.st_ino, offset, b"", False
            file.seek(offset)
            data = file.read(max(0, room))
    except FileNotFoundError:
        return None
    rest = status.st_size > offset + len(data)
    if not over or rest:
        data = data[: data.rfind(b"\n") + 1] or (data if len(data) >= SMALL_BYTES else b"")
    return status.st_ino, offset, data, rest


def _small(path: Path) -> str | None:
    """A small file as text; None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(SMALL_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None


def serve(helper: Helper, source: int, target: int) -> None:
    """Answer until the channel ends."""
    while True:
        message = frames.read(source)
        if message is None:
            return
        header, body = helper.answer(*message)
        frames.write(target, header, body)


def main(arguments: list[str] | None = None) -> int:
    """Serve standard input."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.helper", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of this program on the host")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o077)
    channel = os.dup(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)  # a library that prints must not speak in the channel
    os.set_inheritable(channel, False)
    with contextlib.suppress(frames.Broken, BrokenPipeError, ConnectionResetError):
        serve(Helper(options.root), 0, channel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
