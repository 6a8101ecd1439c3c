"""Weights & Biases' offline runs: `optsweep export wandb FOLDER` writes run folders that `wandb sync` uploads.

Their package is not needed. A run keeps its id there, so what is synced twice is one run. Project = study, group = cell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from optsweep_tui.exporters.protocol import Written
from optsweep_tui.exporters.runs import ExportedRun, numbers
from optsweep_tui.formats import wandblog

FAILED = ("failed", "oom", "cancelled", "lost", "orphan")
STATE = "optsweep_state"
"""Summary entry that holds the state: theirs knows finished and failed only."""


class WandbExporter:
    """Writes offline runs."""

    name = "wandb"
    doc = "offline runs of Weights & Biases, a folder each; `wandb sync FOLDER/offline-run-*` uploads them"
    one_study = False

    def write(self, runs: Sequence[ExportedRun], target: Path) -> Written:
        """A folder per run."""
        written = Written()
        for run in {run.run_id: run for run in runs}.values():
            where = target / folder_name(run)
            (where / "files").mkdir(parents=True)
            with open(where / f"run-{run.run_id}.wandb", "xb") as handle:
                log = wandblog.LogWriter(handle)
                log.append(wandblog.RUN, begin(run))
                for row in run.rows():
                    log.append(wandblog.HISTORY, line(run, row))
                log.extend(end(run))
            written.runs += 1
            written.files += 1
        doubled = len(runs) - written.runs
        if doubled:
            written.skip("runs of several studies", f"{doubled} are here once only: an id is one run there")
        return written


def folder_name(run: ExportedRun) -> str:
    """The name that their client gives to the folder of an offline run."""
    return f"offline-run-{time.strftime('%Y%m%d_%H%M%S', time.gmtime(run.started))}-{run.run_id}"


def begin(run: ExportedRun) -> bytes:
    """The record that names the run and its configuration."""
    cell = f"{run.spec.optimizer} {run.spec.model}" + ("" if run.chinchilla is None else f" {run.chinchilla:g}")
    return wandblog.put_run(run.run_id, run.study, run.title, cell, run.configuration(), run.started)


def line(run: ExportedRun, row: dict[str, Any]) -> bytes:
    """One line of the history."""
    values = numbers(row)
    seconds = values.get("train_seconds")
    if seconds is not None and math.isfinite(seconds):
        values |= {"_runtime": seconds, "_timestamp": run.started + seconds}
    return wandblog.put_history(row["step"], values)


def end(run: ExportedRun) -> Iterator[tuple[int, bytes]]:
    """Summary and, of a run that is over, how it exited."""
    summary = run.outcome()
    summary[STATE] = summary.pop("state")
    if run.state.state == "nan":
        summary["val_loss"] = math.nan
    yield wandblog.SUMMARY, wandblog.put_items(summary)
    if run.state.finished:
        code = 1 if run.state.state in FAILED else 0
        yield wandblog.EXIT, wandblog.put_exit(code, float(summary.get("train_seconds") or 0.0))
