"""The tailer over everything that a metrics file can do: torn lines, cuts, replacements, garbage, new attempts, absence."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui import rundir
from optsweep_tui.live import tailer
from optsweep_tui.live.logs import last_lines, newest_log
from optsweep_tui.live.tailer import Batch, RunTail, Tailer, parse_rows


def line(step: int, **more: float | None) -> bytes:
    return json.dumps({"step": step, "train_loss": 2.0, **more}).encode() + b"\n"


def append(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as handle:
        handle.write(data)


def steps(batches: list[Batch]) -> list[tuple[int, int]]:
    return [(batch.attempt, row["step"]) for batch in batches for row in batch.rows]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(5, 200))
def test_every_line_arrives_once_however_the_writes_are_cut(
    tmp_path_factory: object, cuts: list[int], chunk: int
) -> None:
    import tempfile

    data = b"".join(line(step, note=step * 1.5) for step in range(1, 30))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        tail, seen, start = Tailer(path), [], 0
        for size in [*cuts, len(data)]:
            append(path, data[start : start + size])
            start = min(len(data), start + size)
            seen += tail.read()
        while tail.more:
            seen += tail.read()
        assert b"".join(piece + b"\n" for piece in seen) == data
        assert chunk


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tailer(path)
    append(path, line(1) + line(2)[:10])
    assert tail.read() == [line(1).rstrip()]
    assert tail.read() == []
    append(path, line(2)[10:])
    assert tail.read() == [line(2).rstrip()]


def test_a_cut_file_and_a_replaced_file_start_a_new_generation(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, line(1) + line(2))
    tail = Tailer(path)
    assert len(tail.read()) == 2
    os.truncate(path, 0)
    append(path, line(7))
    assert tail.read() == [line(7).rstrip()]
    assert tail.generation == 1
    other = tmp_path / "other"
    append(other, line(1) + line(2) + line(3))
    os.replace(other, path)
    assert len(tail.read()) == 3
    assert tail.generation == 2


def test_a_long_file_comes_in_chunks_and_a_line_longer_than_a_chunk_comes_whole(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(tailer, "CHUNK_BYTES", 64)
    path = tmp_path / "metrics.jsonl"
    long_line = line(2, **{"x" * 500: 1.0})
    append(path, line(1) + long_line + line(3))
    tail, seen, looks = Tailer(path), [], 0
    while looks == 0 or tail.more:
        seen += tail.read()
        looks += 1
    assert seen == [line(1).rstrip(), long_line.rstrip(), line(3).rstrip()]
    assert looks > 1


def test_a_line_without_end_is_skipped_and_counted(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(tailer, "CHUNK_BYTES", 64)
    monkeypatch.setattr(tailer, "LONGEST_LINE", 256)
    path = tmp_path / "metrics.jsonl"
    append(path, b"x" * 5000 + b"\n" + line(1))
    tail, seen = Tailer(path), []
    for _ in range(200):
        seen += tail.read()
    assert seen[-1] == line(1).rstrip()
    assert tail.garbage > 0


def test_a_missing_or_unreadable_file_is_no_lines(tmp_path: Path) -> None:
    assert Tailer(tmp_path / "none" / "metrics.jsonl").read() == []
    (tmp_path / "folder").mkdir()
    assert Tailer(tmp_path / "folder").read() == []


def test_garbage_is_counted_and_never_raises() -> None:
    bad = [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'{"step": "7"}',
        b'{"step": true}',
        b'{"step": -1}',
        b"\xff\xfe",
        b"1,2",
        b'{"step": 1e9}',
    ]
    rows, count = parse_rows([line(1).rstrip(), *bad, line(2).rstrip()])
    assert [row["step"] for row in rows] == [1, 2]
    assert count == len(bad)
    rows, count = parse_rows([b"[" * 100_000])
    assert (rows, count) == ([], 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=30).filter(lambda piece: b"\n" not in piece), max_size=10))
def test_any_bytes_can_be_parsed(lines: list[bytes]) -> None:
    rows, bad = parse_rows(lines)
    assert len(rows) + bad == len(lines)


def test_attempts_are_read_oldest_first_and_new_ones_are_noticed(tmp_path: Path) -> None:
    append(tmp_path / "a1" / rundir.METRICS, line(1) + line(2))
    tail = RunTail(tmp_path)
    assert steps(tail.read()) == [(1, 1), (1, 2)]
    append(tmp_path / "a2" / rundir.METRICS, line(2) + line(3))
    append(tmp_path / "a10" / rundir.METRICS, line(3))
    os.utime(tmp_path, ns=(1, 1))
    assert steps(tail.read()) == [(2, 2), (2, 3), (10, 3)]
    assert tail.read() == []


def test_a_replaced_metrics_file_starts_the_run_anew(tmp_path: Path) -> None:
    append(tmp_path / "a1" / rundir.METRICS, line(1))
    append(tmp_path / "a2" / rundir.METRICS, line(2))
    tail = RunTail(tmp_path)
    assert len(tail.read()) == 2
    (tmp_path / "a1" / rundir.METRICS).write_bytes(b"")
    batches = tail.read()
    assert [batch.reset for batch in batches] == [True]
    assert tail.more
    assert steps(tail.read()) == [(2, 2)]


def test_a_removed_run_folder_is_forgotten_and_may_come_back(tmp_path: Path) -> None:
    run = tmp_path / "run"
    append(run / "a1" / rundir.METRICS, line(1))
    tail = RunTail(run)
    assert steps(tail.read()) == [(1, 1)]
    (run / "a1" / rundir.METRICS).unlink()
    (run / "a1").rmdir()
    run.rmdir()
    assert [batch.reset for batch in tail.read()] == [True]
    assert tail.read() == []
    append(run / "a1" / rundir.METRICS, line(5))
    assert steps(tail.read()) == [(1, 5)]


def test_the_log_is_printable_comes_from_the_newest_attempt_that_wrote_and_is_read_once(tmp_path: Path) -> None:
    append(tmp_path / "a1" / rundir.LOG, b"first\n\x1b[31mred\x1b[0m\tand\x07 bell\n")
    (tmp_path / "a2").mkdir()
    log = newest_log(tmp_path)
    assert (log.attempt, log.lines) == (1, ("first", "·[31mred·[0m    and· bell"))
    assert newest_log(tmp_path, log) is log
    append(tmp_path / "a2" / rundir.LOG, b"  10%\r 100%\n\xff\n")
    log = newest_log(tmp_path, log)
    assert (log.attempt, log.lines, log.left_out_bytes) == (2, (" 100%", "\ufffd"), 0)
    assert newest_log(tmp_path / "nowhere").attempt == 0


def test_of_a_very_long_log_the_end_is_kept_and_the_rest_is_counted(tmp_path: Path) -> None:
    append(tmp_path / "a1" / rundir.LOG, b"".join(b"line %04d\n" % number for number in range(1000)))
    log = newest_log(tmp_path, tail_bytes=1000)
    assert log.left_out_bytes == 9000
    assert log.lines[0] == "line 0901"
    assert log.lines[-1] == "line 0999"


def test_only_whole_lines_of_the_end_of_a_long_file_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    append(path, b"".join(b"line %d\n" % number for number in range(1000)))
    lines = last_lines(path, 500, tail_bytes=100)
    assert lines[-1] == "line 999"
    assert all(text.startswith("line ") for text in lines)
    assert last_lines(tmp_path / "none", 5) == []
