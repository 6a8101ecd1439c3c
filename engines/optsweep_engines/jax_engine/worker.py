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


def agreed(values: Sequence[int]) -> Sequence[int]:
    """The numbers of process 0, in all processes."""
    from jax.experimental import multihost_utils  # noqa: PLC0415 (several processes only)

    return [int(value) for value in np.asarray(multihost_utils.broadcast_one_to_all(np.array(values)))]


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
