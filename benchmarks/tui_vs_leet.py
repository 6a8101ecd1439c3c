"""The terminal app beside `wandb leet` on the same curves: `python benchmarks/tui_vs_leet.py --wandb VENV/bin/python`.

wandb lives in an environment of its own, never in this one. Both programs get the same ten runs of 10,000 points and the same
pty (120x40, true colour), and are measured alike: seconds, bytes and processor seconds (of all their processes) until the first
paint, until all ten curves are drawn, and while one run goes on. Ratios are ours by theirs. No network: offline runs only.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import platform
import pty
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.live_curves import HEIGHT, WIDTH, Terminal, plant, spec

RUNS, POINTS = 10, 10_000
LIVE_SECONDS, LIVE_EVERY, LIVE_POINTS = 15, 0.5, 20
"""One run goes on by so many points, so often, for so long."""
STILL_SECONDS, FEW_BYTES = 1.5, 1500
"""Fewer bytes in so many seconds: what was asked for is drawn."""

WRITER = """
import os, random, sys, time
os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
import wandb
where, runs, points, live = sys.argv[1], *map(int, sys.argv[2:5])
settings = wandb.Settings(x_disable_stats=True, console="off", disable_git=True, save_code=False)
for number in range(runs):
    rng = random.Random(number)
    run = wandb.init(project="bench", name=f"run{number}", dir=where, mode="offline", settings=settings)
    for step in range(1, points + 1):
        run.log({"train_loss": 1.5 + 4 * (1 + step) ** -0.3 + rng.gauss(0, 0.03)}, step=step)
    if number < runs - 1:
        run.finish()
print("ready", flush=True)
if live:
    sys.stdin.readline()
    for step in range(points + 1, points + 1 + live):
        run.log({"train_loss": 1.5 + 4 * (1 + step) ** -0.3 + rng.gauss(0, 0.03)}, step=step)
        if step % %(batch)d == 0:
            time.sleep(%(every)s)
run.finish()
""".replace("%(batch)d", str(LIVE_POINTS)).replace("%(every)s", str(LIVE_EVERY))


APPENDER = f"""
import json, random, sys, time
path, step, rng = sys.argv[1], int(sys.argv[2]), random.Random(0)
for _ in range({int(LIVE_SECONDS / LIVE_EVERY)}):
    rows = []
    for step in range(step + 1, step + 1 + {LIVE_POINTS}):
        loss = 1.5 + 4 * (1 + step) ** -0.3 + rng.gauss(0, 0.03)
        rows.append(json.dumps(dict(step=step, tokens=512 * step, train_seconds=0.01 * step, train_loss=loss)))
    with open(path, "a") as handle:
        handle.write("\\n".join(rows) + "\\n")
    time.sleep({LIVE_EVERY})
"""
"""The same points for ours, in a process of its own."""


class Program(Terminal):
    """A program in a pty of its own; counts what it writes and what all its processes cost."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.started = time.perf_counter()
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment
            os.environ.pop("NO_COLOR", None)
            os.execv(command[0], list(command))
        fcntl.ioctl(self.handle, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))

    def cpu_seconds(self) -> float:
        """Processor time of every process of the session, ended children included."""
        total = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.pid:
                total += int(fields[11]) + int(fields[12])
                if path.parent.name == str(self.pid):
                    total += int(fields[13]) + int(fields[14])
        return total / os.sysconf("SC_CLK_TCK")

    def still(self, most: float = 60.0) -> tuple[int, float]:
        """Bytes until it stands still, and when that began, in seconds since the start of the process.

        Still means fewer than `FEW_BYTES` in `STILL_SECONDS`: a clock or a spinner goes on for ever.
        """
        pieces: list[tuple[float, int]] = []
        end = time.perf_counter() + most
        while (now := time.perf_counter()) < end:
            new = self.read(0.05)
            if new:
                pieces.append((time.perf_counter(), len(new)))
                self.answer(new)
            recent = sum(size for at, size in pieces if at > now - STILL_SECONDS)
            if pieces and now - pieces[0][0] > STILL_SECONDS and recent < FEW_BYTES:
                break
        large = [at for at, size in pieces if size >= FEW_BYTES // 4] or [at for at, _ in pieces] or [end]
        return sum(size for at, size in pieces if at <= large[-1]), large[-1] - self.started

    def answer(self, written: bytes) -> None:
        """A terminal answers when it is asked what it is and where its cursor stands; some programs wait for it."""
        for question, reply in ANSWERS.items():
            if question in written:
                os.write(self.handle, reply)


ANSWERS = {
    b"\x1b[c": b"\x1b[?62;22c",
    b"\x1b[6n": b"\x1b[1;1R",
    b"\x1b]11;?": b"\x1b]11;rgb:1010/1212/1616\x1b\\",
}
"""What kind of terminal, where is the cursor, which background: and what a usual terminal says."""


def measured(command: Sequence[str], environment: dict[str, str], keys: Sequence[bytes], go: Any) -> dict[str, float]:
    """One program: first paint, ten curves, a run that goes on.

    Args:
        keys: pressed one after the other until all curves are drawn.
        go: starts the run that goes on.
    """
    app = Program(command, environment)
    try:
        first, at = app.still()
        found = {"first_paint_s": at, "first_paint_bytes": first, "first_paint_cpu_s": app.cpu_seconds()}
        asked, cpu, written = time.perf_counter(), app.cpu_seconds(), 0
        for key in keys:
            app.press(key)
            new = app.read(0.05)
            written += len(new)
        last, at = app.still()
        found |= {
            "ten_curves_s": at + app.started - asked,
            "ten_curves_bytes": written + last,
            "ten_curves_cpu_s": app.cpu_seconds() - cpu,
        }
        go()
        cpu, began, sizes = app.cpu_seconds(), time.perf_counter(), []
        while time.perf_counter() - began < LIVE_SECONDS:
            new = app.read(LIVE_EVERY)
            app.answer(new)
            sizes.append(len(new))
        seconds = time.perf_counter() - began
        found |= {
            "live_bytes_per_s": sum(sizes) / seconds,
            "live_cpu_percent": 100 * (app.cpu_seconds() - cpu) / seconds,
        }
        return found
    finally:
        app.close()


def ours(root: Path) -> dict[str, float]:
    """The terminal app on ten runs of ours, one of them alive."""
    specs = [spec(number, 2 * POINTS) for number in range(RUNS)]
    planted = [plant(root, of, POINTS, alive=True) for of in specs]

    def go() -> None:
        subprocess.Popen([sys.executable, "-c", APPENDER, str(planted[0][0]), str(POINTS)])

    command = [sys.executable, "-m", "optsweep_tui", "tui", "-w", str(root)]
    try:
        return measured(command, {"XDG_STATE_HOME": str(root / "state")}, [b"3"], go)
    finally:
        for _, claim in planted:
            if claim is not None:
                os.close(claim)


def theirs(root: Path, python: Path) -> dict[str, float]:
    """`wandb leet` on the same curves; space on a run draws it."""
    script = root / "writer.py"
    script.write_text(WRITER)
    count = int(LIVE_SECONDS / LIVE_EVERY) * LIVE_POINTS
    command = [str(python), str(script), str(root), str(RUNS), str(POINTS), str(count)]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdin is not None
    for line in writer.stdout:
        if line.strip() == "ready":
            break

    def go() -> None:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()

    leet = [str(python), str(python.with_name("wandb")), "leet", str(root / "wandb")]
    keys = [key for _ in range(RUNS - 1) for key in (b"\x1b[B", b" ")]
    home = {"WANDB_ERROR_REPORTING": "false", "HOME": str(root), "WANDB_CONFIG_DIR": str(root / "config")}
    try:
        return measured(leet, home, keys, go)
    finally:
        writer.kill()
        writer.wait()


def version(python: Path) -> str:
    """Of wandb in the other environment."""
    code = "import importlib.metadata as m; print(m.version('wandb'))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


ROWS = {
    "first_paint_s": "first paint, seconds from the start of the process",
    "first_paint_bytes": "bytes until then",
    "first_paint_cpu_s": "processor seconds until then",
    "ten_curves_s": "all ten curves drawn, seconds from the first key",
    "ten_curves_bytes": "bytes for it",
    "ten_curves_cpu_s": "processor seconds for it",
    "live_bytes_per_s": "one run goes on: bytes per second",
    "live_cpu_percent": "the same: % of a core",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wandb", type=Path, required=True, help="python of an environment that has wandb")
    parser.add_argument("--repeats", type=int, default=3, help="of each; the median counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    samples: dict[str, list[dict[str, float]]] = {"ours": [], "leet": []}
    for _ in range(options.repeats):  # alternating, so that both see the same load
        with tempfile.TemporaryDirectory() as folder:
            samples["ours"].append(ours(Path(folder)))
        with tempfile.TemporaryDirectory() as folder:
            samples["leet"].append(theirs(Path(folder), options.wandb))
    middle = {
        who: {name: statistics.median(sample[name] for sample in found) for name in ROWS}
        for who, found in samples.items()
    }
    if options.json:
        print(json.dumps(middle | {"wandb": version(options.wandb)}))
        return
    load = Path("/proc/loadavg").read_text().split()[0]
    where = f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, load {load}"
    print(f"# The terminal app beside wandb leet\n\n{where}, Python {platform.python_version()}, ", end="")
    print(f"wandb {version(options.wandb)}. Made by `python benchmarks/tui_vs_leet.py`, {WIDTH}x{HEIGHT}, ", end="")
    print(f"median of {options.repeats}.\n\n| what | optsweep tui | wandb leet | ratio |\n|---|---|---|---|")
    for name, what in ROWS.items():
        mine, other = middle["ours"][name], middle["leet"][name]
        ratio = f"{mine / other:.2f}" if other else "-"
        print(f"| {what} | {mine:.3g} | {other:.3g} | {ratio} |")


if __name__ == "__main__":
    main()
