"""What the terminal app costs: `python benchmarks/live_curves.py [--quick] [--json]`.

In this process: redraw of 50 curves x 10,000 points at 120x40, memory of 50 runs x 100,000 points x 3 metrics. In a
terminal of its own (a pty, truecolor): first paint with 1,000 runs, bytes per frame while one or all of ten curves
grow, key to paint, and processor time with nothing running and with 50 live runs. The run table with 100,000 rows, and
500 live runs that write two points a second each: key to paint, processor time and growth of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import platform
import pty
import random
import resource
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from optsweep_engines import folder, models
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import rundir
from optsweep_tui.app.views.chart import ChartModel, Line
from optsweep_tui.live.runstore import RunStore, Series
from optsweep_tui.live.tailer import Batch

WIDTH, HEIGHT = 120, 40
AXIS_BYTES = 700
"""A logarithmic x axis redraws ten curves, more than this; a frame of curves that grow is less."""
LIMITS = {
    "redraw_50_curves_ms": 30.0,
    "first_paint_1000_runs_s": 0.8,
    "bytes_one_curve": 1000.0,
    "bytes_ten_curves": 5000.0,
    "key_to_paint_p95_ms": 50.0,
    "cpu_idle_percent": 2.0,
    "cpu_live_50_percent": 15.0,
    "memory_50x100k_mb": 300.0,
    "table_100k_first_paint_ms": 300.0,
    "crowd_key_to_paint_p95_ms": 80.0,
    "cpu_crowd_500_percent": 25.0,
    "crowd_growth_mb": 20.0,
}
"""Budgets of the design notes."""


# ---------------------------------------------------------------- made-up runs


def spec(number: int, steps: int) -> RunSpec:
    """A run of so many steps."""
    optimizers = ("adamw", "muon", "sgd", "soap", "lion")
    return RunSpec(
        engine="torch",
        optimizer=optimizers[number % 5],
        hyperparameters={"lr": 0.001 * (1 + number // 5 % 10)},
        model="bench-micro",
        shape=models.model("bench-micro").shape,
        dataset="embedded",
        dataset_hash="ab" * 32,
        tokens=512 * steps,
        batch_size=8,
        seq_len=64,
        schedule="linear",
        dtype="fp32",
        seed=number // 50,
    )


def lines(of: RunSpec, first: int, last: int, rng: random.Random) -> bytes:
    """Metric lines of the steps first..last, one per step."""
    rows = []
    for step in range(first, last + 1):
        loss = 1.5 + 4 * (1 + step) ** -0.3 + rng.gauss(0, 0.03)
        row = {
            "step": step,
            "tokens": step * 512,
            "train_seconds": step * 0.01,
            "train_loss": loss,
            "lr": 0.001,
            "grad_norm": 1.0,
        }
        rows.append(json.dumps(row))
    return ("\n".join(rows) + "\n").encode()


def plant(root: Path, of: RunSpec, done: int, alive: bool) -> tuple[Path, int | None]:
    """A run folder with `done` metric lines, without the flushes of a real one; returns its metrics file and its claim."""
    attempt = root / "runs" / of.run_id / "a1"
    (attempt.parent / rundir.STUDIES).mkdir(parents=True)
    attempt.mkdir()
    (attempt.parent / rundir.SPEC).write_text(json.dumps(of.to_dict()))
    (attempt.parent / rundir.STUDIES / "bench.json").write_text('{"study": "bench"}')
    metrics = attempt / rundir.METRICS
    metrics.write_bytes(lines(of, 1, done, random.Random(of.run_id)))
    if alive:
        return metrics, folder.take_claim(attempt)
    record = RunRecord(
        run_id=of.run_id,
        attempt=1,
        status="done",
        train_loss=2.0,
        val_loss=2.0,
        steps=of.steps,
        tokens=of.tokens,
        train_seconds=1.0,
        tokens_per_second=50_000.0,
        peak_bytes=None,
        optimizer_state_bytes=None,
        device="cpu",
        versions={},
    )
    (attempt / rundir.RECORD).write_text(json.dumps(record.to_dict()))
    (attempt / rundir.EXIT).write_text('{"returncode": 0, "signal": null, "reason": "record", "ended_at": 0}')
    return metrics, None


# ---------------------------------------------------------------- a terminal


class Terminal:
    """The app in a pty; counts what it writes."""

    def __init__(self, workspace: Path) -> None:
        self.started = time.perf_counter()
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            os.environ.pop("NO_COLOR", None)
            command = [sys.executable, "-m", "optsweep_tui", "tui", "-w", str(workspace)]
            os.execv(sys.executable, command)
        fcntl.ioctl(self.handle, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))

    def read(self, seconds: float, until: bytes | None = None, least: int = 0) -> bytes:
        """What it writes in so many seconds, or until a text or so many bytes came."""
        found, end = b"", time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            if select.select([self.handle], [], [], left)[0]:
                try:
                    found += os.read(self.handle, 1 << 16)
                except OSError:
                    break
                if (until is not None and until in found) or (least and len(found) >= least):
                    break
        return found

    def quiet(self, seconds: float = 1.0, most: float = 20.0) -> None:
        """Wait until nothing was written for a while."""
        end = time.perf_counter() + most
        while self.read(seconds) and time.perf_counter() < end:
            pass

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self.handle, keys)

    def cpu_seconds(self) -> float:
        """Processor time of the app so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Quit."""
        with contextlib.suppress(OSError):
            self.press(b"q")
            self.read(0.5)
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.handle)


@contextlib.contextmanager
def terminal(workspace: Path) -> Iterator[Terminal]:
    """The app, closed at the end."""
    opened = Terminal(workspace)
    try:
        yield opened
    finally:
        opened.close()


# ---------------------------------------------------------------- figures


def redraw() -> dict[str, float]:
    """Processor milliseconds per frame of 50 curves x 10,000 points: all new, one new, nothing new, all new and smoothed."""
    rng = np.random.default_rng(0)
    x = np.arange(1.0, 10_001.0)
    data = [1.5 + 4 * x**-0.3 + 0.02 * place + rng.normal(0, 0.03, len(x)) for place in range(50)]

    def frame(model: ChartModel, versions: list[int]) -> float:
        drawn = []
        for place, (y, version) in enumerate(zip(data, versions, strict=True)):
            series = Series(x=x * 512, y=y, steps=x, version=version, epoch=version)
            drawn.append(Line(run_id=str(place), series=series, colour="#e69f00", letter="A", end=512e4))
        started = time.thread_time()  # what other programs of the machine do does not count
        model.frame(drawn, WIDTH, HEIGHT - 4)
        return (time.thread_time() - started) * 1e3

    found = {}
    for name, tau in (("", 0.0), ("_smoothed_anew", 200.0)):
        model = ChartModel(tau=tau)
        frame(model, [0] * 50)
        everything = [frame(model, [number] * 50) for number in range(1, 21)]
        one = [frame(model, [20 + number, *([20] * 49)]) for number in range(1, 21)]
        found[f"redraw_50_curves{name}_ms"] = statistics.median(everything)
        found[f"redraw_one_of_50{name}_ms"] = statistics.median(one)
    return found


def memory() -> dict[str, float]:
    """Megabytes that the store holds for 50 runs x 100,000 points x 3 metrics, as the tailer fills it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store = RunStore()
    for run in range(50):
        for start in range(0, 100_000, 1000):
            rows: list[dict[str, Any]] = [
                {"step": step, "tokens": step * 512, "train_seconds": step * 0.01, "train_loss": 2.0, "lr": 0.1, "grad_norm": 1.0}
                for step in range(start + 1, start + 1001)
            ]  # fmt: skip
            store.apply(str(run), Batch(attempt=1, rows=rows))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert store.series("0", "lr") is not None
    return {"memory_50x100k_mb": (after - before) / 1024}


def first_paint(root: Path, repeats: int) -> dict[str, float]:
    """Seconds from the start of the process to the first frame, and to all of 1,000 runs on it."""
    for number in range(1000):
        plant(root, spec(number, 400 + 100 * (number % 7)), 20, alive=False)
    framed, complete, cpu = [], [], []
    for _ in range(repeats):
        with terminal(root) as app:
            app.read(30, until=b"lr at edge")
            framed.append(time.perf_counter() - app.started)
            cpu.append(app.cpu_seconds())
            while app.read(1.5):
                pass
            complete.append(time.perf_counter() - app.started - 1.5)
    return {
        "first_paint_1000_runs_s": min(framed),
        "first_paint_1000_runs_cpu_s": min(cpu),
        "all_1000_runs_s": min(complete),
    }


def live(root: Path, count: int, points: int, seconds: float) -> dict[str, float]:
    """A workspace with so many live runs: bytes per frame, key to paint, processor time."""
    planted = [plant(root, spec(number, 2 * points), points, alive=True) for number in range(count)]
    specs = [spec(number, 2 * points) for number in range(count)]
    rng = random.Random(0)
    step = points

    def append(chosen: int, new: int) -> None:
        nonlocal step
        for (metrics, _), of in list(zip(planted, specs, strict=True))[:chosen]:
            with open(metrics, "ab") as handle:
                handle.write(lines(of, step + 1, step + new, rng))
        step += new

    found: dict[str, float] = {}
    with terminal(root) as app:
        app.read(60, until=b"lr at edge")
        app.press(b"3")
        app.quiet(2.0, 60.0)
        for name, chosen in (("one", 1), ("ten", 10)):
            if count == 10:
                written, frames = 0, 12
                for _ in range(frames):
                    append(chosen, points // 50)  # half a column of the chart
                    written += len(app.read(0.6))
                found[f"bytes_{name}_curve{'' if name == 'one' else 's'}"] = written / frames
        if count == 10:
            delays = []
            for number in range(40):
                append(10, 1)
                app.read(0.02 * (number % 7))
                started = time.perf_counter()
                app.press(b"l")
                app.read(2, least=AXIS_BYTES)
                delays.append((time.perf_counter() - started) * 1e3)
                app.read(0.1)
            found["key_to_paint_p95_ms"] = statistics.quantiles(delays, n=20)[-1]
            found["key_to_paint_median_ms"] = statistics.median(delays)
            return _closed(planted, found)
        began, cpu = time.perf_counter(), app.cpu_seconds()
        while time.perf_counter() - began < seconds:
            append(count, 1)
            app.read(0.5)
        found[f"cpu_live_{count}_percent"] = 100 * (app.cpu_seconds() - cpu) / (time.perf_counter() - began)
        app.quiet(1.5)
        began, cpu = time.perf_counter(), app.cpu_seconds()
        app.read(seconds)
        found["cpu_idle_percent"] = 100 * (app.cpu_seconds() - cpu) / (time.perf_counter() - began)
    return _closed(planted, found)


def table() -> dict[str, float]:
    """Processor milliseconds of the interface's thread for the run table with 100,000 rows: shown, sorted, filtered."""
    import asyncio
    import dataclasses
    import gc

    from optsweep_tui import flow, settings
    from optsweep_tui.app.app import OptsweepApp
    from optsweep_tui.app.model import RunRow, Snapshot, StudyInfo, cell_order
    from optsweep_tui.app.screens.runs import RunsScreen
    from optsweep_tui.core import Cell

    def rows() -> list[RunRow]:
        made = []
        for number in range(1000):
            of = spec(number, 400)
            line = flow.RunLine(
                run_id=of.run_id, state="done", optimizer=of.optimizer, model=of.model, chinchilla=of.chinchilla, seed=of.seed,
                engine="torch", host="local", attempt=1, step=400, steps=400, loss=2.0, tokens_per_second=5e4, eta_seconds=None,
                lr=float(str(of.hyperparameters["lr"])),
            )  # fmt: skip
            made.append(RunRow(line=line, cell=Cell.of(of), studies=("bench",), knobs=of.hyperparameters))
        return [
            dataclasses.replace(
                made[place % 1000],
                line=dataclasses.replace(
                    made[place % 1000].line, run_id=f"{place:032x}", loss=2 + place * 7919 % 10007 / 1e4
                ),
            ).labelled()
            for place in range(100_000)
        ]

    async def measure() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as name:
            app = OptsweepApp(settings.workspace(Path(name)), "runs")
            known = sorted(rows(), key=cell_order)
            by_id = {row.run_id: row for row in known}
            everything = Snapshot(rows=tuple(known), studies=(StudyInfo(name="bench"),), read=1, total=1, by_id=by_id)
            async with app.run_test(size=(WIDTH, HEIGHT)) as pilot:
                await pilot.pause(0.5)
                app.feed.stop()
                screen = app.base_screen()
                assert isinstance(screen, RunsScreen)
                gc.collect()  # what was made up above is not part of it
                found = {}
                started = time.thread_time()
                app.on_optsweep_app_snapshot_taken(app.SnapshotTaken(everything))
                await pilot.pause()
                found["table_100k_first_paint_ms"] = (time.thread_time() - started) * 1e3
                assert len(screen.shown) == 100_000
                started = time.thread_time()
                screen._sort_by("loss")
                await pilot.pause()
                found["table_100k_sort_ms"] = (time.thread_time() - started) * 1e3
                screen.filter_text = "opt:muon lr>0.002 loss<2.5"
                started = time.thread_time()
                screen.draw()
                await pilot.pause()
                found["table_100k_filter_ms"] = (time.thread_time() - started) * 1e3
                return found

    return asyncio.run(measure())


def crowd(root: Path, count: int, seconds: float) -> dict[str, float]:
    """So many live runs of two points a second each, the run table and the chart on the screen in turn."""
    planted = [plant(root, spec(number, 40_000), 200, alive=True) for number in range(count)]
    rng, step = random.Random(0), 200
    found: dict[str, float] = {}
    with terminal(root) as app:
        app.read(120, until=b"lr at edge")
        app.press(b"2")
        app.quiet(2.0, 60.0)

        def megabytes() -> float:
            return float(Path(f"/proc/{app.pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

        began, cpu, held = time.perf_counter(), app.cpu_seconds(), megabytes()
        delays: list[float] = []
        keys = [(b"j", b"\x1b"), (b"k", b"\x1b")]
        while time.perf_counter() - began < seconds:
            due = time.perf_counter() + 0.5
            step += 1
            for place, (metrics, _) in enumerate(planted):
                with open(metrics, "ab") as handle:
                    handle.write(lines(spec(place, 40_000), step, step, rng))
            app.read(0.05)
            key, wanted = keys[len(delays) % 2]
            started = time.perf_counter()
            app.press(key)
            app.read(2, until=wanted)
            delays.append((time.perf_counter() - started) * 1e3)
            app.read(max(0.0, due - time.perf_counter()))
        found[f"cpu_crowd_{count}_percent"] = 100 * (app.cpu_seconds() - cpu) / (time.perf_counter() - began)
        found["crowd_key_to_paint_p95_ms"] = statistics.quantiles(delays, n=20)[-1]
        found["crowd_key_to_paint_median_ms"] = statistics.median(delays)
        found["crowd_growth_mb"] = megabytes() - held
    return _closed(planted, found)


def _closed(planted: list[tuple[Path, int | None]], found: dict[str, float]) -> dict[str, float]:
    for _, claim in planted:
        if claim is not None:
            os.close(claim)
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter live phases")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    seconds = 5.0 if options.quick else 20.0
    with tempfile.TemporaryDirectory(prefix="optsweep-bench-") as name:
        figures = {
            **redraw(),
            **first_paint(Path(name) / "thousand", 2 if options.quick else 5),
            **live(Path(name) / "ten", 10, 10_000, seconds),
            **live(Path(name) / "fifty", 50, 10_000, seconds),
            **memory(),
            **table(),
            **crowd(Path(name) / "crowd", 500, 30.0 if options.quick else 600.0),
        }
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }
    if options.json:
        print(json.dumps(about | {key: round(value, 3) for key, value in figures.items()}))
        return
    print(", ".join(about.values()))
    for key, value in figures.items():
        limit = f"   budget {LIMITS[key]:g}" if key in LIMITS else ""
        print(f"{key:34}{value:12.2f}{limit}")


if __name__ == "__main__":
    main()
