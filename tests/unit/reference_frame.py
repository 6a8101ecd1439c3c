"""The shipped reference figures as a frame of runs, without a store: what `import reference` plants."""

from __future__ import annotations

import json
from functools import cache

import pandas as pd

from optsweep_engines.optimizers import catalogue
from optsweep_tui import published
from optsweep_tui.analysis.columns import RESULTS
from optsweep_tui.importers.protocol import Request
from optsweep_tui.importers.reference import ReferenceImporter
from optsweep_tui.resources import shipped

FOLDER = shipped("grids") / published.FOLDER


def catalogue_name(name: str) -> str:
    """A published optimizer name as the program calls it."""
    return _PUBLISHED.get(name, name) if name in _PUBLISHED else catalogue.optimizer(name).name


_PUBLISHED = {"scion": "scion_fantastic"}


@cache
def _rows() -> pd.DataFrame:
    rows = []
    for run in ReferenceImporter().read(Request(path=None, study=None, mapping=None)).runs:
        if run.study != "reference":
            continue
        spec, outcome = run.spec, run.outcome
        knobs = None if spec.hyperparameters is None else json.dumps(dict(spec.hyperparameters), sort_keys=True)
        rows.append(
            {
                "run_id": run.run_id,
                "study": run.study,
                "origin": "reference",
                "engine": spec.engine,
                "optimizer": spec.optimizer,
                "model": spec.model,
                "params": spec.params,
                "total_params": spec.total_params,
                "chinchilla": spec.chinchilla,
                "tokens": spec.tokens,
                "dataset": spec.dataset,
                "dataset_hash": spec.dataset_hash,
                "validation_set": spec.validation_set,
                "seq_len": spec.seq_len,
                "batch_size": spec.batch_size,
                "schedule": spec.schedule,
                "dtype": spec.dtype,
                "seed": spec.seed,
                "hyperparameters": knobs,
                "state": outcome.state,
                "loss": outcome.loss if outcome.state in ("done", "diverged") else None,
                "steps": spec.steps,
                "tokens_per_step": spec.tokens_per_step,
            }
        )
    return pd.DataFrame(rows, columns=list(RESULTS))


def reference() -> pd.DataFrame:
    """One row per run of the study `reference`."""
    return _rows().copy()
