"""The two readers of metric lines agree, and no bytes whatever stop the collector."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

from optsweep_tui import rundir
from optsweep_tui.store.ingest import ingest
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
        reader = MetricParser()
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
    reader = MetricParser()
    reader.parse(lines(range(1, 60)).encode())
    before = reader.slow_blocks
    reader.parse(lines(range(1, 4)).encode())
    assert reader.slow_blocks == before + 1
    reader.parse(lines(range(1, 60)).encode())
    assert reader.slow_blocks == before + 1


def test_both_readers_agree_on_mutated_blocks() -> None:
    generator = random.Random(12)
    clean = "".join(
        json.dumps({"step": step, "train_loss": step / 7, "lr": 0.1, "x": None}) + "\n" for step in range(1, 60)
    )
    for _ in range(MUTATIONS):
        block = mutated(generator, clean.encode()) + b"\n"
        learned = MetricParser()
        learned.parse(clean.encode())
        assert plain(learned.parse(block)) == plain(MetricParser().parse(block))


def test_deep_nesting_costs_its_line_only() -> None:
    """It crashes Arrow's reader, which must therefore never see it."""
    reader = MetricParser()
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
    reader = MetricParser()
    block = lines(range(1, 60)).encode()
    reader.parse(block)
    found = reader.parse(block + b'{"step": 70, "lr": 1}{"step": 71, "lr": 1}\n{"step":\n72, "lr": 1}\n')
    assert [number for number, _ in found.bad] == [59, 60, 61]
    assert "lr" not in plain(found)


def test_no_mutated_file_stops_the_collector_or_touches_another_run(tmp_path: Path) -> None:
    """Every kind of file of a run, mutated; the collect ends, lists what it skipped, and a rebuild says the same."""
    store, runs = tmp_path / "results.duckdb", tmp_path / "runs"
    generator = random.Random(13)
    event = json.dumps({"seq": 1, "time": 1.7e9, "kind": "started", "pid": 17, "nested": {"a": [1, None, "x"]}}) + "\n"
    names = (rundir.METRICS, rundir.EVENTS, rundir.RECORD, rundir.EXIT, rundir.CLAIM, rundir.SPEC)
    folders = plant(runs, *(make_spec(seed=seed) for seed in range(MUTATIONS // 4)))
    for number, folder in enumerate(folders):
        attempt = attempt_folder(folder)
        append(attempt, lines(range(1, 41)))
        append(attempt, event * 3, rundir.EVENTS)
        (attempt / rundir.CLAIM).write_text(
            '{"pid": 5, "start": 7, "boot_id": "b", "host": "h", "token": "t", "claimed_at": 1.7e9}'
        )
        finish(folder)
        for name in generator.sample(names, generator.randint(1, 3)):
            path = folder / name if name == rundir.SPEC else attempt / name
            path.write_bytes(mutated(generator, path.read_bytes()))
        if number % 10 == 0:
            (folder / "studies" / "grid.json").write_bytes(generator.randbytes(20))
    good = plant(runs, make_spec(seed=9999))[0]
    append(attempt_folder(good), lines(range(1, 41)))
    append(attempt_folder(good), event, rundir.EVENTS)
    finish(good)
    report = ingest(store, runs)
    assert report.skipped and all(skip.why and "\n" not in str(skip) for skip in report.skipped)
    assert points(store, run_id=good.name) == {step: 10 / step for step in range(1, 41)}
    assert sql_rows(store, f"SELECT state, loss FROM v_run WHERE run_id = '{good.name}'") == [("done", 2.5)]
    again = ingest(store, runs)
    assert (again.points, again.events) == (0, 0)
    straight = tmp_path / "straight.duckdb"
    ingest(straight, runs)
    assert contents(straight) == contents(store)
