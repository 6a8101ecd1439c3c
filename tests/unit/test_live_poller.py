"""The polling thread: reads what is watched, coalesces its messages, forgets what nobody watches, stops when told."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from optsweep_tui import rundir
from optsweep_tui.live.poller import Poller
from optsweep_tui.live.runstore import RunStore


def write(run: Path, first: int, last: int, attempt: int = 1) -> None:
    path = run / f"a{attempt}" / rundir.METRICS
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as handle:
        for step in range(first, last + 1):
            handle.write(json.dumps({"step": step, "train_loss": 1.0}).encode() + b"\n")


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def length(store: RunStore, run_id: str) -> int:
    series = store.series(run_id, "train_loss")
    return 0 if series is None else len(series.y)


def test_watched_runs_are_read_and_followed_and_others_are_not(tmp_path: Path) -> None:
    store = RunStore()
    poller = Poller(store, lambda run_ids: None, interval=0.02)
    write(tmp_path / "one", 1, 50)
    write(tmp_path / "two", 1, 50)
    poller.start()
    try:
        poller.watch({"one": tmp_path / "one"})
        until(lambda: length(store, "one") == 50 and poller.caught_up())
        write(tmp_path / "one", 51, 60)
        until(lambda: length(store, "one") == 60)
        assert length(store, "two") == 0
        poller.watch({"two": tmp_path / "two"})
        until(lambda: length(store, "two") == 50)
    finally:
        poller.stop()
    assert not poller.is_alive()


def test_messages_are_coalesced(tmp_path: Path) -> None:
    told: list[tuple[float, frozenset[str]]] = []
    run = tmp_path / "one"
    write(run, 1, 1)
    poller = Poller(RunStore(), lambda run_ids: told.append((time.monotonic(), run_ids)), interval=0.2)
    poller.start()
    try:
        poller.watch({"one": run})
        for step in range(2, 60):
            write(run, step, step)
            time.sleep(0.01)
        until(lambda: len(told) >= 2)
    finally:
        poller.stop()
    gaps = [after - before for (before, _), (after, _) in itertools.pairwise(told)]
    assert min(gaps) > 0.15
    assert {run_ids for _, run_ids in told} == {frozenset({"one"})}


def test_what_nobody_watches_any_more_is_forgotten_beyond_the_limit(tmp_path: Path) -> None:
    store = RunStore()
    for name in "abcd":
        write(tmp_path / name, 1, 3)
    poller = Poller(store, lambda run_ids: None, interval=0.01, keep_runs=2)
    poller.start()
    try:
        for name in "abcd":
            poller.watch({name: tmp_path / name})
            until(lambda name=name: length(store, name) == 3)  # type: ignore[misc]
        until(lambda: length(store, "a") == 0)
        assert length(store, "d") == 3
    finally:
        poller.stop()


def test_a_folder_that_vanishes_and_one_that_never_was_do_not_stop_the_thread(tmp_path: Path) -> None:
    store = RunStore()
    write(tmp_path / "one", 1, 3)
    poller = Poller(store, lambda run_ids: None, interval=0.01)
    poller.start()
    try:
        poller.watch({"one": tmp_path / "one", "never": tmp_path / "never"})
        until(lambda: length(store, "one") == 3 and poller.caught_up())
        (tmp_path / "one" / "a1" / rundir.METRICS).unlink()
        (tmp_path / "one" / "a1").rmdir()
        (tmp_path / "one").rmdir()
        until(lambda: length(store, "one") == 0)
        write(tmp_path / "never", 1, 2)
        until(lambda: length(store, "never") == 2)
    finally:
        poller.stop()


def test_garbage_lines_are_counted_per_run(tmp_path: Path) -> None:
    store = RunStore()
    write(tmp_path / "one", 1, 3)
    with open(tmp_path / "one" / "a1" / rundir.METRICS, "ab") as handle:
        handle.write(b"not json\n\x00\x01\n")
    write(tmp_path / "one", 4, 5)
    poller = Poller(store, lambda run_ids: None, interval=0.01)
    poller.start()
    try:
        poller.watch({"one": tmp_path / "one"})
        until(lambda: length(store, "one") == 5)
        assert poller.garbage("one") == 2
        assert poller.garbage("other") == 0
    finally:
        poller.stop()


def test_it_can_be_stopped_before_and_after_it_ran() -> None:
    poller = Poller(RunStore(), lambda run_ids: None)
    poller.stop()
    assert threading.active_count() >= 1
    assert not poller.is_alive()
