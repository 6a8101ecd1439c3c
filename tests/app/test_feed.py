"""The feed: sees every change of state, reads settled runs once, survives whatever lies in the runs folder."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import folder
from optsweep_engines.run import AttemptLog
from optsweep_tui import flow, rundir
from optsweep_tui.app import feed
from optsweep_tui.app.feed import Feed
from optsweep_tui.app.model import Snapshot
from optsweep_tui.app.views import runs
from optsweep_tui.settings import Workspace
from tests.app import made


class Seen:
    """Collects snapshots."""

    def __init__(self, workspace: Workspace) -> None:
        self.snapshots: list[Snapshot] = []
        self.feed = Feed(workspace, self.snapshots.append, interval=0.02)

    def look(self) -> Snapshot:
        self.feed.look()
        return self.snapshots[-1]

    def states(self) -> dict[str, str]:
        return {row.run_id: row.line.state for row in self.look().rows}


def test_a_run_is_seen_from_plan_to_end(empty_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "FULL_LOOK_SECONDS", 0.0)
    seen, of = Seen(empty_workspace), made.spec(ratio=0.05)
    assert seen.look().rows == ()
    made.plant(empty_workspace, of, "planned")
    assert seen.states() == {of.run_id: "planned"}
    attempt = empty_workspace.runs / of.run_id / "a1"
    attempt.mkdir()
    folder.write_json(attempt / rundir.INTENT, {"host": "local"})
    assert seen.states() == {of.run_id: "queued"}
    claim = folder.take_claim(attempt)
    assert claim is not None
    assert seen.states() == {of.run_id: "running"}
    os.close(claim)
    assert seen.states() == {of.run_id: "orphan"}
    folder.write_json(attempt / rundir.EXIT, {"returncode": 1, "signal": None, "reason": "failed", "ended_at": 0.0})
    assert seen.states() == {of.run_id: "failed"}
    (empty_workspace.runs / of.run_id / "a2").mkdir()
    assert seen.states() == {of.run_id: "queued"}
    rundir.cancel(empty_workspace.runs / of.run_id)
    assert seen.states() == {of.run_id: "cancelled"}


def test_a_live_run_that_writes_nothing_is_looked_at_less_often_but_its_death_is_seen(
    empty_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = made.spec(ratio=0.05)
    claim = made.plant(empty_workspace, of, "running", part=0.5)
    assert claim is not None
    seen = Seen(empty_workspace)
    assert seen.states() == {of.run_id: "running"}
    read: list[str] = []
    original = flow.run_line

    def counted(workspace: Workspace, run_id: str, state: Any = None) -> flow.RunLine:
        read.append(run_id)
        return original(workspace, run_id, state)

    monkeypatch.setattr(flow, "run_line", counted)
    for _ in range(5):
        seen.feed.look()
    assert len(read) <= 1
    log = AttemptLog(empty_workspace.runs / of.run_id / "a1")
    made.write_metrics(log, of, of.steps // 2 + 1, of.steps - 1)
    log.close()
    assert seen.look().rows[0].line.step == of.steps - 1
    os.close(claim)
    monkeypatch.setattr(feed, "FULL_LOOK_SECONDS", 0.0)
    assert seen.states() == {of.run_id: "orphan"}


def test_settled_runs_are_read_once_and_nothing_is_posted_when_nothing_changed(
    sweep_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = flow.run_line

    def counted(workspace: Workspace, run_id: str, state: Any = None) -> flow.RunLine:
        read.append(run_id)
        return original(workspace, run_id, state)

    monkeypatch.setattr(flow, "run_line", counted)
    seen = Seen(sweep_workspace)
    first = seen.look()
    assert len(read) == len(first.rows) == 36
    posted = len(seen.snapshots)
    read.clear()
    seen.feed.look()
    assert len(seen.snapshots) == posted
    assert read == []
    monkeypatch.setattr(feed, "FULL_LOOK_SECONDS", 0.0)
    seen.feed.look()
    alive = {row.run_id for row in first.rows if row.line.state in ("running", "queued")}
    assert set(read) == alive
    assert len(alive) == 4


def test_broken_and_foreign_folders_are_left_out_and_come_back_when_mended(empty_workspace: Workspace) -> None:
    of = made.spec(ratio=0.05)
    made.plant(empty_workspace, of, "done")
    (empty_workspace.runs / "notes").mkdir()
    (empty_workspace.runs / ("0" * 32)).mkdir()
    bad = empty_workspace.runs / ("1" * 32)
    bad.mkdir()
    (bad / rundir.SPEC).write_text("{ not json")
    seen = Seen(empty_workspace)
    assert set(seen.states()) == {of.run_id}
    record = empty_workspace.runs / of.run_id / "a1" / rundir.RECORD
    whole = record.read_text()
    record.write_text("garbage")
    os.utime(empty_workspace.runs / of.run_id)
    assert seen.states() == {of.run_id: "failed"}
    record.write_text(whole)
    os.utime(empty_workspace.runs / of.run_id)
    assert seen.states() == {of.run_id: "done"}


def test_a_removed_run_and_a_removed_workspace_leave_an_empty_snapshot(empty_workspace: Workspace) -> None:
    of, other = made.spec(ratio=0.05), made.spec(ratio=0.06)
    for spec in (of, other):
        made.plant(empty_workspace, spec, "planned")
    seen = Seen(empty_workspace)
    assert len(seen.look().rows) == 2
    shutil.rmtree(empty_workspace.runs / of.run_id)
    assert set(seen.states()) == {other.run_id}
    shutil.rmtree(empty_workspace.root)
    assert seen.look().rows == ()


def test_studies_come_newest_first_with_their_baselines(empty_workspace: Workspace) -> None:
    made.plant(empty_workspace, made.spec(ratio=0.05), "planned", study="only-marker")
    for number, (name, baseline) in enumerate((("old", "adamw"), ("new", "muon"))):
        path = empty_workspace.studies / f"{name}.json"
        folder.write_json(path, {"name": name, "baseline": baseline, "runs": []})
        os.utime(path, (1000 + number, 1000 + number))
    (empty_workspace.studies / "broken.json").write_text("[")
    studies = Seen(empty_workspace).look().studies
    assert [(study.name, study.baseline) for study in studies] == [
        ("new", "muon"),
        ("old", "adamw"),
        ("only-marker", "adamw"),
    ]


def test_a_marker_that_comes_after_the_folder_is_not_missed(empty_workspace: Workspace) -> None:
    of = made.spec(ratio=0.05)
    made.plant(empty_workspace, of, "planned", study="first")
    marker = empty_workspace.runs / of.run_id / rundir.STUDIES / "first.json"
    kept = marker.read_text()
    marker.unlink()
    seen = Seen(empty_workspace)
    assert seen.look().rows[0].studies == ()
    marker.write_text(kept)
    assert seen.look().rows[0].studies == ("first",)


def test_the_thread_posts_again_after_a_change_and_stops(empty_workspace: Workspace) -> None:
    seen = Seen(empty_workspace)
    seen.feed.start()
    try:
        until(lambda: len(seen.snapshots) == 1)
        made.plant(empty_workspace, made.spec(ratio=0.05), "planned")
        seen.feed.poke()
        until(lambda: len(seen.snapshots[-1].rows) == 1)
    finally:
        seen.feed.stop()
    assert not seen.feed.is_alive()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def test_the_made_up_workspace_is_what_the_real_readers_take_it_for(sweep_workspace: Workspace) -> None:
    states = [line.state for line in flow.run_lines(sweep_workspace)]
    assert states.count("done") == 25
    assert states.count("running") == 2
    assert states.count("queued") == 2
    assert states.count("planned") == 6
    assert states.count("diverged") == 1
    assert Path(sweep_workspace.runs).is_dir()


@pytest.mark.parametrize("poison", ['"x"', "[]", "null", "true", "{}", "1e400"])
def test_a_metric_that_is_no_number_leaves_the_run_on_the_screen(empty_workspace: Workspace, poison: str) -> None:
    of = made.spec()
    claim = made.plant(empty_workspace, of, "running", part=0.5)
    with open(empty_workspace.runs / of.run_id / "a1" / "metrics.jsonl", "a") as target:
        fields = ", ".join(f'"{name}": {poison}' for name in ("train_loss", "tokens", "train_seconds", "grad_norm"))
        target.write(f'{{"step": {of.steps // 2 + 1}, {fields}}}\n')
    taken: list[Snapshot] = []
    feed = Feed(empty_workspace, taken.append)
    feed.look()
    (row,) = taken[-1].rows
    assert row.line.loss is None or isinstance(row.line.loss, float)
    columns = runs.columns(200, True, True)
    assert len(runs.cells(row, columns, False)) == len(columns)
    runs.preview(row, None, 100)
    if claim is not None:
        os.close(claim)
