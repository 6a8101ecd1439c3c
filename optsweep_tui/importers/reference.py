"""The shipped figures as results: `optsweep import reference` brings two published studies, no path needed.

`reference`: the optimizer study of arXiv 2509.02046, 150 cells with every ablation. `speedrun-2024-10`: the optimizer
comparison of 29 October 2024 among the NanoGPT speedrun records, four curves. The files are in `grids/reference/`.
"""

from __future__ import annotations

import csv
import itertools
import json
import statistics
from typing import Any

from optsweep_tui import published
from optsweep_tui.errors import OptsweepError
from optsweep_tui.imported import ImportedRun, ImportedSpec, Outcome
from optsweep_tui.importers.cells import CellFigures, Entry, add_runs
from optsweep_tui.importers.protocol import Found, Request
from optsweep_tui.resources import shipped

STUDY = "reference"
SPEEDRUN = "speedrun-2024-10"

_SPEEDRUN_SOURCE = {
    "published": "NanoGPT speedrun records, optimizer comparison of 29 October 2024",
    "url": "https://github.com/KellerJordan/modded-nanogpt",
    "note": "embedding and head on Adam at lr 0.0036 in every run",
}
_SPEEDRUN_STEPS = 5100
_SPEEDRUN_DECAY_STEPS = 1450
_SPEEDRUN_BATCH, _SPEEDRUN_LENGTH = 512, 1024
# 12 layers of 12 x 768^2 matrices; 50304 tied embedding rows.
_SPEEDRUN_PARAMS = 12 * 12 * 768**2
_SPEEDRUN_TOTAL = _SPEEDRUN_PARAMS + 50304 * 768
_COMMON = {"weight_decay": 0, "decay": _SPEEDRUN_DECAY_STEPS / _SPEEDRUN_STEPS}
_KNOBS: dict[str, tuple[str, dict[str, Any]]] = {
    "Adam": ("adam", {"lr": 0.0018, "beta1": 0.9, "beta2": 0.95, "warmup": 250}),
    "DistributedShampoo": (
        "shampoo",
        {
            "lr": 0.0018, "beta1": 0.95, "beta2": 0.95, "eps": 1e-12, "precondition_frequency": 10, "warmup": 250,
            "max_preconditioner_dim": 8192, "graft_beta2": 0.95, "graft_eps": 1e-8,
        },
    ),
    "SOAP": ("soap", {"lr": 0.0018, "beta1": 0.95, "beta2": 0.95, "precondition_frequency": 10, "warmup": 250}),
    "Muon": ("muon", {"lr": 0.02, "momentum": 0.95, "muon_to_adam_lr": 0.18, "warmup": 0}),
}  # fmt: skip
"""Published name -> catalogue name and published hyperparameters."""


class ReferenceImporter:
    """The figures that ship with the program."""

    name = "reference"
    doc = "the shipped figures of two published studies; takes no path"

    def read(self, request: Request) -> Found:
        """Both studies.

        Raises:
            OptsweepError: a path, a study or a mapping was given.
        """
        if request.path is not None or request.study is not None or request.mapping is not None:
            raise OptsweepError(
                "import reference takes no path, study or mapping: it brings the shipped figures",
                "optsweep import reference",
            )
        found = Found(baselines={STUDY: "adamw", SPEEDRUN: "adam"})
        for cell in reference_cells():
            add_runs(found, cell, cell.name, self.name, STUDY, trusted=True)
        found.runs += _speedrun(self.name)
        return found


def reference_cells() -> list[CellFigures]:
    """The 150 cells of the reference study with their entries, under published names."""
    entries: dict[tuple[str, str, str], list[Entry]] = {}
    for row in _rows("ablations.csv"):
        key = (row["optimizer"], row["model"], row["chinchilla"])
        knob = row["hyperparameter"] or None
        value = json.loads(row["value"]) if knob else None
        recorded = json.loads(row["loss"]) if row["loss"] not in ("", "NaN") else row["loss"] or None
        entry = Entry(hyperparameter=knob, value=value, recorded=recorded, run=row["run"] or None)
        entries.setdefault(key, []).append(entry)
    return [
        CellFigures(
            optimizer=row["optimizer"],
            model=row["model"],
            chinchilla=float(row["chinchilla"]),
            incumbent=json.loads(row["incumbent_hyperparameters"]),
            entries=tuple(entries.get((row["optimizer"], row["model"], row["chinchilla"]), ())),
            min_loss=float(row["min_loss"]),
        )
        for row in _rows("cells.csv")
    ]


def _rows(name: str) -> list[dict[str, str]]:
    with open(shipped("grids") / published.FOLDER / name, newline="") as handle:
        return list(csv.DictReader(handle))


def _speedrun(importer: str) -> list[ImportedRun]:
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for row in _rows("speedrun-2024-10.csv"):
        point = (int(row["step"]), float(row["val_loss"]), float(row["train_time_ms"]) / 1000)
        curves.setdefault(row["optimizer"], []).append(point)
    return [_speedrun_run(importer, name, points) for name, points in curves.items()]


def _speedrun_run(importer: str, published_name: str, points: list[tuple[int, float, float]]) -> ImportedRun:
    optimizer, knobs = _KNOBS[published_name]
    per_step = _SPEEDRUN_BATCH * _SPEEDRUN_LENGTH
    steps, loss, seconds = points[-1]
    rates = [
        (later[0] - earlier[0]) * per_step / (later[2] - earlier[2])
        for earlier, later in itertools.pairwise(points[1:])
    ]
    return ImportedRun(
        importer=importer,
        study=SPEEDRUN,
        entry=published_name,
        source=_SPEEDRUN_SOURCE,
        spec=ImportedSpec(
            optimizer=optimizer,
            model="speedrun-124m",
            hyperparameters=_COMMON | knobs,
            tokens=_SPEEDRUN_STEPS * per_step,
            params=_SPEEDRUN_PARAMS,
            total_params=_SPEEDRUN_TOTAL,
            dataset="fineweb",
            validation_set="fineweb",
            batch_size=_SPEEDRUN_BATCH,
            seq_len=_SPEEDRUN_LENGTH,
            schedule="wsd",
            dtype="bf16",
        ),
        outcome=Outcome(
            state="done",
            loss=loss,
            steps=steps,
            tokens=steps * per_step,
            train_seconds=seconds,
            tokens_per_second=statistics.median(rates),
            device="8x NVIDIA H100",
        ),
        metrics=tuple(
            {"step": step, "tokens": step * per_step, "train_seconds": at, "val_loss": value}
            for step, value, at in points
        ),
    )
