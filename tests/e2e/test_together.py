"""A sweep, the app in a real terminal, a collector, an SQL loop and an outside DuckDB reader, all at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def screen(session: str) -> str:
    return subprocess.run(
        ["tmux", "capture-pane", "-p", "-t", session], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.system("tmux")
@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (120, 40)])
def test_nobody_sees_an_error_while_a_sweep_runs(tmp_path: Path, columns: int, rows: int) -> None:
    workspace = tmp_path / "work"
    grid = str(workbench.grid_file(tmp_path, "0.04, 0.05, 0.06"))
    session = f"optsweep-{columns}-{time.monotonic_ns()}"
    controller = workbench.start("run", "--grid", grid, workspace=workspace)
    reader: subprocess.Popen[str] | None = None
    try:
        limit = time.monotonic() + 120
        while not list(workspace.glob("runs/*/a1/metrics.jsonl")):
            assert time.monotonic() < limit and controller.poll() is None
            time.sleep(0.1)
        optsweep("collect", workspace=workspace)
        app = [sys.executable, "-m", "optsweep_tui", "tui", "--workspace", str(workspace)]
        subprocess.run(
            ["tmux", "new-session", "-d", "-s", session, "-x", str(columns), "-y", str(rows), *app], check=True
        )
        reader = subprocess.Popen(
            [sys.executable, "-c", OUTSIDE_READER, str(workspace / "results.duckdb"), "8"],
            stdout=subprocess.PIPE,
            text=True,
        )
        shown, points = [], []
        for key in ("1", "2", "3", "5", "1", "2", "3"):
            subprocess.run(["tmux", "send-keys", "-t", session, key], check=True)
            optsweep("collect", "--json", workspace=workspace)
            answer = optsweep("sql", "select count(*) as n from v_metric", "--json", workspace=workspace)
            points.append(json.loads(answer.stdout)[0]["n"])
            shown.append(screen(session))
        assert points == sorted(points) and points[-1] > points[0], "the store grows while the sweep runs"
        for text in shown:
            assert "Traceback" not in text and "optsweep" in text.splitlines()[0]
            assert all(len(line) <= columns for line in text.splitlines())
        assert any("bench-micro" in text for text in shown)
        assert controller.wait(timeout=300) == 0
        out, _ = reader.communicate(timeout=60)
        assert int(out) > 0
        subprocess.run(["tmux", "send-keys", "-t", session, "1"], check=True)
        limit = time.monotonic() + 30
        while "12 done" not in screen(session):
            assert time.monotonic() < limit, screen(session)
            time.sleep(0.2)
        subprocess.run(["tmux", "send-keys", "-t", session, "q"], check=True)
        while subprocess.run(["tmux", "has-session", "-t", session], capture_output=True, check=False).returncode == 0:
            assert time.monotonic() < limit, screen(session)
            time.sleep(0.2)
    finally:
        subprocess.run(["tmux", "kill-session", "-t", session], capture_output=True, check=False)
        if reader is not None:
            reader.kill()
        workbench.stop_everything(workspace)
