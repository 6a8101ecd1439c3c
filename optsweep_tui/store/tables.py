"""The tables of the store as Arrow schemas, column by column in the order of schema/*.sql: the border of Python and SQL."""

from __future__ import annotations

import pyarrow as pa

_INT = pa.int32()
_LONG = pa.int64()
_FLOAT = pa.float64()
_TEXT = pa.string()
_TIME = pa.timestamp("us")
_FLAG = pa.bool_()

RUN = pa.schema(
    [
        ("run", _INT),
        ("run_id", _TEXT),
        ("origin", _TEXT),
        ("source", _TEXT),
        ("state", _TEXT),
        ("attempts", _INT),
        ("engine", _TEXT),
        ("optimizer", _TEXT),
        ("model", _TEXT),
        ("params", _LONG),
        ("total_params", _LONG),
        ("chinchilla", _FLOAT),
        ("tokens", _LONG),
        ("dataset", _TEXT),
        ("dataset_hash", _TEXT),
        ("validation_set", _TEXT),
        ("seq_len", _LONG),
        ("batch_size", _LONG),
        ("schedule", _TEXT),
        ("dtype", _TEXT),
        ("seed", _LONG),
        ("hyperparameters", _TEXT),
        ("steps", _LONG),
        ("tokens_per_step", _LONG),
        ("flops_per_token", _FLOAT),
        ("optimizer_flops_per_step", _FLOAT),
        ("optimizer_file_hash", _TEXT),
        ("numerics_version", _INT),
        ("spec", _TEXT),
        ("repeats", _FLAG),
    ]
)
STUDY_RUN = pa.schema([("study", _TEXT), ("run", _INT), ("planned_at", _TIME)])
ATTEMPT = pa.schema(
    [
        ("run", _INT),
        ("attempt", _INT),
        ("host", _TEXT),
        ("claimed_at", _TIME),
        ("ended_at", _TIME),
        ("returncode", _INT),
        ("signal", _INT),
        ("reason", _TEXT),
        ("status", _TEXT),
        ("error", _TEXT),
        ("resumed_from", _LONG),
        ("first_step", _LONG),
        ("last_step", _LONG),
        ("repeats", _FLAG),
    ]
)
RUN_FINAL = pa.schema(
    [
        ("run", _INT),
        ("attempt", _INT),
        ("state", _TEXT),
        ("loss", _FLOAT),
        ("train_loss", _FLOAT),
        ("steps", _LONG),
        ("tokens", _LONG),
        ("train_seconds", _FLOAT),
        ("tokens_per_second", _FLOAT),
        ("seconds_per_token", _FLOAT),
        ("peak_bytes", _LONG),
        ("state_bytes", _LONG),
        ("device", _TEXT),
        ("versions", _TEXT),
        ("parameters_sha256", _TEXT),
        ("ended_at", _TIME),
        ("error", _TEXT),
    ]
)
METRIC_KEY = pa.schema([("key", _INT), ("name", _TEXT), ("unit", _TEXT)])
METRIC = pa.schema([("run", _INT), ("attempt", _INT), ("key", _INT), ("step", _LONG), ("value", _FLOAT)])
EVENT = pa.schema([("run", _INT), ("attempt", _INT), ("seq", _LONG), ("time", _TIME), ("kind", _TEXT), ("data", _TEXT)])
SRC_OFFSET = pa.schema(
    [
        ("path", _TEXT),
        ("run", _INT),
        ("attempt", _INT),
        ("generation", _INT),
        ("inode", pa.uint64()),
        ("size", _LONG),
        ("mtime_ns", _LONG),
        ("position", _LONG),
        ("lines", _LONG),
        ("skipped", _LONG),
        ("tail", pa.uint64()),
        ("signature", _TEXT),
    ]
)

TABLES = {
    "run": RUN,
    "study_run": STUDY_RUN,
    "attempt": ATTEMPT,
    "run_final": RUN_FINAL,
    "metric_key": METRIC_KEY,
    "metric": METRIC,
    "event": EVENT,
    "src_offset": SRC_OFFSET,
}
"""Every table that the collector writes; schema_version belongs to migrate."""
