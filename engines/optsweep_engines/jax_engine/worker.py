"""One process of a run over several: `python -m optsweep_engines.jax_engine.worker ATTEMPT --coordinator H:P ...`.

Every process calls the same command, with --processes N and its own number --process I; on a TPU pod slice each worker
calls it without any, JAX finds the others itself. Process 0 alone writes into the attempt's folder; the others read the
spec, the shards and the checkpoints, which have to lie where all can see them. What depends on a clock or a signal is
decided by process 0 for all.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from optsweep_engines import folder, run
from optsweep_engines.engine import Preempted, RunLog
from optsweep_engines.jax_engine.train import train
from optsweep_engines.shared_log import SharedLog
from optsweep_engines.spec import RunSpec
from optsweep_engines.team import Place, require_same, use_network

JOIN_SECONDS = 120
"""For all processes to join, once every machine is known to be there."""


def agreed(values: Sequence[int], leads: bool | None = None) -> Sequence[int]:
    """The numbers of one process, in all processes.

    Args:
        leads: whether it is this one; None: it is the one that JAX counts as the first.
    """
    from jax.experimental import multihost_utils  # noqa: PLC0415 (several processes only)

    told = multihost_utils.broadcast_one_to_all(np.array(values), is_source=leads)
    return [int(value) for value in np.asarray(told)]


def together(log: RunLog, place: Place) -> SharedLog:
    """Join the other machines of a run; the log of this process.

    The first machine is that of hosts.toml, whichever process JAX counts as the first: on a TPU the slice decides that.

    Raises:
        RuntimeError: they do not come, or are of another attempt.
    """
    use_network(place.own_address)
    where = f"[{place.address}]" if ":" in place.address else place.address
    jax.distributed.initialize(
        f"{where}:{place.port}", place.processes, place.process, initialization_timeout=JOIN_SECONDS,
        coordinator_bind_address=f"{where}:{place.port}" if place.leads else None,
    )  # fmt: skip

    def ours(values: Sequence[int]) -> Sequence[int]:
        return agreed(values, place.leads)

    require_same(place, list(ours(place.mark if place.leads else [0] * len(place.mark))))
    return SharedLog(log, None, leads=place.leads, agreed=ours)


def shared(log: run.AttemptLog, mesh: str | None) -> SharedLog:
    """The log of this process."""
    return SharedLog(log, mesh, leads=jax.process_index() == 0, agreed=agreed)


def follow(attempt_folder: Path, mesh: str | None) -> int:
    """Train beside process 0."""
    spec = RunSpec.from_dict(folder.read_json(attempt_folder.parent / folder.SPEC) or {})
    log: RunLog = shared(run.AttemptLog(attempt_folder), mesh)
    try:
        train(spec, log)
    except Preempted:
        return run.EXIT_PREEMPTED
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Join the others, then train."""
    parser = argparse.ArgumentParser(prog="python -m optsweep_engines.jax_engine.worker", description=__doc__)
    parser.add_argument("attempt", type=Path, help="an attempt folder, runs/<id>/a<n>")
    parser.add_argument("--coordinator", help="HOST:PORT of process 0")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int, help="number of this one, from 0")
    parser.add_argument("--mesh", help="data=N,fsdp=N over the devices of all processes")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, run._on_term)
    jax.distributed.initialize(options.coordinator, options.processes, options.process)
    where = options.attempt.resolve()
    if jax.process_index() == 0:
        return run.train_attempt(where, lambda log: shared(log, options.mesh))
    return follow(where, options.mesh)


if __name__ == "__main__":
    sys.exit(main())
