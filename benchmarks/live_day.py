"""A day of live runs in minutes: `python benchmarks/live_day.py [--hours 24] [--json]`, the app in a pty of its own.

Twenty runs write a point every two seconds for 24 simulated hours; beside them ten at a time last half an hour each and end
(480 in a day). Every five simulated minutes what they would have written in that time is written at once, and the app gets a
moment to read and to draw it. Every half hour somebody walks over all screens and presses some keys; most of the time four
charts are on the screen.

What the app holds afterwards is compared with an app that is started then, on the same runs and the same screens: what the
old one has beyond that it has piled up. Of runs that ended up to 200 stay in memory by design; their columns are counted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.live_curves import Terminal, lines, plant, spec
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import rundir
from optsweep_tui.live.poller import KEEP_RUNS

EVERY_SECONDS = 2.0
"""Between two points of a run, simulated."""
BATCH_SECONDS = 300
"""Simulated time that is written at once."""
LONG, SHORT, SHORT_SECONDS = 20, 10, 1800
MOMENT_SECONDS = 0.35
"""Real time that the app has for a batch: the looks at the runs come every 0.5 s, those at the metrics every 0.25 s."""
BYTES_PER_POINT = 40
"""Columns of the store: step, tokens and seconds of 8 bytes; attempt and three metrics of 4."""
WALK = (b"1", b"jl", b"2", b"jjk", b"4", b"jt", b"6", b"5", b"3", b"x", b"x", b"x", b"x", b"s", b"S")


@dataclass
class Live:
    """A run that is being written."""

    of: RunSpec
    metrics: Path
    claim: int | None
    step: int = 0

    def write(self, points: int, rng: random.Random) -> None:
        """The next points, and a line of the log."""
        with open(self.metrics, "ab") as target:
            target.write(lines(self.of, self.step + 1, self.step + points, rng))
        self.step += points
        with open(self.metrics.parent / rundir.LOG, "a") as log:
            log.write(f"step {self.step} of {self.of.steps}\n")

    def end(self) -> None:
        """It went well."""
        facts: dict[str, Any] = {"train_loss": 2.0, "val_loss": 2.0, "train_seconds": 1.0, "tokens_per_second": 5e4}
        facts |= {"peak_bytes": None, "optimizer_state_bytes": None, "device": "cpu", "versions": {}}
        of = self.of
        record = RunRecord(run_id=of.run_id, attempt=1, status="done", steps=of.steps, tokens=of.tokens, **facts)
        (self.metrics.parent / rundir.RECORD).write_text(json.dumps(record.to_dict()))
        ending = '{"returncode": 0, "signal": null, "reason": "record", "ended_at": 0}'
        (self.metrics.parent / rundir.EXIT).write_text(ending)
        if self.claim is not None:
            os.close(self.claim)


def started(root: Path, number: int, steps: int) -> Live:
    """A run that has just begun."""
    of = spec(number, steps)
    metrics, claim = plant(root, of, 1, alive=True)
    return Live(of=of, metrics=metrics, claim=claim, step=1)


def megabytes(app: Terminal) -> float:
    """Resident memory."""
    return float(Path(f"/proc/{app.pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def walk(app: Terminal) -> None:
    """Somebody looks at everything, and goes back to the charts."""
    for keys in WALK:
        app.press(keys)
        app.read(0.25)


def settle(app: Terminal, most: float = 180.0) -> None:
    """Wait until it has read and drawn everything: it hardly uses the processor any more."""
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = app.cpu_seconds()
        app.read(3.0)
        if app.cpu_seconds() - before < 0.3:
            return


def opened(root: Path) -> Terminal:
    """The app with four charts."""
    app = Terminal(root)
    app.read(120, until=b"lr at edge")
    app.press(b"3")
    app.quiet(2.0, 60.0)
    for _ in range(2):
        app.press(b"w")
        app.quiet(1.0, 20.0)
    settle(app)
    return app


def day(root: Path, hours: float) -> dict[str, Any]:
    """The figures."""
    root.mkdir(parents=True)
    (root / "optsweep.toml").write_text("[tui]\nremember = false\n")  # both apps are to start alike
    points = int(BATCH_SECONDS / EVERY_SECONDS)
    rng = random.Random(0)
    steps = int(hours * 3600 / EVERY_SECONDS) + 2
    long = [started(root, number, steps) for number in range(LONG)]
    short: list[Live] = []
    number, ended, written = LONG, 0, 0
    batches = int(hours * 3600 / BATCH_SECONDS)
    app = opened(root)
    began, cpu = time.perf_counter(), app.cpu_seconds()
    held: dict[int, float] = {}
    for batch in range(batches):
        while len(short) < SHORT:
            short.append(started(root, number, SHORT_SECONDS // 2))
            number += 1
        for run in [*long, *short]:
            run.write(points, rng)
            written += points
        for run in [run for run in short if run.step >= run.of.steps]:
            run.end()
            short.remove(run)
            ended += 1
        app.read(MOMENT_SECONDS)
        if (batch + 1) * BATCH_SECONDS % 1800 == 0:
            walk(app)
        hour, rest = divmod((batch + 1) * BATCH_SECONDS, 3600)
        if rest == 0:
            held[hour] = megabytes(app)
            print(f"hour {hour}: {held[hour]:.1f} MB", file=sys.stderr, flush=True)
    took, used = time.perf_counter() - began, app.cpu_seconds() - cpu
    settle(app)
    walk(app)
    settle(app)
    old = megabytes(app)
    app.close()
    fresh = opened(root)
    walk(fresh)
    settle(fresh)
    new = megabytes(fresh)
    fresh.close()
    for run in [*long, *short]:
        if run.claim is not None:
            os.close(run.claim)
    kept = min(KEEP_RUNS, ended) * SHORT_SECONDS / EVERY_SECONDS * BYTES_PER_POINT / 2**20
    return {
        "hours": hours, "runs": number, "points": written, "real_seconds": took, "cpu_seconds": used,
        "mb_by_hour": {str(hour): round(value, 1) for hour, value in held.items()},
        "mb_after": old, "mb_of_a_fresh_app": new, "mb_of_ended_runs_kept": kept, "mb_beyond_the_data": old - new - kept,
    }  # fmt: skip


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0, help="simulated")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="optsweep-day-") as name:
        os.environ["XDG_STATE_HOME"] = str(Path(name) / "state")
        figures = day(Path(name) / "day", options.hours)
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }
    if options.json:
        print(json.dumps(about | figures))
        return
    print(", ".join(about.values()))
    for key, value in figures.items():
        print(f"{key:28}{value if not isinstance(value, float) else round(value, 1)}")


if __name__ == "__main__":
    main()
