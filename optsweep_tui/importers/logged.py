"""Runs that a logging tool kept: configuration, summary and curves under the user's own names, made an ImportedRun."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optsweep_tui.imported import IMPORTED_STATES, ImportedRun
from optsweep_tui.importers import fields
from optsweep_tui.importers.cells import KNOB
from optsweep_tui.importers.curves import METRICS, Curves
from optsweep_tui.importers.mapping import ColumnMapping
from optsweep_tui.importers.protocol import Found

_KNOBS = "hyperparameters."
NO_END = 'nothing in it says that the run ended: give its steps, or state = "done", in a --mapping'


_PLANNED = tuple(name for name in (*fields.TEXTS, *fields.INTEGERS, "chinchilla") if name != "device")
"""Fields that a configuration names; what it calls loss or state is something else."""
_MEASURED = ("device", "train_loss", "train_seconds", "tokens_per_second", "seconds_per_token")
"""Fields that a summary holds where this program wrote it."""
STEPS = ("trainer/global_step", "train/global_step")
"""What trainers that count their own steps call them; a history's own count is of its lines then."""


@dataclass(kw_only=True)
class LoggedRun:
    """One run as a logging tool kept it."""

    entry: str
    """Unique within the import."""
    names: tuple[str, ...]
    """What `match` of [[runs]] may name: file, folder, the run's own name."""
    where: str
    """For what is listed as skipped."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration, nested names joined by dots."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Final figures, nested names joined by dots."""
    curves: Curves = field(default_factory=Curves)
    ended: bool | None = None
    """True: it ended by itself; False: it broke off; None: the log does not say."""
    ending: str = NO_END
    """Why it is not done, for `ended` other than True."""
    source: dict[str, Any] = field(default_factory=dict)
    others: dict[str, None] = field(default_factory=dict)
    """What its curves hold that is no number."""


def flat(table: Mapping[str, Any], before: str = "", depth: int = 0) -> dict[str, Any]:
    """Nested tables as one, names joined by dots; lists stay."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value and depth < 8:
            found |= flat(value, f"{before}{key}.", depth + 1)
        else:
            found[f"{before}{key}"] = value
    return found


def metric_names(curves: Curves, said: ColumnMapping) -> dict[str, str]:
    """The log's name of a metric -> ours.

    Raises:
        ValueError: a mapped one is not there, or several could be the same.
    """
    present = {key.lower(): key for key in reversed(curves.keys)}
    names: dict[str, str] = {}
    for ours, theirs in said.metrics.items():
        if theirs.lower() in present:
            names[present[theirs.lower()]] = ours
        elif theirs in curves.left_out:
            raise ValueError(f"its {theirs} was left out: too many values")
    for ours, aliases in METRICS.items():
        if ours not in said.metrics:
            near = [present[alias] for alias in aliases if alias in present and present[alias] not in names]
            if len(near) > 1 and near[0] != ours and ours == "val_loss":
                raise ValueError(f"{' and '.join(near[:4])} could all be {ours}: name one in [metrics] of a --mapping")
            if near:
                names[near[0]] = ours
    return names


def run_of(log: LoggedRun, said: ColumnMapping, importer: str, study: str, unread: set[str]) -> ImportedRun:
    """The run of a log.

    Args:
        unread: gets the names of configuration entries that mean nothing here.

    Raises:
        ValueError: a field that cannot be used.
    """
    if not log.config and not log.curves.keys and log.ended is False:
        raise ValueError(f"it holds nothing: {log.ending}")
    names = metric_names(log.curves, said)
    values = _values(log, said, unread)
    batch, length = (fields.integer(key, values.get(key)) for key in ("batch_size", "seq_len"))
    rows = log.curves.rows(names, batch * length if batch and length else None)
    last = log.curves.last_step
    ours = {name: key for key, name in names.items()}
    validated = log.curves.last(ours["val_loss"]) if "val_loss" in ours else None
    if "loss" not in values and validated is not None:
        values["loss"] = validated[1]
    if "train_loss" not in values and "train_loss" in ours:
        values["train_loss"] = (log.curves.last(ours["train_loss"]) or (0, None))[1]
    if "train_seconds" not in values and "train_seconds" in ours:
        values["train_seconds"] = (log.curves.last(ours["train_seconds"]) or (0, None))[1]
    run = fields.run_of(values, importer, study, log.entry, log.source, metrics=rows)
    outcome = run.outcome
    why = None if fields.text(values.get("state")) else _unended(log, run, validated, last)
    if why is not None:
        outcome = dataclasses.replace(outcome, state="failed", loss=None, tokens=None, error=why[:300])
    if last is not None and (outcome.state != "done" or outcome.steps is None):
        outcome = dataclasses.replace(outcome, steps=last)
    run = dataclasses.replace(run, outcome=outcome)
    run.check()
    return run


def _unended(log: LoggedRun, run: ImportedRun, validated: tuple[int, float] | None, last: int | None) -> str | None:
    """Why a run has no final loss although it may have losses; None for one that ended.

    A final loss is one that was measured at the planned end: an earlier one was seen before the learning rate had decayed.
    """
    planned = run.outcome.steps or run.spec.steps
    counted = log.summary.get("_step")
    seen = validated[0] if validated is not None else last if last is not None else counted
    if log.ended is False:
        return log.ending
    seen = seen if isinstance(seen, int) else None
    if planned and seen is not None and seen < planned - 1:  # some count their steps from 0
        return f"its last {'validation' if validated is not None else 'step'} is at step {seen} of {planned}"
    if log.ended is None and (not planned or seen is None):
        return log.ending
    return None


def _values(log: LoggedRun, said: ColumnMapping, unread: set[str]) -> dict[str, Any]:
    """Field -> value: from the configuration by name, then [constants], [columns] and the [[runs]] that match."""
    config = {key: value for key, value in log.config.items() if not key.startswith("_")}
    lowered = {key.lower(): key for key in reversed(config)}
    used: set[str] = set()
    values: dict[str, Any] = {}
    for name in _PLANNED:
        if name in lowered:
            used.add(lowered[name])
            values[name] = config[lowered[name]]
    for name in _MEASURED:
        if isinstance(log.summary.get(name), int | float | str):
            values[name] = log.summary[name]
    if log.summary.get("optsweep_state") in IMPORTED_STATES:
        values["state"] = log.summary["optsweep_state"]
    values |= said.constants
    for name, column in said.columns.items():
        if column in config:
            used.add(column)
        found = config.get(column, log.summary.get(column))
        if found is not None:
            values[name] = found
    for rule in said.runs:
        if any(fnmatch.fnmatchcase(name, rule["match"]) for name in log.names):
            values |= {key: value for key, value in rule.items() if key != "match"}
    if "loss" not in values:
        found = _final(log, said)
        if found is not None:
            values["loss"] = found
    if not isinstance(values.get("hyperparameters"), Mapping):
        values["hyperparameters"] = _knobs(config, values, said, used) or None
    unread |= {key for key in config if key not in used}
    return {key: value for key, value in values.items() if value is not None}


def _final(log: LoggedRun, said: ColumnMapping) -> Any:
    """The summary's validation loss; where it keeps its minimum or mean instead, that is no final loss."""
    theirs = said.metrics.get("val_loss")
    for alias in [theirs] if theirs else METRICS["val_loss"]:
        for key, value in log.summary.items():
            if key.lower() in (alias.lower(), f"{alias.lower()}.last") and isinstance(value, int | float | str):
                return value
    return None


def _knobs(config: Mapping[str, Any], values: Mapping[str, Any], said: ColumnMapping, used: set[str]) -> dict[str, Any]:
    """Knob -> value: what [hyperparameters] names; without it, every entry that is called like a knob of the optimizer."""
    if said.hyperparameters:
        used |= {column for column in said.hyperparameters.values() if column in config}
        return {knob: config[column] for knob, column in said.hyperparameters.items() if config.get(column) is not None}
    found: dict[str, Any] = {}
    known = set(fields.called_like_knobs(str(values.get("optimizer") or ""), config))
    for key, value in config.items():
        name = key.removeprefix(_KNOBS)
        if name == key and (key in used or key not in known):
            continue
        if KNOB.fullmatch(name) and isinstance(value, bool | int | float | str):
            found[name] = value
            used.add(key)
    return found


def add_all(found: Found, logs: Iterable[LoggedRun], said: ColumnMapping, importer: str, study: str) -> None:
    """Append the runs of some logs to `found`, and to its `skipped` what cannot be used."""
    unread: set[str] = set()
    entries: dict[str, str] = {}
    for log in logs:
        try:
            if log.entry in entries:
                raise ValueError(f"the same run as {entries[log.entry]}, which is kept")
            found.runs.append(run_of(log, said, importer, study, unread))
            entries[log.entry] = log.where
        except (ValueError, OverflowError) as error:
            found.skip(log.where, str(error))
        if log.others:
            some = ", ".join(ascii(key)[1:-1][:60] for key in list(log.others)[:8])
            found.skip(log.where, f"what is no number is not read: {some}")
        if log.curves.left_out:
            some = ", ".join(sorted(ascii(key)[1:-1][:60] for key in log.curves.left_out)[:5])
            found.skip(f"{log.where}: metrics", f"{len(log.curves.left_out)} are too many and left out: {some}")
    if unread:
        found.skip("configuration", fields.unread_text("entry", "entries", unread))
