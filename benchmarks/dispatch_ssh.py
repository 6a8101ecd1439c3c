"""Speed of dispatch over ssh on loopback: helper round trip, runs staged and started, controller CPU, `ls` over many runs.

`python benchmarks/dispatch_ssh.py [--runs 500] [--live 200] [--listed 10000]` brings up its own sshd (throw-away keys, stopped
by pid) and uses the counting engine of the tests, which trains nothing. Prints one JSON line per measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from optsweep_engines.spec import RunRecord, RunSpec  # noqa: E402
from optsweep_tui import settings  # noqa: E402
from optsweep_tui.dispatch import hostsfile  # noqa: E402
from optsweep_tui.dispatch.channel import Channel  # noqa: E402
from tests.e2e import remote, workbench  # noqa: E402
from tests.sshd import Lab, lab  # noqa: E402


def say(**row: object) -> None:
    print(json.dumps(row), flush=True)


def round_trip(made: Lab, workspace: Path, calls: int = 2000) -> None:
    """Median and 99th percentile of a small message to the helper and back."""
    channel = Channel(hostsfile.entry_of(settings.workspace(workspace), "a"))
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        channel.call("cancel", {"run_ids": []})
        seconds.append(time.perf_counter() - started)
    channel.close()
    seconds.sort()
    say(what="helper round trip", median_ms=1e3 * statistics.median(seconds), p99_ms=1e3 * seconds[int(0.99 * calls)])


def started_per_minute(made: Lab, runs: int) -> None:
    """A plan of no-op runs on one host, from the command to the last exit file there."""
    os.environ["COUNTING_STEP_SECONDS"] = "0"
    workspace = made.workspace("many", "a", slots=2)
    grid = remote.grid(made.folder, runs, "0.002")
    box = made.boxes["a"]
    optsweep = workbench.start("run", "--grid", str(grid), "--host", "a", workspace=workspace)
    first, last = 0.0, 0.0
    while optsweep.poll() is None:
        claims = sum(1 for _ in box.runs.glob("*/a1/claim"))
        now = time.monotonic()
        first = first or (now if claims else 0.0)
        if claims >= runs and not last:
            last = now
        time.sleep(0.1)
    rate = 60.0 * runs / max(1e-9, last - first)
    say(what="runs staged and started per minute, one host", runs=runs, per_minute=rate, status=optsweep.returncode)


def watching(made: Lab, live: int) -> None:
    """CPU of a controller that drives `live` runs on every box while they write metrics."""
    os.environ["COUNTING_STEP_SECONDS"] = "0.5"
    per_box = live // len(made.boxes)
    workspace = made.workspace("live", slots=per_box)
    (workspace / "optsweep.toml").write_text("slots = 1\n")
    grid = remote.grid(made.folder, live, "0.05")
    controller = workbench.start("run", "--grid", str(grid), "--host", ",".join(made.boxes), workspace=workspace)
    try:
        limit = time.monotonic() + 600
        while time.monotonic() < limit:
            if sum(1 for _ in workspace.glob("runs/*/a1/metrics.jsonl")) >= live:
                break
            time.sleep(1.0)
        before, started = cpu_seconds(controller.pid), time.monotonic()
        time.sleep(30.0)
        spent, gone = cpu_seconds(controller.pid) - before, time.monotonic() - started
        going = sum(1 for _ in workspace.glob("runs/*/a1/metrics.jsonl"))
        say(
            what="controller CPU, percent of a core", live_runs=going, hosts=len(made.boxes), percent=100 * spent / gone
        )
    finally:
        controller.kill()
        controller.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children, ssh above all."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:13]))
    ssh = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                other = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(other[1]) == pid:
                ssh += sum(map(int, other[11:13]))
    return (own + ssh) / os.sysconf("SC_CLK_TCK")


def listed(count: int) -> None:
    """`optsweep ls` over finished runs: the first listing, then the next."""
    from tests.app import made

    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            plant(Path(folder), made.spec(seed=number))
        for which in ("first", "next", "next"):
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "optsweep_tui", "ls", "--json", "--workspace", folder],
                stdout=subprocess.DEVNULL, check=True,
            )  # fmt: skip
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            say(what="ls", runs=count, listing=which, wall_seconds=time.monotonic() - started, cpu_seconds=cpu)
            time.sleep(2.5)


def plant(root: Path, spec: RunSpec) -> None:
    """A run that is done, without the waits for the disk."""
    attempt = root / "runs" / spec.run_id / "a1"
    attempt.mkdir(parents=True)
    record = RunRecord(
        run_id=spec.run_id, attempt=1, status="done", train_loss=2.0, val_loss=2.1, steps=spec.steps, tokens=spec.tokens,
        train_seconds=9.0, tokens_per_second=1e4, peak_bytes=1, optimizer_state_bytes=1, device="cpu", versions={},
    )  # fmt: skip
    (attempt.parent / "spec.json").write_text(json.dumps(spec.to_dict()))
    (attempt / "intent.json").write_text('{"host": "box"}')
    (attempt / "record.json").write_text(json.dumps(record.to_dict()))
    (attempt / "exit.json").write_text('{"reason": "finished", "returncode": 0, "signal": null}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500, help="no-op runs that are started")
    parser.add_argument("--live", type=int, default=200, help="runs that are watched, on four hosts")
    parser.add_argument("--listed", type=int, default=10_000, help="runs that are listed; 0 leaves a part out")
    options = parser.parse_args()
    say(what="machine", cores=os.cpu_count(), load=os.getloadavg()[0], python=sys.version.split()[0])
    if options.listed:
        listed(options.listed)
    with tempfile.TemporaryDirectory() as folder, lab(Path(folder) / "lab", "a", "b", "c", "d") as made:
        round_trip(made, made.workspace("trip", "a"))
        if options.runs:
            started_per_minute(made, options.runs)
        if options.live:
            watching(made, options.live)


if __name__ == "__main__":
    main()
