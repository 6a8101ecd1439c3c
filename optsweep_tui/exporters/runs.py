"""A run as exporters see it, native or imported: its configuration, how it ended, its curve, all from its run folder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.core import RunSpec, Scalar, dataset_key, validation_key
from optsweep_tui.errors import OptsweepError
from optsweep_tui.imported import ImportedRun, ImportedSpec
from optsweep_tui.rundir import RunState


@dataclass(frozen=True, kw_only=True)
class ExportedRun:
    """One run of one study."""

    run_folder: Path
    study: str
    spec: RunSpec | ImportedSpec
    state: RunState

    @property
    def run_id(self) -> str:
        return self.run_folder.name

    @property
    def imported(self) -> ImportedRun | None:
        return self.state.imported

    @property
    def hyperparameters(self) -> dict[str, Scalar] | None:
        """None where they were not published."""
        return None if self.spec.hyperparameters is None else dict(self.spec.hyperparameters)

    @property
    def chinchilla(self) -> float | None:
        return self.spec.chinchilla

    @property
    def loss(self) -> float | None:
        """Final validation loss, nats; None where there is none."""
        if self.imported is not None:
            return self.imported.outcome.loss
        record = self.state.record
        return record.val_loss if record is not None and record.status in ("done", "diverged") else None

    @property
    def started(self) -> float:
        """Unix time when it started, as far as it is known, seconds."""
        for _, attempt_folder in rundir.attempts(self.run_folder):
            claim = folder.read_claim(attempt_folder)
            if claim is not None:
                return claim.claimed_at
        for name in (rundir.ORIGIN, rundir.SPEC):
            if (self.run_folder / name).exists():
                return (self.run_folder / name).stat().st_mtime
        return 0.0

    @property
    def title(self) -> str:
        """For people: what was trained, and the start of its id."""
        lr = (self.hyperparameters or {}).get("lr")
        parts = [self.spec.optimizer, self.spec.model, "" if self.chinchilla is None else f"{self.chinchilla:g}"]
        parts += ["" if lr is None else f"lr {lr:g}" if isinstance(lr, int | float) else f"lr {lr}"]
        parts += ["" if self.spec.seed is None else f"seed {self.spec.seed}", self.run_id[:8]]
        return " ".join(part for part in parts if part)

    def configuration(self) -> dict[str, Any]:
        """What decides the run, field by field as `import` knows the fields; what was not published is left out."""
        spec = self.spec
        shape = spec.shape if isinstance(spec, RunSpec) else None
        fields = {
            "optimizer": spec.optimizer,
            "model": spec.model,
            "params": shape.non_embedding_params if shape else getattr(spec, "params", None),
            "total_params": shape.total_params if shape else getattr(spec, "total_params", None),
            "tokens": spec.tokens,
            "chinchilla": spec.chinchilla,
            "steps": spec.steps,
            "batch_size": spec.batch_size,
            "seq_len": spec.seq_len,
            "dataset": dataset_key(spec) if isinstance(spec, RunSpec) else spec.dataset,
            "dataset_hash": spec.dataset_hash,
            "validation_set": validation_key(spec) if isinstance(spec, RunSpec) else spec.validation_set,
            "engine": spec.engine,
            "schedule": spec.schedule,
            "dtype": spec.dtype,
            "seed": spec.seed,
            "hyperparameters": self.hyperparameters,
        }
        return {key: value for key, value in fields.items() if value is not None}

    def outcome(self) -> dict[str, Any]:
        """How it ended, by the names of an imported run's outcome; `val_loss` is its final loss."""
        ending: Any = self.imported.outcome if self.imported is not None else self.state.record
        names = ("train_loss", "train_seconds", "tokens_per_second", "device")
        found = {name: getattr(ending, name, None) for name in names}
        found |= {"val_loss": self.loss, "state": self.state.state, "error": self.state.error}
        return {key: value for key, value in found.items() if value is not None}

    def rows(self) -> list[dict[str, Any]]:
        """Its metric lines by rising step; null where a value was not finite."""
        return rundir.metric_rows(self.run_folder)


def exported(runs_root: Path, chosen: Iterable[tuple[str, str]]) -> tuple[list[ExportedRun], list[tuple[str, str]]]:
    """(runs, (run id, why) of those whose folder cannot be read).

    Args:
        chosen: (run id, study).
    """
    found, broken = [], []
    for run_id, study in chosen:
        run_folder = runs_root / run_id
        try:
            state = rundir.state_of(run_folder)
            spec: RunSpec | ImportedSpec = (
                rundir.read_import(run_folder).spec if rundir.is_imported(run_folder) else rundir.read_spec(run_folder)
            )
        except (OptsweepError, OSError) as error:
            broken.append((run_id, str(error)))
            continue
        found.append(ExportedRun(run_folder=run_folder, study=study, spec=spec, state=state))
    return found, broken


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metric line, NaN for null; step and whatever is no number left out."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if key == "step" or isinstance(value, bool) or not isinstance(value, int | float | None):
            continue
        try:
            found[key] = math.nan if value is None else float(value)
        except OverflowError:
            found[key] = math.inf
    return found
