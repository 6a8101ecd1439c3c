"""A task of a batch job trains only what is its own to train, and goes on with it when it is started again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import deaths, envfile, folder, shim_batch
from optsweep_engines.shim_batch import Job, Task

RUN = "0123456789abcdef" * 2


class FakeShim:
    """Claims and ends attempts without an engine, in the ways that it is told."""

    def __init__(self, job: str | None, *endings: str) -> None:
        self.job, self.endings = job, list(endings)
        self.trained: list[str] = []

    def stopping(self) -> bool:
        return not self.endings

    def attempt(self, attempt_folder: Path) -> bool:
        lock = folder.take_claim(attempt_folder, self.job)
        if lock is None:
            return False
        self.trained.append(attempt_folder.name)
        reason = self.endings.pop(0)
        if reason == "killed":
            os.close(lock)
            return True
        if reason == "finished":
            folder.write_json(attempt_folder / folder.RECORD, {"status": "done"})
        folder.write_json(attempt_folder / folder.EXIT, {"reason": reason, "job": self.job})
        os.close(lock)
        return True


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return opened(tmp_path / RUN, 1)


def opened(run_folder: Path, number: int) -> Path:
    where = run_folder / f"a{number}"
    where.mkdir(parents=True)
    folder.write_json(where / folder.INTENT, {"host": "cluster", "asked": True, "threads": 2})
    return run_folder


def worked(run_folder: Path, shim: FakeShim, *, number: int = 1, restarts: int = 0) -> list[str]:
    Task(shim, run_folder, number, Job(name=shim.job, restarts=restarts)).work()  # type: ignore[arg-type]
    return shim.trained


def attempts(run_folder: Path) -> list[int]:
    return [number for number, _ in folder.attempts(run_folder)]


def test_a_first_start_trains_the_attempt_of_the_manifest_and_leaves(run_folder: Path) -> None:
    assert worked(run_folder, FakeShim("7_0", "finished", "never")) == ["a1"]
    assert attempts(run_folder) == [1]


def test_a_second_job_for_the_same_run_trains_nothing(run_folder: Path) -> None:
    worked(run_folder, FakeShim("7_0", "preempted"))
    assert worked(run_folder, FakeShim("8_0", "finished")) == [], "the controller decides what follows, not a duplicate"
    assert attempts(run_folder) == [1]


@pytest.mark.parametrize("ending", ["preempted", "died", "lost", "killed"])
def test_a_task_that_is_started_again_opens_the_next_attempt(run_folder: Path, ending: str) -> None:
    worked(run_folder, FakeShim("7_0", ending))
    assert worked(run_folder, FakeShim("7_0", "finished", "never"), restarts=1) == ["a2"]
    intent = json.loads((run_folder / "a2" / "intent.json").read_text())
    assert intent["requeued"] == "7_0" and intent["threads"] == 2 and not intent["asked"]


def test_a_task_that_the_scheduler_forgot_to_have_started_is_known_by_its_claim(run_folder: Path) -> None:
    worked(run_folder, FakeShim("7_0", "preempted"))
    assert worked(run_folder, FakeShim("7_0", "finished", "never"), restarts=0) == ["a2"]


@pytest.mark.parametrize("ending", ["finished", "failed", "cancelled", "superseded"])
def test_a_run_that_is_over_is_not_begun_again(run_folder: Path, ending: str) -> None:
    worked(run_folder, FakeShim("7_0", ending))
    assert worked(run_folder, FakeShim("7_0", "finished"), restarts=3) == []
    assert attempts(run_folder) == [1]


def test_a_cancelled_run_is_left_alone(run_folder: Path) -> None:
    folder.write_atomic(run_folder / folder.CANCEL, b"")
    assert worked(run_folder, FakeShim("7_0", "finished")) == []


def test_an_attempt_that_was_never_made_is_left_alone(run_folder: Path) -> None:
    assert worked(run_folder, FakeShim("7_0", "finished"), number=2) == []


def test_of_a_controller_and_a_task_that_go_on_with_a_run_one_opens_the_attempt(run_folder: Path) -> None:
    worked(run_folder, FakeShim("7_0", "preempted"))
    opened(run_folder, 2)
    assert worked(run_folder, FakeShim("7_0", "finished", "never"), restarts=1) == ["a2"], (
        "unclaimed: whoever comes first"
    )
    assert worked(run_folder, FakeShim("9_0", "finished"), number=2) == []


def test_a_task_waits_while_the_one_before_it_lives(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = folder.take_claim(run_folder / "a1", "7_0")
    assert lock is not None
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            folder.write_json(run_folder / "a1" / folder.EXIT, {"reason": "preempted"})
            os.close(lock)

    monkeypatch.setattr(shim_batch.time, "sleep", wait)
    assert worked(run_folder, FakeShim("7_0", "finished", "never"), restarts=1) == ["a2"]
    assert len(waits) >= 3


def test_a_lease_of_another_node_counts_as_dead_only_when_it_has_stood_still(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = {
        "pid": 1,
        "start": 1,
        "boot_id": "another",
        "host": "another",
        "token": "t",
        "claimed_at": 0.0,
        "job": "7_0",
    }
    (run_folder / "a1" / folder.CLAIM).write_text(json.dumps(claim))
    now = [1000.0]
    renewals = 5

    def monotonic() -> float:
        return now[0]

    def wait(_seconds: float) -> None:
        nonlocal renewals
        now[0] += 20.0
        if renewals:
            renewals -= 1
            (run_folder / "a1" / folder.LEASE).write_text(json.dumps({"renewed_at": renewals}))

    monkeypatch.setattr(shim_batch.time, "sleep", wait)
    monkeypatch.setattr(shim_batch.time, "monotonic", monotonic)
    assert worked(run_folder, FakeShim("7_0", "finished", "never"), restarts=1) == ["a2"]
    assert now[0] - 1000.0 >= 5 * 20.0 + shim_batch.STILL_SECONDS, "not while it was renewed"


def test_a_job_is_named_by_array_and_index() -> None:
    assert Job.of({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "12"}).name == "7_3"
    assert Job.of({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"}) == Job(name="12", restarts=2)
    assert Job.of({}) == Job(name=None, restarts=0)


@pytest.mark.parametrize(
    ("entries", "index"),
    [([], 0), ([f"{RUN}.a1"], 1), (["../../etc.a1"], 0), ([f"{RUN}.ax"], 0), ("text", 0), ([7], 0)],
)
def test_a_manifest_that_does_not_fit_is_refused(entries: Any, index: int) -> None:
    with pytest.raises(ValueError, match=r"entry|index"):
        shim_batch.entry_of({"runs": "/runs", "entries": entries}, index)


def test_secrets_are_read_from_a_file_of_ones_own_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("# mine\nexport TOKEN='abc=1'\n\nEMPTY=\n")
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        envfile.read(str(path))
    path.chmod(0o600)
    assert envfile.read(str(path)) == {"TOKEN": "abc=1", "EMPTY": ""}
    path.write_text("no assignment\n")
    with pytest.raises(ValueError, match="line 1"):
        envfile.read(str(path))


def test_an_engine_that_dies_each_time_without_a_step_gained_is_given_up(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []
    monkeypatch.setattr(deaths, "pause_seconds", lambda barren: pauses.append(barren) or 0.0)
    shim = FakeShim("7_0", *["died"] * 30)
    assert worked(run_folder, shim) == [f"a{number}" for number in range(1, deaths.BARREN_ATTEMPTS + 1)]
    assert pauses == list(range(1, deaths.BARREN_ATTEMPTS))


def test_deaths_that_gained_steps_are_followed_without_end(run_folder: Path) -> None:
    class Walking(FakeShim):
        def attempt(self, attempt_folder: Path) -> bool:
            (attempt_folder / folder.METRICS).write_text(json.dumps({"step": 10 * len(self.trained) + 10}) + "\n")
            return super().attempt(attempt_folder)

    shim = Walking("7_0", *["died"] * 12, "finished")
    assert len(worked(run_folder, shim)) == 13
