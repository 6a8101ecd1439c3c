"""`optsweep snapshot` and `optsweep gc`: a copy that stands alone, and nothing removed that anybody needs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import duckdb

from optsweep_tui import rundir
from optsweep_tui.store.ingest import ingest
from tests.e2e.workbench import optsweep
from tests.store.run_folders import append, attempt_folder, finish, lines, make_spec, plant


def test_a_snapshot_can_stay_open_while_the_store_goes_on(tmp_path: Path) -> None:
    folders = plant(tmp_path / "runs", make_spec(), make_spec(seed=1))
    ingest(tmp_path / "results.duckdb", tmp_path / "runs")
    target = tmp_path / "copy.duckdb"
    document = json.loads(optsweep("snapshot", str(target), "--json", workspace=tmp_path).stdout)
    assert document == {"file": str(target), "bytes": target.stat().st_size}
    with duckdb.connect(str(target), read_only=True) as connection:
        append(attempt_folder(folders[0]), lines([1, 2]))
        assert ingest(tmp_path / "results.duckdb", tmp_path / "runs").points > 0
        assert connection.execute("SELECT count(*) FROM v_run").fetchone() == (2,)
    again = optsweep("snapshot", str(target), workspace=tmp_path, check=False)
    assert again.returncode == 2 and len(again.stderr.splitlines()) == 1 and "exists" in again.stderr
    assert "copy.duckdb" in optsweep("snapshot", str(target), "--overwrite", workspace=tmp_path).stdout


def test_gc_removes_leftovers_and_only_what_it_was_asked_to(tmp_path: Path) -> None:
    done, open_run = plant(tmp_path / "runs", make_spec(), make_spec(seed=1))
    finish(done)
    old = 1_600_000_000
    for folder in (done, open_run):
        checkpoint = attempt_folder(folder) / rundir.CHECKPOINTS
        checkpoint.mkdir()
        (checkpoint / "step-5").write_bytes(b"x" * 100)
        append(folder / "a1", lines([1]))
    leftover, fresh = done / "a1" / ".exit.json.1.ab.tmp", done / "a1" / ".exit.json.2.cd.tmp"
    for path in (leftover, fresh):
        path.write_bytes(b"{")
    os.utime(leftover, (old, old))
    (tmp_path / "results.duckdb.kept-20240101-000000").write_bytes(b"old")
    (tmp_path / "queue" / "local").mkdir(parents=True)
    stale = tmp_path / "queue" / "local" / f"00000000000000000001.{done.name}.a1"
    stale.touch()

    def present() -> set[str]:
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}

    before = present()
    rows = json.loads(optsweep("gc", "--dry-run", "--checkpoints", "--kept", "--json", workspace=tmp_path).stdout)
    assert present() == before
    assert {row["what"]: (row["count"], row["bytes"]) for row in rows} == {
        "temporary files": (1, 1), "checkpoints of done runs": (1, 100), "stores put aside": (1, 3),
        "kept states of runs, which others begin with": (0, 0),
    }  # fmt: skip
    optsweep("gc", workspace=tmp_path)
    gone = before - present()
    assert gone == {str(path.relative_to(tmp_path)) for path in (leftover, stale)}
    optsweep("gc", "--checkpoints", "--kept", workspace=tmp_path)
    assert fresh.exists() and not (done / "a1" / rundir.CHECKPOINTS / "step-5").exists()
    assert (open_run / "a1" / rundir.CHECKPOINTS / "step-5").exists(), "a run that is not done keeps them"
    assert not list(tmp_path.glob("*.kept-*"))
    assert (done / "a1" / rundir.METRICS).exists()


def test_gc_of_a_workspace_that_is_not_there_is_one_line_and_makes_nothing(tmp_path: Path) -> None:
    result = optsweep("gc", workspace=tmp_path / "none", check=False)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
