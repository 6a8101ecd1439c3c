"""Runs on a real Slurm of one node: started once each, continued after requeues, whatever of Slurm or of us is killed.

OPTSWEEP_SLURM_FAULTS=60 makes the storm the whole campaign, OPTSWEEP_SLURM_TIME_LIMIT=1 waits for a real time limit
(`make faults`); the suite runs a short storm.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import flow, rundir, settings
from optsweep_tui.dispatch import fleet, slurm_pump
from optsweep_tui.errors import OptsweepError
from tests import sshd, walker
from tests.e2e import workbench
from tests.e2e.workbench import again_and_again, optsweep
from tests.slurm_node import SlurmNode

pytestmark = [pytest.mark.slow, pytest.mark.system("slurmctld"), pytest.mark.system("munged")]

FAULTS = int(os.environ.get("OPTSWEEP_SLURM_FAULTS", "5"))
TIME_LIMIT = bool(os.environ.get("OPTSWEEP_SLURM_TIME_LIMIT"))
STEPS_OF = {0.02: 332, 0.005: 83}
"""Steps of bench-micro at these ratios with 128 tokens each."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmNode]:
    """One node for the module, and the engine of these tests; both only in this process's environment."""
    before = dict(os.environ)
    try:
        with (
            walker.installed(tmp_path_factory.mktemp("engine")),
            SlurmNode(cpus=8, kill_wait=4, max_array=101) as running,
        ):
            os.environ.update(running.environment | {"PYTHONPATH": os.environ["PYTHONPATH"]})
            yield running
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def place(tmp_path: Path, node: SlurmNode) -> Iterator[Path]:
    """A workspace with the cluster in its hosts.toml; nothing is left running in it."""
    workspace = tmp_path / "work"
    workspace.mkdir()
    hosts = '[hosts.cluster]\nbackend = "slurm"\npartitions = ["main", "held", "short"]\n'
    (workspace / "hosts.toml").write_text(hosts)
    (workspace / "optsweep.toml").write_text("checkpoint_seconds = 0.5\npoll_seconds = 0.1\n")
    before = os.environ.get("PATH"), os.environ.get(walker.PACE)
    try:
        yield workspace
    finally:
        fleet.of(settings.workspace(workspace)).close()
        os.environ["PATH"] = str(before[0])
        os.environ.pop(walker.PACE, None)
        if node.pid("slurmctld"):
            node.run("scancel", "--full", "-u", "root" if os.getuid() == 0 else str(os.getuid()), check=False)
        workbench.stop_everything(workspace)


def grid_file(folder: Path, seeds: int, ratio: float = 0.02) -> str:
    return str(workbench.grid_file(folder, str(ratio), seeds, name="walks", engine="walker", optimizers=["adamw"]))


def run_ids(workspace: Path) -> list[str]:
    return rundir.run_ids(workspace / "runs")


def seed_of(workspace: Path, run_id: str) -> int:
    return int(json.loads((workspace / "runs" / run_id / "spec.json").read_text())["seed"])


def attempts_of(workspace: Path, run_id: str) -> list[dict[str, Any]]:
    """claim and exit.json of each attempt of a run, in order."""
    found = []
    for _, path in rundir.attempts(workspace / "runs" / run_id):
        texts = {
            name: (path / name).read_text() if (path / name).exists() else "null" for name in ("claim", "exit.json")
        }
        found.append({name: json.loads(text) for name, text in texts.items()})
    return found


def wait_for(what: Callable[[], Any], why: str, seconds: float = 60.0) -> Any:
    """The first true answer."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        answer = what()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{why}: not within {seconds:g} s")


@contextlib.contextmanager
def no_overlaps(workspace: Path) -> Iterator[None]:
    """Fails where two attempts of a run were open at once at any of many looks."""
    doubled: list[dict[str, set[str]]] = []

    def look() -> None:
        found = {run: names for run, names in workbench.attempts_in_training(workspace).items() if len(names) > 1}
        if found:
            doubled.append(found)

    with again_and_again(look, 0.02):
        yield
    assert doubled == [], "two attempts of a run were alive at once"


def assert_every_run_ended_as_undisturbed(workspace: Path, ratio: float = 0.02) -> None:
    steps = STEPS_OF[ratio]
    for run_id, record in workbench.records(workspace).items():
        assert record.get("status") == "done", (run_id, record, attempts_of(workspace, run_id))
        assert record["parameters_sha256"] == walker.final_hash(seed_of(workspace, run_id), steps)
    place = settings.workspace(workspace)
    flow.collect(place)
    rows = flow.sql(place, "select run_id, step, count(*) as n from v_metric where key = 'train_loss' group by all")
    assert set(rows["n"]) == {1}, "the store holds each step once"
    assert len(rows) == steps * len(run_ids(workspace)), "no metric row is lost"


def launched(workspace: Path, grid: str, host: str) -> list[str]:
    """Plan and launch in this process; its thread hands the runs over."""
    place = settings.workspace(workspace)
    return flow.launch(place, flow.plan(place, flow.Request(grid=grid), prepare=True), hosts=(host,))


def test_two_controllers_send_a_sweep_to_slurm_and_every_run_starts_once(place: Path, node: SlurmNode) -> None:
    os.environ[walker.PACE] = "0.005"
    arguments = ["run", "--grid", grid_file(place, 10), "--host", "cluster"]
    with no_overlaps(place):
        controllers = [workbench.start(*arguments, workspace=place) for _ in range(2)]
        assert [controller.wait(timeout=120) for controller in controllers] == [0, 0]
    ids = run_ids(place)
    assert len(ids) == 10
    assert [len(attempts_of(place, run_id)) for run_id in ids] == [1] * 10
    jobs = {str(attempts_of(place, run_id)[0]["claim"]["job"]) for run_id in ids}
    assert len(jobs) == 10, "each run was a task of its own"
    assert_every_run_ended_as_undisturbed(place)
    wait_for(lambda: not workbench.processes(place, "optsweep_engines"), "tasks leave when their run is over")


def test_sbatch_that_takes_a_job_and_then_says_it_failed_starts_every_run_once(
    place: Path, node: SlurmNode, tmp_path: Path
) -> None:
    liar = tmp_path / "bin" / "sbatch"
    liar.parent.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    liar.write_text(
        f'#!/bin/sh\ncase "$*" in *--test-only*) exec {real} "$@";; esac\n{real} "$@" >/dev/null\n'
        'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2\nexit 1\n'
    )
    liar.chmod(0o755)
    os.environ["PATH"] = f"{liar.parent}{os.pathsep}{os.environ['PATH']}"
    optsweep("run", "--grid", grid_file(place, 3, 0.005), "--host", "cluster", workspace=place, timeout=90)
    for run_id in run_ids(place):
        assert len(attempts_of(place, run_id)) == 1
    jobs = {str(attempts_of(place, run_id)[0]["claim"]["job"]).partition("_")[0] for run_id in run_ids(place)}
    assert len(jobs) == 1, "it was asked for by name, and not submitted again"
    assert_every_run_ended_as_undisturbed(place, 0.005)


@pytest.mark.timeout(3000)
def test_a_storm_of_requeues_and_kills_loses_nothing_and_doubles_nothing(place: Path, node: SlurmNode) -> None:
    os.environ[walker.PACE] = "0.03" if FAULTS <= 5 else "0.08"  # 10 s a run, or 27
    grid = grid_file(place, 8 if FAULTS <= 5 else 4 * FAULTS)  # more to do than the faults take
    chance = random.Random(20240601)
    controller = workbench.start("run", "--grid", grid, "--host", "cluster", workspace=place)

    def jobs() -> dict[str, str]:
        """task -> run, of those that train now."""
        found = {}
        for run_id in workbench.attempts_in_training(place):
            claim = attempts_of(place, run_id)[-1]["claim"]
            if claim:
                found[str(claim["job"])] = run_id
        return found

    def fault(kind: str) -> None:
        nonlocal controller
        training = wait_for(jobs, "no run trains")
        task = chance.choice(sorted(training))
        if kind == "requeue":
            node.run("scontrol", "requeue", task, check=False, timeout=120)
        elif kind == "warn":  # what the time limit sends, from a task's own --signal
            node.run("scancel", "--batch", "--signal=USR1", task, check=False, timeout=120)
        elif kind in ("shim", "engine"):
            module = {"shim": "optsweep_engines.shim_batch", "engine": "optsweep_engines.run"}[kind]
            for pid in workbench.processes(place, module)[:1]:
                workbench.kill(pid)
        elif kind == "stepd":
            for pid in node.steps()[:1]:
                workbench.kill(pid)
        elif kind == "controller":
            controller.kill()
            controller.wait()
            time.sleep(chance.uniform(0.0, 1.0))
            controller = workbench.start("resume", workspace=place)
        else:  # a daemon of Slurm
            node.stop(kind, signal.SIGKILL)
            time.sleep(chance.uniform(0.2, 2.0))
            node.start(kind)

    kinds = ["requeue", "slurmctld", "shim", "warn", "controller", "stepd", "slurmd", "engine"]
    try:
        with no_overlaps(place), again_and_again(node.mend, 2.0):
            for number in range(FAULTS):
                fault(kinds[number % len(kinds)])
                time.sleep(chance.uniform(0.0, 1.0))
            ended = controller.wait(timeout=600 + 20 * FAULTS)
            if ended != 0:  # killed as the last of the faults
                optsweep("resume", workspace=place, timeout=600)
    finally:
        controller.kill()
        controller.wait()
    assert_every_run_ended_as_undisturbed(place)
    tries = [len(attempts_of(place, run_id)) for run_id in run_ids(place)]
    assert sum(tries) > len(tries), "no fault hit a run: the test proves nothing"
    resumed = [record["resumed_from_step"] for record in workbench.records(place).values()]
    assert max(resumed) > 0, "no run was continued from a checkpoint"
    wait_for(lambda: not workbench.processes(place, "optsweep_engines"), "no orphan process")


def test_an_attempt_that_a_task_opened_itself_and_that_no_controller_wrote_down_is_ended_and_followed(
    place: Path, node: SlurmNode
) -> None:
    os.environ[walker.PACE] = "0.1"
    (run_id,) = launched(place, grid_file(place, 1, 0.005), "cluster")
    wait_for(lambda: workbench.attempts_in_training(place), "it trains")
    fleet.of(settings.workspace(place)).close()  # the controller is gone
    (job,) = [row[0] for row in node.queue()]
    wait_for(lambda: node.run("scontrol", "requeue", job, check=False).returncode == 0, "it is requeued")
    node.run("scontrol", "release", job, check=False)
    wait_for(lambda: len(attempts_of(place, run_id)) == 2 and workbench.attempts_in_training(place), "it goes on", 200)
    for mark in (place / "queue" / "cluster" / "open").iterdir():
        mark.unlink()  # as after a kill between the two marks
    node.run("scancel", "--full", "--signal=KILL", job, check=False)
    for module in ("shim_batch", "optsweep_engines.run"):
        for pid in workbench.processes(place, module):
            workbench.kill(pid)
    wait_for(lambda: not node.queue(), "nothing is left of it in Slurm")
    os.environ[walker.PACE] = "0"
    assert workbench.optsweep("resume", workspace=place, timeout=120).returncode == 0
    assert_every_run_ended_as_undisturbed(place, 0.005)


def test_cancelling_takes_waiting_tasks_out_of_the_queue_and_stops_those_that_run(place: Path, node: SlurmNode) -> None:
    os.environ[walker.PACE] = "0.2"
    ids = launched(place, grid_file(place, 12), "cluster")
    wait_for(lambda: len(workbench.attempts_in_training(place)) >= 4, "runs train")
    flow.cancel(settings.workspace(place), ids)
    wait_for(lambda: not node.queue() or all(row[1] == "CANCELLED" for row in node.queue()), "the queue is empty", 30)
    wait_for(lambda: not workbench.attempts_in_training(place), "what runs stops")
    dispatcher = fleet.of(settings.workspace(place))
    wait_for(lambda: {state.state for state in dispatcher.poll(ids).values()} == {"cancelled"}, "all are cancelled")
    assert all(len(attempts_of(place, run_id)) == 1 for run_id in ids)


def test_what_slurm_refuses_is_one_line_with_the_next_step(place: Path, node: SlurmNode, tmp_path: Path) -> None:
    grid = grid_file(place, 1, 0.005)
    (place / "hosts.toml").write_text(
        '[hosts.nowhere]\nbackend = "slurm"\npartitions = ["nowhere"]\n'
        '[hosts.greedy]\nbackend = "slurm"\ngres = "gpu:1"\n[hosts.cluster]\nbackend = "slurm"\n'
    )
    for host, words in (("nowhere", "nvalid partition"), ("greedy", "gres")):
        with pytest.raises(OptsweepError, match=words) as raised:
            launched(place, grid, host)
        assert "hosts.toml" in str(raised.value) and "\n" not in str(raised.value)
    assert run_ids(place) == [], "nothing was written"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), str(tmp_path)])
    result = optsweep("run", "--grid", grid, "--host", "cluster", workspace=place, check=False)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert "not installed" in result.stderr and "ssh" in result.stderr


def test_a_large_plan_goes_out_in_arrays_of_the_size_that_the_cluster_allows(place: Path, node: SlurmNode) -> None:
    ids = launched(place, grid_file(place, 250, 0.005), "cluster:held")
    wait_for(lambda: len([row for row in node.queue() if row[1] == "PENDING"]) == 250, "250 tasks wait", 90)
    sizes: dict[str, int] = {}
    for row in node.queue():
        sizes[row[0].partition("_")[0]] = sizes.get(row[0].partition("_")[0], 0) + 1
    assert max(sizes.values()) <= 101, "MaxArraySize is 101"
    assert {line.state for line in flow.run_lines(settings.workspace(place))} == {"queued"}
    flow.cancel(settings.workspace(place), ids)
    wait_for(lambda: not [row for row in node.queue() if row[1] == "PENDING"], "the queue is empty", 30)
    assert not any((place / "runs" / run_id / "a2").exists() for run_id in ids)


def test_tasks_that_slurm_believes_to_run_after_their_end_do_not_keep_the_others_waiting(
    place: Path, node: SlurmNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_pump, "FORGOTTEN_SECONDS", 5.0)
    os.environ[walker.PACE] = "0.1"  # 8 s a run
    ids = launched(place, grid_file(place, 10, 0.005), "cluster")  # on eight processors
    wait_for(lambda: len(workbench.attempts_in_training(place)) == 8, "eight train")
    node.stop("slurmctld")
    shutil.copytree(node.folder / "state", tmp_path / "before")
    node.start("slurmctld")
    drained = wait_for(lambda: node.run("scontrol", "update", f"nodename={node.host}", "state=drain", "reason=x",
                                        check=False).returncode == 0, "the node is drained")  # fmt: skip
    assert drained
    wait_for(lambda: not workbench.processes(place, "optsweep_engines"), "the eight end")
    wait_for(lambda: [row[1] for row in node.queue()] == ["PENDING"] * 2, "and Slurm knows it")
    node.stop("slurmctld", signal.SIGKILL)
    shutil.rmtree(node.folder / "state")
    shutil.copytree(tmp_path / "before", node.folder / "state")  # as if it had not been saved since
    node.start("slurmctld")
    wait_for(lambda: [row[1] for row in node.queue()].count("RUNNING") == 8, "Slurm believes that eight run")
    dispatcher = fleet.of(settings.workspace(place))
    wait_for(lambda: {state.state for state in dispatcher.poll(ids).values()} == {"done"}, "all end", 90)
    assert all(len(attempts_of(place, run_id)) == 1 for run_id in ids)


def test_a_task_that_cannot_begin_says_why_and_ends_the_run_in_the_end(place: Path, node: SlurmNode) -> None:
    (place / "hosts.toml").write_text('[hosts.cluster]\nbackend = "slurm"\npython = "/nowhere/python"\n')
    (run_id,) = launched(place, grid_file(place, 1, 0.005), "cluster")
    dispatcher = fleet.of(settings.workspace(place))
    state = wait_for(lambda: next((s for s in dispatcher.poll([run_id]).values() if s.state == "lost"), None), "lost")
    assert "before the run began" in state.error and "/nowhere/python" in state.error and "127" in state.error
    assert attempts_of(place, run_id)[0]["claim"]["job"] is None, "ended by a claim, so that no late task can begin it"


def test_through_a_login_node_runs_go_on_after_a_requeue_and_come_back_whole(
    place: Path, node: SlurmNode, tmp_path_factory: pytest.TempPathFactory
) -> None:
    os.environ[walker.PACE] = "0.02"
    folder = tmp_path_factory.mktemp("login")
    folder.chmod(0o755)
    python = folder / "python"
    exported = {name: os.environ[name] for name in ("SLURM_CONF", "PYTHONPATH", walker.PACE)}
    lines = "".join(f"{name}={value}; export {name}\n" for name, value in exported.items())
    python.write_text(f'#!/bin/sh\n{lines}exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with sshd.lab(folder / "lab", "login"):
        (place / "hosts.toml").write_text(
            f'[hosts.cluster]\nbackend = "slurm"\nssh = "login"\npython = "{python}"\npartitions = ["main"]\n'
        )
        controller = workbench.start("run", "--grid", grid_file(place, 3), "--host", "cluster", workspace=place)
        told = wait_for(lambda: list(place.glob("runs/*/a1/remote.json")), "the controller knows that runs go on")
        wait_for(lambda: rundir.last_metric(told[0].parent), "metrics come back while it runs")
        task = json.loads(told[0].read_text())["claim"]["job"]
        node.run("scontrol", "requeue", str(task))
        assert controller.wait(timeout=120) == 0
        fleet.of(settings.workspace(place)).close()
    assert_every_run_ended_as_undisturbed(place)
    tries = {run_id: len(rundir.attempts(place / "runs" / run_id)) for run_id in run_ids(place)}
    assert tries[told[0].parent.parent.name] == 2 and sum(tries.values()) == 4
    assert workbench.records(place)[told[0].parent.parent.name]["resumed_from_step"] > 0


@pytest.mark.skipif(not TIME_LIMIT, reason="takes two minutes: make faults")
def test_a_run_that_reaches_its_time_limit_saves_its_state_and_goes_on_in_another_turn(
    place: Path, node: SlurmNode
) -> None:
    os.environ[walker.PACE] = "0.4"  # 133 s a run, a limit of 60 s
    (place / "hosts.toml").write_text('[hosts.cluster]\nbackend = "slurm"\npartitions = ["short"]\ntime = "1"\n')
    with no_overlaps(place):
        optsweep("run", "--grid", grid_file(place, 2), "--host", "cluster", workspace=place, timeout=900)
    assert_every_run_ended_as_undisturbed(place)
    assert all(len(attempts_of(place, run_id)) >= 2 for run_id in run_ids(place))
