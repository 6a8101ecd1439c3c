"""One process of a run over several: `torchrun --nproc-per-node N -m optsweep_engines.torch_engine.worker runs/<id>/a1`.

The engine starts the further processes of a run on its own machine by itself (`leading`). Over several machines torchrun starts
all of them; the run folder and the shards then have to lie where all can see them. The first process alone writes.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import distributed as dist

from optsweep_engines import folder, run
from optsweep_engines.engine import Preempted, RunLog
from optsweep_engines.shared_log import SharedLog
from optsweep_engines.spec import RunSpec
from optsweep_engines.torch_engine import ranks
from optsweep_engines.torch_engine.meeting import meeting
from optsweep_engines.torch_engine.train import train

SILENCE = datetime.timedelta(minutes=10)
"""A process that does not answer for so long is taken for dead: the first step compiles."""
LOOPBACK = "lo"
LOOK_SECONDS = 2.0
"""For a process that died to be seen dead, once words to it came back as an error."""
END_SECONDS = 10.0
"""For the first process to say so by itself, once another one was seen dead."""


def join(device: str, index: int, count: int, where: str) -> None:
    """Become one of so many.

    Args:
        device: "cpu" or "cuda:N".
        where: of the rendezvous, "file:///..." or "env://".
    """
    backend = "gloo" if device == "cpu" else "nccl"
    if backend == "gloo" and where != "env://":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    dist.init_process_group(backend, init_method=where, rank=index, world_size=count, timeout=SILENCE)


def device_of(name: str, index: int) -> str:
    """The device of a process: its own GPU, or the CPU."""
    cuda = name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())
    return f"cuda:{index}" if cuda else "cpu"


def shared(log: RunLog, index: int) -> SharedLog:
    """The log of a process, with its own device."""
    made = SharedLog(log, None, leads=ranks.joined().index == 0, agreed=ranks.agreed)
    made.device = device_of(log.device, index)
    return made


@contextlib.contextmanager
def leading(log: RunLog, attempt_folder: Path, count: int) -> Iterator[SharedLog]:
    """Start the further processes of a run here and be the first; they are gone when it ends, or when this one dies."""
    with meeting() as place:
        where = f"file://{place}/store"
        command = [sys.executable, "-m", "optsweep_engines.torch_engine.worker", str(attempt_folder)]
        command += ["--processes", str(count), "--meeting", where, "--parent", str(os.getpid())]
        others = [subprocess.Popen([*command, "--process", str(index)]) for index in range(1, count)]
        over = threading.Event()
        for other in others:
            threading.Thread(target=_watch, args=(other, over, END_SECONDS), daemon=True).start()
        try:
            join(device_of(log.device, 0), 0, count, where)
            yield shared(log, 0)
        except RuntimeError as error:  # the library's own words of it are those of a socket
            lost = gone(others)
            if lost is None:
                raise
            index, number = lost
            print(f"process {index} of this run was killed by signal {number}: {error}", file=sys.stderr, flush=True)
            log.event("process_killed", process=index, signal=number)
            os.kill(
                os.getpid(), number
            )  # a death as of the one process of other runs: they go on, with the same patience
            raise
        finally:
            over.set()
            if dist.is_initialized():
                dist.destroy_process_group()
            for other in others:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    other.wait(timeout=30)
                other.kill()
                other.wait()


def gone(others: Sequence[subprocess.Popen[bytes]]) -> tuple[int, int] | None:
    """(number, signal) of a further process that was killed; None where none was."""
    limit = time.monotonic() + LOOK_SECONDS
    while True:
        for index, other in enumerate(others, start=1):
            status = other.poll()
            if status is not None and status < 0:
                return index, -status
        if time.monotonic() >= limit:
            return None
        time.sleep(0.02)


def _watch(other: subprocess.Popen[bytes], over: threading.Event, seconds: float = 0.0) -> None:
    """A process that is gone would be waited for: end with it, and the run goes on from its checkpoint.

    Args:
        seconds: that this process has to end by itself.
    """
    status = other.wait()
    if status != 0 and not over.wait(seconds):
        print(f"process {other.pid} of this run ended with {status}: so does this one", file=sys.stderr, flush=True)
        if status < 0:
            os.kill(os.getpid(), -status)
        os._exit(run.EXIT_FAILED)


def follow(attempt_folder: Path, index: int) -> int:
    """Train beside the first process."""
    spec = RunSpec.from_dict(folder.read_json(attempt_folder.parent / folder.SPEC) or {})
    try:
        record = train(spec, shared(run.AttemptLog(attempt_folder), index))
    except Preempted:
        return 0
    return run.EXIT_FAILED if record.status in ("failed", "oom") else 0


def main(arguments: list[str] | None = None) -> int:
    """Join the others, then train."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.torch_engine.worker", description=__doc__)
    parser.add_argument("attempt", type=Path, help="an attempt folder, runs/<id>/a<n>")
    parser.add_argument("--processes", type=int, default=int(os.environ.get("WORLD_SIZE", "1")))
    parser.add_argument(
        "--process", type=int, default=int(os.environ.get("RANK", "0")), help="number of this one, from 0"
    )
    parser.add_argument("--meeting", default="env://", help="where they meet: as torchrun says, or file://PATH")
    parser.add_argument("--parent", type=int, metavar="PID", help="die with this process")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, run._on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if options.parent:
        run._die_with_parent(options.parent)
    where = options.attempt.resolve()
    local = int(os.environ.get("LOCAL_RANK", options.process))
    name = str((folder.read_json(where / folder.INTENT) or {}).get("device", "auto"))
    join(device_of(name, local), options.process, options.processes, options.meeting)
    try:
        if options.process == 0:
            return run.train_attempt(where, lambda log: shared(log, local))
        return follow(where, local)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
