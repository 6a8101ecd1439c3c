"""The store is an index: made anew from the run folders it says the same, and a snapshot is a file of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from optsweep_tui import rundir
from optsweep_tui.errors import OptsweepError
from optsweep_tui.store import queries
from optsweep_tui.store.connect import open_store
from optsweep_tui.store.ingest import ingest, rebuild, snapshot
from tests.store.run_folders import append, attempt_folder, contents, finish, lines, make_spec, plant, points, sql_rows


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Runs of every kind, collected piece by piece in an order that a rebuild does not have."""
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    changed = make_spec(hyperparameters={"lr": 0.01, "weight_decay": 0.1, "beta1": 0.9})
    folders = plant(runs, *(make_spec(seed=seed) for seed in range(4)), changed, study="one")
    plant(runs, make_spec(seed=0), make_spec(seed=7), study="two")
    for folder in reversed(folders):
        append(attempt_folder(folder), lines(range(1, 31), val_loss=1.0))
        append(
            attempt_folder(folder),
            json.dumps({"seq": 1, "time": 1.7e9, "kind": "started", "pid": 5}) + "\n",
            rundir.EVENTS,
        )
        ingest(store, runs)
    append(folders[1] / "a1", "garbage\n" + lines([31])[:-4])
    append(attempt_folder(folders[2], 2), lines(range(20, 41), train_loss=3.0))
    (folders[3] / "a1" / rundir.METRICS).write_text(lines([1, 2], grad_norm=None))
    for folder in folders[:3]:
        finish(folder, 2 if folder == folders[2] else 1)
    finish(folders[3], status="diverged", val_loss=None, error="the loss is not finite")
    ingest(store, runs)
    return tmp_path


def test_a_rebuilt_store_says_the_same(workspace: Path) -> None:
    store, runs = workspace / "results.duckdb", workspace / "runs"
    before = contents(store)
    assert all(before.values()), "an empty table proves nothing"
    assert rebuild(store, runs).kept is None
    assert contents(store) == before
    store.unlink()
    rebuild(store, runs)
    assert contents(store) == before
    assert ingest(store, runs).points == 0
    assert not [path for path in workspace.iterdir() if path.name.startswith(".")]


def test_a_rebuild_keeps_an_old_store_that_knows_more(workspace: Path) -> None:
    store, runs = workspace / "results.duckdb", workspace / "runs"
    gone = make_spec(seed=0).run_id
    shutil.rmtree(runs / gone)
    report = rebuild(store, runs)
    assert report.kept is not None
    assert len(points(Path(report.kept), run_id=gone)) == 30
    assert sql_rows(store, f"SELECT count(*) FROM run WHERE run_id = '{gone}'") == [(0,)]


def test_a_rebuild_under_the_eyes_of_a_reader_waits_for_him(workspace: Path) -> None:
    store, runs = workspace / "results.duckdb", workspace / "runs"
    code = "import sys, time, duckdb; c = duckdb.connect(sys.argv[1], read_only=True); print('held', flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code, str(store)], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "held\n"
        before = store.stat().st_ino
        rebuild(store, runs)
        assert store.stat().st_ino != before
        assert reader.wait() == 0


def test_a_write_ahead_log_of_an_old_store_does_not_spoil_the_new_one(workspace: Path) -> None:
    """A program that died while it wrote leaves a log; beside another file it would make that file unopenable."""
    store, runs = workspace / "results.duckdb", workspace / "runs"
    before = contents(store)
    code = """
import sys, os, duckdb
c = duckdb.connect(sys.argv[1])
c.execute("PRAGMA disable_checkpoint_on_shutdown")
c.execute("CREATE TABLE mine AS SELECT 1 AS x")
os._exit(1)
"""
    subprocess.run([sys.executable, "-c", code, str(store)], check=False)
    assert store.with_name("results.duckdb.wal").exists()
    store.write_bytes(b"garbage")
    report = rebuild(store, runs)
    assert report.kept is not None and Path(report.kept + ".wal").exists()
    assert contents(store) == before


def test_a_snapshot_is_complete_and_stands_alone(workspace: Path) -> None:
    store, target = workspace / "results.duckdb", workspace / "copy.duckdb"
    before = contents(store)
    assert snapshot(store, target) == target
    with duckdb.connect(str(target), read_only=True):  # a notebook keeps it open
        append(workspace / "runs" / make_spec(seed=1).run_id / "a1", "x\n" + lines([50]))
        assert ingest(store, workspace / "runs").points > 0
    assert contents(target) == before


def test_a_snapshot_overwrites_nothing_unasked(workspace: Path) -> None:
    store, target = workspace / "results.duckdb", workspace / "notes.txt"
    target.write_text("mine")
    with pytest.raises(OptsweepError, match="exists"):
        snapshot(store, target)
    with pytest.raises(OptsweepError, match="store itself"):
        snapshot(store, store, overwrite=True)
    with pytest.raises(OptsweepError, match=r"nowhere is not there\. make it, or name another file"):
        snapshot(store, workspace / "nowhere" / "copy.duckdb")
    with pytest.raises(OptsweepError, match=r"^no file can be made in /proc\. take another folder$"):
        snapshot(store, Path("/proc/copy.duckdb"))
    with pytest.raises(OptsweepError, match="nothing has been collected"):
        snapshot(workspace / "none.duckdb", workspace / "copy.duckdb")
    assert not (workspace / "none.duckdb").exists()
    (workspace / "open.duckdb.wal").write_bytes(b"")
    with pytest.raises(OptsweepError, match="open in another program"):
        snapshot(store, workspace / "open.duckdb")
    assert target.read_text() == "mine"
    snapshot(store, target, overwrite=True)
    assert len(queries.run_rows(target)) == 7


@pytest.mark.slow
def test_the_store_stays_small_when_runs_are_collected_again_and_again(tmp_path: Path) -> None:
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    folder = plant(runs, make_spec())[0]
    sizes = []
    for turn in range(30):
        append(attempt_folder(folder), lines(range(turn * 10 + 1, turn * 10 + 11)))
        (folder / "a1" / rundir.CLAIM).write_text(json.dumps({"turn": turn}))
        os.utime(folder / "a1" / rundir.CLAIM, ns=(turn, turn))
        ingest(store, runs)
        sizes.append(store.stat().st_size)
    assert sizes[-1] <= 4 * sizes[3]
    with open_store(store) as connection:
        assert connection.execute("SELECT count(*) FROM run").fetchall() == [(1,)]
