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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optsweep_engines import folder, run
from optsweep_engines.engine import Preempted, RunLog
from optsweep_engines.jax_engine.train import train
from optsweep_engines.spec import RunSpec

ASKED_EVERY = 10
"""Steps between two agreements on whether to stop or to save: each one waits for all devices."""
STOPS = (None, "cancelled", "preempted")


class SharedLog:
    """The log of process 0 for all processes: what it decides is agreed on, what it writes only it writes."""

    def __init__(self, log: run.AttemptLog, mesh: str | None) -> None:
        self.log = log
        self.leads = jax.process_index() == 0
        self.attempt, self.data_root, self.device = log.attempt, log.data_root, log.device
        self.threads, self.optimizer_file = log.threads, log.optimizer_file
        self.mesh = mesh or log.mesh
        self.asked = 0
        self.due = False

    def metric(self, row: dict[str, Any]) -> None:
        """By process 0."""
        if self.leads:
            self.log.metric(row)

    def event(self, kind: str, **fields: Any) -> None:
        """By process 0."""
        if self.leads:
            self.log.event(kind, **fields)

    def stop_requested(self) -> str | None:
        """What process 0 was told, agreed on every few steps."""
        self.asked += 1
        if self.asked % ASKED_EVERY:
            return None
        own = [STOPS.index(self.log.stop_requested()), int(self.log.checkpoint_due())] if self.leads else [0, 0]
        stop, due = (int(value) for value in agreed(np.array(own)))
        self.due = bool(due)
        return STOPS[stop]

    def checkpoint_due(self) -> bool:
        """As agreed."""
        return self.due

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """By process 0."""
        self.due = False
        if self.leads:
            self.log.save_checkpoint(step, write)

    def checkpoints(self) -> Iterator[tuple[int, Path]]:
        """The one that process 0 found newest."""
        newest = next(self.log.checkpoints(), (0, Path())) if self.leads else (0, Path())
        [step] = (int(value) for value in agreed(np.array([newest[0]])))
        if step:
            yield from ((found, path) for found, path in self.log.checkpoints() if found == step)


def agreed(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The numbers of process 0, in all processes."""
    from jax.experimental import multihost_utils  # noqa: PLC0415 (several processes only)

    return np.asarray(multihost_utils.broadcast_one_to_all(values))


def follow(attempt_folder: Path, mesh: str | None) -> int:
    """Train beside process 0."""
    spec = RunSpec.from_dict(folder.read_json(attempt_folder.parent / folder.SPEC) or {})
    log: RunLog = SharedLog(run.AttemptLog(attempt_folder), mesh)
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
        return run.train_attempt(where, lambda log: SharedLog(log, options.mesh))
    return follow(where, options.mesh)


if __name__ == "__main__":
    sys.exit(main())
