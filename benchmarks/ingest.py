"""How fast run folders become results.duckdb: `python benchmarks/ingest.py [--points 1000000] [--runs 50] [--json]`.

Writes run folders with curves as the engines write them, collects them, and then: collects again with nothing new, and
asks what researchers ask. With --small-runs N also N runs of a few lines each, for the cost of looking at folders.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from optsweep_engines.spec import ModelShape, RunRecord, RunSpec
from optsweep_tui import rundir
from optsweep_tui.store import queries
from optsweep_tui.store.connect import open_store
from optsweep_tui.store.ingest import ingest

KEYS = ("tokens", "train_seconds", "train_loss", "lr", "grad_norm")
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


def make_spec(seed: int, lines: int) -> RunSpec:
    """One run of so many steps; every 25 seeds are a cell of their own."""
    return RunSpec(
        engine="torch",
        optimizer=("adamw", "muon")[seed // 25 % 2],
        hyperparameters={"lr": 0.003, "weight_decay": 0.1},
        model="micro",
        shape=SHAPE,
        dataset="embedded",
        dataset_hash="ab" * 32,
        tokens=512 * lines * (1 + seed // 50),
        batch_size=8,
        seq_len=64,
        schedule="linear",
        dtype="fp32",
        seed=seed,
    )


def write_run(folder: Path, lines: int, generator: random.Random) -> int:
    """An attempt with its curve, finished; returns the bytes of the curve."""
    attempt = folder / "a1"
    attempt.mkdir()
    rows = []
    seconds, loss = 0.0, 5.5
    for step in range(1, lines + 1):
        seconds += 0.0123 * generator.uniform(0.98, 1.05)
        loss += 0.01 * (2.0 - loss) + generator.gauss(0, 0.01)
        row = {
            "step": step,
            "tokens": step * 512,
            "train_seconds": round(seconds, 4),
            "train_loss": loss,
            "lr": 0.003 * (1 - step / (lines + 1)),
            "grad_norm": generator.lognormvariate(0, 0.3),
        }
        rows.append(json.dumps(row))
    text = "\n".join(rows) + "\n"
    (attempt / rundir.METRICS).write_text(text)
    record = RunRecord(
        run_id=folder.name,
        attempt=1,
        status="done",
        train_loss=loss,
        val_loss=loss + generator.gauss(0, 0.02),
        steps=lines,
        tokens=lines * 512,
        train_seconds=seconds,
        tokens_per_second=40000.0,
        peak_bytes=10**8,
        optimizer_state_bytes=10**6,
        device="cpu",
        versions={"torch": "2.13.0"},
    )
    (attempt / rundir.RECORD).write_text(json.dumps(record.to_dict()))
    (attempt / rundir.EXIT).write_text('{"returncode": 0, "signal": null, "reason": "finished", "ended_at": 1.7e9}')
    return len(text)


def write_runs(runs: Path, count: int, lines: int) -> int:
    """So many finished runs; returns the bytes of all curves."""
    generator = random.Random(0)
    folders = rundir.write(runs, [make_spec(seed, lines) for seed in range(count)], "bench")
    return sum(write_run(folder, lines, generator) for folder in folders)


def seconds(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Best wall time of so many calls, and the last result."""
    best = float("inf")
    result = None
    for _ in range(repeats):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    return best, result


def questions(store: Path) -> dict[str, float]:
    """Milliseconds of what people ask, best of five: the last two with opening the store, the others without."""
    found = {}
    with open_store(store) as connection:
        ids = [row[0] for row in connection.execute("SELECT run_id FROM run ORDER BY run").fetchall()]
        twenty = ids[:: max(1, len(ids) // 20)][:20]
        middle = ids[len(ids) // 2]
        last = f"""SELECT step, value FROM v_metric WHERE run_id = '{middle}' AND key = 'train_loss'
                   ORDER BY step DESC LIMIT 1000"""
        down = """SELECT run_id, step // 50 AS bin, avg(value) FROM v_metric
                  WHERE key = 'train_loss' AND run_id IN (SELECT unnest(?)) GROUP BY ALL"""
        for name, query, values in (
            ("last_1000_points_of_a_run_ms", last, []),
            ("downsampled_curves_of_20_runs_ms", down, [twenty]),
            ("best_run_per_cell_ms", "SELECT * FROM v_best", []),
            ("final_loss_per_cell_ms", "SELECT * FROM v_cell", []),
        ):

            def ask(query: str = query, values: list[Any] = values) -> Any:
                return connection.execute(query, values).fetchall()

            found[name] = round(1000 * seconds(ask, 5)[0], 2)
    found["curves_of_20_runs_thinned_ms"] = round(
        1000 * seconds(lambda: queries.curves(store, twenty, max_points=500), 5)[0], 2
    )
    found["results_frame_ms"] = round(1000 * seconds(lambda: queries.results(store), 3)[0], 2)
    return found


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000, help="metric values")
    parser.add_argument("--runs", type=int, default=50, help="over so many runs")
    parser.add_argument(
        "--small-runs", type=int, default=0, help="further runs of three lines each, in a store of their own"
    )
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder by default")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    lines = max(1, options.points // (options.runs * len(KEYS)))
    with tempfile.TemporaryDirectory(prefix="optsweep-bench-", dir=options.folder) as name:
        root = Path(name)
        size = write_runs(root / "runs", options.runs, lines)
        store = root / "results.duckdb"
        processor_began = time.process_time()
        took, report = seconds(lambda: ingest(store, root / "runs"))
        processor_took = time.process_time() - processor_began
        again, _ = seconds(lambda: ingest(store, root / "runs"), 3)
        result: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()}",
            "python": platform.python_version(),
            "duckdb": duckdb.__version__,
            "runs": report.runs,
            "points": report.points,
            "jsonl_mb": round(size / 1e6, 1),
            "ingest_seconds": round(took, 3),
            "ingest_cpu_seconds": round(processor_took, 3),
            "points_per_second": round(report.points / took),
            "store_mb": round(store.stat().st_size / 1e6, 1),
            "bytes_per_point": round(store.stat().st_size / report.points, 2),
            "nothing_new_seconds": round(again, 3),
            "questions": questions(store),
        }
        if options.small_runs:
            write_runs(root / "small", options.small_runs, 3)
            first, _ = seconds(lambda: ingest(root / "small.duckdb", root / "small"))
            again, _ = seconds(lambda: ingest(root / "small.duckdb", root / "small"), 3)
            result["small_runs"] = {
                "runs": options.small_runs,
                "first_collect_seconds": round(first, 3),
                "nothing_new_seconds": round(again, 3),
            }
        result["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if options.json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            for inner, number in value.items():
                print(f"{key + '.' + inner:45}{number}")
        else:
            print(f"{key:45}{value}")


if __name__ == "__main__":
    main()
