"""Opening the store: wait for whoever holds it, name him, and one clear line with a next step for every bad file."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from optsweep_tui.doctor import store_problem
from optsweep_tui.errors import OptsweepError, StoreLocked
from optsweep_tui.resources import shipped
from optsweep_tui.store import migrate, queries, whole
from optsweep_tui.store.connect import READABLE_FROM, create, lock_holder, open_store
from optsweep_tui.store.ingest import collector_lock, ingest, rebuild
from tests.store.run_folders import append, attempt_folder, finish, lines, make_spec, plant, points, sql_rows

HOLD = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "reader")
print("held", flush=True)
time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = plant(tmp_path / "runs", make_spec())[0]
    append(attempt_folder(folder), lines(range(1, 21)))
    finish(folder)
    return tmp_path / "runs"


@pytest.fixture
def store(tmp_path: Path, runs: Path) -> Path:
    """A collected store."""
    ingest(tmp_path / "results.duckdb", runs)
    return tmp_path / "results.duckdb"


@pytest.fixture
def held(store: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the store open, as ("writer" or "reader", seconds)."""
    kind, seconds = request.param
    command = [sys.executable, "-c", HOLD, str(store), kind, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("held", [("writer", 60)], indirect=True)
def test_a_store_held_by_a_writer_names_its_pid_after_the_wait(store: Path, held: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    with pytest.raises(StoreLocked, match=rf"pid {held.pid}\b") as caught:
        queries.sql(store, "SELECT 1", wait_seconds=0.5)
    assert 0.4 < time.monotonic() - began < 10
    assert str(store) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [("reader", 60)], indirect=True)
def test_a_reader_elsewhere_stops_the_collector_but_not_other_readers(
    store: Path, runs: Path, held: subprocess.Popen[str]
) -> None:
    assert sql_rows(store, "SELECT count(*) FROM run") == [(1,)]
    append(runs / make_spec().run_id / "a1", lines([21]))
    with pytest.raises(StoreLocked, match=rf"pid {held.pid}\b"):
        ingest(store, runs, wait_seconds=0.5)
    held.kill()
    held.wait()
    assert ingest(store, runs).points == 2
    assert max(points(store)) == 21


@pytest.mark.parametrize("held", [("writer", 1.5), ("reader", 1.5)], indirect=True)
def test_a_store_that_becomes_free_in_time_is_waited_for(store: Path, runs: Path, held: subprocess.Popen[str]) -> None:
    append(runs / make_spec().run_id / "a1", lines([21]))
    assert ingest(store, runs, wait_seconds=30).points == 2


@pytest.mark.slow
def test_a_reader_that_holds_the_file_is_named_after_half_the_time_and_nothing_is_lost(store: Path, runs: Path) -> None:
    """For a minute in `make faults`: the collector's own patience of 30 s ends first."""
    seconds = float(os.environ.get("OPTSWEEP_STORE_HELD_SECONDS", "2"))
    append(runs / make_spec().run_id / "a1", lines([21]))
    command = [sys.executable, "-c", HOLD, str(store), "reader", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(StoreLocked, match=rf"pid {process.pid}\b"):
            ingest(store, runs, wait_seconds=seconds / 2)
        assert seconds / 2 - 0.2 < time.monotonic() - began < seconds
        append(runs / make_spec().run_id / "a1", lines([22]))
        assert ingest(store, runs, wait_seconds=4 * seconds).points == 4
    assert sorted(points(store)) == list(range(1, 23))


@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_plain_duckdb_in_python_reads_beside_the_collector_with_the_documented_retry(
    store: Path, runs: Path, seconds: float
) -> None:
    """The function of schema/README.md, while a collector holds the file and when nobody does."""
    text = (shipped("schema") / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    script = f"{code}\nprint(ask('SELECT count(*) AS n FROM v_metric', {str(store)!r}).n[0])"
    command = [sys.executable, "-c", HOLD, str(store), "writer", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("40\n", "")


def test_the_file_is_written_for_every_duckdb_that_is_supported(store: Path) -> None:
    """A store in the newest storage format could be read by the newest DuckDB only."""
    with duckdb.connect(str(store), read_only=True) as connection:
        ((tags,),) = connection.execute(
            "SELECT tags FROM duckdb_databases() WHERE database_name = current_database()"
        ).fetchall()
    assert tags["storage_version"].startswith(READABLE_FROM)


def test_a_store_of_a_newer_duckdb_says_what_to_install(store: Path) -> None:
    data = bytearray(store.read_bytes())
    data[12:20] = (9999).to_bytes(8, "little")  # the storage version, behind checksum and magic
    store.write_bytes(data)
    with pytest.raises(OptsweepError, match=r"duckdb|DuckDB") as caught:
        queries.sql(store, "SELECT 1")
    assert "\n" not in str(caught.value) and "--rebuild" in str(caught.value)


def test_the_holder_is_found_in_proc_where_duckdb_does_not_name_it(tmp_path: Path) -> None:
    path = tmp_path / "results.duckdb"
    create(path)
    command = [sys.executable, "-c", HOLD, str(path), "writer", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert str(process.pid) in lock_holder(path, "Could not set lock on file")
        process.kill()


def test_threads_of_one_process_wait_for_each_other(store: Path) -> None:
    errors: list[BaseException] = []

    def work(read_only: bool) -> None:
        try:
            for _ in range(8):
                if read_only:
                    queries.sql(store, "SELECT count(*) FROM run")
                else:
                    with open_store(store, read_only=False) as connection:
                        connection.execute("UPDATE run SET attempts = attempts + 1")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(kind,)) for kind in (True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sql_rows(store, "SELECT attempts FROM run") == [(1 + 8,)]


def test_a_second_collector_waits_and_names_the_first(store: Path, runs: Path) -> None:
    with collector_lock(store):
        with pytest.raises(StoreLocked, match=rf"pid {os.getpid()}\b"):
            ingest(store, runs, wait_seconds=0.3)
    ingest(store, runs)


def test_nothing_collected_yet_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(OptsweepError, match="nothing has been collected yet"):
        queries.sql(tmp_path / "results.duckdb", "SELECT 1")
    assert list(tmp_path.iterdir()) == [], "a question creates nothing"


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"x" * 100_000, b"SQLite format 3\x00" + b"\x00" * 5000],
    ids=["empty", "short", "long", "sqlite"],
)
def test_a_garbage_store_is_one_line_and_rebuild_keeps_the_file(store: Path, runs: Path, content: bytes) -> None:
    store.write_bytes(content)
    for call in (lambda: queries.sql(store, "SELECT 1"), lambda: ingest(store, runs)):
        with pytest.raises(OptsweepError, match="optsweep collect --rebuild") as caught:
            call()
        assert "\n" not in str(caught.value) and str(store) in str(caught.value)
    report = rebuild(store, runs)
    assert report.kept is not None and Path(report.kept).read_bytes() == content
    assert len(points(store)) == 20


def test_a_damaged_block_is_one_line(store: Path, runs: Path, tmp_path: Path) -> None:
    append(runs / make_spec().run_id / "a1", lines(range(21, 60_000)))
    ingest(store, runs)
    data = bytearray(store.read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = os.urandom(third)
    store.write_bytes(data)
    with pytest.raises(OptsweepError, match="--rebuild") as caught:
        with open_store(store) as connection:
            connection.execute("SELECT sum(value), sum(step), sum(key), sum(attempt), sum(run) FROM metric").fetchall()
    assert "\n" not in str(caught.value)
    store.write_bytes(data[:third])
    with pytest.raises(OptsweepError, match="--rebuild"):
        ingest(store, runs)


@pytest.mark.parametrize("cut_bytes", [1, 100_000])
def test_a_store_that_lost_its_end_is_one_line_even_when_there_is_nothing_new(
    store: Path, runs: Path, cut_bytes: int
) -> None:
    append(runs / make_spec().run_id / "a1", lines(range(21, 20_000)))
    plant(runs, *(make_spec(seed=seed) for seed in range(1, 40)))
    ingest(store, runs)
    assert store_problem(store) is None
    os.truncate(store, store.stat().st_size - cut_bytes)
    left = store.read_bytes()
    with pytest.raises(OptsweepError, match=r"damaged.*optsweep collect --rebuild") as caught:
        ingest(store, runs)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert store_problem(store) == str(caught.value)
    assert store.read_bytes() == left
    report = rebuild(store, runs)
    assert report.kept is not None and Path(report.kept).read_bytes() == left
    assert ingest(store, runs).runs == 40
    assert store_problem(store) is None


def test_a_store_of_an_older_schema_that_lost_its_end_is_not_brought_forward(tmp_path: Path, runs: Path) -> None:
    store = tmp_path / "old.duckdb"
    store.write_bytes(lzma.decompress((Path(__file__).parent / "frozen" / "schema-001.duckdb.xz").read_bytes())[:-100])
    left = store.read_bytes()
    for call in (lambda: ingest(store, runs), lambda: queries.sql(store, "SELECT 1")):
        with pytest.raises(OptsweepError, match=r"damaged.*--rebuild"):
            call()
    assert store.read_bytes() == left


def test_a_block_that_cannot_be_read_is_found_by_the_doctor(store: Path, runs: Path) -> None:
    append(runs / make_spec().run_id / "a1", lines(range(21, 60_000)))
    ingest(store, runs)
    assert store_problem(store) is None
    data = bytearray(store.read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = bytes(third)
    store.write_bytes(data)
    assert "--rebuild" in str(store_problem(store))


def test_a_store_that_duckdb_made_shorter_itself_is_whole(tmp_path: Path, runs: Path) -> None:
    """Its header then counts blocks that the file has no more."""
    store = tmp_path / "results.duckdb"
    create(store)
    with open_store(store, read_only=False) as connection:
        connection.execute("INSERT INTO metric SELECT 1, 1, 1, range, random() FROM range(1000000)")
        connection.execute("CHECKPOINT")
        for _ in range(2):
            connection.execute("DELETE FROM metric")
            connection.execute("CHECKPOINT")
    with open_store(store) as connection:
        sizes = "SELECT 12288 + block_size * total_blocks FROM pragma_database_size()"
        ((promised,),) = connection.execute(sizes).fetchall()
    assert store.stat().st_size < promised
    assert store_problem(store) is None
    with open_store(store) as connection:
        whole.require_whole(store, connection)
    os.truncate(store, store.stat().st_size - 1)
    assert "damaged" in str(store_problem(store))


def test_a_store_of_a_newer_optsweep_is_left_alone(store: Path, runs: Path) -> None:
    newer = migrate.newest_version() + 1
    with open_store(store, read_only=False) as connection:
        connection.execute("INSERT INTO schema_version VALUES (?, now()::TIMESTAMP, 'optsweep 99')", [newer])
    before = store.read_bytes()
    for call in (lambda: queries.sql(store, "SELECT 1"), lambda: ingest(store, runs)):
        with pytest.raises(OptsweepError, match=f"newer optsweep.*schema {newer}"):
            call()
    assert store.read_bytes() == before
    kept = rebuild(store, runs).kept
    assert kept is not None and Path(kept).read_bytes() == before


def test_a_duckdb_file_of_another_program_is_not_touched(tmp_path: Path, runs: Path) -> None:
    path = tmp_path / "results.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS x")
    before = path.read_bytes()
    with pytest.raises(OptsweepError, match="another program"):
        ingest(path, runs)
    assert path.read_bytes() == before


def test_a_folder_in_the_place_of_the_store_is_one_line(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "results.duckdb").mkdir()
    with pytest.raises(OptsweepError, match="is a folder"):
        queries.sql(tmp_path / "results.duckdb", "SELECT 1")


def test_a_workspace_that_is_not_there_is_one_line(tmp_path: Path, runs: Path) -> None:
    with pytest.raises(OptsweepError, match="is not there"):
        ingest(tmp_path / "nowhere" / "results.duckdb", runs)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_store_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from optsweep_tui.errors import OptsweepError
from optsweep_tui.store.ingest import ingest
os.setuid(65534)
try:
    ingest(Path(sys.argv[1]), Path(sys.argv[2]))
except OptsweepError as error:
    print(error)
"""
    place = Path("/tmp") / f"optsweep-unwritable-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        command = [sys.executable, "-c", code, str(place / "results.duckdb"), str(place / "runs")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        place.rmdir()
    if "ModuleNotFoundError" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("another user cannot read this checkout")
    assert "cannot be written" in done.stdout and done.stdout.count("\n") == 1


def test_locks_of_killed_collectors_and_their_scratch_files_are_no_obstacle(store: Path, runs: Path) -> None:
    store.with_name(f"{store.name}.lock").write_text("999999")
    store.with_name(f".{store.name}.rebuild").write_bytes(b"half")
    scratch = store.with_name(f".{store.name}.abc")
    scratch.mkdir()
    (scratch / "half").write_bytes(b"half")
    ingest(store, runs)
    assert sorted(path.name for path in store.parent.iterdir()) == ["results.duckdb", "results.duckdb.lock", "runs"]
