"""Trouble that is not a typo: a store that is held, newer or garbage, torn metrics, a full disk, Ctrl-C, a failing run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from optsweep_tui.cli import root
from tests.e2e import workbench
from tests.e2e.workbench import OPTSWEEP, optsweep

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(swept: Path, tmp_path: Path) -> Path:
    """A finished workspace of one's own."""
    return Path(shutil.copytree(swept, tmp_path / "work"))


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, (result.returncode, result.stderr)
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: "), result.stderr
    return result.stderr


def test_a_garbage_store_says_how_to_rebuild_and_the_rebuild_gives_the_same_table(copied: Path) -> None:
    before = optsweep("table", "--json", workspace=copied).stdout
    (copied / "results.duckdb").write_bytes(b"garbage" * 1000)
    assert "--rebuild" in one_line(optsweep("table", workspace=copied, check=False))
    optsweep("collect", "--rebuild", workspace=copied)
    assert json.loads(optsweep("table", "--json", workspace=copied).stdout) == json.loads(before)


def test_a_store_of_a_newer_version_is_left_alone(copied: Path) -> None:
    with duckdb.connect(str(copied / "results.duckdb")) as store:
        store.execute("update schema_version set version = 999")
    content = (copied / "results.duckdb").read_bytes()
    assert "newer" in one_line(optsweep("sql", "select 1", workspace=copied, check=False))
    assert "newer" in one_line(optsweep("collect", workspace=copied, check=False))
    assert (copied / "results.duckdb").read_bytes() == content


def test_a_store_that_another_process_holds_is_waited_for_and_then_named(copied: Path) -> None:
    code = "import duckdb, sys, time; held = duckdb.connect(sys.argv[1]); print('held', flush=True); time.sleep(120)"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(copied / "results.duckdb")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert str(holder.pid) in one_line(optsweep("sql", "select 1", workspace=copied, check=False))
    finally:
        holder.kill()
        holder.wait()
    assert json.loads(optsweep("sql", "select 1 as one", "--json", workspace=copied).stdout) == [{"one": 1}]


def test_sql_can_neither_write_nor_read_other_files(copied: Path, tmp_path: Path) -> None:
    for query in (
        "delete from run",
        "drop table metric",
        f"copy run to '{tmp_path / 'x.csv'}'",
        "select * from read_csv('/etc/passwd')",
        "select * from '/etc/passwd'",
        "install httpfs",
        "attach 'other.duckdb'",
        "select nonsense from v_run",
        "select 1; drop table run",
        "",
    ):
        one_line(optsweep("sql", query, workspace=copied, check=False))
    assert not (tmp_path / "x.csv").exists()
    assert json.loads(optsweep("sql", "select count(*) as n from run", "--json", workspace=copied).stdout) == [{"n": 8}]


def test_a_torn_or_garbage_metric_line_is_skipped_and_counted(copied: Path) -> None:
    run = next(path for path in sorted((copied / "runs").iterdir()))
    attempt = sorted(run.glob("a*"))[-1]
    with open(attempt / "metrics.jsonl", "ab") as handle:
        handle.write(b'not json\n{"step": 1e400}\n{"step": 7, "train_loss": 1.')
    report = json.loads(optsweep("collect", "--rebuild", "--json", workspace=copied).stdout)
    assert report["skipped_lines"] == 2
    assert optsweep("ls", workspace=copied).stdout.count("done") == 8


def test_a_full_disk_while_preparing_data_is_one_line(small_disk: Path, swept: Path) -> None:
    grid = str(swept.parent / "tiny.toml")
    assert "space" in one_line(optsweep("run", "--grid", grid, workspace=small_disk / "work", check=False))


def test_a_disk_that_fills_during_training_fails_the_run_and_retry_finishes_it(small_disk: Path, swept: Path) -> None:
    workspace = small_disk / "work"
    workspace.mkdir()
    (workspace / "data").symlink_to(swept / "data")
    (workspace / "optsweep.toml").write_text("checkpoint_seconds = 0.2\nslots = 1\n")
    arguments = ["run", "-o", "adamw", "-m", "bench-micro", "-c", "0.08", "--set", "seq_len=32"]
    controller = workbench.start(*arguments, workspace=workspace)
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not list(workspace.glob("runs/*/a1/metrics.jsonl")):
        time.sleep(0.05)
    with open(small_disk / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass
    assert controller.wait(timeout=200) in (1, 2)
    (row,) = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
    assert row["state"] in ("failed", "lost", "queued")
    (run,) = (workspace / "runs").iterdir()
    assert json.loads((run / "a1" / "record.json").read_text())["status"] == "failed", "the reserve held the record"
    assert "space" in json.loads((run / "a1" / "record.json").read_text())["error"].lower()
    (small_disk / "filler").unlink()
    optsweep("retry", "--failed", workspace=workspace)
    optsweep("resume", workspace=workspace)
    (row,) = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
    assert row["state"] == "done" and row["step"] == row["steps"]


def test_ctrl_c_detaches_with_130_and_the_runs_go_on(tmp_path: Path, swept: Path) -> None:
    workspace = tmp_path / "work"
    grid = str(workbench.grid_file(tmp_path, "0.05, 0.06"))
    process = subprocess.Popen(
        [*OPTSWEEP, "run", "--grid", grid, "--workspace", str(workspace)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not list(workspace.glob("runs/*/a1/metrics.jsonl")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    try:
        assert process.returncode == 130
        assert "Traceback" not in err and out == ""
        assert "detached" in err
        assert workbench.processes(workspace, "optsweep_engines.shim"), "workers outlive their controller"
        optsweep("resume", workspace=workspace, timeout=600)
        states = {row["state"] for row in json.loads(optsweep("ls", "--json", workspace=workspace).stdout)}
        assert states == {"done"}
    finally:
        workbench.stop_everything(workspace)


def test_ctrl_c_at_any_moment_is_130_without_a_traceback(tmp_path: Path, swept: Path) -> None:
    grid = str(swept.parent / "tiny.toml")
    answered = 0
    for index, delay in enumerate((0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0)):
        process = subprocess.Popen(
            [*OPTSWEEP, "run", "--grid", grid, "--workspace", str(tmp_path / f"w{index}")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        workbench.stop_everything(tmp_path / f"w{index}")
        early = ("runpy", "init_import_site", "init_sys_streams")  # Python itself had not come to our first line
        starting = process.returncode == -signal.SIGINT or any(where in err for where in early)
        if not starting or "optsweep_tui/" in err:
            assert process.returncode == 130, (delay, process.returncode, err)
            assert "Traceback" not in err, (delay, err)
            answered += 1
    assert answered >= 4


def test_a_cancelled_run_stops_and_a_retry_takes_it_up_where_it_was(tmp_path: Path) -> None:
    workspace = tmp_path / "work"
    arguments = ["run", "-o", "adamw", "-m", "bench-micro", "-c", "0.3", "--set", "seq_len=64", "--detach", "--json"]
    run = json.loads(optsweep(*arguments, workspace=workspace).stdout)["runs"][0]["run_id"]
    try:
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            (row,) = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
            if row["step"] > 20:
                break
            time.sleep(0.2)
        optsweep("cancel", run[:8], workspace=workspace)
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            (row,) = json.loads(optsweep("ls", "--json", workspace=workspace).stdout)
            if row["state"] == "cancelled":
                break
            time.sleep(0.2)
        assert row["state"] == "cancelled" and 0 < row["step"] < row["steps"]
        time.sleep(1)
        assert workbench.processes(workspace, "optsweep_engines.run") == []
        assert json.loads(optsweep("resume", "--json", workspace=workspace).stdout) == []
        optsweep("retry", run, workspace=workspace)
        shown = json.loads(optsweep("show", run, "--json", workspace=workspace).stdout)
        assert shown["line"]["state"] == "done"
        assert shown["record"]["resumed_from_step"] >= row["step"] > 0
    finally:
        workbench.stop_everything(workspace)


def test_a_run_whose_spec_was_tampered_with_fails_and_says_so(copied: Path) -> None:
    run = sorted((copied / "runs").iterdir())[0]
    data = json.loads((run / "spec.json").read_text())
    data["seed"] = 99
    (run / "spec.json").write_text(json.dumps(data))
    assert "hashes to" in one_line(optsweep("show", run.name, workspace=copied, check=False))
    assert len(json.loads(optsweep("ls", "--json", workspace=copied).stdout)) == 7


def test_a_run_whose_second_attempt_has_not_ended_is_shown_with_why_each_was_made(copied: Path) -> None:
    run = sorted((copied / "runs").iterdir())[0]
    (run / "a2").mkdir()
    intent = {"host": "cluster", "why": "first", "requeued": "7_3", "asked": False, "submitted_at": time.time()}
    (run / "a2" / "intent.json").write_text(json.dumps(intent))
    with open(run / "a1" / "events.jsonl", "a") as events:
        events.write('{"kind": "note\\u001b[2J", "word": "\\u001b]0;title\\u0007"}\n{"word": 1}\n')
    lines = [" ".join(line.split()) for line in optsweep("show", run.name, workspace=copied).stdout.splitlines()]
    assert any(line.startswith("a1 finished") for line in lines)
    assert any(line.startswith("a2 queued") for line in lines)
    assert "note·[2J word=·]0;title·" in lines and "\x1b" not in "".join(lines)
    assert any(line.endswith("on host cluster: its task 7_3 was started again by the scheduler") for line in lines)


def test_a_process_that_may_have_little_memory_counts_that_as_all_there_is_and_ends_in_one_line(
    copied: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); from optsweep_engines import survey"
    limited = subprocess.run(
        [sys.executable, "-c", f"{said}; print(survey.memory()[1])"], capture_output=True, text=True, check=True
    )
    assert int(limited.stdout) == 3 << 30

    def starved(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(root, "app", starved)
    assert root.run_command(["ls", "--workspace", str(copied)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("error: this process gets no more memory")
