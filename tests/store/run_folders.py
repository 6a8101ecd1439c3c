"""Builds run folders as engines leave them, and reads a store's whole content back in an order of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from optsweep_engines.spec import ModelShape, RunRecord, RunSpec
from optsweep_tui import rundir
from optsweep_tui.store.connect import open_store

SHAPE = ModelShape(
    family="llama",
    layers=2,
    width=64,
    heads=4,
    mlp_width=192,
    vocab_size=256,
    init_std=0.125,
    embedding_std=0.5,
)


def make_spec(**changes: Any) -> RunSpec:
    """A small complete spec; any field may be changed."""
    fields: dict[str, Any] = {
        "engine": "torch",
        "optimizer": "adamw",
        "hyperparameters": {"lr": 0.003, "weight_decay": 0.1, "beta1": 0.9},
        "model": "micro",
        "shape": SHAPE,
        "dataset": "embedded",
        "dataset_hash": "ab" * 32,
        "tokens": 98304,
        "batch_size": 8,
        "seq_len": 64,
        "schedule": "linear",
        "dtype": "fp32",
        "seed": 0,
    }
    return RunSpec(**fields | changes)


def plant(runs: Path, *specs: RunSpec, study: str = "grid") -> list[Path]:
    """Planned run folders."""
    return rundir.write(runs, specs, study)


def attempt_folder(run_folder: Path, number: int = 1) -> Path:
    """The folder of an attempt, made when it is not there."""
    folder = run_folder / f"a{number}"
    folder.mkdir(exist_ok=True)
    return folder


def line(step: int, **values: Any) -> str:
    """One metric line with the loss 10 / step."""
    return json.dumps({"step": step, "tokens": step * 512, "train_loss": 10 / step} | values) + "\n"


def append(folder: Path, text: str | bytes, name: str = rundir.METRICS) -> Path:
    """Write at the end of a stream."""
    path = folder / name
    with open(path, "ab") as handle:
        handle.write(text.encode() if isinstance(text, str) else text)
    return path


def lines(steps: Iterable[int], **values: Any) -> str:
    """Metric lines."""
    return "".join(line(step, **values) for step in steps)


def finish(run_folder: Path, number: int = 1, **changes: Any) -> RunRecord:
    """End an attempt: record.json and exit.json."""
    fields: dict[str, Any] = {
        "run_id": run_folder.name,
        "attempt": number,
        "status": "done",
        "train_loss": 2.25,
        "val_loss": 2.5,
        "steps": 192,
        "tokens": 98304,
        "train_seconds": 3.5,
        "tokens_per_second": 40000.0,
        "peak_bytes": 123456789,
        "optimizer_state_bytes": 1116672,
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
    }
    record = RunRecord(**fields | changes)
    folder = attempt_folder(run_folder, number)
    (folder / rundir.RECORD).write_text(json.dumps(record.to_dict()))
    ending = {"returncode": 0, "signal": None, "reason": "finished", "ended_at": 1_700_000_000.0}
    (folder / rundir.EXIT).write_text(json.dumps(ending))
    return record


def points(store: Path, key: str = "train_loss", run_id: str | None = None) -> dict[int, float | None]:
    """step -> value of v_metric; fails when a step occurs twice."""
    with open_store(store) as connection:
        rows = connection.execute(
            "SELECT step, value FROM v_metric WHERE key = ? AND run_id = coalesce(?, run_id) ORDER BY step",
            [key, run_id],
        ).fetchall()
    assert len({step for step, _ in rows}) == len(rows), "a step occurs twice"
    return dict(rows)


def sql_rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query."""
    with open_store(store) as connection:
        return connection.execute(query).fetchall()


def contents(store: Path) -> Mapping[str, list[tuple[Any, ...]]]:
    """Everything that a store says, free of the numbers that it gives to runs and names, and of the order of rows."""
    queries = {
        "run": "SELECT * EXCLUDE (run) FROM run",
        "study_run": "SELECT r.run_id, s.* EXCLUDE (run) FROM study_run s JOIN run r USING (run)",
        "attempt": "SELECT r.run_id, a.* EXCLUDE (run) FROM attempt a JOIN run r USING (run)",
        "run_final": "SELECT r.run_id, f.* EXCLUDE (run) FROM run_final f JOIN run r USING (run)",
        "metric": """SELECT r.run_id, m.attempt, k.name, m.step, m.value
                     FROM v_point m JOIN run r USING (run) JOIN metric_key k USING (key)""",
        "metric_key": "SELECT name, unit FROM metric_key",
        "event": "SELECT r.run_id, e.* EXCLUDE (run) FROM event e JOIN run r USING (run)",
        "src_offset": "SELECT path, position, lines, skipped, size FROM src_offset",
        "v_run": "SELECT * EXCLUDE (run) FROM v_run",
        "v_metric": "SELECT * FROM v_metric",
        "v_cell": "SELECT * FROM v_cell",
        "v_best": "SELECT * FROM v_best",
        "v_config": "SELECT * FROM v_config",
        "v_ablation": "SELECT * FROM v_ablation",
    }
    with open_store(store) as connection:
        return {name: _sorted(connection, query) for name, query in queries.items()}


def _sorted(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return sorted(connection.execute(query).fetchall(), key=repr)
