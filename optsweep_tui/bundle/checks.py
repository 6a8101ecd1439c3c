"""What a spec and a record that somebody sent must be before anything is worked out from them, or shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from optsweep_engines import models
from optsweep_engines.spec import FINAL_STATUSES, OWN_SET, RunRecord, RunSpec, ValidationSet
from optsweep_tui import heldout
from optsweep_tui.errors import OptsweepError

_DATASET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}")
_HASH = re.compile(r"[0-9a-f]{64}")


def spec(found: RunSpec) -> None:
    """Make sure that everything that is worked out from a spec can be worked out, and shown.

    Raises:
        ValueError, TypeError: a field of the wrong type, a text that would drive a terminal, a name that leads elsewhere, or
            a start with the state of another run, which no bundle holds.
    """
    for name in ("engine", "optimizer", "model", "dataset", "dataset_hash", "schedule", "dtype", "validation_set"):
        _text(name, getattr(found, name))
    for name in (
        "tokens",
        "batch_size",
        "seq_len",
        "seed",
        "validation_tokens",
        "validation_interval",
        "numerics_version",
    ):
        _count(f"its {name}", getattr(found, name))
    for name in ("accumulation", "simulate_epochs"):
        _count(f"its {name}", getattr(found, name), least=1)
    if found.start is not None:
        _text("start", found.start.run_id)
        raise ValueError(f"its run begins with the state of run {found.start.run_id[:8]}, which no bundle holds")
    if found.steps < 1 or not found.flops > 0 or not found.chinchilla > 0:
        raise ValueError("its spec has no step to train")
    for key, knob in found.hyperparameters.items():
        _text(key, key)
        if not isinstance(knob, bool | int | float | str | None):
            raise ValueError(f"its knob {key} is no value")
    _dataset("dataset", found.dataset, found.dataset_hash)
    _sets(found)
    models.parameter_table(found.shape)


def _sets(found: RunSpec) -> None:
    """Its validation sets and which of them is the metric."""
    for name, item in found.validation_sets.items():
        _text("validation set", name)
        _set(name, item)
    if found.validation_set not in found.measured:
        raise ValueError(f"its metric is the validation set {found.validation_set}, which it does not have")


def _set(name: str, item: ValidationSet) -> None:
    try:
        heldout.checked({name: str(item.dataset)}, "its validation sets")
    except OptsweepError as error:
        raise ValueError(error.message) from None
    _dataset(f"validation set {name}", item.dataset, item.dataset_hash)
    if item.split not in heldout.SPLITS:
        raise ValueError(f"its validation set {name} is of the split {str(item.split)[:40]!a}")


def _dataset(where: str, name: Any, sha256: Any) -> None:
    """Both become the name of a folder."""
    if not isinstance(name, str) or not _DATASET.fullmatch(name):
        raise ValueError(f"its {where} is called {str(name)[:60]!a}, which names no dataset")
    if not isinstance(sha256, str) or not _HASH.fullmatch(sha256):
        raise ValueError(f"its {where} has no hash")


def record(found: RunRecord, of: RunSpec) -> None:
    """The same for the record of a run.

    Raises:
        ValueError: as `spec`, or it is of another kind of run.
    """
    if found.status not in FINAL_STATUSES:
        raise ValueError("its record has no status that is known")
    for name in ("attempt", "steps", "tokens", "resumed_from_step", "started_from_step"):
        _count(f"the {name} of its record", getattr(found, name))
    for name in ("val_loss", "train_loss", "tokens_per_second", "peak_bytes", "optimizer_state_bytes"):
        _number(name, getattr(found, name), optional=True)
    _number("train_seconds", found.train_seconds)
    if found.started_from_step:
        raise ValueError(f"its record goes on from step {found.started_from_step} of a trunk, its spec from none")
    losses = {} if found.val_losses is None else found.val_losses
    if not isinstance(losses, Mapping) or not {OWN_SET, *of.validation_sets} >= set(losses):
        raise ValueError("the val_losses of its record are not of the sets of its spec")
    for name, loss in losses.items():
        _number(f"val_losses.{name}", loss)
    if not isinstance(found.error, str | None):
        raise ValueError("the error of its record is no text")
    if not isinstance(found.versions, Mapping):
        raise ValueError("the versions of its record are no table")
    for name, text in {**found.versions, "device": found.device}.items():
        _text(name, name)
        _text(name, text)
    if found.mesh is not None:
        _text("mesh", found.mesh)
    if found.parameters_sha256 is not None:
        _text("parameters_sha256", found.parameters_sha256)


def _number(name: str, value: Any, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the {name} of its record is no number")


def _count(what: str, value: Any, least: int = 0) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"{what} is no whole number{f' from {least}' if least else ''}")


def _text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 500:
        raise ValueError(f"its {name[:60]!a} is no text that can be shown")
