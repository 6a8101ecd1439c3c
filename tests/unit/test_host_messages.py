"""Messages between controller and host: what either side sends is data, never a command, and never a path of its choice."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import random
import shlex
import string
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import bootstrap, datafiles, folder, frames, kept, workers
from optsweep_engines.helper import Helper
from optsweep_tui.dispatch import channel, hostsfile
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.links import Link
from optsweep_tui.dispatch.mirror import Mirror, Misbehaving
from optsweep_tui.dispatch.placements import Placements
from optsweep_tui.errors import OptsweepError

RUN = "0123456789abcdef0123456789abcdef"
HOSTILE = [
    "$(touch PWNED)", "`touch PWNED`", "; touch PWNED", "| touch PWNED", "&& touch PWNED", "\ntouch PWNED\n", "'; touch PWNED; '",
    '"; touch PWNED; "', "-oProxyCommand=touch PWNED", "--", "../../PWNED", "/tmp/../PWNED", "~root/PWNED", "a\0b", "*", "?",
    "{a,b}", "\u202egnp", "\ud7ff", "é" * 300, "x" * 5000, "", " ", "\t", "!!", "$HOME", "%h", "%n",
    "#", "\\", "\x1b[2J", "-F/etc/passwd",
]  # fmt: skip
FUZZ = int(os.environ.get("OPTSWEEP_QUOTING_FUZZ", "10000"))


def hostile(chance: random.Random) -> str:
    """A text that some program between two machines may take for more than a text."""
    parts = [chance.choice(HOSTILE) for _ in range(chance.randint(1, 3))]
    parts += ["".join(chance.choices(string.printable, k=chance.randint(0, 12)))]
    chance.shuffle(parts)
    return "".join(parts)[:6000]


def test_no_hostile_name_path_or_value_becomes_part_of_a_command(tmp_path: Path) -> None:
    """What hosts.toml lets through is the only text of a user that ssh, or the shell at its far end, is ever given."""
    chance = random.Random(7)
    passed = 0
    for _ in range(FUZZ):
        key = chance.choice(["ssh", "python", "root", "env_file", "accelerator"])
        values = {"ssh": "box", key: hostile(chance)}
        text = "[hosts.box]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
        try:
            entry = hostsfile.parse(text)["box"]
        except OptsweepError as error:
            assert "\n" not in str(error)
            continue
        passed += 1
        command = channel.command_line(entry)
        assert command[-2:] == ["--", entry.ssh] and not str(entry.ssh).startswith("-")
        far = f"exec {entry.python} -c x"
        assert shlex.split(far) == ["exec", entry.python, "-c", "x"]
        assert not set(entry.python) & set(" \t\n'\"`$&|;<>()*?[]{}!#\\%")
    assert passed < FUZZ / 10
    assert not list(tmp_path.rglob("PWNED")) and not Path("PWNED").exists()


def test_a_helper_writes_nothing_outside_its_root_whatever_it_is_told(tmp_path: Path) -> None:
    root, beside = tmp_path / "root", tmp_path / "beside"
    beside.mkdir()
    helper = Helper(root)
    chance = random.Random(11)
    before = sorted(path for path in tmp_path.rglob("*") if root not in path.parents)
    for number in range(FUZZ // 4):
        word = hostile(chance)
        messages: list[dict[str, Any]] = [
            {"verb": "write", "name": word},
            {"verb": "data_piece", "name": word, "sha256": "0" * 64, "file": "train.bin", "offset": 0},
            {"verb": "data_piece", "name": "embedded", "sha256": "0" * 64, "file": word, "offset": 0},
            {"verb": "put", "parcels": [{"run_id": word, "attempt": 1, "intent": {}, "spec": {}, "enqueue": True}]},
            {"verb": "put", "parcels": [{"run_id": RUN, "attempt": word, "intent": {}, "spec": {}}]},
            {"verb": "place", "places": {f"{word}.a1": "0" * 16}},
            {"verb": "sync", "attempts": [[word, 1, {}]]},
            {"verb": "cancel", "run_ids": [word]},
            {"verb": "withdraw", "attempts": [[RUN, word]]},
            {"verb": "scheduler", "argv": [word]},
            {"verb": word},
        ]
        answer, _ = helper.answer(messages[number % len(messages)], b"data")
        harmless = {"path", "size", "rows", "answers", "withdrawn", "places"}  # a word that happens to be a plain name
        assert "refused" in answer or set(answer) <= {*harmless, "time"}, (messages[number % len(messages)], answer)
    after = sorted(path for path in tmp_path.rglob("*") if root not in path.parents)
    assert after == before
    assert not Path("PWNED").exists()


def test_a_frame_that_is_too_large_or_torn_or_no_json_is_refused() -> None:
    read, write = os.pipe()
    os.write(write, frames.packed({"verb": "x"}, b"abc"))
    assert frames.read(read) == ({"verb": "x"}, b"abc")
    for data in (b"\xff" * 8, frames.packed({"a": 1})[:-1], b"\0\0\0\2\0\0\0\0{]", b"\0\0\0\1\0\0\0\0" + b"1"):
        source, target = os.pipe()
        os.write(target, data)
        os.close(target)
        with pytest.raises(frames.Broken):
            frames.read(source)
        os.close(source)
    with pytest.raises(ValueError):
        frames.packed({}, bytes(frames.BODY_BYTES + 1))
    os.close(write)
    assert frames.read(read) is None
    os.close(read)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"files": {"../../x": [1, 0, 3]}}],
        [{"files": {"/etc/passwd": [1, 0, 3]}}],
        [{"files": {"record.json": [1, 0, 3]}}],
        [{"files": {"metrics.jsonl": [1, 10, 3]}}],
        [{"files": {"metrics.jsonl": [1, -1, 3]}}],
        [{"files": {"metrics.jsonl": [1, 0, 2]}}],
        [{"files": {"metrics.jsonl": [1, 0, 4]}}],
        [{"files": {"metrics.jsonl": [True, 0, 3]}}],
        [{"files": {"metrics.jsonl": "abc"}}],
        [{"files": {"metrics.jsonl": [2**70, 0, 3]}}],
        [{"files": []}],
        ["row"],
        None,
        [{"files": {}}, {"files": {}}],
    ],
)
def test_a_host_that_answers_with_other_files_holes_or_sizes_writes_nothing(rows: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / RUN / "a1").mkdir(parents=True)
    mirror = Mirror(runs, tmp_path / "offsets.json", "box")
    with pytest.raises(Misbehaving):
        mirror.take([(RUN, 1)], rows, b"abc")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes()] == []


def test_what_is_fetched_twice_is_here_once_and_a_new_generation_is_a_new_file(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    where = runs / RUN / "a1"
    where.mkdir(parents=True)
    mirror = Mirror(runs, tmp_path / "offsets.json", "box")
    attempt = (RUN, 1)
    mirror.take([attempt], [{"files": {"metrics.jsonl": [7, 0, 4]}}], b"one\n")
    mirror.keep(now=True)
    mirror.take([attempt], [{"files": {"metrics.jsonl": [7, 4, 4]}}], b"two\n")
    assert mirror.marks(attempt) == {"metrics.jsonl": (7, 8)}
    inode = (where / "metrics.jsonl").stat().st_ino
    # A crash before the second offset was remembered: the same bytes come to the same place.
    again = Mirror(runs, tmp_path / "offsets.json", "box")
    assert again.marks(attempt) == {"metrics.jsonl": (7, 4)}
    again.take([attempt], [{"files": {"metrics.jsonl": [7, 4, 8]}}], b"two\n333\n")
    assert (where / "metrics.jsonl").read_bytes() == b"one\ntwo\n333\n"
    assert (where / "metrics.jsonl").stat().st_ino == inode
    again.take([attempt], [{"files": {"metrics.jsonl": [8, 0, 4]}}], b"new\n")
    assert (where / "metrics.jsonl").read_bytes() == b"new\n"
    assert (where / "metrics.jsonl").stat().st_ino != inode
    assert again.end(attempt, {folder.RECORD: None, folder.EXIT: '{"reason": "finished"}'})
    assert json.loads((where / "exit.json").read_text())["reason"] == "finished"


def test_a_mirror_that_was_cut_short_is_filled_from_its_beginning(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    where = runs / RUN / "a1"
    where.mkdir(parents=True)
    mirror = Mirror(runs, tmp_path / "offsets.json", "box")
    mirror.take([(RUN, 1)], [{"files": {"metrics.jsonl": [7, 0, 8]}}], b"one\ntwo\n")
    mirror.keep(now=True)
    (where / "metrics.jsonl").write_bytes(b"one\n")
    assert Mirror(runs, tmp_path / "offsets.json", "box").marks((RUN, 1)) == {}
    (tmp_path / "offsets.json").write_text("{garbage")
    assert Mirror(runs, tmp_path / "offsets.json", "box").marks((RUN, 1)) == {}


def test_an_attempt_is_put_once_and_claimed_ones_are_not_queued_again(tmp_path: Path) -> None:
    helper = Helper(tmp_path)
    parcel = {"run_id": RUN, "attempt": 1, "intent": {"host": "box"}, "spec": {"engine": "x"}, "enqueue": True}
    assert helper.answer({"verb": "put", "parcels": [parcel]}, b"")[0]["answers"] == {f"{RUN}.a1": "new"}
    for _ in range(3):
        assert helper.answer({"verb": "put", "parcels": [parcel]}, b"")[0]["answers"] == {f"{RUN}.a1": "there"}
    assert len([name for name in os.listdir(tmp_path / "queue") if RUN in name]) == 1
    second = parcel | {"attempt": 2}
    assert helper.answer({"verb": "put", "parcels": [second]}, b"")[0]["answers"] == {f"{RUN}.a2": "new"}
    third = {"verb": "withdraw", "attempts": [[RUN, 2]]}
    assert helper.answer(third, b"")[0]["withdrawn"] == [f"{RUN}.a2"]
    assert helper.answer(third, b"")[0]["withdrawn"] == []
    assert helper.answer({"verb": "put", "parcels": [second]}, b"")[0]["answers"] == {f"{RUN}.a2": "ended"}
    late = parcel | {"run_id": "f" * 32, "attempt": 2}
    helper.answer({"verb": "put", "parcels": [late]}, b"")
    stale = {"verb": "put", "parcels": [late | {"attempt": 1}]}
    assert helper.answer(stale, b"")[0]["answers"] == {f"{'f' * 32}.a1": "stale"}


def test_of_two_controllers_the_first_place_of_an_attempt_counts(tmp_path: Path) -> None:
    helper = Helper(tmp_path)
    first, second = "a" * 16, "b" * 16
    assert helper.answer({"verb": "place", "places": {f"{RUN}.a1": first}}, b"")[0]["places"] == {f"{RUN}.a1": first}
    assert helper.answer({"verb": "place", "places": {f"{RUN}.a1": second}}, b"")[0]["places"] == {f"{RUN}.a1": first}
    assert helper.answer({"verb": "place", "places": {f"{RUN}.a2": second}}, b"")[0]["places"] == {f"{RUN}.a2": second}


def test_an_env_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    helper = Helper(tmp_path / "root")
    file = tmp_path / "secrets"
    file.write_text("export TOKEN='hush!'\nnot a variable\nOTHER=1\n")
    file.chmod(0o644)
    assert "chmod 600" in helper.answer({"verb": "hello", "env_file": str(file)}, b"")[0]["refused"]
    file.chmod(0o600)
    refused = helper.answer({"verb": "hello", "env_file": str(file)}, b"")[0]["refused"]
    assert "line 2 is not NAME=VALUE" in refused and "hush" not in refused
    file.write_text("export TOKEN='hush!'\nOTHER=1\n")
    answer, _ = helper.answer({"verb": "hello", "env_file": str(file)}, b"")
    assert "hush" not in json.dumps(answer)
    assert helper._bench is not None and helper._bench.environment == {"TOKEN": "hush!", "OTHER": "1"}


def test_a_dataset_is_published_only_if_its_tokens_hash_to_its_name(tmp_path: Path) -> None:
    place = datafiles.Incoming(tmp_path, "embedded", "0" * 64)
    manifest = {"vocab_size": 256, "train_tokens": 2, "validation_tokens": 1}
    for name, data in (
        ("train.bin", b"abcd"),
        ("validation.bin", b"ab"),
        ("manifest.json", json.dumps(manifest).encode()),
    ):
        place.write(name, 0, data)
    with pytest.raises(ValueError, match="hashes to"):
        place.publish()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="hole"):
        place.write("train.bin", 5, b"x")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (
            "@@@ REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nOffending key in /x/known_hosts:3",
            255,
            "another key than before",
        ),
        ("No ED25519 host key is known for x and you have requested strict checking.", 255, "optsweep hosts add box"),
        ("me@x: Permission denied (publickey).", 255, "lets nobody in"),
        ("ssh: Could not resolve hostname x: Name or service not known", 255, "cannot be reached"),
        ("bash: line 1: python9: command not found", 127, "hosts.box.python"),
        ("", None, "did not answer"),
        ("bash: line 1: python9: Permission denied", 126, "cannot be run there"),
        ("Host key verification failed", 1, "hung up"),
        ("\x1b[2J\x1b]0;title\x07evil", 1, "evil"),
        ("", 0, "is it a Python?"),
    ],
)
def test_what_ssh_says_becomes_one_line_with_the_next_step(words: str, status: int | None, said: str) -> None:
    entry = HostEntry(name="box", backend="ssh", ssh="x", python="python9")
    how = "did not answer" if status is None else "hung up"
    text = str(channel.explained(entry, how, status, words))
    assert said in text and text.isprintable()


def test_hosts_toml_says_which_line_to_mend_and_keeps_comments_when_it_is_edited(tmp_path: Path) -> None:
    from optsweep_tui import settings

    place = settings.workspace(tmp_path)
    path = tmp_path / "hosts.toml"
    path.write_text('# mine\n[hosts.one]\nssh = "one" # the first\n')
    hostsfile.add(place, HostEntry(name="two.b", backend="ssh", ssh="me@two", slots=3))
    hostsfile.set_drained(place, "one", True)
    text = path.read_text()
    assert "# mine" in text and "# the first" in text
    found = hostsfile.read(place)
    assert found["one"].drained and found["two.b"] == HostEntry(name="two.b", backend="ssh", ssh="me@two", slots=3)
    hostsfile.set_drained(place, "one", False)
    hostsfile.remove(place, "two.b")
    assert path.read_text().strip() == '# mine\n[hosts.one]\nssh = "one" # the first'
    for line, why in (("slots = 0", "line 3"), ("pyhton = 'x'", "did you mean"), ("gres = 'gpu:1'", "for slurm hosts")):
        with pytest.raises(OptsweepError, match=why):
            hostsfile.parse(f'[hosts.one]\nssh = "one"\n{line}\n')
    everything = HostEntry(
        name="all", backend="slurm", ssh="login", partitions=("gpu",), env_file="~/secrets", engine="jax",
        slurm=hostsfile.SlurmOptions(account="x", requeue=True, max_submitted=4),
        by_partition={"gpu": hostsfile.SlurmOptions(gres="gpu:h100:1", time="1-00:00:00")},
    )  # fmt: skip
    hostsfile.add(place, everything)
    assert hostsfile.read(place)["all"] == everything
    assert everything.options("gpu") == dataclasses.replace(everything.slurm, gres="gpu:h100:1", time="1-00:00:00")


def test_the_first_program_on_a_host_tells_an_old_python_and_refuses_a_wrong_archive(tmp_path: Path) -> None:
    source = Path(bootstrap.__file__).read_text()

    def said(program: str, archive: bytes, digest: str) -> list[str]:
        first = json.dumps({"root": str(tmp_path / "root"), "archive": digest, "mark": "MARK"}).encode() + b"\n"
        rest = f"{len(archive)}\n".encode() + archive
        ended = subprocess.run(
            ["python3", "-c", program], input=first + rest, capture_output=True, check=False, timeout=60
        )
        return ended.stdout.decode().splitlines()

    old = said(source.replace("OLDEST = (3, 11)", "OLDEST = (9, 0)"), b"", "0" * 64)
    assert old[1] == "MARK" and json.loads(old[2])["problem"] == "python"
    wrong = said(source, b"PK no zip", "0" * 64)
    assert json.loads(wrong[2]) == {"need": True} and "another hash" in json.loads(wrong[3])["version"]
    assert not list((tmp_path / "root" / "engine").iterdir())


def test_a_lost_attempt_of_a_host_whose_clock_is_ahead_is_tried_again_at_once(tmp_path: Path) -> None:
    from optsweep_tui import rundir
    from optsweep_tui.dispatch import retry

    attempt = tmp_path / RUN / "a1"
    attempt.mkdir(parents=True)
    folder.write_json(attempt / rundir.EXIT, {"reason": "lost", "ended_at": time.time() + 3600.0})
    state = rundir.state_of(attempt.parent)
    assert state.state == "lost" and retry.wants_attempt(attempt.parent, state)


def test_slots_get_their_own_gpus_and_share_them_where_there_are_more_slots() -> None:
    def shown(slots: int, per_run: int) -> list[str]:
        bench = workers.Bench(
            queue=Path("q"), runs=Path("r"), slots=slots, gpus=("0", "1", "2", "3"), gpus_per_run=per_run
        )
        return [workers._device(bench, slot)[1] for slot in range(slots)]

    assert shown(4, 1) == ["0", "1", "2", "3"]
    assert shown(2, 2) == ["0,1", "2,3"]
    assert shown(6, 1) == ["0", "1", "2", "3", "0", "1"]
    assert shown(3, 2) == ["0,1", "2,3", "0,1"]


def test_only_files_that_belong_beside_a_spec_come_with_it(tmp_path: Path) -> None:
    helper = Helper(tmp_path)
    parcel = {"run_id": RUN, "attempt": 1, "intent": {}, "spec": {}, "files": {"optimizer.py": "cGFzcw=="}}
    assert helper.answer({"verb": "put", "parcels": [parcel]}, b"")[0]["answers"] == {f"{RUN}.a1": "new"}
    assert (tmp_path / "runs" / RUN / "optimizer.py").read_text() == "pass"
    for name in ("../optimizer.py", "spec.json", "a1/claim", "/tmp/x", "cancel"):
        answer, _ = helper.answer({"verb": "put", "parcels": [parcel | {"files": {name: "cGFzcw=="}}]}, b"")
        assert "refused" in answer


def test_what_a_run_is_to_keep_comes_with_each_attempt_and_garbage_asks_for_nothing(tmp_path: Path) -> None:
    helper = Helper(tmp_path)
    for number, asked in enumerate(
        (b'{"steps": [5]}', b'{"steps": [9, -1, "x", true]}', b"[" * 5000, b"\xff"), start=1
    ):
        files = {"keep.json": base64.b64encode(asked).decode()}
        parcel = {"run_id": RUN, "attempt": number, "intent": {}, "spec": {}, "files": files}
        answer, _ = helper.answer({"verb": "put", "parcels": [parcel]}, b"")
        assert answer["answers"] == {f"{RUN}.a{number}": "new"}
    assert kept.wanted(tmp_path / "runs" / RUN) == {5, 9}


def test_states_are_removed_on_a_host_only_of_runs_that_have_ended_there(tmp_path: Path) -> None:
    helper = Helper(tmp_path)
    other = RUN[::-1]
    for run_id in (RUN, other):
        where = tmp_path / "runs" / run_id
        (where / "a1").mkdir(parents=True)
        (where / folder.KEPT).mkdir()
        for step in (5, 9):
            (where / folder.KEPT / kept.name_of(step, "ab" * 32)).write_bytes(b"abc")
        kept.ask(where, add=[5, 9])
    (tmp_path / "runs" / RUN / "a1" / folder.EXIT).write_text("{}")
    asked = {"verb": "drop_states", "states": {RUN: [5], other: [5], "f" * 32: [5]}}
    answer, _ = helper.answer(asked, b"")
    assert (answer["count"], answer["bytes"], answer["dropped"]) == (1, 3, [RUN, "f" * 32])
    assert kept.steps(tmp_path / "runs" / RUN) == [9] and kept.wanted(tmp_path / "runs" / RUN) == {9}
    assert kept.steps(tmp_path / "runs" / other) == [5, 9]
    assert helper.answer(asked, b"")[0]["count"] == 0, "twice is once"
    assert not (tmp_path / "runs" / ("f" * 32)).exists()


MALFORMED: list[dict[str, Any]] = [
    {"verb": "drop_states", "states": {"../x": [5]}},
    {"verb": "drop_states", "states": {RUN: ["../x"]}},
    {"verb": "drop_states", "states": [RUN]},
    {"verb": "sync", "attempts": [[]], "room": 1},
    {"verb": "hello", "gpus_per_run": 0, "device": "cuda"},
    {"verb": "data_piece", "name": "a", "sha256": "0" * 64, "file": "tokens.bin", "offset": float("inf")},
    {"verb": "speed", "bytes": float("inf")},
    {"verb": "place", "places": {f"{RUN}.a{'9' * 4000}": "0" * 16}},
    {"verb": "place", "places": {f"{RUN}.a{number + 1}": "0" * 16 for number in range(20_001)}},
    {"verb": "fence", "attempts": [[RUN]]},
    {},
]


@pytest.mark.parametrize("header", MALFORMED, ids=lambda header: str(header.get("verb")))
def test_a_malformed_message_is_answered_and_the_helper_goes_on(header: dict[str, Any], tmp_path: Path) -> None:
    helper = Helper(tmp_path)
    answer, _ = helper.answer(header, b"")
    assert "refused" in answer or header["verb"] == "hello"
    assert helper.answer({"verb": "hello"}, b"")[0]["host_id"]


class Reached:
    """A host as one controller sees it: a real helper, without the channel."""

    def __init__(self, name: str, helper: Helper) -> None:
        hello, _ = helper.answer({"verb": "hello"}, b"")
        self.entry = HostEntry(name=name, backend="ssh", ssh=name)
        self.link = Link(state="connected", host_id=hello["host_id"])
        self.helper = helper
        self.pump = self.site = self

    def tried(self, seconds: float) -> bool:
        return True

    def call(self, verb: str, header: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        answer, body = self.helper.answer({"verb": verb, **header}, b"")
        assert "refused" not in answer, answer
        return answer, body


def test_controllers_that_share_a_host_agree_however_different_their_lists_are(tmp_path: Path) -> None:
    """One knows both hosts, the other one of them, by another name, and a partition: no attempt is on two hosts."""
    a, b = Helper(tmp_path / "a"), Helper(tmp_path / "b")
    wide = Placements(lambda: [Reached("a", a), Reached("b", b)])
    narrow = Placements(lambda: [Reached("mine", a)])
    other = "f" * 32
    assert wide.agreed({(RUN, 1): "b", (other, 1): "a"}) == {(RUN, 1): "b", (other, 1): "a"}
    found = narrow.agreed({(RUN, 1): "mine", (other, 1): "mine:gpu", (RUN, 2): "mine:gpu", (other, 2): "local"})
    assert found == {(RUN, 1): "", (other, 1): "mine:gpu", (RUN, 2): "mine:gpu", (other, 2): "local"}
    assert narrow.elsewhere == {RUN}
    assert wide.agreed({(RUN, 2): "b"}) == {(RUN, 2): "a"}, "the one that knows one host was first"
