"""What the end-to-end tests share: the real command in its own process, and a look at who has which run open."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.preloaded import Server

OPTSWEEP = [sys.executable, "-m", "optsweep_tui"]

GRID = """
name = "{name}"
dataset = "embedded"
engine = "{engine}"
seeds = {seeds}
[defaults]
batch_size = 4
seq_len = 32
validation_tokens = 2048
"""
CELLS = """
[[cells]]
optimizer = ["{optimizer}"]
model = ["bench-micro"]
chinchilla = [{ratios}]
"""


def optsweep(
    *arguments: str, workspace: Path, timeout: float = 300, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in a process of its own that need not load its libraries first."""
    result = _commands().run([*arguments, "--workspace", str(workspace)], timeout)
    if check and result.returncode != 0:
        raise AssertionError(f"{arguments} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


@functools.cache
def _commands() -> Server:
    return Server()


def start(*arguments: str, workspace: Path) -> subprocess.Popen[bytes]:
    """Start one command and come back at once."""
    return subprocess.Popen(
        [*OPTSWEEP, *arguments, "--workspace", str(workspace)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def grid_file(
    folder: Path,
    ratios: str,
    seeds: int = 2,
    *,
    first_seed: int = 0,
    name: str = "tiny",
    engine: str = "torch",
    optimizers: Sequence[str] = ("adamw", "muon"),
    file: str | None = None,
) -> Path:
    """A small real sweep as a grid file, called after the study unless `file` names it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file or name}.toml"
    text = GRID.format(name=name, engine=engine, seeds=list(range(first_seed, first_seed + seeds)))
    path.write_text(text + "".join(CELLS.format(optimizer=optimizer, ratios=ratios) for optimizer in optimizers))
    return path


def processes(workspace: Path, module: str) -> list[int]:
    """Pids of live processes whose command line names a module; of this workspace, told by their open files."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if module in command and (str(workspace) in command or _opens(int(entry.name), str(workspace))):
                found.append(int(entry.name))
    return found


def _open_files(pid: int) -> Iterable[str]:
    try:
        entries = list(os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return
    for entry in entries:
        try:
            yield os.readlink(entry.path)
        except OSError:
            continue


def _opens(pid: int, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in _open_files(pid))


def attempts_in_training(workspace: Path) -> dict[str, set[str]]:
    """run id -> attempts that some live process has open for metrics at this moment; the kernel's own account."""
    pattern = re.compile(re.escape(str(workspace)) + r"/runs/([0-9a-f]{32})/(a\d+)/metrics\.jsonl$")
    found: dict[str, set[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in _open_files(int(entry.name)):
                match = pattern.match(name)
                if match:
                    found.setdefault(match.group(1), set()).add(match.group(2))
    return found


def kill(pid: int) -> None:
    """kill -9, if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def stop_everything(workspace: Path) -> None:
    """End whatever a test left behind in its workspace."""
    for module in ("optsweep_tui", "optsweep_engines.shim", "optsweep_engines.run"):
        for pid in processes(workspace, module):
            kill(pid)
    limit = time.monotonic() + 5
    while time.monotonic() < limit and processes(workspace, "optsweep_engines"):
        time.sleep(0.05)


def records(workspace: Path) -> dict[str, dict[str, Any]]:
    """run id -> record of its newest attempt."""
    found = {}
    for run in sorted((workspace / "runs").iterdir()):
        attempts = sorted(
            (path for path in run.iterdir() if re.fullmatch(r"a\d+", path.name)), key=lambda path: int(path.name[1:])
        )
        path = attempts[-1] / "record.json"
        found[run.name] = json.loads(path.read_text()) if path.exists() else {}
    return found


@contextlib.contextmanager
def again_and_again(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Meanwhile call this, with so many seconds between."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds):
            look()

    watcher = threading.Thread(target=work)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
