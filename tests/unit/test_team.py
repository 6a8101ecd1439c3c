"""Machines that train one run together: who is let in, what is handed over, when one counts as gone. Real sockets, no ssh."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import folder, kept, run, shim_team, sources, team, workers
from optsweep_engines.helper import Helper
from optsweep_engines.meeting import STATE, Meeting
from optsweep_engines.membership import Membership
from optsweep_engines.shim import Shim, work_queue
from optsweep_engines.team import Gone, Place, Team, Wire
from optsweep_engines.torch_engine.machines import per_machine
from optsweep_tui.dispatch import channel, hostsfile, teamsite
from optsweep_tui.errors import OptsweepError

RUN, OTHER = "a" * 32, "b" * 32


def ours(process: int = 0, secret: str = "s" * 64, workers: int = 2) -> Team:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = min(probe.getsockname()[1], 65000)
    names = tuple(f"w{index}" for index in range(workers))
    return Team(process=process, workers=names, address="127.0.0.1", ports=(first, first + 9), secret=secret)


def attempt(root: Path, run_id: str = RUN, number: int = 1, **intent: Any) -> Path:
    where = root / "runs" / run_id / f"a{number}"
    where.mkdir(parents=True)
    folder.write_json(where / folder.INTENT, intent)
    return where


@pytest.fixture
def first(tmp_path: Path) -> Iterator[tuple[Team, Meeting]]:
    """A first machine that waits for w1."""
    made = ours()
    meeting = Meeting(made, attempt(tmp_path / "first"))
    yield made, meeting
    meeting.end()


def wait_for(what: Any, seconds: float = 10.0) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = what()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")


def come(made: Team, runs: Path) -> tuple[Wire, Path | None]:
    """Come to the first machine as a worker does."""
    [connection] = team.reached(made)
    wire = Wire(connection)
    return wire, shim_team.met(wire, made, runs, Shim({}))


def as_worker(made: Team, **changes: Any) -> Team:
    return Team(**{**made.__dict__, "process": 1, **changes})


def test_a_worker_with_the_secret_is_let_in_and_one_with_another_is_not(
    first: tuple[Team, Meeting], tmp_path: Path
) -> None:
    made, meeting = first
    attempt(tmp_path / "second", beside=True)
    runs = tmp_path / "second" / "runs"
    with pytest.raises(Gone):
        come(as_worker(made, secret="t" * 64), runs)
    assert meeting.missing == ["w1"]
    wire, where = come(as_worker(made), runs)
    assert where == runs / RUN / "a1"
    wait_for(lambda: not meeting.missing)
    wire.close()
    wait_for(lambda: meeting.missing), "who leaves before the beginning may come again"
    assert meeting.trouble is None


def test_a_worker_believes_no_first_machine_without_the_secret(tmp_path: Path) -> None:
    where = attempt(tmp_path, beside=True)
    for proof, believed in (("0" * 64, False), (None, True)):
        here, there = socket.socketpair()
        first, made, own = Wire(there), as_worker(ours()), team.nonce()

        def play(first: Wire = first, made: Team = made, own: str = own, proof: str | None = proof) -> None:
            first.say(optsweep="meeting", run=RUN, attempt=1, nonce=own)
            nonces = (own, str(first.heard()["nonce"]))
            first.say(proof=proof or team.proof(made.key(RUN, 1), "first", 1, nonces))

        threading.Thread(target=play, daemon=True).start()
        if believed:
            assert shim_team.met(Wire(here), made, tmp_path / "runs", Shim({})) == where
        else:
            with pytest.raises(ValueError, match="no meeting of ours"):
                shim_team.met(Wire(here), made, tmp_path / "runs", Shim({}))


def test_a_worker_without_the_run_or_with_it_ended_does_not_join_and_the_reason_is_known(
    first: tuple[Team, Meeting], tmp_path: Path
) -> None:
    made, meeting = first
    runs = tmp_path / "second" / "runs"
    assert come(as_worker(made), runs)[1] is None
    wait_for(lambda: meeting.absence() == "w1 does not have this run")
    where = attempt(tmp_path / "second", beside=True)
    folder.write_json(where / folder.EXIT, {"reason": "lost"})
    assert come(as_worker(made), runs)[1] is None
    assert wait_for(lambda: meeting.trouble).text == "worker w1 has ended this attempt already"


def test_a_worker_with_other_code_leaves(first: tuple[Team, Meeting], tmp_path: Path, monkeypatch: Any) -> None:
    made, meeting = first
    attempt(tmp_path / "second", beside=True)
    shim = Shim({})
    [connection] = team.reached(made)
    digests = iter(["old"])
    monkeypatch.setattr(sources, "digest", lambda: next(digests, "new"))
    assert shim_team.met(Wire(connection), as_worker(made), tmp_path / "second" / "runs", shim) is None
    assert shim.stopping()
    wait_for(lambda: "another version" in meeting.absence())


def test_a_silent_worker_counts_as_cut_off(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(team, "SILENT_SECONDS", 0.4)
    made = ours()
    meeting = Meeting(made, attempt(tmp_path / "first"))
    attempt(tmp_path / "second", beside=True)
    try:
        _wire, _ = come(as_worker(made), tmp_path / "second" / "runs")
        wait_for(lambda: not meeting.missing)
        meeting.begin()
        trouble = wait_for(lambda: meeting.trouble)
        assert trouble.lost and trouble.text == "worker w1 was cut off: silence"
    finally:
        meeting.end()


def test_a_silent_first_machine_ends_what_the_others_do(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(team, "SILENT_SECONDS", 0.3)
    here, there = socket.socketpair()
    member = Membership(Wire(here), attempt(tmp_path, beside=True), 1)
    assert wait_for(lambda: member.over) == "the first machine was cut off: silence"
    there.close()


def test_what_a_run_begins_with_comes_whole_and_under_its_own_name_only(
    first: tuple[Team, Meeting], tmp_path: Path
) -> None:
    made, meeting = first
    content = b"x" * 3_000_000
    name = kept.name_of(7, hashlib.sha256(content).hexdigest())
    checkpoints = tmp_path / "first" / "runs" / RUN / "a1" / folder.CHECKPOINTS
    checkpoints.mkdir()
    (checkpoints / name).write_bytes(content)
    attempt(tmp_path / "second", beside=True)
    wire, where = come(as_worker(made), tmp_path / "second" / "runs")
    assert where is not None
    wait_for(lambda: not meeting.missing)
    member = Membership(wire, where, 1)
    try:
        meeting.begin()
        wait_for(lambda: member.files)
        assert member.lacking == [name] and not meeting.ready
        wire.say(**{"is": "need", "names": [name]})
        wait_for(lambda: not member.lacking)
        assert (where / folder.CHECKPOINTS / name).read_bytes() == content
        wire.say(**{"is": "ready"})
        wait_for(lambda: meeting.ready)
        place = meeting.go()
        wait_for(lambda: member.place)
        assert member.place is not None and member.place.process == 1 and member.place.token == place.token
    finally:
        member.close()


def test_a_file_is_taken_only_where_the_run_begins_with_it(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    where = attempt(tmp_path, beside=True)
    member = Membership(Wire(here), where, 1)
    name, other = kept.name_of(7, "0" * 64), kept.name_of(8, "0" * 64)

    def told(**changes: Any) -> dict[str, Any]:
        return {"kind": "checkpoint", "run": RUN, "name": name, "size": 14, **changes}

    state = {"kind": STATE, "run": OTHER}
    try:
        assert member._target(member._wanted([told()])[0]) == where / folder.CHECKPOINTS / name
        for bad in ("../../x", "spec.json", name + "/..", 7, ["x"]):
            with pytest.raises(ValueError):
                member._wanted([told(name=bad)])
        wrong: list[dict[str, Any]] = [{"size": size} for size in (-1, 1.0, float("inf"), True, "1", 1 << 60)]
        wrong += [{"run": "../" + OTHER}, {"run": OTHER}, {"kind": "spec"}, {"kind": STATE}, state]
        for changes in wrong:
            with pytest.raises(ValueError):
                member._wanted([told(**changes)])
        folder.write_json(where.parent / folder.SPEC, {"start": {"run_id": OTHER, "step": 7}})
        assert member._target(told(**state)) == tmp_path / "runs" / OTHER / folder.KEPT / name
        with pytest.raises(ValueError, match="does not begin with"):
            member._target(told(**state, name=other))
        with pytest.raises(ValueError, match="more than one"):
            member._wanted([told(), told()])
    finally:
        member.close()
        there.close()


def test_after_the_proof_nobody_on_the_way_adds_changes_repeats_or_leaves_out_a_line() -> None:
    def sealed(first: socket.socket, key: bytes = b"k", own: str = "worker", other: str = "first") -> Wire:
        wire = Wire(first, 2.0)
        wire.seal(key, own, other)
        return wire

    here, there = socket.socketpair()
    speaker = sealed(here)
    speaker.say(a=1)
    speaker.say(a=2)
    speaker.beat("is")
    here.close()
    lines = there.recv(9999).splitlines(keepends=True)
    assert len(lines) == 3
    one, two, _ = lines
    for sent, understood in (
        (lines, 3), ([two], 0), ([one, one], 1), ([one.replace(b": 1", b": 3")], 0), ([b'{"do": "end"}\n'], 0), ([b"\n"], 0),
    ):  # fmt: skip
        near, far = socket.socketpair()
        near.sendall(b"".join(sent))
        near.close()
        wire, found = sealed(far, own="first", other="worker"), 0
        with pytest.raises(Gone) as why:
            while True:
                wire.heard()
                found += 1
        assert found == understood and ("hung up" in str(why.value)) == (sent is lines)
        wire.close()
    for wrong in (
        {"key": b"l"},
        {"own": "worker", "other": "first"},
    ):  # another connection's; what one has said oneself
        near, far = socket.socketpair()
        near.sendall(one)
        with pytest.raises(Gone, match="not the other side's"):
            sealed(far, **{"own": "first", "other": "worker", **wrong}).heard()  # type: ignore[arg-type]
        near.close()


def test_lines_go_sealed_from_the_proof_on(first: tuple[Team, Meeting], tmp_path: Path) -> None:
    made, meeting = first
    attempt(tmp_path / "second", beside=True)
    wire, where = come(as_worker(made), tmp_path / "second" / "runs")
    assert where is not None and wire._key is not None
    wait_for(lambda: not meeting.missing)
    meeting.begin()
    assert wire.heard() == {"do": "begin", "files": []}
    wire._connection.sendall(b'{"is": "ready"}\n')
    assert wait_for(lambda: meeting.trouble).text == "worker w1 was cut off: words that are not the other side's"
    assert not meeting.ready
    wire.close()


def test_a_file_with_another_content_than_its_name_says_ends_the_worker(tmp_path: Path) -> None:
    here, there = socket.socketpair()
    member = Membership(Wire(here), attempt(tmp_path, beside=True), 1)
    name = kept.name_of(7, "0" * 64)
    sent = tmp_path / "sent"
    sent.write_bytes(b"something else")
    wire = Wire(there)
    wire.say(do="begin", files=[{"kind": "checkpoint", "run": RUN, "name": name, "size": 14}])
    wire.say_file(sent, 14, do="file", name=name)
    wait_for(lambda: member.over)
    assert "another content" in str(member.over)
    assert [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()] == [folder.INTENT]
    wire.close()


def test_noise_on_the_port_is_nobody(first: tuple[Team, Meeting]) -> None:
    made, meeting = first
    for noise in (
        b"GET / HTTP/1.0\r\n\r\n",
        b"[]\n",
        b'{"process": 1}\n',
        b'{"process": "x", "nonce": 1, "proof": 2}\n',
    ):
        with socket.create_connection(("127.0.0.1", made.ports[0])) as made_up:
            made_up.sendall(noise)
            made_up.shutdown(socket.SHUT_WR)
            while made_up.recv(4096):
                pass
    assert meeting.missing == ["w1"] and meeting.trouble is None


@pytest.mark.parametrize("mute", [1, 2])
def test_what_listens_on_lower_ports_and_says_nothing_keeps_no_worker_away(tmp_path: Path, mute: int) -> None:
    made = ours()
    silent = [team.listening(made) for _ in range(mute)]
    meeting = Meeting(made, attempt(tmp_path / "first"))
    attempt(tmp_path / "second", beside=True)
    begun = time.monotonic()
    try:
        wires = [Wire(connection) for connection in team.reached(made)]
        assert len(wires) == mute + 1
        found = shim_team.first_of(wires, as_worker(made), tmp_path / "second" / "runs", Shim({}))
        assert found is not None and time.monotonic() - begun < team.HELLO_SECONDS
        wait_for(lambda: not meeting.missing)
        assert team.COMER_SECONDS > 2 * team.HELLO_SECONDS, "the first machine does not hang up before"
    finally:
        meeting.end()
        for each in silent:
            each.close()


HOSTILE = [
    b'{"optsweep": "meeting", "run": "%s", "attempt": %s, "nonce": "x"}\n' % (b"a" * 32, number)
    for number in (b"Infinity", b"NaN", b"1e999", b"1.0", b"true", b"-1", b"0", b'"1"', b"null", b"9" * 300, b"9" * 9000)
] + [
    b'{"optsweep": "meeting", "run": %s, "attempt": 1, "nonce": %s}\n' % words
    for words in (
        (b'"../../x"', b'"x"'), (b'"%s"' % (b"a" * 9999), b'"x"'), (b"[]", b'"x"'), (b'"%s"' % (b"a" * 32), b"7"),
        (b'"%s"' % (b"a" * 32), b'"%s"' % (b"x" * 9999)), (b'"%s"' % (b"a" * 32), b'"\\ud800"'),
    )
] + [b"\n", b"[]\n", b"{}\n", b"[" * 100_000 + b"\n", b"\xff\x00\n", b'"' + b"x" * (2 << 20), b"nothing"]  # fmt: skip
"""What may be said on a port before the first machine's, and says nothing of ours."""


@pytest.mark.parametrize("line", HOSTILE, ids=range(len(HOSTILE)))
def test_no_words_on_another_port_end_a_worker_or_keep_it_away(tmp_path: Path, line: bytes) -> None:
    attempt(tmp_path / "second", beside=True)
    meeting = Meeting(made := ours(), attempt(tmp_path / "first"))
    here, there = socket.socketpair()

    def speak() -> None:
        try:
            there.sendall(line)
            there.shutdown(socket.SHUT_WR)
            while there.recv(4096):
                pass
        except OSError:
            pass  # it hung up

    threading.Thread(target=speak, daemon=True).start()
    runs = tmp_path / "second" / "runs"
    try:
        assert shim_team.first_of([Wire(here)], as_worker(made), runs, Shim({})) is None
        wires = [Wire(connection) for connection in team.reached(made)]
        found = shim_team.first_of(wires, as_worker(made), runs, Shim({}))
        assert found is not None and found[1] == runs / RUN / "a1"
    finally:
        meeting.end()
        there.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_no_words_of_a_stranger_end_a_thread_of_the_first_machine(first: tuple[Team, Meeting]) -> None:
    made, meeting = first
    for process in ("Infinity", "-Infinity", "NaN", "1e999", "1.0", "true", "9" * 9000, '"1"', "[]"):
        with socket.create_connection(("127.0.0.1", made.ports[0])) as stranger:
            stranger.sendall(f'{{"process": {process}, "nonce": "x", "proof": "y"}}\n'.encode())
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    assert meeting.missing == ["w1"] and meeting.trouble is None


def test_single_bytes_now_and_then_are_silence() -> None:
    here, there = socket.socketpair()
    wire, ended = Wire(here, 0.5), threading.Event()

    def drip() -> None:
        while not ended.wait(0.1):
            there.sendall(b"x")

    dripping = threading.Thread(target=drip, daemon=True)
    dripping.start()
    try:
        begun = time.monotonic()
        with pytest.raises(Gone, match="silence"):
            wire.heard()
        assert time.monotonic() - begun < 5.0
    finally:
        ended.set()
        dripping.join()
        here.close()
        there.close()


def test_ports_that_are_taken_are_passed_over_and_none_left_is_said() -> None:
    made = ours()
    held = [team.listening(made) for _ in range(10)]
    try:
        assert len({each.getsockname()[1] for each in held}) == 10
        assert {each.getsockname()[0] for each in held} == {"127.0.0.1"}
        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1 ports"):
            team.listening(made)
    finally:
        for each in held:
            each.close()


def test_collectives_go_over_the_network_of_the_address_unless_one_is_named(monkeypatch: Any) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # put back afterwards
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "mine")
    team.use_network("192.0.2.1")  # TEST-NET-1, RFC 5737: on no interface
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    team.use_network("127.0.0.1")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("lo", "mine")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    team.use_network("127.0.0.1")
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=lo"


def test_processes_of_another_attempt_do_not_train() -> None:
    token = hashlib.sha256(b"one").hexdigest()
    here = Place(process=1, processes=2, address="x", port=1, own_address="y", token=token)
    team.require_same(here, here.mark)
    with pytest.raises(RuntimeError, match="of different attempts"):
        team.require_same(here, [*here.mark[:-1], here.mark[-1] ^ 1])


def test_an_engine_that_trains_on_one_machine_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    here = Place(process=0, processes=2, address="x", port=1, own_address="y", token="0" * 64)
    monkeypatch.setenv(team.VARIABLE, json.dumps(here.__dict__))
    monkeypatch.setattr(run, "load_engine", lambda name: object())
    monkeypatch.setattr(run, "_spec_of", lambda path: type("Spec", (), {"engine": "mine"}))
    log = run.AttemptLog(attempt(tmp_path))
    with pytest.raises(ValueError, match="engine mine trains on one machine"):
        run._with_others(log)
    monkeypatch.delenv(team.VARIABLE)
    assert run._with_others(log) is log
    log.close()


@pytest.mark.parametrize("intent", [{}, {"together": True}, {"beside": True}], ids=["plain", "together", "beside"])
def test_a_machine_alone_and_together_in_one_folder_has_each_run_trained_by_workers_of_its_kind(
    tmp_path: Path, intent: dict[str, Any], monkeypatch: Any
) -> None:
    where = attempt(tmp_path, **intent)
    queue = tmp_path / "queue"
    queue.mkdir()
    workers.enqueue(queue, f"{RUN}.a1")
    alone = Shim({})
    lead = shim_team.LeadShim({}, tmp_path / team.FILE)
    started: list[Any] = []
    monkeypatch.setattr(workers, "start_worker", lambda bench, slot: started.append(bench.team) or started)
    for file, shim in ((None, alone), (tmp_path / team.FILE, lead)):
        started.clear()
        workers.advance(workers.Bench(queue=queue, runs=tmp_path / "runs", slots=2, team=file))
        ours = bool(intent) is (file is not None)
        assert len(started) == ours, "a worker that would leave it is not started for it"
        if not ours:
            work_queue(shim, queue, tmp_path / "runs")
            assert not (where / folder.CLAIM).exists() and len(list(workers.entries(queue))) == 1
    assert shim_team._unfit(where) == ("" if intent.get("beside") else "has this run as a host of its own")


def test_the_first_machine_keeps_its_secret_and_the_others_take_it(tmp_path: Path) -> None:
    told = {"process": 0, "workers": ["a", "b"], "address": "10.0.0.1", "ports": [29400, 29409]}
    first, second = Helper(tmp_path / "first"), Helper(tmp_path / "second")
    secret = first.answer({"verb": "team", **told}, b"")[0]["secret"]
    assert len(secret) == 64 and first.answer({"verb": "team", **told}, b"")[0]["secret"] == secret
    anew = {"verb": "team", **told, "workers": ["a", "c"]}
    assert first.answer(anew, b"")[0]["secret"] != secret, "who is no worker any more knows none that is of use"
    first.answer({"verb": "team", **told, "secret": secret}, b"")
    second.answer({"verb": "team", **told, "process": 1, "secret": secret}, b"")
    path = tmp_path / "second" / team.FILE
    assert team.read(path).key(RUN, 1) == team.read(tmp_path / "first" / team.FILE).key(RUN, 1)
    assert team.read(path).key(RUN, 1) != team.read(path).key(RUN, 2)
    for bad in ({"ports": [5]}, {"ports": [0, 9]}, {"workers": []}, {"process": 2}, {"secret": "short"}):
        assert "refused" in second.answer({"verb": "team", **told, "process": 1, "secret": secret, **bad}, b"")[0]


def test_a_first_machine_says_when_the_address_is_none_of_its_own(tmp_path: Path) -> None:
    told = {"verb": "team", "process": 0, "workers": ["a", "b"], "ports": [29400, 29409]}
    helper = Helper(tmp_path)
    assert helper.answer({**told, "address": "127.0.0.1"}, b"")[0]["deaf"] == ""
    assert "assign" in helper.answer({**told, "address": "192.0.2.1"}, b"")[0]["deaf"]  # RFC 5737
    other = {**told, "process": 1, "address": "192.0.2.1", "secret": "s" * 64}
    assert helper.answer(other, b"")[0]["deaf"] == "", "that is the first one's to say"


def test_every_worker_answers_the_question_whether_it_reaches_the_first(tmp_path: Path) -> None:
    made = ours()
    told = {"process": 0, "workers": ["a", "b"], "address": "127.0.0.1", "ports": list(made.ports)}
    helper = Helper(tmp_path)
    helper.answer({"verb": "team", **told}, b"")
    ports = helper.answer({"verb": "listen", "words": 1}, b"")[0]["ports"]
    assert len(set(ports)) == 2, "one for the workers, one for the engine"
    for port in ports:
        question = {"verb": "reach", "address": "127.0.0.1", "port": port, "word": "here"}
        assert helper.answer(question, b"")[0] == {"heard": "here"}
        wait_for(lambda: "refused" in helper.answer(question, b"")[0])  # noqa: B023
    held = [team.listening(made) for _ in range(9)]
    assert "two are needed" in helper.answer({"verb": "listen", "words": 1}, b"")[0]["refused"]
    for each in held:
        each.close()


@pytest.mark.parametrize("wrong", ["address", "name", "all ports", "all ports but one"])
def test_where_the_first_machine_cannot_listen_the_attempt_is_lost_and_the_queue_is_left(
    tmp_path: Path, wrong: str
) -> None:
    made = ours()
    held = [team.listening(made) for _ in range({"all ports": 10, "all ports but one": 9}.get(wrong, 0))]
    address = {"address": "192.0.2.1", "name": "nobody.invalid"}.get(wrong, made.address)  # RFC 5737, RFC 2606
    told = {"process": 0, "workers": ["w0"], "address": address, "ports": list(made.ports), "secret": made.secret}
    folder.write_json(tmp_path / team.FILE, told)
    queue = tmp_path / "queue"
    queue.mkdir()
    for run_id in (RUN, OTHER):
        attempt(tmp_path, run_id, together=True)
        workers.enqueue(queue, f"{run_id}.a1")
    try:
        work_queue(shim_team.LeadShim({}, tmp_path / team.FILE), queue, tmp_path / "runs")
    finally:
        for each in held:
            each.close()
    ended = folder.read_json(tmp_path / "runs" / RUN / "a1" / folder.EXIT)
    assert isinstance(ended, dict) and ended["reason"] == "lost"
    assert str(ended["error"]).startswith("the machines cannot meet: "), ended
    assert [run_id for _, run_id, _ in workers.entries(queue)] == [OTHER]


def spec(batch: int) -> Any:
    class Spec:
        batch_size, accumulation = batch, 1

    return Spec()


def test_processes_of_a_machine_follow_from_mesh_or_gpus() -> None:
    assert per_machine(spec(8), None, 0, 2) == 1
    assert per_machine(spec(8), None, 8, 2) == 4
    assert per_machine(spec(32), "data=4,fsdp=4", 8, 2) == 8
    for mesh, gpus, why in ((None, 8, "divide among 3"), ("data=4", 0, "divide among 3"), ("data=6", 1, "there are 1")):
        with pytest.raises(ValueError, match=why):
            per_machine(spec(8 if mesh != "data=6" else 6), mesh, gpus, 3)


def test_hosts_toml_says_what_is_wrong_with_machines_that_train_together() -> None:
    usual = '[hosts.pod]\nssh = "a"\nworkers = ["b", "me@c:22"]\n'
    entry = hostsfile.parse(usual)["pod"]
    assert entry.workers == ("b", "me@c:22") and entry.slots == 1
    for lines, why in (
        ('coordinator = "10.0.0.1"', ""),
        ('coordinator = "[fd00::1]:29400-29401"', ""),
        ('mesh = "data=4,fsdp=2"', ""),
        ("slots = 2", "slots = 2: machines that train together have one"),
        ('coordinator = "10.0.0.1:29400"', "is not one that can be used"),
        ('coordinator = "10.0.0.1:29409-29400"', "names no two to 256 ports"),
        ('coordinator = "10.0.0.1; rm"', "is not one that can be used"),
        ('mesh = "rows=2"', "is not one of data=N"),
    ):
        if not why:
            hostsfile.parse(usual + lines)
            continue
        with pytest.raises(OptsweepError, match=why):
            hostsfile.parse(usual + lines)
    for text, why in (
        ('[hosts.pod]\nssh = "a"\nworkers = ["a"]\n', "names a machine twice"),
        ('[hosts.pod]\nssh = "a"\nworkers = "b"\n', "is not a list"),
        ('[hosts.pod]\nssh = "a"\nworkers = ["-oProxyCommand=x"]\n', "is not a list of targets"),
        ('[hosts.pod]\nssh = "a"\ncoordinator = "b"\n', "is for hosts with workers"),
        ('[hosts.c]\nbackend = "slurm"\nworkers = ["b"]\n', "is for ssh hosts"),
    ):
        with pytest.raises(OptsweepError, match=why):
            hostsfile.parse(text)
    ports = hostsfile.parse(usual + 'coordinator = "[fd00::1]:5000-5009"')["pod"]
    assert teamsite.coordinator(ports) == ("fd00::1", (5000, 5009))


WORDS = [
    ("hung up", 255, "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nOffending ED25519 key in /k:3"),
    ("hung up", 255, "Host key verification failed."),
    ("hung up", 127, "python3: not found"),
    ("hung up", 126, ""),
    ("hung up", 1, "Traceback"),
    ("hung up", 0, ""),
    ("hung up", 255, "Permission denied (publickey)."),
]


@pytest.mark.parametrize(("how", "status", "words"), WORDS)
def test_what_to_do_about_a_worker_names_what_there_is_in_hosts_toml(how: str, status: int, words: str) -> None:
    entry = hostsfile.parse('[hosts.pod]\nssh = "a"\nworkers = ["me@b"]\n')["pod"]
    [other] = teamsite.others_of(entry)
    error = channel.explained(other, how, status, words)
    assert "host pod worker me@b" in error.message and error.hint
    assert "pod worker" not in error.hint and not re.search(r"hosts add pod --ssh", error.hint)
    assert "pod" in error.hint or "ssh me@b" in error.hint
    assert "hosts add pod --ssh a" in channel.key_step(entry)


def test_machines_with_other_versions_are_told_apart() -> None:
    one = {"python": "3.12.1", "libraries": {"jax": "0.10.2", "numpy": "2.0"}}
    assert teamsite.unlike(one, {**one, "python": "3.12.9"}) == ""
    other = {"python": "3.11.1", "libraries": {"jax": "0.10.1", "numpy": "2.0"}}
    assert (
        teamsite.unlike(one, other) == "Python 3.11.1, the first machine 3.12.1; jax 0.10.1, the first machine 0.10.2"
    )


def test_team_json_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Helper(tmp_path).answer(
            {"verb": "team", "process": 0, "workers": ["a", "b"], "address": "x", "ports": [1000, 1001]}, b""
        )
    finally:
        os.umask(before)
    assert (tmp_path / team.FILE).stat().st_mode & 0o077 == 0
    assert set(json.loads((tmp_path / team.FILE).read_text())) == {"process", "workers", "address", "ports", "secret"}
