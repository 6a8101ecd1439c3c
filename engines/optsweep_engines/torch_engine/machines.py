"""Processes of one run on several machines: as many on each, one per GPU; the first process is the first machine's.

The worker of each machine (`shim_team`) has met the others and knows address, port and token of the attempt. Processes meet
in a store on that port alone, under the token, so that those of another attempt are never seen. What they say is neither
authenticated nor encrypted: SECURITY.md.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from optsweep_engines import folder, run, team
from optsweep_engines.mesh import require_divides
from optsweep_engines.shared_log import SharedLog
from optsweep_engines.spec import RunSpec
from optsweep_engines.team import Place
from optsweep_engines.torch_engine import ranks, worker
from optsweep_engines.torch_engine.device import gpus_for

JOIN = datetime.timedelta(minutes=2)
"""For all processes to join, once every machine is known to be there."""


def per_machine(spec: RunSpec, mesh: str | None, gpus: int, machines: int) -> int:
    """Processes of a run on each of so many machines: what its mesh says, else one per GPU, as far as they divide its batch.

    Args:
        gpus: of this machine; 0 on a CPU.

    Raises:
        ValueError: the mesh does not divide among the machines, or takes more GPUs than one has; or the batch does not.
    """
    rows = spec.batch_size // spec.accumulation
    if mesh is None:
        for count in range(max(1, gpus), 0, -1):
            if rows % (count * machines) == 0:
                return count
        raise ValueError(f"a micro-batch of {rows} sequences does not divide among {machines} machines")
    sizes = require_divides(mesh, rows)
    count, rest = divmod(sizes["data"] * sizes["fsdp"], machines)
    if rest:
        raise ValueError(f'mesh "{mesh}" does not divide among {machines} machines')
    if gpus and count > gpus:
        raise ValueError(f'mesh "{mesh}" takes {count} devices of each machine, there are {gpus} GPUs on this one')
    return count


def together(log: Any, place: Place) -> SharedLog:
    """Join the other machines of a run, with further processes here where it takes some; the log of this process.

    Raises:
        ValueError: the run does not divide among the machines.
        RuntimeError: the others do not come, or are of another attempt.
    """
    spec = RunSpec.from_dict(folder.read_json(log.run_folder / folder.SPEC) or {})
    count = per_machine(spec, log.mesh, gpus_for(log.device), place.processes)
    command = [sys.executable, "-m", "optsweep_engines.torch_engine.machines", str(log.attempt_folder)]
    command += ["--processes", str(count), "--parent", str(os.getpid())]
    others = [subprocess.Popen([*command, "--process", str(index)]) for index in range(1, count)]
    over = threading.Event()
    for other in others:
        threading.Thread(target=worker._watch, args=(other, over), daemon=True).start()
    atexit.register(_leave, others, over)
    join(place, worker.device_of(log.device, 0), 0, count)
    return worker.shared(log, 0)


def _leave(others: list[subprocess.Popen[bytes]], over: threading.Event) -> None:
    over.set()
    if dist.is_initialized():
        dist.destroy_process_group()
    for other in others:
        with contextlib.suppress(subprocess.TimeoutExpired):
            other.wait(timeout=3)
        other.kill()


def join(place: Place, device: str, local: int, count: int) -> None:
    """Become one of the processes.

    Args:
        local: number among those of this machine.
        count: of them.

    Raises:
        RuntimeError: the others do not come, or are of another attempt.
    """
    index, size = place.process * count + local, place.processes * count
    backend = "gloo" if device == "cpu" else "nccl"
    team.use_network(place.own_address)
    held = team.bound(place.address, place.port) if index == 0 else None
    store = dist.TCPStore(  # type: ignore[attr-defined]
        place.address, place.port, size, is_master=index == 0, timeout=JOIN,
        master_listen_fd=held.detach() if held is not None else None,
    )  # fmt: skip
    own = dist.PrefixStore(place.token, store)  # type: ignore[attr-defined]
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, store=own, rank=index, world_size=size, timeout=worker.SILENCE)
    team.require_same(place, list(ranks.agreed(place.mark if index == 0 else [0] * len(place.mark))))


def main(arguments: list[str] | None = None) -> int:
    """A further process of a machine: join the others, then train beside them."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.torch_engine.machines", description=__doc__)
    parser.add_argument("attempt", type=Path, help="an attempt folder, runs/<id>/a<n>")
    parser.add_argument("--processes", type=int, required=True, help="on this machine")
    parser.add_argument("--process", type=int, required=True, help="number of this one among them, from 1")
    parser.add_argument("--parent", type=int, metavar="PID", required=True, help="die with this process")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, run._on_term)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run._die_with_parent(options.parent)
    place = team.place()
    if place is None:
        parser.error(f"{team.VARIABLE} does not say where the others are")
    where = options.attempt.resolve()
    name = str((folder.read_json(where / folder.INTENT) or {}).get("device", "auto"))
    join(place, worker.device_of(name, options.process), options.process, options.processes)
    try:
        return worker.follow(where, options.process)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
