"""The store at full size: `python benchmarks/store_scale.py [--points 100000000] [--runs 2000] [--small-runs 10000]`.

Writes run folders with curves as the engines write them, has `optsweep collect` take them in as its own process (so that
its peak memory is its own), and then asks what researchers ask, best of several, each answer with opening the store and
without. Beside every wall time stands the processor time, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from ingest import SHAPE, processor

from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import rundir
from optsweep_tui.store import queries
from optsweep_tui.store.connect import open_store

LIMITS = {
    "store_gb": 1.2,
    "last_1000_points_ms": 10.0,
    "downsampled_20_runs_ms": 30.0,
    "final_loss_per_cell_ms": 50.0,
    "best_per_cell_ms": 50.0,
    "table_seconds": 1.0,
    "nothing_new_seconds": 1.0,
    "peak_memory_gb": 2.0,
}
"""Bars of the design; ingest must reach 400,000 points/s beside them."""
POINTS_PER_SECOND = 400_000
KEYS_PER_LINE = 5
"""tokens, train_seconds, train_loss, lr, grad_norm; val_loss comes with every hundredth line."""
STUDY = "scale"


class Took(NamedTuple):
    """What a process used."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


# ---------------------------------------------------------------- run folders


def make_spec(number: int, lines: int) -> RunSpec:
    """Cells of 50 runs: five learning rates x five weight decays x two seeds."""
    inside, cell = number % 50, number // 50
    optimizers = ("adamw", "muon", "soap", "lion", "sgd")
    return RunSpec(
        engine="torch",
        optimizer=optimizers[cell % 5],
        hyperparameters={
            "lr": 0.001 * 2 ** (inside % 5),
            "weight_decay": (0.0, 0.05, 0.1, 0.2, 0.4)[inside // 5 % 5],
            "beta1": 0.9,
        },
        model="micro",
        shape=SHAPE,
        dataset="embedded",
        dataset_hash="ab" * 32,
        tokens=512 * lines * (1 + cell // 5),
        batch_size=8,
        seq_len=64,
        schedule="linear",
        dtype="fp32",
        seed=inside // 25,
    )


def write_curve(maker: duckdb.DuckDBPyConnection, path: Path, number: int, lines: int) -> None:
    """metrics.jsonl as an engine writes it: losses and norms are float32, the rest is double."""
    noise = f"(hash(step, {number}) / 18446744073709551615.0 + hash(step, {number}, 1) / 18446744073709551615.0 - 1.0)"
    maker.execute(f"""
        COPY (
          SELECT '{{"step": ' || step || ', "tokens": ' || step * 512
            || ', "train_seconds": ' || round(step * 0.0123 + 0.002 * {noise}, 6)
            || ', "train_loss": ' || CAST(CAST(2.0 + 3.5 * exp(-step * 8.0 / {lines}) + 0.05 * {noise} AS FLOAT) AS DOUBLE)
            || ', "lr": ' || 0.003 * (1 - step / {lines + 1}.0)
            || ', "grad_norm": ' || CAST(CAST(exp(0.3 * {noise}) AS FLOAT) AS DOUBLE)
            || CASE WHEN step % 100 = 0
               THEN ', "val_loss": ' || CAST(CAST(2.1 + 3.5 * exp(-step * 8.0 / {lines}) AS FLOAT) AS DOUBLE) ELSE '' END
            || '}}'
          FROM range(1, {lines + 1}) t(step)
        ) TO '{path}' (FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER '\x01')
    """)


def write_runs(runs: Path, count: int, lines: int) -> int:
    """So many finished runs; returns the bytes of all curves."""
    generator = random.Random(0)
    maker = duckdb.connect(config={"threads": 1})
    size = 0
    for number in range(count):
        folder = planted(runs, make_spec(number, lines))
        attempt = folder / "a1"
        write_curve(maker, attempt / rundir.METRICS, number, lines)
        size += (attempt / rundir.METRICS).stat().st_size
        loss = 2.0 + 0.3 * (number % 50 % 5 - 2) ** 2 / 10 + generator.gauss(0, 0.003)
        finish(folder, lines, loss)
    maker.close()
    return size


def planted(runs: Path, spec: RunSpec) -> Path:
    """A run folder as `rundir.write` makes it, without its fsyncs: ten thousand of them are minutes."""
    folder = runs / spec.run_id
    (folder / rundir.STUDIES).mkdir(parents=True)
    (folder / "a1").mkdir()
    (folder / rundir.SPEC).write_text(json.dumps(spec.to_dict()))
    marker = {"study": STUDY, "planned_at": "2026-01-01T00:00:00+00:00"}
    (folder / rundir.STUDIES / f"{STUDY}.json").write_text(json.dumps(marker))
    return folder


def finish(folder: Path, lines: int, loss: float) -> None:
    """The end of the first attempt."""
    record = RunRecord(
        run_id=folder.name,
        attempt=1,
        status="done",
        train_loss=loss,
        val_loss=loss,
        steps=lines,
        tokens=lines * 512,
        train_seconds=lines * 0.0123,
        tokens_per_second=40000.0,
        peak_bytes=10**8,
        optimizer_state_bytes=10**6,
        device="cpu",
        versions={"torch": "2.13.0"},
    )
    (folder / "a1" / rundir.RECORD).write_text(json.dumps(record.to_dict()))
    (folder / "a1" / rundir.EXIT).write_text(
        '{"returncode": 0, "signal": null, "reason": "finished", "ended_at": 1.7e9}'
    )


# ---------------------------------------------------------------- measuring


def process(*arguments: str) -> Took:
    """Run one optsweep command to its end."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "optsweep_tui", *arguments], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        output = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{arguments} ended with {child.returncode}: {output}")
    took = Took(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)
    say(f"optsweep {arguments[0]}: {took.wall_seconds:.2f} s, processor {took.cpu_seconds:.2f} s")
    return took


def say(text: str) -> None:
    """How far it is."""
    print(text, file=sys.stderr, flush=True)


def best_of(repeats: int, work: Callable[[], Any]) -> tuple[float, float]:
    """Smallest wall and processor milliseconds of so many calls."""
    walls, processors = [], []
    for _ in range(repeats):
        began, began_processor = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - began)
        processors.append(time.process_time() - began_processor)
    return round(1000 * min(walls), 2), round(1000 * min(processors), 2)


def questions(store: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """(wall, processor) milliseconds of what people ask: over an open connection, then through the functions of the store."""
    with open_store(store) as connection:
        ids = [row[0] for row in connection.execute("SELECT run_id FROM run ORDER BY run").fetchall()]
        twenty = ids[:: max(1, len(ids) // 20)][:20]
        listed = ", ".join(f"'{run_id}'" for run_id in twenty)
        asked = {
            "last_1000_points": f"""SELECT step, value FROM v_metric
                WHERE run_id = '{ids[len(ids) // 2]}' AND key = 'train_loss' ORDER BY step DESC LIMIT 1000""",
            "downsampled_20_runs": f"""SELECT run_id, step // 50 AS bin, avg(value) FROM v_metric
                WHERE key = 'train_loss' AND run_id IN ({listed}) GROUP BY ALL""",
            "final_loss_per_cell": "SELECT * FROM v_cell",
            "best_per_cell": "SELECT * FROM v_best",
        }
        found = {
            name: best_of(repeats, lambda query=query: connection.execute(query).fetchall())  # type: ignore[misc]
            for name, query in asked.items()
        }
        say(f"asked: {found}")
    found["20_curves_of_500_points_with_opening"] = best_of(
        repeats, lambda: queries.curves(store, twenty, max_points=500)
    )
    found["1_whole_curve_with_opening"] = best_of(repeats, lambda: queries.curves(store, twenty[:1]))
    found["results_frame_with_opening"] = best_of(repeats, lambda: queries.results(store))
    return found


def archive_bytes(store: Path) -> int:
    """Parquet files beside the store."""
    return sum(path.stat().st_size for path in store.parent.glob(f"{store.name}.archive/*.parquet"))


def measured(root: Path, points: int, count: int, repeats: int) -> dict[str, Any]:
    """Everything about one size."""
    lines = max(1, points // (count * KEYS_PER_LINE))
    if (root / "runs").exists():
        size = sum(path.stat().st_size for path in root.glob(f"runs/*/a1/{rundir.METRICS}"))
    else:
        size = write_runs(root / "runs", count, lines)
    where = ("--workspace", str(root))
    first = process("collect", "--json", *where)
    report = json.loads(first.output)
    again = min((process("collect", "--json", *where) for _ in range(3)), key=lambda took: took.cpu_seconds)
    table = min((process("table", "--study", STUDY, *where) for _ in range(3)), key=lambda took: took.cpu_seconds)
    store = root / "results.duckdb"
    result: dict[str, Any] = {
        "runs": report["runs"],
        "points": report["points"],
        "jsonl_gb": round(size / 1e9, 3),
        "collect_seconds": round(first.wall_seconds, 2),
        "collect_cpu_seconds": round(first.cpu_seconds, 2),
        "points_per_second": round(report["points"] / first.wall_seconds),
        "points_per_cpu_second": round(report["points"] / first.cpu_seconds),
        "peak_memory_gb": round(first.peak_bytes / 1e9, 3),
        "file_gb": round(store.stat().st_size / 1e9, 4),
        "archive_gb": round(archive_bytes(store) / 1e9, 4),
        "store_gb": round((store.stat().st_size + archive_bytes(store)) / 1e9, 4),
        "nothing_new_seconds": round(again.wall_seconds, 2),
        "nothing_new_cpu_seconds": round(again.cpu_seconds, 2),
        "table_seconds": round(table.wall_seconds, 2),
        "table_cpu_seconds": round(table.cpu_seconds, 2),
    }
    result["bytes_per_point"] = round(1e9 * result["store_gb"] / result["points"], 2)
    for name, (wall, used) in questions(store, repeats).items():
        result[f"{name}_ms"], result[f"{name}_cpu_ms"] = wall, used
    moved = process("gc", "--archive", "--json", *where)
    result |= {
        "archive_all_cpu_seconds": round(moved.cpu_seconds, 2),
        "archive_all_peak_memory_gb": round(moved.peak_bytes / 1e9, 3),
        "all_archived_file_gb": round(store.stat().st_size / 1e9, 4),
        "all_archived_archive_gb": round(archive_bytes(store) / 1e9, 4),
    }
    for name, (wall, used) in questions(store, repeats).items():
        result[f"all_archived_{name}_ms"], result[f"all_archived_{name}_cpu_ms"] = wall, used
    return result


def main() -> None:
    """Parse, measure, print; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000_000, help="metric values")
    parser.add_argument("--runs", type=int, default=2000, help="over so many runs")
    parser.add_argument(
        "--small-runs", type=int, default=10_000, help="runs of three lines, in a workspace of their own"
    )
    parser.add_argument("--repeats", type=int, default=10, help="of each question, the best counts")
    parser.add_argument("--folder", type=Path, help="where to write; the system's temporary folder by default")
    parser.add_argument(
        "--runs-from", type=Path, help="a folder of an earlier call with --keep: its curves, a new store"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything there and say where")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    root = options.runs_from or Path(tempfile.mkdtemp(prefix="optsweep-scale-", dir=options.folder))
    for leftover in (*root.glob("large/results.*"), *root.glob("small")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    try:
        result: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}",
            "versions": f"Python {platform.python_version()}, duckdb {duckdb.__version__}",
            **measured(root / "large", options.points, options.runs, options.repeats),
        }
        if options.small_runs:
            write_runs(root / "small" / "runs", options.small_runs, 3)
            where = ("--workspace", str(root / "small"))
            first = process("collect", "--json", *where)
            again = min((process("collect", "--json", *where) for _ in range(5)), key=lambda took: took.cpu_seconds)
            result |= {
                "small_runs": options.small_runs,
                "small_first_collect_cpu_seconds": round(first.cpu_seconds, 2),
                "small_nothing_new_seconds": round(again.wall_seconds, 2),
                "small_nothing_new_cpu_seconds": round(again.cpu_seconds, 2),
            }
    finally:
        if options.keep or options.runs_from:
            print(f"kept: {root}", file=sys.stderr)
        else:
            shutil.rmtree(root)
    missed = [name for name, limit in LIMITS.items() if result[name] > limit]
    if result["points_per_second"] < POINTS_PER_SECOND:
        missed.append("points_per_second")
    if options.json:
        print(json.dumps(result | {"missed": missed}))
    else:
        for name, value in result.items():
            print(f"{name:45}{value}{'   MISSED' if name in missed else ''}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
