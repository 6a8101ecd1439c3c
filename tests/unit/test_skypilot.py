"""Managed jobs piece by piece: what reaches a shell, what a lying bucket can do, who trains, when a node stops itself."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from optsweep_engines import carrier, cloud_start, courier, folder, mounted
from optsweep_engines.courier import Courier, Pace
from optsweep_engines.shim import Shim
from optsweep_tui.dispatch import hostsfile, sky_commands, sky_options, sky_task
from optsweep_tui.dispatch.hostsfile import HostEntry
from optsweep_tui.dispatch.sky_commands import Said
from optsweep_tui.dispatch.sky_mirror import SkyMirror
from optsweep_tui.dispatch.sky_storage import Storage
from optsweep_tui.errors import OptsweepError
from tests.unit.test_host_messages import FUZZ, hostile
from tests.unit.test_hosts_tell import RECORD as ANY_RECORD
from tests.unit.test_spec import spec

ONE = spec(optimizer_file_hash=hashlib.sha256(b"# mine").hexdigest())
RUN = ONE.run_id
RECORD = {**ANY_RECORD, "run_id": RUN}
JOB = f"os-{RUN}-a1"
QUICK = Pace(lease=0.05, still=0.6, settle=0.2, checkpoint=10.0)


# ---------------------------------------------------------------- what reaches a shell, or SkyPilot


def test_no_hostile_value_of_hosts_toml_becomes_more_than_a_value() -> None:
    chance = random.Random(11)
    keys = [key for key, kind in sky_options.PATTERNS.items() if not isinstance(kind, type)]
    passed = 0
    for _ in range(FUZZ):
        key = chance.choice(keys)
        table = {"storage": "s3://bucket/x", key: hostile(chance)}
        try:
            options = sky_options.read(table, lambda key, why, step: OptsweepError(f"{key} {why}", step))
        except OptsweepError as error:
            assert "\n" not in str(error)
            continue
        passed += 1
        assert not set("$`;|&<>()'\"\\ \n\t\0") & set(table[key]), f"{key} let a sign of shells through"
        if passed % 10 == 0:
            entry = HostEntry(name="c", backend="skypilot", sky=options)
            task = sky_task.task(entry, (RUN, 1), "e" * 64, None)
            assert yaml.safe_load(sky_task.text(entry, (RUN, 1), "e" * 64, None)) == task
    assert 0 < passed < FUZZ / 2


def test_a_task_is_the_same_data_after_yaml_and_bash_whatever_its_values_are(tmp_path: Path) -> None:
    """The checks of hosts.toml left out: even then a value stays a value."""
    chance = random.Random(12)
    sky = sky_options.SkyOptions
    entry = HostEntry(name="c", backend="skypilot", sky=sky(storage="s3://b/x"))
    for number in range(400):
        text = hostile(chance).replace("\0", "")
        entry = HostEntry(name="c", backend="skypilot", python=text, sky=sky(storage=text, image=text, infra=text))
        task = yaml.safe_load(sky_task.text(entry, (RUN, 1), "e" * 64, "5" * 64))
        if any(mark in text for mark in ("\ud7ff", "\x85")):
            continue
        assert task["envs"]["OPTSWEEP_PYTHON"].splitlines() == text.splitlines()
        assert (task["run"], task["setup"]) == (sky_task.RUN, sky_task.SETUP)
        if number % 10 == 0:  # as SkyPilot hands variables over: export NAME=QUOTED, then the script
            lines = [f"export {key}={shlex.quote(value)}" for key, value in task["envs"].items()]
            subprocess.run(
                ["bash", "-c", "\n".join([*lines, task["setup"], task["run"]])],
                cwd=tmp_path, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True, timeout=20, check=False,
            )  # fmt: skip
    assert [path.name for path in tmp_path.rglob("*") if "PWNED" in path.name] == []


def test_ids_that_look_like_numbers_stay_texts() -> None:
    entry = HostEntry(name="c", backend="skypilot", sky=sky_options.SkyOptions(storage="s3://b/x"))
    for run_id in ("1" * 32, "0" * 32, "1e" + "0" * 30, "0" * 31 + "1"):
        envs = yaml.safe_load(sky_task.text(entry, (run_id, 1), "e" * 64, None))["envs"]
        assert envs["OPTSWEEP_RUN"] == run_id and all(isinstance(value, str) for value in envs.values())


def test_a_setup_script_with_another_content_than_it_was_submitted_with_is_not_run(tmp_path: Path) -> None:
    script = b"touch ran\n"
    digest = hashlib.sha256(script).hexdigest()
    place = tmp_path / "optsweep-storage" / "setup"
    place.mkdir(parents=True)
    for content, ran in ((b"touch ran  # and more\n", False), (script, True)):
        (place / f"{digest}.sh").write_bytes(content)
        done = subprocess.run(
            ["bash", "-c", sky_task.SETUP],
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OPTSWEEP_SETUP": digest},
            check=False,
        )
        assert ((tmp_path / "ran").exists(), done.returncode == 0) == (ran, ran)


def test_an_engine_with_another_content_than_was_asked_for_is_not_run(tmp_path: Path) -> None:
    place = tmp_path / "optsweep-storage" / "engine" / ("e" * 64)
    place.mkdir(parents=True)
    (place / "engine.zip").write_bytes(b"PK something else")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "OPTSWEEP_ENGINE": "e" * 64}
    environment |= {"OPTSWEEP_PYTHON": sys.executable, "OPTSWEEP_START": sky_task.start()}
    done = subprocess.run(["bash", "-c", sky_task.RUN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "another hash" in done.stderr and "Traceback" not in done.stderr


# ---------------------------------------------------------------- what SkyPilot says


def said(code: int = 1, out: str = "", error: str = "") -> Said:
    return Said(returncode=code, out=out, error=error)


def test_the_queue_is_read_from_between_other_lines_and_only_what_is_ours_counts() -> None:
    rows: list[Any] = [
        {"job_id": 1, "job_name": JOB, "status": "RUNNING", "failure_reason": None, "recovery_count": 1},
        {"job_id": 2, "job_name": JOB, "status": "FAILED_SETUP", "failure_reason": "no\x1b[2J\nroom"},
        {"job_id": 3, "job_name": "somebody-elses", "status": "RUNNING"},
        {"job_id": "4", "job_name": JOB, "status": "RUNNING"},
        {"job_id": 5, "job_name": f"{JOB}\n", "status": "RUNNING"},
        None,
        [],
        {"job_id": 6},
    ]
    text = f"\x1b[2mStarting a local server.\x1b[0m\n[x] done\n{json.dumps(rows, indent=2)}\nbye\n"
    snapshot = sky_commands.snapshot(said(0, text), 7.0)
    assert snapshot is not None and list(snapshot.rows) == [JOB] and snapshot.started == 7.0
    assert [(row.job, row.status, row.active) for row in snapshot.rows[JOB]] == [
        (1, "RUNNING", True),
        (2, "FAILED_SETUP", False),
    ]
    assert snapshot.rows[JOB][1].reason == "no [2J room" and snapshot.active(JOB) and snapshot.active_count == 1


def test_no_answer_is_never_an_empty_queue() -> None:
    chance = random.Random(13)
    for text in ["", "[", "[1, 2", "{}", "null", "[" * 100_000, *(hostile(chance) for _ in range(300))]:
        if (snapshot := sky_commands.snapshot(said(0, text), 1.0)) is not None:
            assert "[" in text and not snapshot.rows
        assert sky_commands.snapshot(said(1, "", text), 1.0) is None
    assert sky_commands.snapshot(said(124, "", "no in-progress managed jobs: did not end"), 1.0) is None
    nothing = sky_commands.snapshot(said(1, "", "sky.exceptions.ClusterNotUpError: No in-progress managed jobs."), 1.0)
    assert nothing is not None and not nothing.rows, "the words of SkyPilot 0.14.1 before the first job"


@pytest.mark.parametrize(
    ("code", "error", "kind"),
    [
        (127, "sky is not installed", "missing"),
        (124, "sky jobs launch did not end within 1800 s", "unreachable"),
        (1, "sky.exceptions.ApiServerConnectionError: Could not connect: connection refused", "unreachable"),
        (1, "sky.exceptions.ResourcesUnavailableError: Catalog does not contain any instances", "refused"),
        (1, "sky.exceptions.NoCloudAccessError: No cloud access is set up", "refused"),
        (1, "ValueError: Accelerator 'H1000' is not found in catalog", "refused"),
        (2, "Usage: sky jobs launch [OPTIONS] ENTRYPOINT...", "refused"),
        (1, "Segmentation fault", "unknown"),
        (
            1,
            "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: http://h/api",
            "unreachable",
        ),
        (1, "aiohttp.ClientResponseError: 502, message='Bad Gateway', url=http://h/api", "unreachable"),
        (1, "RuntimeError: request failed with status code 504", "unreachable"),
        (1, "sky.exceptions.NoCloudAccessError: project 150266 has no cloud access (request 7f502, id 503)", "refused"),
        (1, "ValueError: vpc-0a504 does not exist. http: see /tmp/503/log", "refused"),
    ],
)
def test_what_an_error_says_of_the_submission(code: int, error: str, kind: str) -> None:
    assert sky_commands.meaning(said(code, "", error)) == kind


def test_an_error_is_passed_on_as_one_line_that_no_terminal_obeys() -> None:
    error = "Traceback\n  File x\n\x1b[31msky.exceptions.NoCloudAccessError: keys \x07of\u202e AWS\x1b[0m\n"
    assert said(1, "", error).words == "keys of AWS"
    assert said(1).words == "no reason given"


# ---------------------------------------------------------------- a bucket that lies


def mirror_of(tmp_path: Path) -> tuple[Path, SkyMirror, Storage]:
    bucket, runs = tmp_path / "bucket", tmp_path / "runs"
    (bucket / "runs" / RUN / "a1").mkdir(parents=True)
    (runs / RUN / "a1").mkdir(parents=True)
    storage = Storage(f"file://{bucket}", "cloud")
    return bucket / "runs" / RUN / "a1", SkyMirror(runs, tmp_path / "offsets.json", storage, "cloud"), storage


def test_parts_come_to_their_places_in_any_order_and_torn_or_missing_ones_are_waited_for(tmp_path: Path) -> None:
    there, mirror, storage = mirror_of(tmp_path)
    text = b"".join(b'{"step": %d}\n' % step for step in range(50))
    cuts = [0, 100, 230, 231, len(text)]
    parts = [(start, text[start:end]) for start, end in itertools.pairwise(cuts)]
    for start, data in parts[2:]:
        (there / mounted.part_name(folder.METRICS, start, len(data))).write_bytes(data)
    here = tmp_path / "runs" / RUN / "a1" / folder.METRICS
    assert mirror.bring((RUN, 1), storage.listing(RUN)[1]) is False and not here.exists(), "a hole is no data"
    (there / mounted.part_name(folder.METRICS, 100, 130)).write_bytes(parts[1][1])
    (there / mounted.part_name(folder.METRICS, 0, 100)).write_bytes(parts[0][1][:40])
    assert mirror.bring((RUN, 1), storage.listing(RUN)[1]) is False, "a torn part is no data"
    assert not here.exists()
    (there / mounted.part_name(folder.METRICS, 0, 100)).write_bytes(parts[0][1])
    assert mirror.bring((RUN, 1), storage.listing(RUN)[1]) is True and here.read_bytes() == text
    here.write_bytes(text[:150])  # a crash in between
    assert mirror.bring((RUN, 1), storage.listing(RUN)[1]) is True and here.read_bytes() == text


def test_a_bucket_can_write_nowhere_but_into_the_mirror_of_the_run(tmp_path: Path) -> None:
    there, mirror, storage = mirror_of(tmp_path)
    before = {path for path in tmp_path.rglob("*") if "bucket" not in path.parts}
    names = ["..metrics.jsonl.0000000000000.4", "metrics.jsonl.0000000000000.0", "metrics.jsonl.-000000000001.4",
             "metrics.jsonl.9999999999999.4", "claim\n", "optimizer.py", "intent.json.tmp", "log.txt.0000000000000.99999999",
             "\x1b[2J", "events.jsonl.0000000000000.3"]  # fmt: skip
    for name in names:
        (there / name).write_bytes(b"abc")
    (there.parent / "a0").mkdir()
    (there.parent / "a01" / "deep").mkdir(parents=True)
    (there.parent / "a01" / "exit.json").write_text("{}")
    listing = storage.listing(RUN)
    assert set(listing) == {1} and set(listing[1]) <= {"metrics.jsonl.9999999999999.4", "events.jsonl.0000000000000.3"}
    mirror.bring((RUN, 1), listing[1])
    after = {path for path in tmp_path.rglob("*") if "bucket" not in path.parts}
    assert after - before == {tmp_path / "runs" / RUN / "a1" / folder.EVENTS}


@pytest.mark.parametrize("ending", ["[1]\n", '{"reason": 5}\n', "[" * 100_000 + "\n", "null\n"])
def test_an_end_that_is_none_is_a_failure_of_that_run_alone(tmp_path: Path, ending: str) -> None:
    there, mirror, storage = mirror_of(tmp_path)
    (there / folder.EXIT).write_text(ending)
    (there / folder.RECORD).write_text(json.dumps({**RECORD, "run_id": "f" * 32}) + "\n")
    assert mirror.ended((RUN, 1), storage.listing(RUN)[1])
    assert json.loads((tmp_path / "runs" / RUN / "a1" / folder.EXIT).read_text())["reason"] == "failed"
    assert not (tmp_path / "runs" / RUN / "a1" / folder.RECORD).exists()


def test_half_an_end_is_waited_for(tmp_path: Path) -> None:
    there, mirror, storage = mirror_of(tmp_path)
    (there / folder.EXIT).write_text('{"reason": "finished"')
    assert mirror.ended((RUN, 1), storage.listing(RUN)[1]) is False
    (there / folder.EXIT).write_text('{"reason": "finished"}\n')
    assert mirror.ended((RUN, 1), storage.listing(RUN)[1]) is True


def test_an_end_that_comes_before_what_was_written_is_waited_with(tmp_path: Path) -> None:
    there, mirror, storage = mirror_of(tmp_path)
    sizes = {folder.METRICS: 11, folder.EVENTS: 0, folder.LOG: 0}
    ending = {"reason": "finished", mounted.CARRIED: {**sizes, folder.RECORD: True}}
    mounted.put_json(there / folder.EXIT, ending)
    for name, text in ((mounted.part_name(folder.METRICS, 0, 11), '{"step": 1}'), (folder.RECORD, json.dumps(RECORD))):
        listing = storage.listing(RUN)[1]
        assert mirror.bring((RUN, 1), listing) is True and mirror.ended((RUN, 1), listing) is False
        (there / name).write_text(text)
    listing = storage.listing(RUN)[1]
    assert mirror.bring((RUN, 1), listing) and mirror.ended((RUN, 1), listing)
    assert (tmp_path / "runs" / RUN / "a1" / folder.RECORD).exists()


def test_a_bucket_without_its_library_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(OptsweepError, match=r"s3fs is not installed.*optsweep\[buckets\]"):
        Storage("s3://bucket/x", "cloud").read("optsweep.json")


# ---------------------------------------------------------------- who trains, and when a node stops itself


def carried(tmp_path: Path, job: str, number: int = 1, node: str = "node") -> carrier.Carried:
    bucket = tmp_path / "bucket"
    (bucket / "runs" / RUN / "a1").mkdir(parents=True, exist_ok=True)
    (bucket / mounted.MARK).write_text("{}\n")
    mounted.put_json(bucket / "runs" / RUN / folder.SPEC, ONE.to_dict())
    mounted.put(bucket / "runs" / RUN / folder.OPTIMIZER, b"# mine")
    if not (bucket / "runs" / RUN / "a1" / folder.INTENT).exists():
        mounted.put_json(bucket / "runs" / RUN / "a1" / folder.INTENT, {"host": "cloud"})
    return carrier.Carried(bucket, tmp_path / node, RUN, number, job, QUICK)


def begun(starts: list[carrier.Carried]) -> list[Path | None]:
    """What each of several starts at once is given to train."""
    found: list[Path | None] = [None] * len(starts)

    def start(index: int) -> None:
        found[index] = starts[index].next(Shim({}))

    threads = [threading.Thread(target=start, args=(index,), daemon=True) for index in range(len(starts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return found


def test_of_several_jobs_of_one_attempt_one_trains(tmp_path: Path) -> None:
    starts = [carried(tmp_path, f"sky-managed-{JOB}_{number}-0", node=f"n{number}") for number in range(1, 7)]
    found = begun(starts)
    assert [path for path in found if path] == [tmp_path / "n1" / "runs" / RUN / "a1"]
    claim = json.loads((tmp_path / "bucket" / "runs" / RUN / "a1" / folder.CLAIM).read_text())
    assert claim["token"] == starts[0].token


def test_a_job_that_was_recovered_waits_until_the_lease_stands_still_and_opens_the_next_attempt(tmp_path: Path) -> None:
    job = f"sky-managed-{JOB}_1-0"
    first = carried(tmp_path, job, node="n1")
    assert first.next(Shim({})) is not None
    lease = tmp_path / "bucket" / "runs" / RUN / "a1" / folder.LEASE
    renewing = threading.Event()

    def renew() -> None:
        count = 0
        while not renewing.wait(0.05):
            count += 1
            mounted.put_json(lease, {"seq": count})

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    second = carried(tmp_path, job, node="n2")
    answers: list[Path | None] = []

    def go_on() -> None:
        answers.append(second.next(Shim({})))

    waiting = threading.Thread(target=go_on, daemon=True)
    waiting.start()
    time.sleep(1.2)
    assert answers == [] and not (lease.parent / folder.EXIT).exists(), "a lease that moves has a holder"
    renewing.set()
    thread.join()
    waiting.join(timeout=30)
    assert answers == [tmp_path / "n2" / "runs" / RUN / "a2"]
    assert json.loads((lease.parent / folder.EXIT).read_text())["reason"] == "lost"
    other = carried(tmp_path, f"sky-managed-{JOB}_9-0", node="n3")
    assert other.next(Shim({})) is None, "another job has no part in it"


def test_a_node_runs_nothing_from_the_bucket_that_is_not_what_was_sent(tmp_path: Path) -> None:
    start = carried(tmp_path, "job")
    attempt = start.next(Shim({}))
    assert attempt is not None and (attempt.parent / folder.OPTIMIZER).read_bytes() == b"# mine"
    other = tmp_path / "other"
    for name, content in (
        (folder.SPEC, json.dumps(spec(seed=9).to_dict()).encode()),
        (folder.SPEC, b"[]"),
        (folder.OPTIMIZER, b"# theirs"),
        (f"{folder.DIAGNOSTICS}.{'d' * 64}", b"# theirs"),
    ):
        shutil.rmtree(other, ignore_errors=True)
        start = carried(other, "job")
        start._diagnostics = "d" * 64 if name.startswith(folder.DIAGNOSTICS) else ""
        mounted.put(start.there / name, content)
        with pytest.raises((ValueError, TypeError)) as refused:
            start.next(Shim({}))
        ending = json.loads((start.there / "a1" / folder.EXIT).read_text())
        assert ending["reason"] == "failed" and ending["error"].endswith(str(refused.value)), "the controller is told"
        assert not (start.here / folder.OPTIMIZER).exists() or (start.here / folder.OPTIMIZER).read_bytes() == b"# mine"


def test_a_node_that_cannot_read_what_it_needs_says_so_but_not_into_a_folder_that_is_no_mount(tmp_path: Path) -> None:
    start = carried(tmp_path, "job")
    (start.there / folder.OPTIMIZER).unlink()
    with pytest.raises(FileNotFoundError):
        start.next(Shim({}))
    ending = json.loads((start.there / "a1" / folder.EXIT).read_text())
    assert ending["reason"] == "lost" and folder.OPTIMIZER in ending["error"], "another node may be well"
    (start.there / "a1" / folder.EXIT).unlink()
    (start.there / "a1" / folder.CLAIM).unlink()
    (tmp_path / "bucket" / mounted.MARK).unlink()
    with pytest.raises(FileNotFoundError):
        start.next(Shim({}))
    assert not (start.there / "a1" / folder.EXIT).exists()


def test_nothing_begins_against_a_cancel_marker_a_record_or_an_end(tmp_path: Path) -> None:
    start = carried(tmp_path, "job")
    (start.there / folder.CANCEL).touch()
    assert start.next(Shim({})) is None
    assert json.loads((start.there / "a1" / folder.EXIT).read_text())["reason"] == "cancelled"
    (start.there / folder.CANCEL).unlink()
    assert start.next(Shim({})) is None, "it has ended"


def test_a_node_that_cannot_renew_its_lease_stops_before_anybody_may_take_over_and_writes_into_no_empty_folder(
    tmp_path: Path,
) -> None:
    start = carried(tmp_path, "job")
    here = start.next(Shim({}))
    assert here is not None
    shim = Shim({})
    with Courier(here, start.there / "a1", start.token, QUICK, shim) as carrying:
        time.sleep(0.3)
        assert not shim.stopping()
        bucket, away = tmp_path / "bucket", tmp_path / "away"
        bucket.rename(away)
        bucket.mkdir()  # what a mount that has gone leaves
        gone = time.monotonic()
        while not shim.stopping() and time.monotonic() - gone < 5:
            time.sleep(0.01)
        assert shim.stopping() and time.monotonic() - gone < QUICK.still
        assert list(bucket.iterdir()) == []
        bucket.rmdir()
        away.rename(bucket)
        folder.write_json(here / folder.EXIT, {"reason": "preempted"})
    assert carrying.delivered
    assert json.loads((start.there / "a1" / folder.EXIT).read_text())["reason"] == "preempted"


def test_a_mount_that_hangs_keeps_no_engine_from_being_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = carried(tmp_path, "job")
    here = start.next(Shim({}))
    assert here is not None
    shim, hung = Shim({}), threading.Event()
    monkeypatch.setattr(courier, "LAST_SECONDS", 0.5)
    with Courier(here, start.there / "a1", start.token, QUICK, shim) as carrying:
        time.sleep(0.2)
        monkeypatch.setattr(mounted, "put_json", lambda *_: hung.wait(30))
        gone = time.monotonic()
        while not shim.stopping() and time.monotonic() - gone < 5:
            time.sleep(0.01)
        assert shim.stopping() and time.monotonic() - gone < QUICK.still
    assert not carrying.delivered and time.monotonic() - gone < 5, "nor the process from ending"
    hung.set()


def test_a_large_checkpoint_on_its_way_keeps_no_lease_from_being_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = carried(tmp_path, "job")
    here = start.next(Shim({}))
    assert here is not None
    (here / folder.CHECKPOINTS).mkdir()
    (here / folder.CHECKPOINTS / f"step-0000000007-{'a' * 16}.safetensors").write_bytes(b"large")
    began, slow = threading.Event(), mounted.put_file

    def put_file(path: Path, source: Path) -> None:
        began.set()
        time.sleep(3 * QUICK.fence)
        slow(path, source)

    monkeypatch.setattr(mounted, "put_file", put_file)
    shim = Shim({})
    with Courier(here, start.there / "a1", start.token, QUICK, shim) as carrying:
        assert began.wait(10)
        time.sleep(2 * QUICK.fence)
        assert not shim.stopping()
        folder.write_json(here / folder.EXIT, {"reason": "preempted"})
    assert carrying.delivered and list((start.there / "a1" / folder.CHECKPOINTS).iterdir())


def test_whole_lines_are_carried_and_the_end_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = carried(tmp_path, "job")
    here = start.next(Shim({}))
    assert here is not None
    there = start.there / "a1"
    order: list[str] = []
    put = mounted.put

    def noted(path: Path, data: bytes) -> None:
        order.append(path.name)
        put(path, data)

    monkeypatch.setattr(mounted, "put", noted)
    with Courier(here, there, start.token, QUICK, Shim({})):
        (here / folder.METRICS).write_bytes(b'{"step": 1}\n{"st')
        time.sleep(0.4)
        carried_now = b"".join(path.read_bytes() for path in there.glob("metrics*"))
        assert carried_now == b'{"step": 1}\n'
        (here / folder.METRICS).write_bytes(b'{"step": 1}\n{"step": 2}\n')
        (here / folder.LOG).write_bytes(b"no newline at the end")
        (here / folder.RECORD).write_text("{}")
        folder.write_json(here / folder.EXIT, {"reason": "finished"})
    assert order[-1] == folder.EXIT and order[-2] == folder.RECORD
    whole = b"".join((there / name).read_bytes() for _, _, name in mounted.parts(os.listdir(there), folder.METRICS))
    assert whole == b'{"step": 1}\n{"step": 2}\n'
    assert [path.read_bytes() for path in there.glob("log*")] == [b"no newline at the end"]


def test_a_mount_that_cannot_rename_gets_whole_files_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(os, "replace", refused)
    mounted.put(tmp_path / "x", b"one")
    mounted.put(tmp_path / "x", b"two")
    source = tmp_path / "source"
    source.write_bytes(b"large")
    mounted.put_file(tmp_path / "deep" / "y", source)
    assert (tmp_path / "x").read_bytes() == b"two" and (tmp_path / "deep" / "y").read_bytes() == b"large"
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"x", "y", "source"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('backend = "skypilot"', "hosts.c.storage is missing"),
        ('backend = "skypilot"\nstorage = "s3://b b"', "line 3: hosts.c.storage"),
        ('backend = "skypilot"\nstorage = "s3://bucket/../x"', "line 3: hosts.c.storage"),
        ('backend = "skypilot"\nstorage = "s3://bucket"\naccelerators = "$(x)"', "line 4: hosts.c.accelerators"),
        ('backend = "skypilot"\nstorage = "s3://bucket"\nuse_spot = "yes"', "line 4: hosts.c.use_spot"),
        ('backend = "skypilot"\nstorage = "s3://bucket"\ngres = "gpu:1"', "line 4: hosts.c.gres means nothing"),
        ('ssh = "box"\nstorage = "s3://bucket"', "line 3: hosts.c.storage is for skypilot hosts"),
    ],
)
def test_a_host_that_cannot_be_says_which_line(text: str, words: str) -> None:
    with pytest.raises(OptsweepError) as error:
        hostsfile.parse(f"[hosts.c]\n{text}\n")
    assert words in str(error.value)


def test_an_accelerator_asked_for_is_found_by_what_the_jobs_ask_for() -> None:
    entry = hostsfile.parse('[hosts.c]\nbackend = "skypilot"\nstorage = "gs://bucket/x"\naccelerators = "tpu-v5e-8"\n')[
        "c"
    ]
    assert entry.accelerator == "tpu-v5e-8"


def test_the_folder_of_the_node_is_the_one_that_the_task_mounts() -> None:
    assert sky_task.MOUNT == cloud_start.STORAGE == "~/optsweep-storage"
    assert "$HOME/optsweep-storage/" in sky_task.SETUP and shutil.which("sha256sum")


def test_no_call_begins_once_a_controller_lets_go() -> None:
    calls, began, go_on, noted = sky_commands.Calls(1, "x"), threading.Event(), threading.Event(), []

    def first() -> Said:
        began.set()
        go_on.wait(30)
        calls.begin(lambda: noted.append("first"))
        return said(0)

    under_way, waiting = calls.submit(first), calls.submit(lambda: said(0))
    assert began.wait(30)
    calls.close()
    go_on.set()
    assert under_way.result(30).returncode == 1 and waiting.result(30).returncode == 124 and noted == []


def test_a_controller_that_ends_waits_for_no_answer_of_sky(tmp_path: Path) -> None:
    program = tmp_path / "sky"
    program.write_text(f"#!/bin/sh\nsleep 5\ntouch {tmp_path}/submitted\n")
    program.chmod(0o755)
    code = (
        "import time\nfrom optsweep_tui.dispatch import sky_commands\n"
        "sky_commands.Calls(1, 'x').submit(sky_commands.call, ['jobs', 'launch'])\ntime.sleep(0.5)\n"
    )
    began = time.monotonic()
    environment = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=30)
    assert not (tmp_path / "submitted").exists(), "nobody has waited"
    while not (tmp_path / "submitted").exists():
        assert time.monotonic() - began < 30, "what sky had begun it ends"
        time.sleep(0.05)
