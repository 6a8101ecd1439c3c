"""The tables that the collector writes, column by column in the order of schema/*.sql: the border of Python and SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

Columns: TypeAlias = Mapping[str, str]
"""Column -> its type in the store."""

RUN: Columns = {
    "run": "INTEGER",
    "run_id": "VARCHAR",
    "origin": "VARCHAR",
    "source": "JSON",
    "state": "VARCHAR",
    "attempts": "INTEGER",
    "engine": "VARCHAR",
    "optimizer": "VARCHAR",
    "model": "VARCHAR",
    "params": "BIGINT",
    "total_params": "BIGINT",
    "chinchilla": "DOUBLE",
    "tokens": "BIGINT",
    "dataset": "VARCHAR",
    "dataset_hash": "VARCHAR",
    "validation_set": "VARCHAR",
    "seq_len": "BIGINT",
    "batch_size": "BIGINT",
    "schedule": "VARCHAR",
    "dtype": "VARCHAR",
    "seed": "BIGINT",
    "hyperparameters": "JSON",
    "steps": "BIGINT",
    "tokens_per_step": "BIGINT",
    "flops_per_token": "DOUBLE",
    "optimizer_flops_per_step": "DOUBLE",
    "optimizer_file_hash": "VARCHAR",
    "numerics_version": "INTEGER",
    "spec": "JSON",
    "repeats": "BOOLEAN",
    "start_mode": "VARCHAR",
    "start_run": "VARCHAR",
    "start_step": "BIGINT",
}
STUDY_RUN: Columns = {"study": "VARCHAR", "run": "INTEGER", "planned_at": "TIMESTAMP"}
ATTEMPT: Columns = {
    "run": "INTEGER",
    "attempt": "INTEGER",
    "host": "VARCHAR",
    "claimed_at": "TIMESTAMP",
    "ended_at": "TIMESTAMP",
    "returncode": "INTEGER",
    "signal": "INTEGER",
    "reason": "VARCHAR",
    "status": "VARCHAR",
    "error": "VARCHAR",
    "resumed_from": "BIGINT",
    "first_step": "BIGINT",
    "last_step": "BIGINT",
    "repeats": "BOOLEAN",
}
RUN_FINAL: Columns = {
    "run": "INTEGER",
    "attempt": "INTEGER",
    "state": "VARCHAR",
    "loss": "DOUBLE",
    "train_loss": "DOUBLE",
    "steps": "BIGINT",
    "tokens": "BIGINT",
    "train_seconds": "DOUBLE",
    "tokens_per_second": "DOUBLE",
    "seconds_per_token": "DOUBLE",
    "peak_bytes": "BIGINT",
    "state_bytes": "BIGINT",
    "device": "VARCHAR",
    "versions": "JSON",
    "parameters_sha256": "VARCHAR",
    "ended_at": "TIMESTAMP",
    "error": "VARCHAR",
    "val_losses": "JSON",
    "trained_tokens": "BIGINT",
}
METRIC_KEY: Columns = {"key": "INTEGER", "name": "VARCHAR", "unit": "VARCHAR"}
METRIC: Columns = {"run": "INTEGER", "attempt": "INTEGER", "key": "INTEGER", "step": "BIGINT", "value": "DOUBLE"}
EVENT: Columns = {
    "run": "INTEGER",
    "attempt": "INTEGER",
    "seq": "BIGINT",
    "time": "TIMESTAMP",
    "kind": "VARCHAR",
    "data": "JSON",
}
SRC_OFFSET: Columns = {
    "path": "VARCHAR",
    "run": "INTEGER",
    "attempt": "INTEGER",
    "generation": "INTEGER",
    "inode": "UBIGINT",
    "size": "BIGINT",
    "mtime_ns": "BIGINT",
    "position": "BIGINT",
    "lines": "BIGINT",
    "skipped": "BIGINT",
    "tail": "UBIGINT",
    "signature": "VARCHAR",
}
ARCHIVE: Columns = {"part": "INTEGER", "file": "VARCHAR", "run": "INTEGER", "attempt": "INTEGER", "points": "BIGINT"}

TABLES: Mapping[str, Columns] = {
    "run": RUN,
    "study_run": STUDY_RUN,
    "attempt": ATTEMPT,
    "run_final": RUN_FINAL,
    "metric_key": METRIC_KEY,
    "metric": METRIC,
    "event": EVENT,
    "src_offset": SRC_OFFSET,
    "archive": ARCHIVE,
}
"""Every table that the collector writes; schema_version belongs to migrate."""
