"""What happens to the store when a collector is killed, the disk is full, or others read it all the time."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from optsweep_tui import rundir
from optsweep_tui.errors import OptsweepError
from optsweep_tui.store import archive, queries
from optsweep_tui.store.ingest import archive_finished, ingest, rebuild
from tests import smalldisk
from tests.store.run_folders import append, attempt_folder, contents, finish, lines, make_spec, plant, points, sql_rows

KILLS = int(os.environ.get("OPTSWEEP_STORE_KILLS", "10"))
"""Half of them while points are moved to the archive."""

COLLECT = """
import sys
from pathlib import Path
from optsweep_tui.store import archive, collector, streams
from optsweep_tui.store.ingest import ingest
collector.MAX_ROWS = 5_000  # many transactions, so that many kills fall into one
streams.BLOCK_BYTES = 40_000
if sys.argv[3:] == ["archiving"]:
    collector.ARCHIVE_ABOVE = 2_000
    archive.FILE_POINTS = 4_000
print("ready", flush=True)
while True:
    ingest(Path(sys.argv[1]), Path(sys.argv[2]))
    print("pass", flush=True)
"""

POINTS = """
    SELECT r.run_id, m.attempt, k.name, m.step, m.value
    FROM {0}.v_point m JOIN {0}.run r USING (run) JOIN {0}.metric_key k USING (key)
"""


def same_points(store: Path, other: Path) -> bool:
    """Both hold the same points equally often; asked of DuckDB, because there are millions."""
    connection = duckdb.connect()
    connection.execute(f"ATTACH '{store}' AS one (READ_ONLY); ATTACH '{other}' AS two (READ_ONLY)")
    one, two = POINTS.format("one"), POINTS.format("two")
    query = f"SELECT count(*) FROM (({one} EXCEPT ALL {two}) UNION ALL ({two} EXCEPT ALL {one}))"
    return connection.execute(query).fetchall() == [(0,)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "archiving"])
def test_killed_collectors_lose_nothing_and_double_nothing(tmp_path: Path, kind: str) -> None:
    """kill -9 at random moments of an ingest into a store that grows, and of the very first one too."""
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    folders = plant(runs, *(make_spec(seed=seed) for seed in range(3)))
    generator = random.Random(7)
    steps = interrupted = unlisted = 0
    pass_seconds = 0.0
    kills = max(1, KILLS // 2)
    for kill in range(kills):
        for folder in folders:
            append(attempt_folder(folder), lines(range(steps + 1, steps + 4001)))
            numbers = range(steps // 4 + 1, steps // 4 + 1001)
            append(folder / "a1", "".join(f'{{"seq": {seq}, "kind": "tick"}}\n' for seq in numbers), rundir.EVENTS)
        steps += 4000
        over = plant(runs, make_spec(seed=1000 + kill))[0]
        append(attempt_folder(over), lines(range(1, 4001)))
        finish(over)
        with subprocess.Popen(
            [sys.executable, "-c", COLLECT, str(store), str(runs), kind], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            began = time.monotonic()
            if not pass_seconds:
                assert process.stdout.readline() == "pass\n"
                pass_seconds = time.monotonic() - began
            else:
                time.sleep(generator.uniform(0, 1.3 * pass_seconds))
            os.kill(process.pid, signal.SIGKILL)
            interrupted += "pass" not in process.stdout.read()
        if kill == 0:
            store.unlink()  # the very first collect is killed as well
        if store.exists() and kill % 3 == 0:
            # Whatever was committed is whole lines from the start of each file, both keys of them.
            held = sql_rows(
                store, "SELECT run, key, count(*), count(DISTINCT step), max(step) FROM v_point GROUP BY ALL"
            )
            assert all(count == distinct == last for _, _, count, distinct, last in held)
            told = sql_rows(store, "SELECT count(*), count(DISTINCT seq), max(seq) FROM event GROUP BY run")
            assert all(count == distinct == last for count, distinct, last in told)
            listed = {file for (file,) in sql_rows(store, "SELECT file FROM archive")}
            folder = Path(archive.folder_of(store))
            unlisted += folder.is_dir() and bool({path.name for path in folder.iterdir()} - listed)
    assert interrupted >= kills // 3, "the kills came too late to say anything"
    for folder in folders:
        finish(folder)
    report = ingest(store, runs)
    assert (report.runs, report.finished, report.skipped_lines) == (3 + kills, 3 + kills, 0)
    every = 3 * steps + kills * 4000
    assert sql_rows(store, "SELECT count(*), count(DISTINCT (run, key, step)) FROM v_point") == [(2 * every, 2 * every)]
    assert sql_rows(store, "SELECT count(*) FROM v_metric WHERE value = 10 / step AND key = 'train_loss'") == [(every,)]
    assert sql_rows(store, "SELECT count(*), count(DISTINCT (run, seq)) FROM event") == [(3 * steps // 4,) * 2]
    assert sql_rows(store, "SELECT count(*) = count(DISTINCT path) FROM src_offset") == [(True,)]
    if kind == "archiving":
        archive_finished(store)
    ((archived,),) = sql_rows(store, "SELECT count(*) FROM v_archive")
    assert (archived > 0) == (kind == "archiving")
    straight = tmp_path / "straight.duckdb"
    ingest(straight, runs)
    assert same_points(store, straight)
    print(f"{kind}: {kills} kills, {interrupted} in the first pass, {unlisted} left a file that does not count")


@pytest.mark.slow
def test_ctrl_c_during_a_collect_is_a_keyboard_interrupt_and_loses_nothing(tmp_path: Path) -> None:
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    for folder in plant(runs, *(make_spec(seed=seed) for seed in range(4))):
        append(attempt_folder(folder), lines(range(1, 30_001)))
    for pause in (0.05, 0.15, 0.3, 0.45):
        store.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", COLLECT, str(store), str(runs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert errors.strip().splitlines()[-1] == "KeyboardInterrupt", errors
        if store.exists():
            held = sql_rows(
                store, "SELECT run, key, count(*), count(DISTINCT step), max(step) FROM metric GROUP BY ALL"
            )
            assert all(count == distinct == last for _, _, count, distinct, last in held)
    ingest(store, runs)
    assert sql_rows(store, "SELECT count(*) FROM metric") == [(4 * 30_000 * 2,)]


@pytest.mark.slow
def test_a_rebuild_that_is_killed_leaves_the_old_store(tmp_path: Path) -> None:
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    for folder in plant(runs, *(make_spec(seed=seed) for seed in range(4))):
        append(attempt_folder(folder), lines(range(1, 20_001)))
    ingest(store, runs)
    before = contents(store)
    code = COLLECT.replace("    ingest(", "    rebuild(").replace("import ingest\n", "import rebuild\n")
    for pause in (0.1, 0.3, 0.6):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(store), str(runs)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(pause)
            os.kill(process.pid, signal.SIGKILL)
        assert contents(store) == before
    rebuild(store, runs)
    assert contents(store) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.duckdb", "results.duckdb.lock", "runs"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    with smalldisk.required(tmp_path / "disk", "8m") as disk:
        yield disk


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_nothing_is_lost(small_disk: Path, tmp_path: Path) -> None:
    store, runs = small_disk / "results.duckdb", tmp_path / "runs"
    folders = plant(runs, *(make_spec(seed=seed) for seed in range(3)))
    append(attempt_folder(folders[0]), lines(range(1, 2001)))
    ingest(store, runs)
    before = points(store)
    generator = random.Random(3)
    for folder in folders[1:]:
        text = "".join(f'{{"step": {step}, "noise": {generator.random()}}}\n' for step in range(1, 200_001))
        append(attempt_folder(folder), text)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * (5 << 20))
    for _ in range(2):
        with pytest.raises(OptsweepError, match="the disk is full") as caught:
            ingest(store, runs)
        assert "\n" not in str(caught.value)
    assert points(store) == before, "what was committed is still there"
    held = sql_rows(store, "SELECT run, key, count(*), count(DISTINCT step), max(step) FROM metric GROUP BY ALL")
    assert all(count == distinct == last for _, _, count, distinct, last in held)
    with pytest.raises(OptsweepError, match="the disk is full"):
        rebuild(store, runs)
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "results.duckdb", "results.duckdb.lock"]
    ballast.unlink()
    room = tmp_path / "room.duckdb"
    ingest(room, runs)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    ingest(store, runs)
    assert contents(store) == contents(room)


def test_a_disk_too_full_for_an_empty_store_is_one_line(small_disk: Path, tmp_path: Path) -> None:
    plant(tmp_path / "runs", make_spec())
    (small_disk / "ballast").write_bytes(b"x" * ((8 << 20) - 40_000))
    with pytest.raises(OptsweepError, match="the disk is full"):
        ingest(small_disk / "results.duckdb", tmp_path / "runs")
    assert sorted(path.name for path in small_disk.iterdir()) in (["ballast"], ["ballast", "results.duckdb.lock"])


@pytest.mark.slow
def test_readers_that_poll_all_the_time_see_no_error_and_no_step_twice(tmp_path: Path) -> None:
    """Two reading processes and one reading thread while a collector takes in growing files."""
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    folders = plant(runs, *(make_spec(seed=seed) for seed in range(3)))
    append(attempt_folder(folders[0]), lines([1]))
    ingest(store, runs)
    code = """
import sys
from pathlib import Path
from optsweep_tui.store import queries
count = 0
while not Path(sys.argv[2]).exists():
    row = queries.sql(Path(sys.argv[1]), "SELECT count(*) n, count(DISTINCT (run_id, key, step)) d FROM v_metric").iloc[0]
    assert row.n == row.d, (row.n, row.d)
    count += 1
print(count)
"""
    stop = tmp_path / "stop"
    command = [sys.executable, "-c", code, str(store), str(stop)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    looks: list[int] = []
    troubles: list[BaseException] = []

    def look() -> None:
        try:
            while not stop.exists():
                looks.append(len(queries.curves(store, [folders[0].name])))
        except BaseException as error:
            troubles.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for turn in range(12):
            for folder in folders:
                append(attempt_folder(folder), lines(range(2 + turn * 100, 102 + turn * 100)))
            ingest(store, runs)
    finally:
        stop.touch()
        thread.join()
        answers = [reader.communicate(timeout=120) for reader in readers]
    assert troubles == []
    assert [(reader.returncode, error) for reader, (_, error) in zip(readers, answers, strict=True)] == [
        (0, ""),
        (0, ""),
    ]
    assert all(int(output) > 0 for output, _ in answers)
    assert looks == sorted(looks), "a curve never shrinks"
    assert len(points(store, run_id=folders[0].name)) == 1201
