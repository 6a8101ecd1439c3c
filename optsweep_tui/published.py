"""The published optimizer study (arXiv 2509.02046): tuned configuration, starting values and sweep lists of its 150 cells.

Figures of public results, from the study's code release of August 2025; the files are in `grids/reference/`.
"""

from __future__ import annotations

import csv
import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optsweep_tui.core import Scalar
from optsweep_tui.resources import shipped

STUDY_NAMES = {"scion": "scion_fantastic", "sophia": "sophia_h", "mini": "adam_mini", "soape": "soap"}
"""What the study calls an optimizer -> its catalogue name here (in the study `scion` is its own variant)."""

CODE_DEFAULTS: dict[str, dict[str, Scalar]] = {"soap": {"partition_grads_into_blocks": True}}
"""Knobs that some published configurations leave to the study's code, where its default is not ours (its SoapConfig)."""

TOKENS_PER_SEQUENCE = 4096

FOLDER = "reference"
"""Inside the shipped grids: where the figures lie."""


@dataclass(frozen=True, kw_only=True)
class PublishedCell:
    """One cell of the study, under the study's own knob names."""

    optimizer: str
    model: str
    chinchilla: float
    steps: int
    incumbent: dict[str, Scalar]
    """Configuration around which the ablations were taken."""
    start: dict[str, Scalar]
    """Values that the sweep began from."""
    sweep: dict[str, tuple[Scalar, ...]]
    """Swept values per knob."""
    min_loss: float


@functools.cache
def reference() -> dict[tuple[str, str, float], PublishedCell]:
    """All cells by (catalogue optimizer, model, ratio)."""
    start: dict[tuple[str, str, float], dict[str, Scalar]] = {}
    sweep: dict[tuple[str, str, float], dict[str, tuple[Scalar, ...]]] = {}
    for row in _rows("grids.csv"):
        key = _key(row)
        values = tuple(json.loads(row["values"]))
        if values:
            sweep.setdefault(key, {})[row["hyperparameter"]] = values
        if row["baseline_value"]:
            start.setdefault(key, {})[row["hyperparameter"]] = _scalar(row["baseline_value"])
    cells = {}
    for row in _rows("cells.csv"):
        key = _key(row)
        cells[key] = PublishedCell(
            optimizer=key[0],
            model=key[1],
            chinchilla=key[2],
            steps=int(row["steps"]),
            incumbent=CODE_DEFAULTS.get(key[0], {}) | json.loads(row["incumbent_hyperparameters"]),
            start=start.get(key, {}),
            sweep=sweep.get(key, {}),
            min_loss=float(row["min_loss"]),
        )
    return cells


def study_name(study: str | None, optimizer: str) -> str:
    """What an optimizer of a named study is called here: `scion` of the reference study is scion_fantastic."""
    return STUDY_NAMES.get(optimizer.lower(), optimizer) if study and study.lower() == FOLDER else optimizer


def _rows(name: str) -> list[dict[str, str]]:
    with open(shipped("grids") / FOLDER / name, newline="") as handle:
        return list(csv.DictReader(handle))


def _key(row: dict[str, str]) -> tuple[str, str, float]:
    return STUDY_NAMES.get(row["optimizer"], row["optimizer"]), row["model"], float(row["chinchilla"])


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def nearest(optimizer: str, model: str, chinchilla: float) -> PublishedCell | None:
    """The published cell at this ratio, else the one of the same optimizer and model at the nearest ratio; None without."""
    candidates = [cell for cell in reference().values() if cell.optimizer == optimizer and cell.model == model]
    if not candidates:
        return None
    return min(candidates, key=lambda cell: (abs(math.log(cell.chinchilla / chinchilla)), cell.chinchilla))


def origins(cells: Iterable[tuple[str, str, float]]) -> list[str]:
    """Where the configurations of cells come from that the published study does not have, of models that it has; a line each.

    Args:
        cells: (optimizer, model, ratio).
    """
    known = {model for _, model, _ in reference()}
    notes = []
    for optimizer, model, value in dict.fromkeys(cells):
        cell = nearest(optimizer, model, value) if model in known else None
        if model in known and cell is None:
            notes.append(
                f"{optimizer} {model} {value:g}: no published configuration, it begins with the catalogue's defaults"
            )
        elif cell is not None and abs(cell.chinchilla - value) > 1e-4 * value:
            notes.append(
                f"{optimizer} {model} {value:g}: not published, it begins with the configuration of ratio {cell.chinchilla:g}"
            )
    return notes
