"""Specs, records and endings as rows of the tables run, study_run, attempt and run_final."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from optsweep_engines import folder
from optsweep_engines.spec import FINAL_STATUSES, RunRecord, RunSpec, canonical_json
from optsweep_tui import cost, rundir
from optsweep_tui.core import dataset_key, validation_key
from optsweep_tui.imported import ImportedRun
from optsweep_tui.rundir import RunState
from optsweep_tui.store.lines import printable
from optsweep_tui.store.scan import MAX_DOCUMENT_BYTES
from optsweep_tui.store.tables import RUN, Columns

Row: TypeAlias = dict[str, Any]

NATIVE = "native"
"""Origin of a run that this program trained."""

_INT64 = 2**63
_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)
"""In JSON text: a sign beyond 16 bits, or half of one, which no UTF-8 holds."""


def run_row(run: int, spec: RunSpec, state: RunState, attempts: int, repeats: bool) -> Row:
    """The row of table `run`.

    Raises:
        ValueError: a number of the spec does not fit the store.
    """
    text = canonical_json(spec.to_dict())
    if _SURROGATE.search(text):
        json.dumps(json.loads(text), ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    row: Row = {
        "run": run,
        "run_id": state.run_id,
        "origin": NATIVE,
        "source": None,
        "state": state.state,
        "attempts": attempts,
        "engine": spec.engine,
        "optimizer": spec.optimizer,
        "model": spec.model,
        "params": spec.shape.non_embedding_params,
        "total_params": spec.shape.total_params,
        "chinchilla": spec.chinchilla,
        "tokens": spec.tokens,
        "dataset": dataset_key(spec),
        "dataset_hash": spec.dataset_hash,
        "validation_set": validation_key(spec),
        "seq_len": spec.seq_len,
        "batch_size": spec.batch_size,
        "schedule": spec.schedule,
        "dtype": spec.dtype,
        "seed": spec.seed,
        "hyperparameters": canonical_json(spec.hyperparameters),
        "steps": spec.steps,
        "tokens_per_step": spec.tokens_per_step,
        "flops_per_token": spec.shape.flops_per_token(spec.seq_len),
        "optimizer_flops_per_step": cost.optimizer_flops_per_step(spec),
        "optimizer_file_hash": spec.optimizer_file_hash,
        "numerics_version": spec.numerics_version,
        "spec": text,
        "start_mode": spec.start.mode if spec.start else None,
        "start_run": spec.start.run_id if spec.start else None,
        "start_step": spec.start.step if spec.start else None,
        "repeats": repeats,
    }
    _check_types(row, RUN)
    return row


def imported_run_row(run: int, imported: ImportedRun, attempts: int, repeats: bool) -> Row:
    """The row of table `run` of an imported run; what was not published is null.

    Raises:
        ValueError: a number does not fit the store.
    """
    spec = imported.spec
    flops_per_token, optimizer_flops = cost.imported_flops(spec)
    source = {"study": imported.study, "entry": imported.entry, **imported.source}
    row: Row = {
        "run": run,
        "run_id": imported.run_id,
        "origin": imported.importer,
        "source": json.dumps(source, sort_keys=True, allow_nan=False),
        "state": imported.outcome.state,
        "attempts": attempts,
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
        "hyperparameters": None if spec.hyperparameters is None else canonical_json(spec.hyperparameters),
        "steps": spec.steps,
        "tokens_per_step": spec.tokens_per_step,
        "flops_per_token": flops_per_token,
        "optimizer_flops_per_step": optimizer_flops,
        "spec": spec.text,
        "repeats": repeats,
    }
    for text in (row["source"], row["spec"]):
        if _SURROGATE.search(text):
            json.dumps(json.loads(text), ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    _check_types(row, RUN)
    return row


def _check_types(row: Row, columns: Columns) -> None:
    """A spec is checked for its keys, not for the types of their values: a hand-made one may hold anything."""
    for name, kind in columns.items():
        value = row.get(name)
        if value is None or kind == "BOOLEAN":
            continue
        if kind in ("VARCHAR", "JSON"):
            right = isinstance(value, str)
        else:
            right = isinstance(value, int | float) and not isinstance(value, bool)
            if right and kind == "DOUBLE":
                right = abs(value) < 2**1023 and not math.isnan(value)
            elif right:
                limit = _INT64 if kind == "BIGINT" else 2**31
                right = isinstance(value, int) and -limit <= value < limit
        if not right:
            raise ValueError(f"{name} = {str(value)[:40]!r} does not fit")


def study_rows(run: int, run_folder: Path, state: RunState) -> tuple[list[Row], list[tuple[str, str]]]:
    """One row of `study_run` per marker of the run, the one study of an imported run; and (file, reason) of bad markers."""
    rows: list[Row] = []
    problems: list[tuple[str, str]] = []
    if state.imported is not None:
        return [{"study": state.imported.study, "run": run, "planned_at": None}], problems
    try:
        studies = rundir.studies_of(run_folder)
    except OSError:
        studies = []
    for study in studies:
        path = run_folder / rundir.STUDIES / f"{study}.json"
        marker = _document(path, problems)
        planned = marker.get("planned_at") if marker else None
        rows.append({"study": printable(study), "run": run, "planned_at": _iso_time(planned)})
    return rows, problems


def attempt_row(run: int, number: int, attempt_folder: Path) -> tuple[Row, list[tuple[str, str]]]:
    """The row of `attempt` but for what its metrics say, and (file, reason) of what could not be read."""
    problems: list[tuple[str, str]] = []
    try:
        claim = folder.read_claim(attempt_folder)
    except (OSError, RecursionError):
        claim = None
    ending = _document(attempt_folder / rundir.EXIT, problems)
    # Before the attempt has ended the file may just be being written.
    if claim is None and all((attempt_folder / name).exists() for name in (rundir.CLAIM, rundir.EXIT)):
        problems.append((str(attempt_folder / rundir.CLAIM), "it is not a claim"))
    record = _document(attempt_folder / rundir.RECORD, problems)
    if record is not None:
        try:
            checked_record(RunRecord.from_dict(record))
        except ValueError as error:
            problems.append((str(attempt_folder / rundir.RECORD), str(error)))
            record = None
    ending, record = ending or {}, record or {}
    message = record.get("error") or ending.get("error")
    row = {
        "run": run,
        "attempt": number,
        "host": _text(claim.host) if claim else None,
        "claimed_at": unix_time(claim.claimed_at) if claim else None,
        "ended_at": unix_time(ending.get("ended_at")),
        "returncode": _small(ending.get("returncode")),
        "signal": _small(ending.get("signal")),
        "reason": _text(ending.get("reason")),
        "status": _text(record.get("status")),
        "error": _text(message),
        "resumed_from": record.get("resumed_from_step"),
    }
    return row, problems


def _document(path: Path, problems: list[tuple[str, str]]) -> Mapping[str, Any] | None:
    try:
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"larger than {MAX_DOCUMENT_BYTES >> 20} MiB")
        data = folder.read_json(path)
        if data is not None and not isinstance(data, Mapping):
            raise ValueError("it is not a JSON object")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except RecursionError:
        problems.append((str(path), "it is nested too deeply"))
    except (ValueError, OSError) as error:
        problems.append((str(path), f"it cannot be read: {error}"))
    else:
        return data
    return None


def checked_record(record: RunRecord) -> RunRecord:
    """The record, when every field has its type.

    Raises:
        ValueError: names the field that has not.
    """
    if record.status not in FINAL_STATUSES:
        raise ValueError(f"status {str(record.status)[:40]!r} is not known")
    numbers = ("train_loss", "val_loss", "train_seconds", "tokens_per_second")
    integers = (
        "attempt",
        "steps",
        "tokens",
        "peak_bytes",
        "optimizer_state_bytes",
        "resumed_from_step",
        "started_from_step",
    )
    for name in (*numbers, *integers):
        value = getattr(record, name)
        whole = isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64
        if value is not None and not whole and not (isinstance(value, float) and name in numbers):
            raise ValueError(f"{name} = {str(value)[:40]!r} is not a number that fits")
    for name in ("device", "mesh", "error", "parameters_sha256"):
        if not isinstance(getattr(record, name), str | None):
            raise ValueError(f"{name} is not a text")
        (getattr(record, name) or "").encode()
    if not isinstance(record.versions, Mapping):
        raise ValueError("versions is not a table")
    losses = record.val_losses
    if losses is not None and (
        not isinstance(losses, Mapping) or any(finite(value) is None for value in losses.values()) or len(losses) > 1000
    ):
        raise ValueError("val_losses is not a table of numbers")
    return record


def final_row(run: int, state: RunState) -> Row:
    """The row of `run_final` of a run that is over; its losses are null without a record."""
    row: Row = {
        "run": run,
        "attempt": state.attempt,
        "state": state.state,
        "ended_at": unix_time((state.exit or {}).get("ended_at")) if isinstance(state.exit, Mapping) else None,
        "error": _text(state.error),
    }
    record = state.record
    if state.imported is not None:
        outcome = state.imported.outcome
        rate = outcome.tokens_per_second
        row |= {
            "loss": outcome.loss,
            "train_loss": outcome.train_loss,
            "steps": outcome.steps,
            "tokens": outcome.tokens,
            "train_seconds": outcome.train_seconds,
            "tokens_per_second": rate,
            "seconds_per_token": 1.0 / rate if rate and rate > 0 else None,
            "device": outcome.device,
        }
    if record is not None:
        rate = finite(record.tokens_per_second)
        started = record.started_from_step * (record.tokens // record.steps if record.steps else 0)
        row |= {
            "loss": finite(record.val_loss),
            "train_loss": finite(record.train_loss),
            "steps": record.steps,
            "tokens": record.tokens,
            "train_seconds": finite(record.train_seconds),
            "tokens_per_second": rate,
            "seconds_per_token": 1.0 / rate if rate and rate > 0 else None,
            "peak_bytes": record.peak_bytes,
            "state_bytes": record.optimizer_state_bytes,
            "device": record.device,
            "versions": json.dumps(
                printable({str(key): str(value) for key, value in record.versions.items()}), sort_keys=True
            ),
            "parameters_sha256": record.parameters_sha256,
            "val_losses": json.dumps(printable(dict(record.val_losses)), sort_keys=True) if record.val_losses else None,
            "trained_tokens": record.tokens - started,
        }
    return row


def finite(value: Any) -> float | None:
    """The number, or None where it is none or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def unix_time(seconds: Any) -> datetime.datetime | None:
    """UTC without a zone, as the store keeps it; None for what is no time."""
    try:
        return datetime.datetime.fromtimestamp(float(seconds), datetime.UTC).replace(tzinfo=None)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _iso_time(text: Any) -> datetime.datetime | None:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return None
    return moment.astimezone(datetime.UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _small(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    return value if whole else None


def _text(value: Any) -> str | None:
    return str(printable(value[:2000])) if isinstance(value, str) else None
