"""Mapping files: TOML that says which column means what, and what holds for every run.

study = "mine"              # optional
[columns]                   # field of a run -> column of the file
optimizer = "opt"
loss = "final/val_loss"
[hyperparameters]           # knob -> column
lr = "learning_rate"
[constants]                 # field -> value, for every run
dataset = "c4"
[metrics]                   # only for logs with curves (wandb, tensorboard): our name -> the log's
val_loss = "eval/c4_en/loss"
[[runs]]                    # only for logs: which runs are meant, by file or name, and what holds for them
match = "*muon*"
optimizer = "muon"
hyperparameters = { lr = 0.02 }
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.importers.fields import FIELDS
from optsweep_tui.importers.protocol import opened

_TABLES = ("study", "columns", "hyperparameters", "constants", "metrics", "runs")


@dataclass(frozen=True, kw_only=True)
class ColumnMapping:
    """What a mapping file says; empty without one."""

    study: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    runs: tuple[Mapping[str, Any], ...] = ()


def load(path: Path | None) -> ColumnMapping:
    """Read a mapping file; without one every column has the name of its field.

    Raises:
        OptsweepError: it cannot be read, or holds a key that means nothing.
    """
    if path is None:
        return ColumnMapping()
    try:
        with opened(path) as handle:
            data = tomllib.loads(handle.read().decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OptsweepError(f"{path} is not TOML: {error}", "mend that line") from None
    except OSError as error:
        raise OptsweepError(f"{path} cannot be read: {error.strerror}", "check --mapping") from None
    for key in data:
        if key not in _TABLES:
            raise UnknownName("key", key, _TABLES, where=str(path))
    texts = {name: _table(data, name, path) for name in ("columns", "hyperparameters", "metrics")}
    for name, table in texts.items():
        for key, value in table.items():
            if not isinstance(value, str):
                raise OptsweepError(f"{path}: {name}.{key} = {value!r} is not the name of a column", "write a text")
    runs = data.get("runs", [])
    if not isinstance(runs, list) or not all(
        isinstance(run, dict) and isinstance(run.get("match"), str) for run in runs
    ):
        raise OptsweepError(f"{path}: runs is not a list of tables with match", 'write [[runs]] and match = "*.log"')
    constants = _table(data, "constants", path)
    for where, table in (("columns", texts["columns"]), ("constants", constants), *(("runs", run) for run in runs)):
        for key in table:
            if key not in FIELDS and not (where == "runs" and key == "match"):
                raise UnknownName(f"{where}: field", key, FIELDS, where=str(path))
    study = data.get("study")
    if study is not None and not isinstance(study, str):
        raise OptsweepError(f"{path}: study = {study!r} is not a name", 'write study = "mine"')
    return ColumnMapping(study=study, constants=constants, runs=tuple(runs), **texts)


def _table(data: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise OptsweepError(f"{path}: {name} is not a table", f"write [{name}]")
    return table
