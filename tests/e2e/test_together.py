"""A sweep, the app in a real terminal, a collector, an SQL loop and an outside DuckDB reader, all at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from optsweep_tui.resources import shipped
from tests.e2e import workbench
from tests.e2e.workbench import optsweep

OUTSIDE_READER = """
import sys, time, duckdb
count = 0
limit = time.monotonic() + float(sys.argv[2])
while time.monotonic() < limit:
    try:
        with duckdb.connect(sys.argv[1], read_only=True) as store:
            store.execute("select count(*) from v_metric").fetchone()
        count += 1
    except duckdb.IOException:
        pass  # a writer holds it for a moment: an outsider's own business
    time.sleep(0.1)
print(count)
"""


SECONDS = float(os.environ.get("OPTSWEEP_TOGETHER_SECONDS", "8"))
"""How long everybody works at once: minutes in `make faults`."""


def screen(session: str) -> str:
    return subprocess.run(
        ["tmux", "capture-pane", "-p", "-t", session], capture_output=True, text=True, check=True
    ).stdout


SIZES = ((80, 24), (120, 40))


@pytest.mark.slow
@pytest.mark.system("tmux")
def test_nobody_sees_an_error_while_a_sweep_runs(tmp_path: Path) -> None:
    """Two apps of different sizes, an outside reader and a collector beside one sweep."""
    workspace = tmp_path / "work"
    grid = str(workbench.grid_file(tmp_path, "0.04, 0.05, 0.06"))
    controller = workbench.start("run", "--grid", grid, workspace=workspace)
    reader: subprocess.Popen[str] | None = None
    try:
        limit = time.monotonic() + 120
        while not list(workspace.glob("runs/*/a1/metrics.jsonl")):
            assert time.monotonic() < limit and controller.poll() is None
            time.sleep(0.1)
        optsweep("collect", workspace=workspace)
        with terminal(workspace, *SIZES[0]) as small, terminal(workspace, *SIZES[1]) as large:
            reader = subprocess.Popen(
                [sys.executable, "-c", OUTSIDE_READER, str(workspace / "results.duckdb"), "8"],
                stdout=subprocess.PIPE,
                text=True,
            )
            points: list[int] = []
            shown: dict[str, list[str]] = {small: [], large: []}
            for key in ("1", "2", "3", "5", "1", "2", "3"):
                for session in shown:
                    send(session, key)
                optsweep("collect", "--json", workspace=workspace)
                answer = optsweep("sql", "select count(*) as n from v_metric", "--json", workspace=workspace)
                points.append(json.loads(answer.stdout)[0]["n"])
                for session, texts in shown.items():
                    texts.append(screen(session))
            assert points == sorted(points) and points[-1] > points[0], "the store grows while the sweep runs"
            for (session, texts), (columns, _) in zip(shown.items(), SIZES, strict=True):
                for text in texts:
                    assert "Traceback" not in text and "optsweep" in text.splitlines()[0]
                    assert all(len(line) <= columns for line in text.splitlines())
                assert any("bench-micro" in text for text in texts), session
            assert controller.wait(timeout=300) == 0
            out, _ = reader.communicate(timeout=60)
            assert int(out) > 0
            for session in shown:
                ends_when_asked(session)
    finally:
        if reader is not None:
            reader.kill()
        workbench.stop_everything(workspace)


def send(session: str, key: str) -> None:
    subprocess.run(["tmux", "send-keys", "-t", session, key], check=True)


def ends_when_asked(session: str) -> None:
    """It has seen every run end, and `q` closes it."""
    send(session, "1")
    limit = time.monotonic() + 60
    while "12 done" not in screen(session):
        assert time.monotonic() < limit, screen(session)
        time.sleep(0.2)
    send(session, "q")
    while subprocess.run(["tmux", "has-session", "-t", session], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < limit, screen(session)
        time.sleep(0.2)


def documented_reader() -> Callable[..., Any]:
    """The function that schema/README.md gives to people who read the store from Python."""
    text = (shipped("schema") / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: Callable[..., Any] = names["ask"]
    return found


@contextlib.contextmanager
def terminal(workspace: Path, columns: int = 120, rows: int = 40) -> Iterator[str]:
    """The app in a terminal of its own; its session's name."""
    session = f"optsweep-together-{time.monotonic_ns()}"
    app = [sys.executable, "-m", "optsweep_tui", "tui", "--workspace", str(workspace)]
    subprocess.run(["tmux", "new-session", "-d", "-s", session, "-x", str(columns), "-y", str(rows), *app], check=True)
    try:
        limit = time.monotonic() + 60
        while "optsweep" not in (screen(session).splitlines() or [""])[0]:
            assert time.monotonic() < limit, screen(session)
            time.sleep(0.1)
        yield session
    finally:
        subprocess.run(["tmux", "kill-session", "-t", session], capture_output=True, check=False)


class Turns:
    """Loops in threads that count their turns and the longest of them, until time is over; errors are kept."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.counts: dict[str, int] = {}
        self.longest: dict[str, float] = {}
        self.errors: list[str] = []
        self._threads: list[threading.Thread] = []

    def start(self, name: str, turn: Callable[[], object], pause: float) -> None:
        self.counts[name], self.longest[name] = 0, 0.0

        def loop() -> None:
            while time.monotonic() < self.end and not self.errors:
                began = time.monotonic()
                try:
                    turn()
                except (AssertionError, duckdb.Error, subprocess.SubprocessError) as error:
                    self.errors.append(f"{name}: {error}")
                self.longest[name] = max(self.longest[name], time.monotonic() - began)
                self.counts[name] += 1
                time.sleep(pause)

        self._threads.append(threading.Thread(target=loop))
        self._threads[-1].start()

    def wait(self) -> None:
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.system("tmux")
def test_collector_app_sql_and_a_python_reader_work_side_by_side_during_a_sweep(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    grid = str(workbench.grid_file(tmp_path, "0.04, 0.06", seeds=12 + int(SECONDS)))
    ask = documented_reader()
    controller = workbench.start("run", "--grid", grid, workspace=workspace)
    try:
        limit = time.monotonic() + 120
        while not list(workspace.glob("runs/*/a1/metrics.jsonl")):
            assert time.monotonic() < limit and controller.poll() is None
            time.sleep(0.1)
        optsweep("collect", workspace=workspace)
        store = str(workspace / "results.duckdb")
        points: list[int] = []

        def look() -> None:
            (counted,) = ask(
                "SELECT count(*) AS n, count(DISTINCT (run_id, key, step)) AS d FROM v_metric", store
            ).itertuples()
            assert counted.n == counted.d, "a step twice"
            points.append(counted.n)

        def press() -> None:
            for key in "123512":
                send(session, key)
                time.sleep(0.3)
                shown = screen(session)
                assert "Traceback" not in shown and "optsweep" in shown.splitlines()[0], shown

        def quiet(*arguments: str) -> None:
            done = optsweep(*arguments, workspace=workspace)
            assert "error" not in done.stderr, done.stderr

        with terminal(workspace) as session:
            turns = Turns(SECONDS)
            turns.start("collect", lambda: quiet("collect", "--json"), 0.5)
            turns.start("sql", lambda: quiet("sql", "select count(*) from v_metric", "--json"), 0.2)
            turns.start("python", look, 0.05)
            turns.start("app", press, 0.1)
            turns.wait()
            look()  # what the last collect brought
            said = [f"{name} {count}x, longest {turns.longest[name]:.1f} s" for name, count in turns.counts.items()]
            print(f"{SECONDS:g} s:", "; ".join(said))
            assert turns.errors == []
            assert min(turns.counts.values()) >= 1
            assert points == sorted(points) and points[-1] > points[0], "the store grew and never shrank"
            assert controller.poll() is None or controller.returncode == 0
    finally:
        controller.kill()
        workbench.stop_everything(workspace)
