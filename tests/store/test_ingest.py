"""What the collector takes in: each point once, whatever the files look like, and nothing new costs nothing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from optsweep_tui import rundir
from optsweep_tui.imported import ImportedRun, ImportedSpec, Outcome
from optsweep_tui.store import collector, streams
from optsweep_tui.store.batch import Batch
from optsweep_tui.store.ingest import ingest
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
def store(tmp_path: Path) -> Path:
    return tmp_path / "results.duckdb"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def first(runs: Path) -> Path:
    """Attempt 1 of one planted run."""
    return attempt_folder(plant(runs, make_spec())[0])


def test_a_finished_run_is_in_the_store_with_its_spec_its_record_and_its_curve(store: Path, runs: Path) -> None:
    spec = make_spec()
    folder = plant(runs, spec, study="quick")[0]
    append(attempt_folder(folder), lines(range(1, 193)) + line(192, val_loss=2.5).replace("192", "193", 1))
    finish(folder)
    report = ingest(store, runs)
    assert (report.runs, report.finished, report.points, report.skipped_lines) == (1, 1, 193 * 2 + 1, 0)
    row = sql_rows(
        store, "SELECT run_id, study, origin, optimizer, params, tokens, steps, loss, state, device FROM v_run"
    )
    assert row == [(spec.run_id, "quick", "native", "adamw", 106496, 98304, 192, 2.5, "done", "cpu")]
    assert sql_rows(store, "SELECT seconds_per_token, state_bytes, train_seconds, lr FROM v_run") == [
        (1 / 40000, 1116672, 3.5, 0.003)
    ]
    curve = points(store)
    assert curve[4] == 2.5 and len(curve) == 193
    assert points(store, "val_loss") == {193: 2.5}
    assert sql_rows(store, "SELECT DISTINCT tokens / step FROM v_metric") == [(512.0,)]


def test_collecting_twice_changes_nothing(store: Path, runs: Path, first: Path) -> None:
    append(first, lines(range(1, 50)))
    append(first, json.dumps({"seq": 1, "time": 1.7e9, "kind": "started"}) + "\n", rundir.EVENTS)
    ingest(store, runs)
    before, size = contents(store), store.stat()
    report = ingest(store, runs)
    assert (report.points, report.events, report.new_runs, report.new_finished) == (0, 0, 0, 0)
    assert contents(store) == before
    assert (store.stat().st_size, store.stat().st_mtime_ns) == (size.st_size, size.st_mtime_ns), "it wrote for nothing"


def test_a_torn_last_line_waits_for_its_end(store: Path, runs: Path, first: Path) -> None:
    whole = line(3)
    append(first, lines([1, 2]) + whole[:-5])
    assert ingest(store, runs).skipped_lines == 0
    assert sorted(points(store)) == [1, 2]
    append(first, whole[-5:])
    ingest(store, runs)
    assert sorted(points(store)) == [1, 2, 3]


def test_garbage_lines_are_counted_located_and_poison_nothing(store: Path, runs: Path, first: Path) -> None:
    garbage = [
        "not json\n",
        '{"step": 4, "train_lo\n',
        "[1, 2]\n",
        '{"train_loss": 1}\n',
        '{"step": -1, "a": 1}\n',
        '{"step": "5"}\n',
    ]
    append(first, lines([1, 2]) + "".join(garbage) + lines([9, 10]))
    report = ingest(store, runs)
    assert report.skipped_lines == len(garbage)
    path = first / rundir.METRICS
    assert [skip.where for skip in report.skipped] == [f"{path}:{number}" for number in range(3, 9)]
    assert all(skip.why for skip in report.skipped)
    assert sorted(points(store)) == [1, 2, 9, 10]
    append(first, "more garbage\n")
    again = ingest(store, runs)
    assert [skip.where for skip in again.skipped] == [f"{path}:11"], "line numbers go on where the last collect stopped"
    assert sql_rows(store, "SELECT skipped, lines FROM src_offset WHERE path LIKE '%metrics%'") == [(7, 11)]


NOT_FINITE = [
    "NaN", "Infinity", "-Infinity", "null", '"NaN"', '"nan"', '"inf"', '"-Infinity"', "nan", "inf", "-inf", "+Inf", "1e999",
    "None", "1.#QNAN", "-1.#IND",
]  # fmt: skip


def test_whatever_is_not_finite_is_null_however_it_is_spelled(store: Path, runs: Path, first: Path) -> None:
    for step, spelling in enumerate(NOT_FINITE, start=1):
        append(first, f'{{"step": {step}, "train_loss": {spelling}, "lr": 0.5}}\n')
    append(first, line(100))
    assert ingest(store, runs).skipped == []
    assert points(store) == dict.fromkeys(range(1, len(NOT_FINITE) + 1)) | {100: 0.1}
    assert points(store, "lr") == dict.fromkeys(range(1, len(NOT_FINITE) + 1), 0.5)


def test_null_is_a_point_and_absent_is_none_on_the_fast_path_too(store: Path, runs: Path, first: Path) -> None:
    append(first, lines([1]))
    ingest(store, runs)  # learns the columns
    append(first, line(2, val_loss=None) + line(3) + line(4, val_loss=1.5))
    ingest(store, runs)
    append(first, '{"step":5,"tokens":2560,"train_loss":null}\n')
    ingest(store, runs)
    assert points(store, "val_loss") == {2: None, 4: 1.5}
    assert points(store)[5] is None


def test_large_integers_are_numbers_and_what_is_no_number_is_left_out(store: Path, runs: Path, first: Path) -> None:
    row = {
        "step": 1,
        "big": 100_000_000_000_000,
        "huge": 10**40,
        "flag": True,
        "note": "text",
        "nested": {"a": 1},
        "list": [1],
    }
    append(first, json.dumps(row) + "\n" + f'{{"step": 2, "endless": {"9" * 5000}}}\n')
    assert ingest(store, runs).skipped_lines == 0
    found = dict(sql_rows(store, "SELECT key, value FROM v_metric"))
    assert found == {"big": 1e14, "huge": 1e40, "endless": None}


def test_files_from_windows_with_bom_blank_and_crlf_lines_are_read(store: Path, runs: Path, first: Path) -> None:
    append(first, b"\xef\xbb\xbf" + lines([1, 2]).replace("\n", "\r\n").encode() + b"\r\n\n" + lines([3]).encode())
    report = ingest(store, runs)
    assert (report.skipped_lines, sorted(points(store))) == (0, [1, 2, 3])


def test_bytes_that_are_no_text_cost_their_line_only(store: Path, runs: Path, first: Path) -> None:
    append(first, lines([1]).encode() + b'{"step": 2, "\xff\xfe": 1}\n\x00\x00\x00\n' + lines([3]).encode())
    report = ingest(store, runs)
    assert (report.skipped_lines, sorted(points(store))) == (2, [1, 3])


def test_names_that_no_utf8_holds_do_not_stop_the_collector(store: Path, runs: Path, first: Path) -> None:
    append(first, '{"step": 1, "\\ud800": 1, "a\\u0000b": 2, "": 3, "' + "x" * 500 + '": 4, "fine": 5}\n')
    append(
        first, '{"seq": 1, "kind": "\\udfff", "note": "\\ud800", "n": 1e999, "i": ' + "7" * 300 + "}\n", rundir.EVENTS
    )
    ingest(store, runs)
    assert sql_rows(store, "SELECT value FROM v_metric WHERE key = 'fine'") == [(5.0,)]
    assert len(sql_rows(store, "SELECT * FROM v_event")) == 1


def test_a_line_longer_than_the_limit_is_a_listed_skip(
    store: Path, runs: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 1 << 20)
    append(first, lines([1]) + '{"step": 2, "x": "' + "y" * (5 << 20) + '"}\n' + lines([3]) + "z" * (3 << 20))
    report = ingest(store, runs)
    assert [skip.where.rpartition(":")[2] for skip in report.skipped] == ["2"]
    assert sorted(points(store)) == [1, 3]
    append(first, "\n" + line(4))
    report = ingest(store, runs)
    assert [skip.where.rpartition(":")[2] for skip in report.skipped] == ["4"]
    assert sorted(points(store)) == [1, 3, 4]


@pytest.mark.slow
def test_a_line_of_a_gigabyte_is_a_listed_skip_and_needs_no_gigabyte(store: Path, runs: Path, first: Path) -> None:
    """The whole gigabyte in `make faults`, a fifth of it in `make test`; a child, so that its peak memory is its own."""
    size = int(os.environ.get("OPTSWEEP_STORE_LINE_BYTES", str(200 << 20)))
    append(first, lines([1]))
    with open(first / rundir.METRICS, "ab") as handle:
        handle.truncate(handle.tell() + size)  # a hole in the file: a line of null bytes
    append(first, "\n" + lines([3]))
    code = """
import json, sys
from pathlib import Path
from optsweep_tui.store.ingest import ingest
report = ingest(Path(sys.argv[1]), Path(sys.argv[2]))
# Not ru_maxrss: a child's counts from the fork, so that it holds what the test's own process had.
peak_kib = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps([[skip.why for skip in report.skipped], int(peak_kib) << 10]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(store), str(runs)], capture_output=True, text=True, check=True, timeout=500
    )
    why, peak_bytes = json.loads(done.stdout)
    assert why == ["longer than 16 MiB"]
    assert peak_bytes < 400 << 20
    assert sorted(points(store)) == [1, 3]


def test_a_small_file_that_is_too_large_is_listed_and_never_read(
    store: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, odd = plant(runs, make_spec(seed=1), make_spec(seed=2), make_spec(seed=3))
    for folder in (good, bad):
        append(attempt_folder(folder), lines([1, 2]))
        finish(folder)
    for path in (bad / "a1" / rundir.RECORD, odd / "studies" / "grid.json"):
        os.truncate(path, 20 << 30)
    for _ in range(2):
        report = ingest(store, runs)
        assert str(bad / "a1" / rundir.RECORD) in {skip.where for skip in report.skipped}
        assert all("larger than 16 MiB" in skip.why for skip in report.skipped)
    assert {run_id for (run_id,) in sql_rows(store, "SELECT run_id FROM run")} == {good.name, odd.name}
    finish(bad)
    ingest(store, runs)
    assert sql_rows(store, f"SELECT state FROM run WHERE run_id = '{bad.name}'") == [("done",)]


def test_more_names_in_a_line_than_a_store_takes_are_left_out(store: Path, runs: Path, first: Path) -> None:
    append(first, json.dumps({"step": 1} | {f"key{number}": 1.0 for number in range(60_000)}) + "\n" + lines([2]))
    report = ingest(store, runs)
    assert any("metric names" in skip.why for skip in report.skipped)
    assert sql_rows(store, "SELECT count(*) FROM metric_key") == [(collector.MAX_KEYS,)]


def test_a_line_longer_than_a_block_is_read_whole(store: Path, runs: Path, first: Path) -> None:
    append(first, line(1, note="y" * (3 << 20)) + line(2))
    assert ingest(store, runs).skipped_lines == 0
    assert sorted(points(store)) == [1, 2]


def test_the_highest_attempt_wins_per_step(store: Path, runs: Path, first: Path) -> None:
    append(first, lines(range(1, 101)))
    ingest(store, runs)
    assert sql_rows(store, "SELECT repeats FROM run") == [(False,)]
    append(attempt_folder(first.parent, 2), lines(range(61, 91), train_loss=7.0))
    ingest(store, runs)
    curve = points(store)
    assert sorted(curve) == list(range(1, 101))
    assert {step for step, value in curve.items() if value == 7.0} == set(range(61, 91))
    assert sql_rows(store, "SELECT repeats FROM run") == [(True,)]
    assert sql_rows(
        store, "SELECT count(*) FROM metric WHERE key = (SELECT key FROM metric_key WHERE name = 'train_loss')"
    ) == [(130,)]


def test_an_attempt_that_goes_on_without_overlap_needs_no_choice(store: Path, runs: Path, first: Path) -> None:
    append(first, lines(range(1, 51)))
    append(attempt_folder(first.parent, 2), lines(range(51, 101)))
    ingest(store, runs)
    assert sorted(points(store)) == list(range(1, 101))
    assert sql_rows(store, "SELECT repeats FROM run") == [(False,)]


def test_within_an_attempt_the_last_line_of_a_step_wins(store: Path, runs: Path, first: Path) -> None:
    append(first, lines([1, 2, 3]) + line(2, train_loss=8.0))
    ingest(store, runs)
    append(first, line(3, train_loss=9.0))
    ingest(store, runs)
    assert points(store) == {1: 10.0, 2: 8.0, 3: 9.0}


def test_a_key_twice_in_a_line_counts_once(store: Path, runs: Path, first: Path) -> None:
    append(first, '{"step": 1, "a": 1, "a": 2}\n{"step": 2, "a": 1, "a": 3}\n')
    ingest(store, runs)
    assert points(store, "a") == {1: 2.0, 2: 3.0}


def test_a_file_that_shrank_replaces_what_it_held(store: Path, runs: Path, first: Path) -> None:
    append(first, lines(range(1, 101)))
    ingest(store, runs)
    path = first / rundir.METRICS
    inode = path.stat().st_ino
    path.write_text(lines([1, 2], train_loss=5.0))
    assert path.stat().st_ino == inode
    ingest(store, runs)
    assert points(store) == {1: 5.0, 2: 5.0}
    assert sql_rows(store, "SELECT generation FROM src_offset WHERE path LIKE '%metrics%'") == [(2,)]


def test_a_file_that_was_replaced_is_read_anew(store: Path, runs: Path, first: Path) -> None:
    append(first, lines(range(1, 11)))
    append(first, '{"seq": 1, "kind": "old"}\n', rundir.EVENTS)
    ingest(store, runs)
    for name, text in (
        (rundir.METRICS, lines(range(1, 31), train_loss=4.0)),
        (rundir.EVENTS, '{"seq": 1, "kind": "new"}\n' * 2),
    ):
        fresh = first / "other"
        fresh.write_text(text)
        os.replace(fresh, first / name)
    ingest(store, runs)
    assert set(points(store).values()) == {4.0} and len(points(store)) == 30
    assert sql_rows(store, "SELECT kind FROM v_event") == [("new",), ("new",)]


def test_a_file_rewritten_in_place_and_longer_is_noticed_by_its_tail(store: Path, runs: Path, first: Path) -> None:
    append(first, lines(range(1, 11)))
    ingest(store, runs)
    (first / rundir.METRICS).write_text(lines(range(1, 41), train_loss=3.0))
    ingest(store, runs)
    assert set(points(store).values()) == {3.0}


def test_a_corrupt_spec_is_listed_and_the_others_are_collected(store: Path, runs: Path) -> None:
    good, bad, odd = plant(runs, make_spec(seed=1), make_spec(seed=2), make_spec(seed=3))
    for folder in (good, bad, odd):
        append(attempt_folder(folder), lines([1, 2]))
        finish(folder)
    (bad / rundir.SPEC).write_text('{"engine": "torch"')
    (odd / rundir.SPEC).write_text(json.dumps(make_spec(seed=3).to_dict() | {"batch_size": 0}))
    for _ in range(2):
        report = ingest(store, runs)
        assert {Path(skip.where).parent.name for skip in report.skipped} == {bad.name, odd.name}
        assert report.runs == 1
    (bad / rundir.SPEC).write_text(json.dumps(make_spec(seed=2).to_dict()))
    assert ingest(store, runs).runs == 2
    assert len(points(store, run_id=bad.name)) == 2


SENSELESS: list[dict[str, object]] = [
    {"tokens": 10**30},
    {"tokens": 1e300},
    {"optimizer": 5},
    {"optimizer": "\ud800"},
    {"seed": "zero"},
    {"batch_size": 0},
    {"seq_len": None},
    {"dtype": ["fp32"]},
    {"hyperparameters": {"lr": "\udfff"}},
]


def test_a_spec_whose_values_make_no_sense_is_listed(store: Path, runs: Path) -> None:
    listed = set()
    for number, changes in enumerate(SENSELESS):
        spec = make_spec()
        data = spec.to_dict() | changes
        name = f"{number:032x}"
        with contextlib.suppress(ValueError, TypeError):
            name = type(spec).from_dict(data).run_id  # its hash is right, its values are not
        (runs / name).mkdir(parents=True)
        (runs / name / rundir.SPEC).write_text(json.dumps(data))
        listed.add(name)
    assert len(listed) == len(SENSELESS)
    plant(runs, make_spec(seed=9))
    report = ingest(store, runs)
    assert report.runs == 1
    assert {Path(skip.where).parent.name for skip in report.skipped} == listed


def test_a_corrupt_record_is_listed_and_the_run_is_failed(store: Path, runs: Path) -> None:
    texts = ["{", "[]", "{}", '{"status": "done"}', "\x00", "3"]
    wrong: list[dict[str, Any]] = [
        {"val_loss": "low"},
        {"status": "great"},
        {"steps": 1.5},
        {"peak_bytes": 10**30},
        {"versions": 3},
        {"error": "\ud800"},
    ]
    folders = plant(runs, *(make_spec(seed=seed) for seed in range(len(texts) + len(wrong))))
    for folder in folders:
        append(attempt_folder(folder), lines([1, 2]))
        finish(folder, **(wrong.pop() if len(wrong) and folder in folders[len(texts) :] else {}))
    for folder, text in zip(folders, texts, strict=False):
        (folder / "a1" / rundir.RECORD).write_text(text)
    report = ingest(store, runs)
    assert {Path(skip.where).parents[1].name for skip in report.skipped} == {folder.name for folder in folders}
    assert sql_rows(store, "SELECT DISTINCT state, loss FROM v_run") == [("failed", None)]
    assert sql_rows(store, "SELECT count(*) FROM v_metric WHERE key = 'train_loss'") == [(2 * len(folders),)]
    assert sql_rows(store, "SELECT count(*) FROM run_final WHERE error IS NULL") == [(0,)]


def test_a_record_with_nan_has_no_loss(store: Path, runs: Path, first: Path) -> None:
    finish(first.parent, status="diverged", val_loss=math.nan, train_loss=math.inf)
    ingest(store, runs)
    assert sql_rows(store, "SELECT state, loss, train_loss FROM v_run") == [("diverged", None, None)]


def test_states_follow_the_files(store: Path, runs: Path) -> None:
    folder = plant(runs, make_spec())[0]

    def state() -> list[tuple[object, ...]]:
        ingest(store, runs)
        return sql_rows(store, "SELECT state, attempts, loss FROM v_run")

    assert state() == [("planned", 0, None)]
    attempt_folder(folder)
    assert state() == [("queued", 1, None)]
    (folder / "a1" / rundir.CLAIM).write_text("{}")
    assert state() == [("orphan", 1, None)]
    (folder / "a1" / rundir.EXIT).write_text('{"returncode": null, "signal": 9, "reason": "died", "ended_at": 1.7e9}')
    assert state() == [("lost", 1, None)]
    assert sql_rows(store, "SELECT reason, signal FROM v_attempt") == [("died", 9)]
    finish(folder, 2)
    assert state() == [("done", 2, 2.5)]
    assert sql_rows(store, "SELECT attempt, state FROM run_final") == [(2, "done")]
    attempt_folder(folder, 3)  # a forced new attempt: the run is no longer over
    assert state() == [("queued", 3, None)]
    assert sql_rows(store, "SELECT count(*) FROM run_final") == [(0,)]


def test_a_run_of_two_studies_has_two_rows(store: Path, runs: Path) -> None:
    plant(runs, make_spec(), study="one")
    ingest(store, runs)
    plant(runs, make_spec(), study="two")
    ingest(store, runs)
    assert sql_rows(store, "SELECT study FROM v_run ORDER BY study") == [("one",), ("two",)]
    assert sql_rows(store, "SELECT count(*) FROM run") == [(1,)]


LOOKS = ("optsweep_tui.store.look.scan", "optsweep_tui.rundir.state_of", "optsweep_tui.store.streams.blocks")


def test_a_run_folder_that_goes_while_it_is_collected_does_no_harm(
    store: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in plant(runs, *(make_spec(seed=seed) for seed in range(4))):
        append(attempt_folder(folder), lines(range(1, 5)))
    for look in LOOKS:
        victim = max(runs.iterdir())
        real = pkgutil.resolve_name(look)

        def removing(*arguments: Any, gone: Path = victim, real: Any = real) -> Any:
            if gone.exists() and (gone.name in str(arguments)):
                shutil.rmtree(gone)
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(look, removing)
            store.unlink(missing_ok=True)
            ingest(store, runs)
        assert not victim.exists(), look
    last = next(runs.iterdir())
    assert len(points(store, run_id=last.name)) == 4


def test_folders_where_files_should_be_and_odd_names_do_no_harm(store: Path, runs: Path, first: Path) -> None:
    append(first, lines([1, 2]))
    finish(first.parent)
    for name in ("a0", "a01", "a²", "a", "ab", "x.json"):
        (first.parent / name).mkdir()
    odd = plant(runs, make_spec(seed=1))[0]
    for name in (rundir.METRICS, rundir.EVENTS, rundir.CLAIM):
        (attempt_folder(odd) / name).mkdir()
    flat = plant(runs, make_spec(seed=2))[0]
    (flat / "a1").write_text("a file")
    (odd / "studies" / "deep.json").write_text("[" * 100_000)
    (runs / "not a run").mkdir()
    (runs / ("f" * 32)).write_text("a file")
    report = ingest(store, runs)
    assert sorted(points(store)) == [1, 2]
    assert {folder.name for folder in (first.parent, odd)} <= {
        run_id for (run_id,) in sql_rows(store, "SELECT run_id FROM run")
    }
    assert any(str(odd) in skip.where for skip in report.skipped)
    assert sql_rows(store, f"SELECT attempts, state FROM v_run WHERE run_id = '{first.parent.name}'") == [(1, "done")]


def test_a_run_folder_that_may_not_be_read_is_listed(store: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = plant(runs, make_spec(seed=1), make_spec(seed=2))
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path) == str(bad):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    report = ingest(store, runs)
    assert report.runs == 1 and [skip.where for skip in report.skipped] == [str(bad)]
    assert sql_rows(store, "SELECT run_id FROM run") == [(good.name,)]


def test_a_vanished_folder_keeps_its_rows_until_a_rebuild(store: Path, runs: Path) -> None:
    folders = plant(runs, make_spec(seed=1), make_spec(seed=2))
    ingest(store, runs)
    shutil.rmtree(folders[0])
    report = ingest(store, runs)
    assert (report.runs, report.vanished) == (2, 1)


def test_a_half_copied_run_folder_is_completed_later(store: Path, runs: Path) -> None:
    spec = make_spec()
    folder = runs / spec.run_id
    folder.mkdir(parents=True)
    assert (ingest(store, runs).runs, len(ingest(store, runs).skipped)) == (0, 0), "it may be being planned"
    os.utime(folder, (1, 1))
    assert "half copied" in str(ingest(store, runs).skipped[0])
    finish(folder)
    for _ in range(2):
        report = ingest(store, runs)
        assert [skip.where for skip in report.skipped] == [str(folder / rundir.SPEC)]
        assert report.runs == 0 and "half copied" in report.skipped[0].why
    (folder / rundir.SPEC).write_text(json.dumps(spec.to_dict()))
    append(folder / "a1", lines([1, 2]))
    assert (ingest(store, runs).runs, len(points(store))) == (1, 2)


def test_an_imported_run_that_is_torn_is_listed_by_its_own_file_and_completed_later(store: Path, runs: Path) -> None:
    spec = ImportedSpec(optimizer="adamw", model="130m", hyperparameters={"lr": 0.01}, tokens=1000, params=10)
    run = ImportedRun(
        importer="csv", study="s", entry="line 1", source={}, spec=spec, outcome=Outcome(state="done", loss=3.0)
    )
    text = json.dumps(run.to_dict())
    folder = runs / run.run_id
    folder.mkdir(parents=True)
    append(attempt_folder(folder), lines([1, 2]))
    for part in ("", '{"entry": "li', text[:-1], "[]"):
        (folder / rundir.ORIGIN).write_text(part)
        for _ in range(2):
            report = ingest(store, runs)
            assert [skip.where for skip in report.skipped] == [str(folder / rundir.ORIGIN)], part
            assert report.runs == 0 and report.skipped[0].why.startswith("cannot be used: "), part
            assert rundir.SPEC not in str(report.skipped[0]) and "trained here" not in str(report.skipped[0])
    (folder / rundir.ORIGIN).write_text(text)
    report = ingest(store, runs)
    assert (report.runs, report.finished, report.skipped, len(points(store))) == (1, 1, [], 2)


def test_no_transaction_is_larger_than_the_limit(
    store: Path, runs: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write = Batch.write

    def counting(self: Batch, connection: duckdb.DuckDBPyConnection, archive_folder: str) -> None:
        sizes.append(self.size)
        write(self, connection, archive_folder)

    monkeypatch.setattr(Batch, "write", counting)
    monkeypatch.setattr(collector, "MAX_ROWS", 20_000)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 100_000)
    append(first, lines(range(1, 40_001)))
    ingest(store, runs)
    assert len(sizes) >= 4 and max(sizes) <= 20_000
    assert sum(sizes) >= 80_000
    assert len(points(store)) == 40_000


def test_ten_thousand_different_keys_do_not_explode(
    store: Path, runs: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "MAX_KEYS", 50)
    append(first, "".join(json.dumps({"step": step, f"key{step}": 1.0}) + "\n" for step in range(1, 10_001)))
    report = ingest(store, runs)
    assert sql_rows(store, "SELECT count(*) FROM metric_key") == [(50,)]
    assert any("metric names" in skip.why for skip in report.skipped)
