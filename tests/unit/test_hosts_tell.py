"""What hosts tell of themselves and their runs: a broken or lying one ends no controller and steers no terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import folder
from optsweep_engines.helper import Helper
from optsweep_tui import rundir, settings
from optsweep_tui.dispatch import retry, told
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.mirror import Mirror
from optsweep_tui.dispatch.pump import Pump
from optsweep_tui.errors import OptsweepError

RUN = "0123456789abcdef0123456789abcdef"
RECORD = {
    "run_id": RUN, "attempt": 1, "status": "done", "train_loss": 1.5, "val_loss": 1.25, "steps": 10, "tokens": 1280,
    "train_seconds": 2.0, "tokens_per_second": 640.0, "peak_bytes": 1, "optimizer_state_bytes": 1, "device": "cpu",
    "versions": {},
}  # fmt: skip
WRONG_FIELDS: list[dict[str, Any]] = [
    {"run_id": "f" * 32}, {"attempt": 2}, {"status": "won"}, {"steps": "many"}, {"steps": 10**400}, {"steps": None},
    {"train_seconds": "x"}, {"val_loss": {}}, {"val_losses": {"books": "x"}}, {"versions": 3}, {"device": 4},
]  # fmt: skip
WRONG_RECORDS = ["", "[]", "[" * 100_000, "{}", *(json.dumps({**RECORD, **change}) for change in WRONG_FIELDS)]
WRONG_ENDINGS = ["", "[1, 2]", "null", "[" * 100_000, "{}", '{"reason": 5}']


def ended_mirror(tmp_path: Path, record: str | None, ending: str) -> Path:
    """The attempt's folder here after its host has sent how it ended."""
    where = tmp_path / "runs" / RUN / "a1"
    where.mkdir(parents=True)
    mirror = Mirror(tmp_path / "runs", tmp_path / "offsets.json", "box")
    assert mirror.end((RUN, 1), {folder.RECORD: record, folder.EXIT: ending})
    return where


@pytest.mark.parametrize("place", range(len(WRONG_RECORDS)))
def test_a_record_that_a_host_made_up_or_broke_is_a_failure_of_that_run_alone(place: int, tmp_path: Path) -> None:
    where = ended_mirror(tmp_path, WRONG_RECORDS[place], '{"reason": "finished", "returncode": 0}')
    assert not (where / folder.RECORD).exists()
    state = rundir.state_of(where.parent)
    assert state.state == "failed" and "host box sent a record that is none" in str(state.error)
    assert retry.wants_attempt(where.parent, state)


def test_a_sound_record_of_a_host_is_taken_as_it_is(tmp_path: Path) -> None:
    where = ended_mirror(tmp_path, json.dumps(RECORD), '{"reason": "finished", "returncode": 0, "ended_at": 5.0}')
    assert json.loads((where / folder.RECORD).read_bytes()) == RECORD
    assert rundir.state_of(where.parent).state == "done"


@pytest.mark.parametrize("place", range(len(WRONG_ENDINGS)))
def test_an_exit_file_that_is_none_is_a_failure_of_that_run_alone(place: int, tmp_path: Path) -> None:
    where = ended_mirror(tmp_path, None, WRONG_ENDINGS[place])
    assert rundir.state_of(where.parent).state == "failed"


def test_times_and_texts_of_an_exit_file_cannot_end_the_controller_or_steer_the_terminal(tmp_path: Path) -> None:
    said = {
        "reason": "lost\x1b[2J",
        "error": "\x1b]0;title\x07boo\nline",
        "ended_at": "noon",
        "returncode": "x",
        "pid": [],
    }
    where = ended_mirror(tmp_path, None, json.dumps(said))
    state = rundir.state_of(where.parent)
    assert state.error == "]0;title boo line" and "\x1b" not in str(state.exit)
    assert retry.wants_attempt(where.parent, state)  # reads the time


def test_a_claim_is_told_in_full_or_not_at_all() -> None:
    whole = {
        "pid": 5,
        "start": 7,
        "boot_id": "b",
        "host": "h\x1b[2J",
        "token": "secret",
        "claimed_at": 1.0,
        "job": None,
    }
    assert told.claim(whole) == {"pid": 5, "start": 7, "claimed_at": 1.0, "boot_id": "b", "host": "h [2J"}
    assert told.claim({"pid": "5"}) == told.claim([1]) == told.claim(None) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"hostname": None}, {"slots": 10**30}, {"slots": 0}, {"cores": "4"}, {"time": "noon"}, {"time": 1e308},
        {"libraries": 7}, {"gpus": {}}, {"root": 3}, {"host_id": None},
    ],
    ids=lambda change: "-".join(f"{key}={str(value)[:8]}" for key, value in change.items()),
)  # fmt: skip
def test_a_host_that_says_nonsense_of_itself_is_named_with_what_is_wrong(
    change: dict[str, Any], tmp_path: Path
) -> None:
    hello, _ = Helper(tmp_path).answer({"verb": "hello"}, b"")
    assert told.hello(hello, "box")["host_id"] == hello["host_id"]
    with pytest.raises(OptsweepError, match="host box answered with nonsense: its"):
        told.hello({**hello, **change}, "box")


class Greeted:
    """A host behind a channel that stays open: what the pump's first words to it need."""

    def __init__(self, hello: dict[str, Any]) -> None:
        self.name, self.entry, self.skew_seconds = "box", HostEntry(name="box", backend="ssh", ssh="box"), 0.0
        self.said, self.connected, self.calls = hello, False, list[str]()
        self.mirror = self

    def keep(self) -> None:
        pass

    def connect(self) -> dict[str, Any]:
        self.connected = True
        return self.said

    def close(self) -> None:
        self.connected = False

    def call(self, verb: str, header: dict[str, Any] | None = None) -> tuple[dict[str, Any], bytes]:
        self.calls.append(verb)
        return {}, b""


def test_a_host_that_could_not_be_greeted_is_not_used_at_the_next_look(tmp_path: Path) -> None:
    hello, _ = Helper(tmp_path / "there").answer({"verb": "hello"}, b"")
    site = Greeted({**hello, "device": "cuda", "gpus": []})
    pump = Pump(settings.workspace(tmp_path), site)  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(OptsweepError, match="no NVIDIA GPU"):
            pump.tick()
        assert not site.connected
    assert site.calls == []


def test_a_connection_that_another_call_opened_anew_is_greeted_before_anything_is_asked(tmp_path: Path) -> None:
    hello, _ = Helper(tmp_path / "there").answer({"verb": "hello"}, b"")
    site = Greeted(hello)
    pump = Pump(settings.workspace(tmp_path), site)  # type: ignore[arg-type]
    pump.tick()
    pump.tick()
    assert site.calls.count("drain") == 1
    site.said = dict(hello)  # the channel broke, and a placement opened the next one
    pump.tick()
    assert site.calls.count("drain") == 2


def test_lines_of_a_host_that_nest_without_end_are_passed_over(tmp_path: Path) -> None:
    where = tmp_path / RUN / "a1"
    where.mkdir(parents=True)
    bomb = b"[" * 16_000 + b"\n"
    (where / folder.METRICS).write_bytes(b'{"step": 3, "train_loss": 1.5}\n' + b"[" * 5_000 + b"\n")
    (where / folder.EVENTS).write_bytes(b'{"kind": "started"}\n' + bomb)
    assert rundir.events(where) == [{"kind": "started"}]
    assert (rundir.last_metric(where) or {})["step"] == 3
    assert [row["step"] for row in rundir.metric_rows(where.parent)] == [3]


def test_a_look_of_a_host_is_shown_as_it_is_and_nonsense_in_it_is_left_out(tmp_path: Path) -> None:
    helper = Helper(tmp_path)
    helper.answer({"verb": "hello"}, b"")
    honest, _ = helper.answer({"verb": "look"}, b"")
    assert told.look(honest) == honest
    slots = [{"number": 0, "run_id": "\x1b[2Jx", "lease_age_seconds": "old"}, {"number": "one"}, 5]
    shown = told.look({"slots": slots, "devices": {}, "load": "high", "queued": None})
    assert shown["slots"] == [{"number": 0, "pid": None, "run_id": "[2Jx", "lease_age_seconds": None}]
    assert (shown["devices"], shown["load"], shown["queued"], shown["drained"]) == ([], None, 0, False)


@pytest.mark.parametrize(
    "said", [{}, {"count": "many", "bytes": None}, {"count": -3, "bytes": True}, {"count": [], "bytes": 1e400}]
)
def test_a_host_that_does_not_say_what_it_removed_has_removed_nothing(said: dict[str, object]) -> None:
    assert told.removed(said) == (0, 0)
    assert told.removed({"count": 2, "bytes": 10}) == (2, 10)
