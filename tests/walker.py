"""An engine for tests of dispatching: a chain of hashes at a steady pace, with checkpoints, in the standard library only.

    with walker.installed(folder): ...   # engine "walker" for this process and all that it starts

Its final parameters can be worked out without it: `final_hash(seed, steps)`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACE = "OPTSWEEP_WALKER_PACE"
"""Seconds per step; 0 without it."""


def final_hash(seed: int, steps: int) -> str:
    """What a run of that seed ends with."""
    state = f"walker {seed}"
    for step in range(1, steps + 1):
        state = _next(state, step)
    return hashlib.sha256(state.encode()).hexdigest()


def _next(state: str, step: int) -> str:
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def _loss(state: str, step: int) -> float:
    return 2.0 + int(state[:8], 16) / 2**32 / step


class Walker:
    """The engine."""

    name = "walker"

    def train(self, spec: Any, log: Any) -> Any:
        """Walk to the end, from the newest checkpoint."""
        from optsweep_engines.engine import Preempted
        from optsweep_engines.spec import RunRecord

        pace = float(os.environ.get(PACE, "0"))
        start, state = 0, f"walker {spec.seed}"
        for step, path in log.checkpoints():
            start, state = step, path.read_text()
            log.event("resumed", step=step)
            break
        loss = None
        for step in range(start + 1, spec.steps + 1):
            state = _next(state, step)
            loss = _loss(state, step)
            log.metric({"step": step, "tokens": step * spec.tokens_per_step, "train_seconds": step * 0.01,
                        "train_loss": loss, "lr": 0.001})  # fmt: skip
            if log.checkpoint_due():
                _save(log, step, state)
            why = log.stop_requested()
            if why is not None:
                _save(log, step, state)
                if why == "preempted":
                    raise Preempted
                break
            time.sleep(pace)
        cancelled = log.stop_requested() == "cancelled"
        return RunRecord(
            run_id=spec.run_id, attempt=log.attempt, status="cancelled" if cancelled else "done", train_loss=loss,
            val_loss=None if cancelled else loss, steps=step, tokens=step * spec.tokens_per_step, train_seconds=step * 0.01,
            tokens_per_second=100.0 * spec.tokens_per_step, peak_bytes=None, optimizer_state_bytes=None, device="walker",
            versions={}, parameters_sha256=hashlib.sha256(state.encode()).hexdigest(), resumed_from_step=start,
        )  # fmt: skip


def _save(log: Any, step: int, state: str) -> None:
    def write(path: Path) -> None:
        path.write_text(state)

    log.save_checkpoint(step, write)


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Make it an engine like any other, found by its entry point, through PYTHONPATH."""
    described = folder / "walker-1.0.dist-info"
    described.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__), folder / "walker_engine.py")
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: walker\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[optsweep.engines]\nwalker = walker_engine:Walker\n")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder) + (os.pathsep + before if before else "")
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
