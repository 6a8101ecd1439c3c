"""States that runs keep: what is asked of which run, who asks at once, and what `gc` leaves alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optsweep_engines import folder, kept
from optsweep_engines.spec import RunSpec, Start
from optsweep_tui import keeping, rundir, settings, starting, states
from optsweep_tui.dispatch import lines, placing, tidy
from optsweep_tui.dispatch.lines import Meter, run_line
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from tests.store.run_folders import append, attempt_folder, finish, line, make_spec, plant

OTHERS = "kept states of runs, which others begin with"


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return settings.workspace(tmp_path / "work").ensure()


def keeps(run_folder: Path, *steps: int, asked: bool = True) -> list[Path]:
    """States that a run keeps, as files of three bytes."""
    (run_folder / folder.KEPT).mkdir(exist_ok=True)
    paths = [run_folder / folder.KEPT / kept.name_of(step, "ab" * 32) for step in steps]
    for path in paths:
        path.write_bytes(b"abc")
    if asked:
        kept.ask(run_folder, add=steps)
    return paths


def running(run_folder: Path, step: int | None) -> int:
    """An attempt of this process: returns the lock to be closed; `step`: its last metric line."""
    handle = folder.take_claim(attempt_folder(run_folder))
    assert handle is not None
    if step is not None:
        append(run_folder / "a1", line(step, train_seconds=2.0))
    return handle


def branch_of(trunk: RunSpec, step: int, **changes: object) -> RunSpec:
    start = Start(run_id=trunk.run_id, step=step, mode="branch", parameters_sha256="0" * 64)
    return trunk.replace(start=start, **changes)


def removed(place: Workspace, **options: bool) -> int:
    found = tidy.tidy(place, checkpoints=False, kept=False, dry_run=False, **options)
    return next(row.count for row in found if row.what == OTHERS)


# ---------------------------------------------------------------- gc


def test_gc_removes_states_of_runs_that_are_over_and_their_being_asked_for(place: Workspace) -> None:
    (done,) = plant(place.runs, make_spec())
    finish(done)
    paths = keeps(done, 10, 20)
    kept.ask(done, add=[30])  # asked for and never kept: the next attempt is to make it still
    assert removed(place) == 2 and all(path.exists() for path in paths), "counted only: --states was not given"
    assert removed(place, states=True) == 2
    assert not any(path.exists() for path in paths)
    assert kept.wanted(done) == {30}
    kept.ask(done, drop=[30])
    assert not (done / folder.KEEP).exists(), "nothing is asked for: the file goes"


def test_gc_keeps_what_a_run_that_is_not_over_begins_with(place: Workspace) -> None:
    trunk = make_spec()
    (done,) = plant(place.runs, trunk)
    finish(done)
    used, idle = keeps(done, 10, 20)
    (branch,) = plant(place.runs, branch_of(trunk, 10, tokens=49152))
    assert removed(place, states=True) == 1
    assert used.exists() and not idle.exists()
    assert kept.wanted(done) == {10}
    finish(branch, status="failed", error="OSError: no space")
    assert removed(place, states=True) == 0 and used.exists(), "it failed once and will be tried again"
    finish(branch, 2, status="failed", error="OSError: no space")
    assert removed(place, states=True) == 1 and not used.exists()


@pytest.mark.parametrize("state", ["planned", "running", "lost"])
def test_gc_keeps_the_states_of_a_run_that_goes_on(state: str, place: Workspace) -> None:
    (run,) = plant(place.runs, make_spec())
    (path,) = keeps(run, 10)
    handle = running(run, 12) if state == "running" else None
    if state == "lost":
        (attempt_folder(run) / rundir.EXIT).write_text(json.dumps({"reason": "signal", "signal": 9}))
    assert rundir.state_of(run).state == state
    assert removed(place, states=True) == 0 and path.exists() and kept.wanted(run) == {10}
    if handle is not None:
        os.close(handle)


def test_gc_removes_what_a_kill_left_half_written(place: Workspace) -> None:
    done, open_run = plant(place.runs, make_spec(), make_spec(seed=1))
    finish(done)
    handle = running(open_run, 3)
    paths = []
    for run in (done, open_run):
        for where in (run / folder.KEPT, attempt_folder(run) / folder.CHECKPOINTS):
            where.mkdir()
            paths.append(where / ".writing-1")
            paths[-1].write_bytes(b"half")
    tidy.tidy(place, checkpoints=False, kept=False, dry_run=False)
    assert [path.exists() for path in paths] == [False, False, True, True], "a run under way may be writing"
    old = time.time() - tidy.LEFT_SECONDS - 1
    os.utime(paths[2], (old, old))
    tidy.tidy(place, checkpoints=False, kept=False, dry_run=False)
    assert [path.exists() for path in paths] == [False, False, False, True]
    os.close(handle)


# ---------------------------------------------------------------- what is asked for


def test_a_run_under_way_is_asked_only_for_what_lies_ahead(place: Workspace) -> None:
    (run,) = plant(place.runs, make_spec())
    keeps(run, 5)
    handle = running(run, 12)
    assert keeping.remember(place, {run.name: [5, 7, 12, 13, 192]}) == {run.name: [7, 12]}
    assert keeping.unmet(place, run.name) == [13, 192]
    assert keeping.passed_line(run.name, [7, 12]) == (
        f"run {run.name[:8]} is under way, steps 7, 12 come too late for it: ask again when it is over"
    )
    os.close(handle)


def test_a_run_that_is_over_can_be_asked_for_any_step(place: Workspace) -> None:
    (run,) = plant(place.runs, make_spec())
    finish(run)
    keeps(run, 20)
    assert keeping.keeps_all(place, run.name)
    assert keeping.remember(place, {run.name: [20]}) == {} and keeping.keeps_all(place, run.name)
    assert keeping.remember(place, {run.name: [3, 20]}) == {}
    assert keeping.unmet(place, run.name) == [3] and not keeping.keeps_all(place, run.name)
    (planned,) = plant(place.runs, make_spec(seed=1))
    kept.ask(planned, add=[3])
    (line,) = keeping.unkept_lines(place, [run.name, planned.name])
    assert line.startswith(f"note: run {run.name[:8]} is over and does not keep the state of step 3: optsweep retry")


def hosts_of(place: Workspace) -> None:
    """Two hosts behind ssh and a cluster."""
    tables = [f'[hosts.{name}]\nbackend = "ssh"\nssh = "{name}"\n' for name in ("box", "far")]
    tables.append('[hosts.cluster]\nbackend = "slurm"\nssh = "login"\n')
    (place.root / "hosts.toml").write_text("".join(tables))


def kept_on(run_folder: Path, host: str, number: int, *steps: int, sha256: str = "ab" * 32) -> None:
    """An attempt of a host that has told of states; the last line of its events is torn."""
    folder.write_json(attempt_folder(run_folder, number) / rundir.INTENT, {"host": host})
    rows: list[dict[str, object]] = [{"kind": "started"}, {"kind": "kept", "step": "7", "parameters_sha256": sha256}]
    rows += [{"kind": "kept", "step": 8, "parameters_sha256": "../../x"}]
    rows += [{"kind": "kept", "step": step, "parameters_sha256": sha256} for step in steps]
    append(run_folder / f"a{number}", "".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "ke', rundir.EVENTS)


def test_only_hosts_that_can_are_asked_to_keep_states_and_those_behind_ssh_not_while_they_train(
    place: Workspace,
) -> None:
    hosts_of(place)
    here, placed, trained, under_way = plant(place.runs, *(make_spec(seed=seed) for seed in range(4)))
    keeping.require_asked(place, [here.name])
    placing.remember(place, "", [placed.name], ["box", "far"])
    keeping.require_asked(place, [placed.name])
    placing.remember(place, "", [placed.name], ["box", "cluster"])
    keeping.require_asked(place, [placed.name])
    placing.remember(place, "", [placed.name], ["box", "nowhere"])
    with pytest.raises(OptsweepError, match="on hosts behind ssh and on Slurm, not on nowhere"):
        keeping.require_asked(place, [here.name, placed.name])
    folder.write_json(attempt_folder(trained) / rundir.INTENT, {"host": "box"})
    finish(trained)
    keeping.require_asked(place, [trained.name])
    folder.write_json(attempt_folder(under_way) / rundir.INTENT, {"host": "box"})
    folder.write_json(under_way / "a1" / rundir.REMOTE, {"host": "box", "state": "running"})
    with pytest.raises(OptsweepError, match="is under way on host box: what it is to keep goes there with an attempt"):
        keeping.require_asked(place, [under_way.name])
    assert keeping.remember(place, {under_way.name: [5]}) == {under_way.name: [5]}
    assert kept.wanted(under_way) == set()


def test_states_on_hosts_are_known_by_the_events_of_their_attempts(place: Workspace) -> None:
    hosts_of(place)
    trunk = make_spec()
    (run,) = plant(place.runs, trunk)
    kept_on(run, "box", 1, 10, 20)
    kept_on(run, "far", 2, 20, 30, sha256="cd" * 32)
    kept_on(run, "cluster", 3, 40)
    kept_on(run, "gone", 4, 50)
    finish(run, 4)
    keeps(run, 15, asked=False)
    kept.ask(run, add=[10, 15, 30, 60])
    assert states.steps(place, run.name) == [10, 15, 20, 30, 40]
    assert keeping.unmet(place, run.name) == [60]
    found = states.find(place, trunk, 20)
    assert (found.parameters_sha256, found.hosts) == ("cd" * 32, ("far",)), "what was said last"
    assert states.find(place, trunk, 10).hosts == ("box",)
    with pytest.raises(FileNotFoundError):
        states.find(place, trunk, 50)
    with pytest.raises(ValueError, match="is damaged"):
        states.find(place, trunk, 15)


def test_states_that_were_removed_from_a_host_are_known_again_only_by_a_later_attempt(place: Workspace) -> None:
    hosts_of(place)
    trunk = make_spec()
    (run,) = plant(place.runs, trunk)
    kept_on(run, "box", 1, 10, 20)
    kept_on(run, "far", 2, 20)
    finish(run, 2)
    kept.ask(run, add=[20])
    plant(place.runs, branch_of(trunk, 10, tokens=49152))
    assert states.unneeded_elsewhere(place) == {"box": {run.name: [20]}, "far": {run.name: [20]}}, "10 is begun with"
    states.note_dropped(run, "box", [20])
    assert states.elsewhere(place, run.name) == {10: {"box": "ab" * 32}, 20: {"far": "ab" * 32}}
    assert kept.wanted(run) == set()
    states.note_dropped(run, "far", [20])
    assert states.steps(place, run.name) == [10]
    kept_on(run, "box", 3, 20)
    assert states.elsewhere(place, run.name)[20] == {"box": "ab" * 32}
    (run / states.DROPPED).write_text("[1")
    assert states.steps(place, run.name) == [10, 20], "a torn note is none"


def test_a_run_goes_only_where_the_state_lies_that_it_begins_with(place: Workspace) -> None:
    hosts_of(place)
    trunk = make_spec()
    (run,) = plant(place.runs, trunk)
    kept_on(run, "box", 1, 10)

    def begun(step: int, sha256: str = "ab" * 32) -> RunSpec:
        start = Start(run_id=trunk.run_id, step=step, mode="weights", parameters_sha256=sha256)
        return make_spec(seed=9).replace(start=start)

    keeping.require_places(place, ["box"], [begun(10)])
    with pytest.raises(OptsweepError, match=r"which lies on box and is not sent to this machine\. add --host box"):
        keeping.require_places(place, ["local"], [begun(10)])
    with pytest.raises(OptsweepError, match="which lies on box and is not sent to far"):
        keeping.require_places(place, ["box", "far"], [begun(10)])
    keeps(run, 20, asked=False)
    keeping.require_places(place, ["local"], [begun(20)])
    for spec in (begun(20), begun(10, "cd" * 32)):
        with pytest.raises(OptsweepError, match=r"is not sent to box\. leave --host out"):
            keeping.require_places(place, ["box"], [spec])


def test_a_branch_keeps_only_steps_of_its_own() -> None:
    branch = branch_of(make_spec(), 100)
    assert starting.keep_steps(branch, "101,end") == [101, 192]
    with pytest.raises(OptsweepError, match="has steps 101 to 192, not 100"):
        starting.keep_steps(branch, "100")


def test_of_programs_that_ask_at_once_each_ones_steps_stay(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from optsweep_engines import kept\n"
        "for step in range(int(sys.argv[2]), 400, 4): kept.ask(Path(sys.argv[1]), add=[step])"
    )
    askers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(first)]) for first in (1, 2, 3, 4)]
    assert [asker.wait() for asker in askers] == [0, 0, 0, 0]
    assert kept.wanted(tmp_path) == set(range(1, 400))


# ---------------------------------------------------------------- rate and time to go


def test_rate_and_time_to_go_of_a_branch_count_from_its_first_step(place: Workspace) -> None:
    """After 20 of its 92 steps, 512 tokens each, in 2 seconds: 5120 tokens/s, and 72 steps take 7.2 s."""
    trunk = make_spec(tokens=4 * 98304)
    (whole,) = plant(place.runs, trunk)
    spec = branch_of(trunk, 100, tokens=98304)
    (run,) = plant(place.runs, spec)
    handles = [running(run, 120), running(whole, 120)]
    found, straight = run_line(place, run.name), run_line(place, whole.name)
    assert (found.step, found.steps) == (120, 192)
    assert found.tokens_per_second == pytest.approx(20 * 512 / 2)
    assert found.eta_seconds == pytest.approx(72 * 512 / 5120)
    assert straight.tokens_per_second == pytest.approx(120 * 512 / 2)
    for handle in handles:
        os.close(handle)


def test_the_time_to_go_of_a_sweep_counts_only_steps_that_branches_train(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 100 to 146 of 192 in 10 s is half of what the branch trains: 10 s to go."""
    spec = branch_of(make_spec(tokens=4 * 98304), 100, tokens=98304)
    plant(place.runs, spec)
    meter, clock = Meter(), iter((50.0, 60.0))
    monkeypatch.setattr(lines.time, "monotonic", lambda: next(clock))
    row = run_line(place, spec.run_id)

    def at(step: int) -> float | None:
        return meter.eta([spec], [dataclasses.replace(row, step=step)], set())

    assert at(100) is None
    assert at(146) == pytest.approx(10.0)
