"""The two readers of metric lines agree, and no bytes whatever stop the collector."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import rundir
from optsweep_tui.store import report
from optsweep_tui.store.ingest import ingest, rebuild
from optsweep_tui.store.lines import MetricParser, Points
from tests.store.run_folders import append, attempt_folder, contents, finish, lines, make_spec, plant, points, sql_rows

MUTATIONS = int(os.environ.get("OPTSWEEP_STORE_MUTATIONS", "300"))

_TEXTS = r"""
\ud800 \u0000 null NaN Infinity -Infinity nan 1e999 -1e999 1e-999 1e14 0x1F true {} [[[[ - . 1. 01 " \ { } [ , : "text" "NaN"
"step": é 😀
"""
NASTY = [text.encode() for text in _TEXTS.split()]
NASTY += [b"\x00", b"\r", b"\n", b"\t", b" ", b"]" * 50, b"9" * 30, b"9" * 400, b"\xff", b"\xc3", b"\xef\xbb\xbf"]


def plain(parsed: Points) -> dict[str, list[tuple[int, float | None]]]:
    """Points as plain values, so that they can be compared."""
    return {
        series.name: [
            (step, None if math.isnan(value) else value)
            for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True)
        ]
        for series in parsed.series
        if len(series.steps)
    }


def random_row(generator: random.Random, step: int) -> dict[str, Any]:
    """A metric line with values of every kind that a file may hold."""
    row: dict[str, Any] = {"step": step, "train_loss": generator.gauss(3, 1)}
    if generator.random() < 0.3:
        row["val_loss"] = generator.choice([None, 2.5, math.nan, math.inf, 3])
    if generator.random() < 0.3:
        row["tokens"] = generator.choice([step * 512, 10**14, 2**63, 2**70, -5, 0])
    if generator.random() < 0.2:
        row["note"] = generator.choice(["text", "null", ": null", "", "NaN is no number", "none"])
    if generator.random() < 0.1:
        row["flag"] = True
    return row


def mutated(generator: random.Random, data: bytes) -> bytes:
    """The same with one to four faults: bytes put in, taken out, doubled or exchanged."""
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(data) + 1)
        end = min(len(data), start + generator.randint(0, 12))
        piece = generator.choice([generator.choice(NASTY), b"", data[start:end] * 2, generator.randbytes(3)])
        data = data[:start] + piece + data[end:]
    return data


def test_the_fast_reader_and_the_slow_one_agree() -> None:
    generator = random.Random(11)
    fast_blocks = 0
    for turn in range(150):
        columns = turn % 5 + 1
        rows = [random_row(generator, step) for step in range(1, 60)]
        if columns == 1:  # as engines write them: same keys, numbers or null
            rows = [{"step": row["step"], "train_loss": row["train_loss"], "lr": None, "x": 1} for row in rows]
        block = "".join(json.dumps(row) + "\n" for row in rows).encode()
        reader = MetricParser(patience=0)
        first = reader.parse(block)  # learns the columns
        slow_blocks = reader.slow_blocks
        second = reader.parse(block)
        fast_blocks += reader.slow_blocks == slow_blocks
        assert plain(second) == plain(first)
        ends = [(found.first_step, found.last_step, found.begin_step, found.end_step) for found in (first, second)]
        assert ends == [(1, 59, 1, 59)] * 2
        assert (second.lines, second.ascending, second.bad) == (59, True, [])
    assert fast_blocks >= 30, "the fast reader was never asked"


def test_a_few_lines_never_go_to_arrow() -> None:
    """Calling it costs more than reading them: ten thousand short runs are ten thousand calls."""
    reader = MetricParser(patience=0)
    reader.parse(lines(range(1, 60)).encode())
    before = reader.slow_blocks
    reader.parse(lines(range(1, 4)).encode())
    assert reader.slow_blocks == before + 1
    reader.parse(lines(range(1, 60)).encode())
    assert reader.slow_blocks == before + 1


def test_arrow_is_not_loaded_for_few_lines() -> None:
    code = "import sys; from optsweep_tui.store.lines import MetricParser; p = MetricParser(); "
    code += "b = b''.join(b'{\"step\": %d, \"x\": 1.5}\\n' % n for n in range(1000)); [p.parse(b) for _ in range(3)]; "
    code += "print('pyarrow' in sys.modules); [p.parse(b) for _ in range(3)]; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_both_readers_agree_on_mutated_blocks() -> None:
    generator = random.Random(12)
    clean = "".join(
        json.dumps({"step": step, "train_loss": step / 7, "lr": 0.1, "x": None}) + "\n" for step in range(1, 60)
    )
    for _ in range(MUTATIONS):
        block = mutated(generator, clean.encode()) + b"\n"
        learned = MetricParser(patience=0)
        learned.parse(clean.encode())
        assert plain(learned.parse(block)) == plain(MetricParser(patience=10**9).parse(block))


def test_deep_nesting_costs_its_line_only() -> None:
    """It crashes Arrow's reader, which must therefore never see it."""
    reader = MetricParser(patience=0)
    block = lines(range(1, 60)).encode()
    reader.parse(block)
    deep = (
        b'{"step": 70, "x": '
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}\n"
        + b'{"step": 71, "x": '
        + b'{"a":' * 100_000
        + b"\n"
    )
    found = reader.parse(block + deep)
    assert len(found.bad) == 2 and len(plain(found)["train_loss"]) == 59


def test_two_objects_on_a_line_and_one_on_two_lines_are_garbage() -> None:
    reader = MetricParser(patience=0)
    block = lines(range(1, 60)).encode()
    reader.parse(block)
    found = reader.parse(block + b'{"step": 70, "lr": 1}{"step": 71, "lr": 1}\n{"step":\n72, "lr": 1}\n')
    assert [number for number, _ in found.bad] == [59, 60, 61]
    assert "lr" not in plain(found)


EVENT = json.dumps({"seq": 1, "time": 1.7e9, "kind": "started", "pid": 17, "nested": {"a": [1, None, "x"]}}) + "\n"
DOCUMENTS = (rundir.RECORD, rundir.EXIT, rundir.CLAIM, rundir.SPEC)
STREAMS = (rundir.METRICS, rundir.EVENTS)


def mutated_run(generator: random.Random, folder: Path) -> dict[Path, bytes]:
    """A finished run with one to three of its files mutated: those files and what is in them."""
    attempt = attempt_folder(folder)
    append(attempt, lines(range(1, 41)))
    append(attempt, EVENT * 3, rundir.EVENTS)
    claim = {"pid": 5, "start": 7, "boot_id": "b", "host": "h", "token": "t", "claimed_at": 1.7e9}
    (attempt / rundir.CLAIM).write_text(json.dumps(claim))
    finish(folder)
    changed = {}
    for name in generator.sample((*DOCUMENTS, *STREAMS), generator.randint(1, 3)):
        path = folder / name if name == rundir.SPEC else attempt / name
        changed[path] = mutated(generator, path.read_bytes())
        path.write_bytes(changed[path])
    return changed


def is_document(data: bytes) -> bool:
    """A JSON object, by Python's own reader."""
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def bad_lines(data: bytes) -> int:
    """Whole lines that Python's own reader does not take as JSON objects, nearly: numbers that are none are let pass."""
    count = 0
    for line in data.split(b"\n")[:-1]:
        spelled = any(word in line.lower() for word in (b"nan", b"inf", b"none", b"n/a", b"#"))
        count += bool(line.strip()) and not spelled and not is_document(line.strip().removeprefix(b"\xef\xbb\xbf"))
    return count


def test_no_mutated_file_stops_the_collector_or_touches_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of file of a run, mutated: each is listed or was still sound, and a rebuild says the same."""
    monkeypatch.setattr(report, "MAX_LISTED_SKIPS", 10**6)
    generator = random.Random(13)
    files = listed = portion = 0
    while files < MUTATIONS // 2:
        root = tmp_path / str(portion)
        store, runs = root / "results.duckdb", root / "runs"
        count = min(200, MUTATIONS // 4)
        changed: dict[Path, bytes] = {}
        for folder in plant(runs, *(make_spec(seed=1000 * portion + number) for number in range(count))):
            changed |= mutated_run(generator, folder)
        good = plant(runs, make_spec(seed=10**9))[0]
        append(attempt_folder(good), lines(range(1, 41)))
        append(attempt_folder(good), EVENT, rundir.EVENTS)
        finish(good)
        done = ingest(store, runs)
        assert all(skip.why and "\n" not in str(skip) for skip in done.skipped)
        lost = {
            path
            for path in changed
            if path.name == rundir.SPEC and any(skip.where == str(path) for skip in done.skipped)
        }
        for path, data in changed.items():
            own = sum(skip.where == str(path) or skip.where.startswith(f"{path}:") for skip in done.skipped)
            run_folder = path.parent if path.name == rundir.SPEC else path.parent.parent
            if run_folder / rundir.SPEC in lost:
                own = max(own, 1)  # without a spec the run is left out, with all its files
            elif path.name in STREAMS:
                assert own >= bad_lines(data), path.name
            elif not is_document(data) and data.strip():
                assert own >= 1, (path.name, data[:200])
            listed += own > 0
        files += len(changed)
        assert points(store, run_id=good.name) == {step: 10 / step for step in range(1, 41)}
        assert sql_rows(store, f"SELECT state, loss FROM v_run WHERE run_id = '{good.name}'") == [("done", 2.5)]
        again = ingest(store, runs)
        assert (again.points, again.events) == (0, 0)
        straight = root / "straight.duckdb"
        ingest(straight, runs)
        assert contents(straight) == contents(store)
        shutil.rmtree(root)
        portion += 1
    print(f"{files} mutated files: {listed} listed, {files - listed} still sound")


GARBAGE = int(os.environ.get("OPTSWEEP_STORE_GARBAGE", "12"))


def damaged(generator: random.Random, data: bytes) -> bytes:
    """A store with bytes overwritten, pages exchanged or zeroed, or its end cut off; often in its first three headers."""
    found = bytearray(data)
    kind = generator.choice(("bytes", "cut", "zero", "exchange"))
    place, other = (generator.randrange(len(found) // 4096) * 4096 for _ in range(2))
    if kind == "bytes":
        for _ in range(generator.randint(1, 8)):
            start = generator.randrange(len(found) - 64)
            found[start : start + 64] = generator.randbytes(64)
    elif kind == "cut":
        del found[generator.randrange(len(found)) :]
    elif kind == "zero":
        found[place : place + 4096] = bytes(4096)
    else:
        found[place : place + 4096], found[other : other + 4096] = (
            found[other : other + 4096],
            found[place : place + 4096],
        )
    if generator.random() < 0.3 and len(found) > 12288:
        start = generator.randrange(12288)
        found[start : start + 4] = generator.randbytes(4)
    return bytes(found)


def test_a_damaged_store_is_one_line_that_says_rebuild(tmp_path: Path) -> None:
    """In a process of its own: whatever DuckDB makes of garbage, it must not take anybody down."""
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    folder = plant(runs, make_spec())[0]
    append(attempt_folder(folder), lines(range(1, 2000)))
    finish(folder)
    ingest(store, runs)
    code = """
import random, sys
from pathlib import Path
from optsweep_tui.errors import OptsweepError
from optsweep_tui.store import queries
from tests.store.test_store_lines import damaged
store, generator = Path(sys.argv[1]), random.Random(5)
data, told = store.read_bytes(), 0
for _ in range(int(sys.argv[2])):
    store.with_name("results.duckdb.wal").unlink(missing_ok=True)
    store.write_bytes(damaged(generator, data))
    try:
        queries.sql(store, "SELECT count(*), sum(value), max(step), max(loss) FROM v_metric JOIN v_run USING (run_id)")
    except OptsweepError as error:
        assert chr(10) not in str(error) and ("--rebuild" in str(error) or "another program" in str(error)), str(error)
        told += 1
print(told)
"""
    command = [sys.executable, "-c", code, str(store), str(GARBAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    print(f"{GARBAGE} damaged stores: {done.stdout.strip()} said so, the others still answered")
    assert int(done.stdout) >= GARBAGE // 4
    assert rebuild(store, runs).points == 2 * 1999
