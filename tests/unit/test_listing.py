"""A listing from what was kept is the listing from the run folders, whatever changed in between."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.dispatch import lines, links, listing
from optsweep_tui.dispatch.lines import run_lines
from optsweep_tui.settings import Workspace
from tests.app import made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(listing, "SETTLED_NS", 0)
    monkeypatch.setattr(listing, "LEAST_RUNS", 1)
    return made.workspace(tmp_path)


def same(place: Workspace) -> None:
    found, broken = listing.listing(place)
    assert found == run_lines(place) and broken == {}


def test_what_changed_is_read_again(place: Workspace) -> None:
    done, waiting = made.spec(seed=1), made.spec(seed=2)
    made.plant(place, done, "done")
    made.plant(place, waiting, "planned")
    same(place)
    kept = json.loads((place.root / listing.NAME).read_text())["runs"]
    assert sorted(kept) == sorted([done.run_id, waiting.run_id])
    same(place)
    (place.runs / done.run_id / "a2").mkdir()
    same(place)
    rundir.cancel(place.runs / waiting.run_id)
    same(place)
    folder.write_json(place.runs / done.run_id / "a2" / rundir.EXIT, {"reason": "lost", "ended_at": 1.0})
    same(place)
    made.plant(place, made.spec(seed=3), "planned")
    same(place)
    (place.root / listing.NAME).write_text('{"version": 1, "fields": [], "runs": 3}')
    same(place)


def test_a_kept_line_is_not_read_and_a_broken_folder_is_said(place: Workspace) -> None:
    done, bad = made.spec(seed=1), made.spec(seed=2)
    made.plant(place, done, "done")
    made.plant(place, bad, "planned")
    listing.listing(place)
    spec = place.runs / done.run_id / rundir.SPEC
    stamp = spec.parent.stat()
    spec.write_text("{}")
    os.utime(spec.parent, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert len(listing.listing(place)[0]) == 2, "specs never change: a kept line needs no look at one"
    damaged = made.spec(seed=9)
    (place.runs / damaged.run_id).mkdir()
    (place.runs / damaged.run_id / rundir.SPEC).write_text("{")
    found, broken = listing.listing(place)
    assert len(found) == 2 and list(broken) == [damaged.run_id]


def test_a_host_that_does_not_answer_changes_the_display_alone(place: Workspace) -> None:
    of = made.spec(seed=1)
    made.plant(place, of, "planned")
    attempt = place.runs / of.run_id / "a1"
    attempt.mkdir()
    folder.write_json(attempt / rundir.INTENT, {"host": "box"})
    links.write_plain(attempt / rundir.REMOTE, {"host": "box", "state": "queued"})
    assert rundir.state_of(attempt.parent).state == "queued"
    same(place)
    link = links.Link(state="unreachable", written_at=time.time())
    links.write_plain(place.queue / "box" / "link.json", vars(link))
    lines._links.clear()
    assert [line.state for line in listing.listing(place)[0]] == ["unreachable"]
    assert rundir.state_of(attempt.parent).state == "queued"
