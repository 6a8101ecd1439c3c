"""States read from files, and when another attempt follows: preempted always, failed once more, loops never."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from optsweep_engines import deaths, folder
from optsweep_tui import rundir, settings
from optsweep_tui.core import RunSpec
from optsweep_tui.dispatch import retry
from optsweep_tui.dispatch.local import LocalDispatcher
from optsweep_tui.errors import OptsweepError
from tests.unit.made_runs import SPEC, attempt, planted

FINISHED = {"reason": "finished"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return planted(tmp_path / "runs", SPEC())


def state(run_folder: Path) -> str:
    return rundir.state_of(run_folder).state


def test_a_run_is_planned_then_queued_then_running_then_done(run: Path) -> None:
    assert state(run) == "planned"
    first = attempt(run, claimed=False)
    assert state(run) == "queued"
    handle = folder.take_claim(first)
    assert handle is not None
    assert state(run) == "running"
    (first / folder.RECORD).write_text(json.dumps({}))
    os.close(handle)
    (first / folder.RECORD).unlink()
    assert state(run) == "orphan", "the holder is dead and left no exit.json"


@pytest.mark.parametrize("status", ["done", "diverged", "failed", "oom", "cancelled"])
def test_finished_needs_both_record_and_exit(run: Path, status: str) -> None:
    where = attempt(run, steps=3, status=status)
    assert state(run) == "orphan"
    (where / folder.EXIT).write_text(json.dumps({"returncode": 0, "signal": None, **FINISHED}))
    assert state(run) == status


def test_an_exit_without_a_record_is_lost_unless_the_run_was_cancelled(run: Path) -> None:
    attempt(run, ending={"signal": 9, "returncode": None, "reason": "died"})
    assert rundir.state_of(run).error == "the engine was killed by signal 9"
    assert state(run) == "lost"
    rundir.cancel(run)
    assert state(run) == "cancelled"


def test_a_garbage_record_or_exit_is_a_failure_with_its_reason_never_a_traceback(run: Path) -> None:
    where = attempt(run, ending=FINISHED)
    (where / folder.RECORD).write_text("{torn")
    assert state(run) == "failed"
    assert "record.json cannot be read" in (rundir.state_of(run).error or "")
    (where / folder.EXIT).write_text("{torn")
    assert state(run) == "failed"


def test_lost_and_preempted_runs_are_tried_again_as_long_as_they_gain_steps(run: Path) -> None:
    for steps in range(1, 12):
        attempt(run, steps=steps, ending={"reason": "died", "signal": 9})
        assert retry.wants_attempt(run, rundir.state_of(run))
    for _ in range(12):
        attempt(run, steps=11, ending={"reason": "preempted", "returncode": 75})
        assert retry.wants_attempt(run, rundir.state_of(run)), "preemption has no limit"


def test_a_run_that_dies_again_and_again_without_a_step_is_given_up(run: Path) -> None:
    for number in range(deaths.BARREN_ATTEMPTS):
        assert not retry.given_up(run, rundir.state_of(run))
        attempt(run, ending={"reason": "died", "signal": 9})
        assert retry.wants_attempt(run, rundir.state_of(run)) == (number < deaths.BARREN_ATTEMPTS - 1)
    assert retry.given_up(run, rundir.state_of(run))


def test_barren_deaths_are_spaced_out(run: Path) -> None:
    for _ in range(3):
        attempt(run, ending={"reason": "died", "signal": 9, "ended_at": 1000.0})
    now = rundir.state_of(run)
    assert not retry.wants_attempt(run, now, now=1000.1)
    assert retry.wants_attempt(run, now, now=1000.0 + deaths.BACKOFF_LIMIT_SECONDS)


def test_a_failure_is_tried_once_more_and_an_asked_retry_counts_anew(run: Path) -> None:
    attempt(run, status="failed", ending={"returncode": 1, **FINISHED})
    assert retry.wants_attempt(run, rundir.state_of(run)) and not retry.given_up(run, rundir.state_of(run))
    attempt(run, status="failed", ending={"returncode": 1, **FINISHED})
    assert not retry.wants_attempt(run, rundir.state_of(run)) and retry.given_up(run, rundir.state_of(run))
    attempt(run, status="failed", ending={"returncode": 1, **FINISHED}, asked=True)
    assert retry.wants_attempt(run, rundir.state_of(run))


@pytest.mark.parametrize("status", ["done", "diverged", "oom", "cancelled"])
def test_results_are_never_tried_again_by_themselves(run: Path, status: str) -> None:
    attempt(run, status=status, ending=FINISHED)
    assert retry.given_up(run, rundir.state_of(run))
    assert not retry.wants_attempt(run, rundir.state_of(run))


def test_a_cancelled_run_is_not_started(run: Path) -> None:
    rundir.cancel(run)
    assert state(run) == "cancelled"
    assert not retry.wants_attempt(run, rundir.state_of(run))


def test_an_orphan_is_settled_with_what_is_known_and_its_record_kept(tmp_path: Path) -> None:
    local = LocalDispatcher(settings.workspace(tmp_path).ensure())
    silent, spoke = planted(tmp_path / "runs", SPEC(seed=1)), planted(tmp_path / "runs", SPEC(seed=2))
    attempt(silent, steps=2)
    attempt(spoke, steps=9, status="done")
    states = local.poll([silent.name, spoke.name])
    assert states[silent.name].state == "lost"
    assert states[spoke.name].state == "done", "the engine had finished: only the shim died"
    assert (silent / "a1" / folder.EXIT).exists()


def test_a_claim_of_another_boot_is_dead_even_where_its_pid_lives_again(tmp_path: Path) -> None:
    local = LocalDispatcher(settings.workspace(tmp_path).ensure())
    run_folder = planted(tmp_path / "runs", SPEC())
    where = attempt(run_folder, steps=2)
    claim = json.loads((where / folder.CLAIM).read_text())
    (where / folder.CLAIM).write_text(json.dumps({**claim, "boot_id": "another boot", "pid": os.getpid()}))
    assert local.poll([run_folder.name])[run_folder.name].state == "lost"


def test_of_two_controllers_that_submit_the_same_runs_each_attempt_is_opened_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    runs = [planted(tmp_path / "runs", SPEC(seed=seed)).name for seed in range(40)]
    controllers = [LocalDispatcher(settings.workspace(tmp_path).ensure()) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        opened = [run for batch in pool.map(lambda controller: controller.submit(runs), controllers) for run in batch]
    assert sorted(opened) == sorted(runs)
    assert all(len(folder.attempts(tmp_path / "runs" / run)) == 1 for run in runs)
    queued = [name.partition(".")[2] for name in os.listdir(tmp_path / "queue" / "local")]
    assert set(queued) == {f"{run}.a1" for run in runs}


def test_an_intent_whose_controller_died_before_queueing_is_queued_by_the_next(tmp_path: Path) -> None:
    local = LocalDispatcher(settings.workspace(tmp_path).ensure())
    run_folder = planted(tmp_path / "runs", SPEC())
    (run_folder / "a1").mkdir()
    assert local.submit([run_folder.name]) == []
    assert [name.partition(".")[2] for name in os.listdir(tmp_path / "queue" / "local")] == [f"{run_folder.name}.a1"]
    assert (run_folder / "a1" / folder.INTENT).exists()
    assert folder.attempts(run_folder)[-1][0] == 1


def test_planting_again_changes_nothing_and_a_second_study_adds_a_marker(tmp_path: Path) -> None:
    one = SPEC()
    (run_folder,) = rundir.write(tmp_path, [one], "first")
    before = (run_folder / folder.SPEC).stat().st_mtime_ns
    rundir.write(tmp_path, [one], "second")
    assert (run_folder / folder.SPEC).stat().st_mtime_ns == before
    assert rundir.studies_of(run_folder) == ["first", "second"]
    assert rundir.read_spec(run_folder) == one


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seed": 1}', "null", '{"engine": 3}'])
def test_a_spec_that_cannot_be_used_is_one_clear_error(tmp_path: Path, text: str) -> None:
    run_folder = planted(tmp_path, SPEC())
    (run_folder / folder.SPEC).write_text(text)
    with pytest.raises(OptsweepError, match="cannot be used"):
        rundir.read_spec(run_folder)


def test_an_unprepared_dataset_is_never_planted(tmp_path: Path) -> None:
    unprepared: RunSpec = SPEC(dataset_hash=None)
    with pytest.raises(OptsweepError, match="not prepared"):
        rundir.write(tmp_path, [unprepared], "made")


def test_the_last_metric_is_the_last_whole_line(run: Path) -> None:
    where = attempt(run, steps=5)
    with open(where / folder.METRICS, "ab") as handle:
        handle.write(b'garbage\n{"step": 6, "train_lo')
    row = rundir.last_metric(where)
    assert row is not None and row["step"] == 5
    assert [row["step"] for row in rundir.metric_rows(run)] == [1, 2, 3, 4, 5]
    assert rundir.last_metric(run) is None


def test_the_highest_attempt_wins_where_steps_repeat(run: Path) -> None:
    attempt(run, steps=4, ending={"reason": "died"})
    second = attempt(run)
    (second / folder.METRICS).write_text('{"step": 3, "train_loss": 1.5}\n{"step": 4, "train_loss": 1.4}\n')
    assert [row["train_loss"] for row in rundir.metric_rows(run)] == [2.0, 2.0, 1.5, 1.4]
