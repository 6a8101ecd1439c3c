"""Points of finished runs in Parquet files: found as before, moved once, gone when they should be, whoever reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from optsweep_tui import rundir
from optsweep_tui.errors import OptsweepError
from optsweep_tui.store import archive, collector, queries
from optsweep_tui.store.ingest import archive_finished, ingest, rebuild, snapshot
from tests.store.run_folders import (
    append,
    attempt_folder,
    contents,
    finish,
    line,
    lines,
    make_spec,
    plant,
    points,
    sql_rows,
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three finished runs of 60 points, the second with two attempts that overlap, and one that goes on."""
    folders = plant(tmp_path / "runs", *(make_spec(seed=seed) for seed in range(4)))
    for folder in folders:
        append(attempt_folder(folder), lines(range(1, 31)) + line(30, train_loss=8.0))
    append(attempt_folder(folders[1], 2), lines(range(21, 41), train_loss=7.0))
    for number, folder in enumerate(folders[:3]):
        finish(folder, 2 if number == 1 else 1)
    return tmp_path / "runs"


@pytest.fixture
def store(tmp_path: Path, runs: Path) -> Path:
    """Collected, nothing archived yet."""
    ingest(tmp_path / "results.duckdb", runs)
    return tmp_path / "results.duckdb"


def folder_of(seed: int) -> str:
    return make_spec(seed=seed).run_id


def kept_apart(store: Path) -> Mapping[str, Any]:
    """Where the points are: in the table, in the archive."""
    ((table, archived),) = sql_rows(store, "SELECT (SELECT count(*) FROM metric), (SELECT count(*) FROM v_archive)")
    return {"table": table, "archive": archived}


def files(store: Path) -> list[str]:
    folder = Path(archive.folder_of(store))
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def outside(store: Path, query: str) -> list[tuple[Any, ...]]:
    """The answer that a program gets that knows DuckDB only."""
    code = "import sys, duckdb; print(duckdb.connect(sys.argv[1], read_only=True).execute(sys.argv[2]).fetchall())"
    command = [sys.executable, "-c", code, str(store), query]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    answer: list[tuple[Any, ...]] = eval(done.stdout)
    return answer


def test_archived_points_are_found_as_before_and_moving_twice_moves_nothing(store: Path, runs: Path) -> None:
    before = contents(store)
    curve = queries.curves(store, [folder_of(1), folder_of(0)], max_points=7)
    finished_points = 3 * 31 * 2 + 20 * 2
    assert archive_finished(store, dry_run=True) == finished_points
    assert kept_apart(store) == {"table": finished_points + 62, "archive": 0}
    assert archive_finished(store) == finished_points
    assert kept_apart(store) == {"table": 62, "archive": finished_points}
    assert contents(store) == before
    assert queries.curves(store, [folder_of(1), folder_of(0)], max_points=7).equals(curve)
    assert archive_finished(store) == 0 and len(files(store)) == 1
    assert ingest(store, runs).points == 0
    assert contents(store) == before


def test_a_curve_reads_only_the_files_that_hold_its_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [folder_of(seed) for seed in (2, 3, 1)]  # one of them goes on: nothing of it is in any file
    before = {run_id: queries.curves(store, [run_id]) for run_id in wanted}
    together = queries.curves(store, wanted)
    monkeypatch.setattr(archive, "FILE_POINTS", 70)
    archive_finished(store)
    assert len(files(store)) >= 3
    for run_id, curve in before.items():
        assert len(curve) and queries.curves(store, [run_id]).equals(curve)
    assert queries.curves(store, wanted).equals(together)
    holds = sql_rows(store, f"SELECT DISTINCT file FROM archive JOIN run USING (run) WHERE run_id = '{wanted[0]}'")
    for name in set(files(store)) - {name for (name,) in holds}:
        (Path(archive.folder_of(store)) / name).write_bytes(b"no Parquet")  # whoever opens it fails
    assert queries.curves(store, wanted[:1]).equals(before[wanted[0]])


def test_programs_that_know_duckdb_only_read_the_archive_too(store: Path) -> None:
    query = "SELECT key, count(*), count(value), max(value), max(attempt) FROM v_metric GROUP BY key ORDER BY key"
    before = outside(store, query)
    archive_finished(store)
    assert outside(store, query) == before


def test_a_store_that_grows_moves_finished_runs_by_itself_in_files_of_limited_size(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, store = tmp_path / "straight.duckdb", tmp_path / "results.duckdb"
    ingest(straight, runs)
    monkeypatch.setattr(collector, "ARCHIVE_ABOVE", 100)
    monkeypatch.setattr(collector, "MAX_ROWS", 90)
    monkeypatch.setattr(archive, "FILE_POINTS", 70)
    report = ingest(store, runs)
    assert report.archived > 0 and sum(kept_apart(store).values()) == 4 * 62 + 40
    assert contents(store) == contents(straight)
    assert len(files(store)) >= 2
    assert {file for (file,) in sql_rows(store, "SELECT file FROM archive")} == set(files(store))
    assert max(size for (size,) in sql_rows(store, "SELECT sum(points) FROM archive GROUP BY file")) <= 70
    unfinished = sql_rows(store, "SELECT count(*) FROM v_archive JOIN run USING (run) WHERE state NOT IN ('done')")
    assert unfinished == [(0,)]


def test_a_store_full_of_unfinished_runs_does_not_try_at_every_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    real = archive.finished_parts
    monkeypatch.setattr(archive, "finished_parts", lambda *arguments: tries.append(1) or real(*arguments))
    monkeypatch.setattr(collector, "ARCHIVE_ABOVE", 1000)
    monkeypatch.setattr(collector, "MAX_ROWS", 100)
    folder = plant(tmp_path / "runs", make_spec())[0]
    for turn in range(40):
        append(attempt_folder(folder), lines(range(turn * 40 + 1, turn * 40 + 41)))
    monkeypatch.setattr("optsweep_tui.store.streams.BLOCK_BYTES", 2000)
    ingest(tmp_path / "results.duckdb", tmp_path / "runs")
    assert 1 <= len(tries) <= 10


def test_what_comes_after_the_move_counts_as_it_would_have_without(store: Path, runs: Path, tmp_path: Path) -> None:
    """A retry that overlaps, late lines of an archived attempt, and a second move."""
    archive_finished(store)
    append(attempt_folder(runs / folder_of(0), 2), lines(range(25, 36), train_loss=6.0))
    append(runs / folder_of(2) / "a1", lines([30, 31], train_loss=5.0))
    ingest(store, runs)
    straight = tmp_path / "straight.duckdb"
    ingest(straight, runs)
    assert contents(store) == contents(straight)
    assert points(store, run_id=folder_of(2))[30] == 5.0, "the last line of a step wins, archived or not"
    finish(runs / folder_of(0), 2)
    ingest(store, runs)
    assert archive_finished(store) == 22 + 4
    ingest(straight, runs)
    assert contents(store) == contents(straight)
    assert len(files(store)) == 2


def test_a_stream_that_begins_anew_takes_its_archived_points_with_it(store: Path, runs: Path, tmp_path: Path) -> None:
    archive_finished(store)
    (runs / folder_of(1) / "a2" / rundir.METRICS).write_text(lines([1, 2], train_loss=4.0))
    ingest(store, runs)
    straight = tmp_path / "straight.duckdb"
    ingest(straight, runs)

    def told(where: Path) -> Mapping[str, list[tuple[Any, ...]]]:
        return {name: rows for name, rows in contents(where).items() if name != "src_offset"}

    assert told(store) == told(straight)
    for seed in range(3):
        for stream in (runs / folder_of(seed)).glob(f"a*/{rundir.METRICS}"):
            stream.write_text(lines([1], train_loss=3.0))
    ingest(store, runs)
    assert kept_apart(store)["archive"] == 0 and files(store) == []
    assert outside(store, "SELECT count(*) FROM v_metric WHERE value = 3.0") == [(3,)]


def test_a_workspace_that_was_moved_is_read_at_once_and_mended_by_the_next_collect(tmp_path: Path) -> None:
    old, new = tmp_path / "an old [place]", tmp_path / "it's a new * place"
    folder = plant(old / "runs", make_spec())[0]
    append(attempt_folder(folder), lines(range(1, 21)))
    finish(folder)
    ingest(old / "results.duckdb", old / "runs")
    archive_finished(old / "results.duckdb")
    assert outside(old / "results.duckdb", "SELECT count(*) FROM v_metric") == [(40,)]
    os.rename(old, new)
    store = new / "results.duckdb"
    mode = store.stat().st_mode
    store.chmod(0o444)
    assert len(points(store)) == 20
    store.chmod(mode)
    with pytest.raises(AssertionError, match=r"No files found|Cannot open"):
        outside(store, "SELECT count(*) FROM v_metric")
    ingest(store, new / "runs")
    assert outside(store, "SELECT count(*) FROM v_metric") == [(40,)]


def test_a_rebuilt_store_says_the_same_and_old_files_go(
    store: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_finished(store)
    before, old = contents(store), files(store)
    assert rebuild(store, runs).kept is None
    assert contents(store) == before and files(store) == []
    monkeypatch.setattr(collector, "ARCHIVE_ABOVE", 100)
    rebuild(store, runs)
    assert contents(store) == before
    assert files(store) and not set(files(store)) & set(old)
    assert outside(store, "SELECT count(*) FROM v_point") == [(4 * 62 + 40,)]
    rebuild(store, runs)
    assert contents(store) == before


def test_a_store_that_is_put_aside_keeps_its_archive(store: Path, runs: Path) -> None:
    archive_finished(store)
    before = contents(store)
    shutil.rmtree(runs / folder_of(0))
    kept = rebuild(store, runs).kept
    assert kept is not None
    ingest(store, runs)
    assert files(store) == [], "what the new store does not name is swept away"
    assert contents(Path(kept)) == before
    assert outside(Path(kept), "SELECT count(*) FROM v_point") == [(4 * 62 + 40,)]


def test_a_snapshot_holds_the_archive_in_one_file(store: Path, runs: Path, tmp_path: Path) -> None:
    archive_finished(store)
    append(runs / folder_of(2) / "a1", lines([30, 31], train_loss=5.0))  # after its stream was moved
    ingest(store, runs)
    before = contents(store)
    target = tmp_path / "elsewhere" / "copy.duckdb"
    target.parent.mkdir()
    snapshot(store, target)
    assert [path.name for path in target.parent.iterdir()] == ["copy.duckdb"]
    shutil.rmtree(archive.folder_of(store))
    assert contents(target) == before
    assert outside(target, "SELECT count(*), count(DISTINCT (run_id, key, step)) FROM v_metric")[0][0] > 200


def test_a_missing_file_is_one_line_and_a_rebuild_mends_it(store: Path, runs: Path) -> None:
    before = contents(store)
    archive_finished(store)
    shutil.rmtree(archive.folder_of(store))
    for ask in (
        lambda: points(store),
        lambda: queries.curves(store, [folder_of(0)]),
        lambda: queries.sql(store, "SELECT count(*) FROM v_metric"),
    ):
        with pytest.raises(OptsweepError, match=r"archive.*is missing") as caught:
            ask()
        assert "\n" not in str(caught.value) and "--rebuild" in str(caught.value)
    assert len(queries.results(store)) == 4, "questions about final losses do not need the points"
    rebuild(store, runs)
    assert contents(store) == before


def test_leftovers_of_killed_collectors_and_of_deleted_stores_are_swept_away(store: Path, runs: Path) -> None:
    archive_finished(store)
    folder = Path(archive.folder_of(store))
    counting = files(store)
    (folder / "000009-abcd.parquet").write_bytes(b"half")
    (folder / ".000010-abcd.parquet.part").write_bytes(b"half")
    ingest(store, runs)
    assert files(store) == counting
    store.unlink()
    ingest(store, runs)
    assert files(store) == [] and kept_apart(store)["archive"] == 0


def test_a_query_of_the_users_can_write_nothing_into_the_archive_and_read_nothing_beside_it(
    store: Path, runs: Path
) -> None:
    archive_finished(store)
    folder, before = archive.folder_of(store), files(store)
    for query in (
        f"COPY (SELECT 1) TO '{folder}/x.parquet'",
        f"COPY (PIVOT v_run ON state USING count(*)) TO '{folder}/x.parquet'",
        f"/* a */ COPY (PIVOT v_run ON state USING count(*)) TO '{folder}/x.parquet'",
        f"SELECT * FROM read_text('{runs}/{folder_of(0)}/spec.json')",
        f"SELECT * FROM read_text('{folder}/../results.duckdb.lock')",
    ):
        with pytest.raises(OptsweepError, match=r"^sql: "):
            queries.sql(store, query)
    assert files(store) == before


def test_a_folder_that_cannot_be_written_is_one_line_and_nothing_is_moved(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(store)
    Path(archive.folder_of(store)).write_text("a file in its place")
    with pytest.raises(OptsweepError) as caught:
        archive_finished(store)
    assert "\n" not in str(caught.value)
    assert contents(store) == before


@pytest.mark.parametrize(
    ("moment", "trouble"),
    [("write_file", duckdb.IOException("IO Error: No space left on device")), ("count_in", KeyboardInterrupt())],
)
def test_an_archive_that_fails_half_way_loses_and_doubles_nothing(
    store: Path, runs: Path, moment: str, trouble: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of several files is written, or counted, when the trouble comes."""
    before = contents(store)
    real = getattr(archive, moment)
    calls: list[int] = []

    def failing(*arguments: Any) -> Any:
        answer = real(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise trouble
        return answer

    monkeypatch.setattr(archive, "FILE_POINTS", 70)
    monkeypatch.setattr(archive, moment, failing)
    with pytest.raises((OptsweepError, KeyboardInterrupt)):
        archive_finished(store)
    assert contents(store) == before and kept_apart(store)["archive"] == 62
    monkeypatch.setattr(archive, moment, real)
    ingest(store, runs)
    assert {file for (file,) in sql_rows(store, "SELECT file FROM archive")} == set(files(store))
    archive_finished(store)
    assert contents(store) == before
