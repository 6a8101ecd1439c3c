"""Run folders as they would lie on disk, for tests that look at states without training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import rundir
from tests.unit.test_spec import spec

SPEC = spec


def planted(runs: Path, one: RunSpec, study: str = "made") -> Path:
    """A planned run."""
    (run_folder,) = rundir.write(runs, [one], study)
    return run_folder


def attempt(
    run_folder: Path,
    *,
    steps: int = 0,
    ending: dict[str, Any] | None = None,
    status: str | None = None,
    claimed: bool = True,
    asked: bool = False,
) -> Path:
    """The next attempt of a run: its metrics up to a step, how it ended, what its record says."""
    where = run_folder / f"a{len(folder.attempts(run_folder)) + 1}"
    where.mkdir()
    (where / folder.INTENT).write_text(json.dumps({"asked": asked}))
    if claimed:
        handle = folder.take_claim(where)
        assert handle is not None
        os.close(handle)  # dead at once: the lock is free
    if steps:
        rows = [
            {"step": step, "tokens": step * 10, "train_seconds": step * 0.1, "train_loss": 2.0}
            for step in range(1, steps + 1)
        ]
        (where / folder.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if status:
        record = RunRecord(
            run_id=run_folder.name,
            attempt=int(where.name[1:]),
            status=status,  # type: ignore[arg-type]
            train_loss=2.0,
            val_loss=2.1,
            steps=steps,
            tokens=steps * 10,
            train_seconds=1.0,
            tokens_per_second=10.0,
            peak_bytes=1,
            optimizer_state_bytes=1,
            device="cpu",
            versions={},
            error="boom" if status == "failed" else None,
        )
        (where / folder.RECORD).write_text(json.dumps(record.to_dict()))
    if ending:
        (where / folder.EXIT).write_text(json.dumps({"returncode": 0, "signal": None, "ended_at": 0.0, **ending}))
    return where
