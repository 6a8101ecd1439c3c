"""Managed jobs with the cloud faked: `sky` is a program that really starts tasks here, the bucket a folder; every run trains."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import flow, rundir, settings
from optsweep_tui.cli import progress
from optsweep_tui.dispatch import fleet, pump, sky_handover, sky_host, sky_pump
from tests import fake_sky, walker
from tests.e2e import workbench

pytestmark = pytest.mark.slow
STEPS = 83
RATIO = 0.005


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with walker.installed(tmp_path_factory.mktemp("engine")):
        yield


@pytest.fixture
def cloud(tmp_path: Path, engine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_sky.Cloud]:
    """A cloud that is asked often."""
    monkeypatch.setattr(sky_host, "ASK_SECONDS", 0.4)
    monkeypatch.setattr(sky_host, "SOON_SECONDS", 0.4)
    monkeypatch.setattr(sky_host, "REFUSED_SECONDS", 1.0)
    monkeypatch.setattr(sky_host, "NEAR_SECONDS", 0.1)
    monkeypatch.setattr(sky_pump, "STILL_SECONDS", 2.0)
    monkeypatch.setattr(pump, "BACKOFF_SECONDS", (0.3,))
    with fake_sky.installed(tmp_path / "cloud") as made:
        yield made


@pytest.fixture
def place(tmp_path: Path, cloud: fake_sky.Cloud) -> Iterator[Path]:
    """A workspace with the cloud in its hosts.toml."""
    workspace = tmp_path / "work"
    workspace.mkdir()
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    python = os.path.abspath(sys.executable)
    (workspace / "hosts.toml").write_text(
        f'[hosts.cloud]\nbackend = "skypilot"\nstorage = "file://{bucket}"\naccelerators = "H100:1"\n'
        f'use_spot = true\npython = "{python}"\ndevice = "cpu"\n'
    )
    (workspace / "optsweep.toml").write_text("checkpoint_seconds = 0.2\npoll_seconds = 0.1\n")
    try:
        yield workspace
    finally:
        fleet.of(settings.workspace(workspace)).close()


def launched(workspace: Path, folder: Path, seeds: int) -> list[str]:
    place = settings.workspace(workspace)
    grid = str(workbench.grid_file(folder, str(RATIO), seeds, name="walks", engine="walker", optimizers=["adamw"]))
    return flow.launch(place, flow.plan(place, flow.Request(grid=grid), prepare=True), hosts=("cloud",))


def driven(workspace: Path, run_ids: list[str], seconds: float = 120.0) -> None:
    """Look on until all are over."""
    limit = time.monotonic() + seconds
    for look in flow.drive(settings.workspace(workspace), run_ids):
        assert time.monotonic() < limit, [(line.run_id[:8], line.state, line.attempt) for line in look.lines]


def wait_for(what: Callable[[], Any], why: str, seconds: float = 60.0) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        answer = what()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{why}: not within {seconds:g} s")


def assert_done(workspace: Path, run_ids: list[str]) -> None:
    """Every run ended as it would have undisturbed, and the store holds each step once."""
    for run_id in run_ids:
        state = rundir.state_of(workspace / "runs" / run_id)
        assert state.state == "done" and state.record is not None, (run_id, state)
        seed = int(json.loads((workspace / "runs" / run_id / "spec.json").read_text())["seed"])
        assert state.record.parameters_sha256 == walker.final_hash(seed, STEPS)
    place = settings.workspace(workspace)
    flow.collect(place)
    rows = flow.sql(place, "select run_id, step, count(*) as n from v_metric where key = 'train_loss' group by all")
    assert set(rows["n"]) == {1} and len(rows) == STEPS * len(run_ids)


def test_runs_train_as_managed_jobs_and_come_back_whole(place: Path, cloud: fake_sky.Cloud, tmp_path: Path) -> None:
    run_ids = launched(place, tmp_path, 3)
    driven(place, run_ids)
    assert_done(place, run_ids)
    names = [job["name"] for job in cloud.jobs().values()]
    assert sorted(names) == sorted(f"os-{run_id}-a1" for run_id in run_ids), "a job per run, each once"


def test_a_machine_that_says_it_goes_saves_first_and_its_run_waits_for_the_recovered_job(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    os.environ[walker.PACE] = "0.05"
    (run_id,) = launched(place, tmp_path, 1)
    wait_for(lambda: list((tmp_path / "bucket" / "runs").glob("*/a1/metrics*")), "it trains")
    taken = threading.Thread(target=cloud.preempt, args=(1,), kwargs={"notice": 2.0, "away": 2.0}, daemon=True)
    taken.start()
    ended = place / "runs" / run_id / "a1" / "exit.json"
    wait_for(ended.exists, "the end of the first attempt is here")
    os.environ[walker.PACE] = "0"
    driven(place, [run_id])
    taken.join()
    assert_done(place, [run_id])
    assert json.loads(ended.read_text())["reason"] == "preempted"
    record = rundir.state_of(place / "runs" / run_id).record
    assert record is not None and record.attempt == 2 and record.resumed_from_step > 0
    assert len(cloud.jobs()) == 1, "no second machine was rented for a run that another one goes on with"


def test_an_answer_that_is_lost_is_asked_for_by_name(place: Path, cloud: fake_sky.Cloud, tmp_path: Path) -> None:
    cloud.answer("launch", "lost", "requests.exceptions.ConnectionError: connection aborted")
    run_ids = launched(place, tmp_path, 2)
    driven(place, run_ids)
    assert_done(place, run_ids)
    assert len(cloud.jobs()) == 2 and cloud.calls("launch") == 2, "each was submitted once"


def test_a_submission_that_was_not_taken_stays_submitting_and_is_made_again_when_that_is_sure(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud.answer("launch", "away", "requests.exceptions.ConnectionError: connection refused")
    (run_id,) = launched(place, tmp_path, 1)
    wait_for(lambda: cloud.calls("launch") and cloud.calls("queue") >= 3, "it is asked for")
    asked = cloud.calls("queue")
    wait_for(lambda: cloud.calls("queue") >= asked + 3, "it is asked for again")
    assert rundir.state_of(place / "runs" / run_id).state == "submitting"
    assert cloud.calls("launch") == 1
    cloud.answer("launch", "")
    monkeypatch.setattr(sky_handover, "SURE_SECONDS", 0.5)
    driven(place, [run_id])
    assert_done(place, [run_id])
    assert len(cloud.jobs()) == 1


def test_two_jobs_of_one_attempt_train_it_once(place: Path, cloud: fake_sky.Cloud, tmp_path: Path) -> None:
    os.environ[walker.PACE] = "0.01"
    (run_id,) = launched(place, tmp_path, 1)
    wait_for(cloud.jobs, "the first is submitted")
    task = tmp_path / "again.yaml"
    import yaml

    task.write_text(yaml.safe_dump(cloud.jobs()[1]["task"]))
    again = ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", cloud.jobs()[1]["name"], str(task)]
    subprocess.run(again, check=True, capture_output=True)
    driven(place, [run_id])
    assert_done(place, [run_id])
    assert len(cloud.jobs()) == 2
    wait_for(lambda: {job["status"] for job in cloud.jobs().values()} == {"SUCCEEDED"}, "both have left")
    assert rundir.state_of(place / "runs" / run_id).attempt == 1


def test_cancel_ends_what_trains_and_what_waits_and_retry_begins_anew(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    os.environ[walker.PACE] = "0.2"
    hosts = place / "hosts.toml"
    hosts.write_text(hosts.read_text() + "max_submitted = 1\n")
    run_ids = launched(place, tmp_path, 2)
    wait_for(lambda: list((tmp_path / "bucket" / "runs").glob("*/a1/metrics*")), "one trains")
    flow.cancel(settings.workspace(place), run_ids)
    driven(place, run_ids)
    assert [rundir.state_of(place / "runs" / run_id).state for run_id in run_ids] == ["cancelled", "cancelled"]
    assert len(cloud.jobs()) == 1, "what waited was never submitted"
    wait_for(
        lambda: {job["status"] for job in cloud.jobs().values()} <= {"SUCCEEDED", "CANCELLED"}, "no machine is left"
    )
    os.environ[walker.PACE] = "0"
    assert sorted(flow.retry(settings.workspace(place), run_ids)) == sorted(run_ids)
    driven(place, run_ids)
    assert_done(place, run_ids)


def test_a_job_that_waits_for_a_machine_is_cancelled_in_the_queue(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    cloud.answer("start", "held")
    run_ids = launched(place, tmp_path, 1)
    wait_for(lambda: rundir.state_of(place / "runs" / run_ids[0]).state == "queued", "it waits")
    flow.cancel(settings.workspace(place), run_ids)
    driven(place, run_ids)
    assert rundir.state_of(place / "runs" / run_ids[0]).state == "cancelled"
    assert [job["status"] for job in cloud.jobs().values()] == ["CANCELLED"] and cloud.calls("cancel") == 1


def test_jobs_that_end_before_their_run_begins_end_the_attempts_with_what_sky_says(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "setup.sh").write_text("exit 7\n")
    hosts = place / "hosts.toml"
    hosts.write_text(f'{hosts.read_text()}setup = "{tmp_path}/setup.sh"\n')
    monkeypatch.setattr(sky_host, "REFUSED_SECONDS", 60.0)
    run_id, *_ = launched(place, tmp_path, 5)
    ended = place / "runs" / run_id / "a1" / "exit.json"
    wait_for(ended.exists, "it ends")
    said = json.loads(ended.read_text())
    assert said["error"].endswith("was failed_setup (the setup script ended with 7) before the run began")
    assert said["reason"] == "lost" and json.loads(
        (tmp_path / "bucket" / "runs" / run_id / "a1" / "exit.json").read_text()
    ), "no task that comes late begins it"
    member = fleet.of(settings.workspace(place))._member("cloud")
    wait_for(lambda: "3 jobs in a row ended before their run began" in member.link.error, "no more machines are rented")
    assert member.link.state == "refused" and not member.usable
    submitted = len(cloud.jobs())
    time.sleep(1.5)
    assert len(cloud.jobs()) == submitted


def test_what_a_node_refuses_is_told_at_once_and_brought_anew_for_the_next_attempt(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sky_pump, "STILL_SECONDS", 1000.0)
    cloud.answer("start", "held")
    (run_id,) = launched(place, tmp_path, 1)
    wait_for(lambda: rundir.state_of(place / "runs" / run_id).state == "queued", "it waits")
    there = tmp_path / "bucket" / "runs" / run_id / "spec.json"
    there.write_text(json.dumps(json.loads(there.read_text()) | {"seed": 99}))
    cloud.answer("start", "")
    cloud.start(1)
    driven(place, [run_id])
    assert_done(place, [run_id])
    first = json.loads((place / "runs" / run_id / "a1" / "exit.json").read_text())
    assert first["reason"] == "failed" and "did not begin it: the spec in the storage is that of run" in first["error"]
    assert [job["name"] for job in cloud.jobs().values()] == [f"os-{run_id}-a1", f"os-{run_id}-a2"]


def test_a_job_that_is_given_up_is_followed_by_another_when_its_lease_has_stood_still(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    os.environ[walker.PACE] = "0.05"
    (run_id,) = launched(place, tmp_path, 1)
    wait_for(lambda: list((tmp_path / "bucket" / "runs").glob("*/a1/ckpt/[!.]*")), "a checkpoint is carried")
    os.environ[walker.PACE] = "0"
    cloud.destroy(1)
    driven(place, [run_id])
    assert_done(place, [run_id])
    record = rundir.state_of(place / "runs" / run_id).record
    assert record is not None and record.attempt == 2 and record.resumed_from_step > 0
    assert [job["name"] for job in cloud.jobs().values()] == [f"os-{run_id}-a1", f"os-{run_id}-a2"]
    first = json.loads((place / "runs" / run_id / "a1" / "exit.json").read_text())
    assert "managed job 1 was failed (the machine is gone)" in first["error"]


def test_a_controller_that_died_before_the_answer_asks_by_name_and_submits_nothing_twice(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    cloud.answer("launch", "lost", "interrupted")
    cloud.answer("queue", "away", "requests.exceptions.ConnectionError: connection refused")
    os.environ[walker.PACE] = "0.02"
    (run_id,) = launched(place, tmp_path, 1)
    wait_for(lambda: cloud.jobs(), "it is submitted")
    fleet.of(settings.workspace(place)).close()
    fleet._fleets.clear()  # as a new process begins
    cloud.answer("queue", "")
    driven(place, [run_id])
    assert_done(place, [run_id])
    assert len(cloud.jobs()) == 1 and cloud.calls("launch") == 1


def test_of_many_submissions_a_kill_makes_only_those_wait_that_had_begun(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = workbench.grid_file(
        tmp_path, str(RATIO), sky_host.WORKERS + 3, name="walks", engine="walker", optimizers=["adamw"]
    )
    cloud.answer("launch", "slow", "6")
    controller = workbench.start("run", "--grid", str(grid), "--host", "cloud", workspace=place)
    begun = tmp_path / "cloud" / "slow"
    try:
        wait_for(
            lambda: begun.is_dir() and len(list(begun.iterdir())) == sky_host.WORKERS, "sky has begun as many as it may"
        )
    finally:
        controller.kill()
        controller.wait()
    killed = min(begun.iterdir())
    os.kill(int(killed.read_text()), signal.SIGKILL)
    cloud.answer("launch", "")
    run_ids = rundir.run_ids(place / "runs")
    (waits,) = [run_id for run_id in run_ids if f"os-{run_id}-a1" == killed.name]
    others = [run_id for run_id in run_ids if run_id != waits]
    looks = []
    for look in flow.drive(settings.workspace(place), others):
        looks.append(progress.summary(look))
        assert len(looks) < 600, "those that had not begun are submitted at once"
    words = f"not known whether managed job {killed.name} was submitted: asked again until "
    assert cloud.calls("launch") == len(run_ids), "none twice"
    assert rundir.state_of(place / "runs" / waits).state == "submitting", "a call that had begun is waited for"
    assert any(words in look for look in looks)
    assert words in workbench.optsweep("show", waits, workspace=place).stdout
    monkeypatch.setattr(sky_handover, "SURE_SECONDS", 0.5)
    driven(place, run_ids)
    assert_done(place, run_ids)
    assert sorted(job["name"] for job in cloud.jobs().values()) == sorted(f"os-{run_id}-a1" for run_id in run_ids)
    assert words not in workbench.optsweep("show", waits, workspace=place).stdout


def test_storage_that_is_away_changes_no_state_and_what_was_written_meanwhile_comes(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    os.environ[walker.PACE] = "0.05"
    (run_id,) = launched(place, tmp_path, 1)
    run = place / "runs" / run_id
    wait_for(lambda: (run / "a1" / "metrics.jsonl").exists(), "it trains")
    bucket = tmp_path / "bucket"
    bucket.rename(tmp_path / "elsewhere")
    try:
        member = fleet.of(settings.workspace(place))._member("cloud")
        wait_for(lambda: member.link.state == "unreachable", "it is noticed")
        assert "has not the files that it had" in member.link.error
        time.sleep(1.0)
        assert rundir.state_of(run).state == "running" and len(cloud.jobs()) == 1
    finally:
        shutil.copytree(tmp_path / "elsewhere", bucket, dirs_exist_ok=True)
    driven(place, [run_id])
    assert_done(place, [run_id])


def test_a_node_is_prepared_by_the_setup_script_and_given_the_secrets_by_reference(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    setup, secrets = tmp_path / "setup.sh", tmp_path / "secrets"
    setup.write_text(f'mkdir -p ~/venv\nln -s "{sys.executable}" ~/venv/py\ntest "$TOKEN" = "a b\'c"\n')
    secrets.write_text("TOKEN=a b'c\n")
    secrets.chmod(0o600)
    hosts = place / "hosts.toml"
    text = "".join(line for line in hosts.read_text().splitlines(keepends=True) if not line.startswith("python"))
    hosts.write_text(f'{text}python = "~/venv/py"\nsetup = "{setup}"\nenv_file = "{secrets}"\n')
    run_ids = launched(place, tmp_path, 1)
    driven(place, run_ids)
    assert_done(place, run_ids)
    everything = [path for root in (place, tmp_path / "bucket") for path in root.rglob("*") if path.is_file()]
    assert not [path for path in everything if b"a b'c" in path.read_bytes() and not path.name.endswith(".sh")]


REFUSED = (
    "sky.exceptions.ResourcesUnavailableError: \x1b[31mCatalog\x07 does not contain any instances of H1000:1.\x1b[0m"
)


def test_a_machine_that_no_cloud_has_is_refused_before_anything_is_planted(place: Path, cloud: fake_sky.Cloud) -> None:
    cloud.answer("dryrun", "refused", REFUSED)
    grid = str(workbench.grid_file(place, str(RATIO), 1, name="walks", engine="walker", optimizers=["adamw"]))
    said = workbench.optsweep("run", "--grid", grid, "--host", "cloud", workspace=place, check=False)
    assert said.returncode == 2 and said.stderr.count("\n") == 1 and "\x1b" not in said.stderr + said.stdout
    assert "host cloud: sky says: Catalog does not contain any instances of H1000:1." in said.stderr
    assert "sky show-gpus -a lists" in said.stderr
    assert rundir.run_ids(place / "runs") == [] and cloud.calls("launch") == 0


def test_wrong_credentials_at_the_submission_are_passed_on_and_nothing_is_lost(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    cloud.answer("launch", "refused", "sky.exceptions.NoCloudAccessError: credentials of AWS\x1b[5m have expired")
    (run_id,) = launched(place, tmp_path, 1)
    member = fleet.of(settings.workspace(place))._member("cloud")
    wait_for(lambda: "credentials of AWS have expired" in member.link.error, "the words of sky are passed on")
    assert member.link.state == "refused" and "sky check" in member.link.error
    cloud.answer("launch", "")
    driven(place, [run_id])
    assert_done(place, [run_id])
    assert len(cloud.jobs()) == 1


def test_without_sky_run_ends_with_2_and_hosts_check_says_what_to_do(
    place: Path, cloud: fake_sky.Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = str(workbench.grid_file(place, str(RATIO), 1, name="walks", engine="walker", optimizers=["adamw"]))
    found = json.loads(workbench.optsweep("hosts", "check", "cloud", "--json", workspace=place, check=False).stdout)
    assert [row["state"] for row in found if row["check"] in ("sky", "storage", "machine")] == ["note", "ok", "ok"]
    (cloud.root / "bin" / "sky").unlink()
    said = workbench.optsweep("run", "--grid", grid, "--host", "cloud", workspace=place, check=False)
    assert said.returncode == 2 and said.stderr.count("\n") == 1 and "host cloud: sky is not installed." in said.stderr
    assert "uv tool install 'skypilot" in said.stderr and rundir.run_ids(place / "runs") == []
    check = workbench.optsweep("hosts", "check", "cloud", workspace=place, check=False)
    assert check.returncode == 1 and "sky is not installed" in check.stdout and "uv tool install" in check.stdout


def test_a_dry_run_shows_the_task_and_writes_nothing(place: Path, cloud: fake_sky.Cloud) -> None:
    grid = str(workbench.grid_file(place, str(RATIO), 2, name="walks", engine="walker", optimizers=["adamw"]))
    said = workbench.optsweep("run", "--grid", grid, "--host", "cloud", "--dry-run", workspace=place)
    data = json.loads(
        workbench.optsweep("run", "--grid", grid, "--host", "cloud", "--dry-run", "--json", workspace=place).stdout
    )
    first = data["runs"][0]["run_id"]
    assert data["tasks"]["cloud"] in said.stdout and f"name: os-{first}-a1\n" in data["tasks"]["cloud"]
    assert "accelerators: H100:1" in said.stdout and "mode: MOUNT" in said.stdout
    assert not (place / "runs").exists() and not list((place.parent / "bucket").iterdir())


def test_secrets_that_could_not_be_handed_over_are_told_by_the_dry_run_as_by_the_launch(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    grid = str(workbench.grid_file(place, str(RATIO), 1, name="walks", engine="walker", optimizers=["adamw"]))
    secrets, hosts = tmp_path / "secrets", place / "hosts.toml"
    hosts.write_text(f'{hosts.read_text()}env_file = "{secrets}"\n')
    for words in ("No such file", "can be read by others", "line 1 is not NAME=VALUE"):
        said = [
            workbench.optsweep("run", "--grid", grid, "--host", "cloud", *more, workspace=place, check=False)
            for more in (["--dry-run"], ["--dry-run", "--json"], [])
        ]
        assert {(each.returncode, each.stdout, each.stderr.count("\n")) for each in said} == {(2, "", 1)}, said
        assert all(f"hosts.cloud.env_file: {secrets}: " in each.stderr and words in each.stderr for each in said)
        secrets.write_text("no sign of equality\n")
        secrets.chmod(0o644 if words.startswith("No") else 0o600)
    secrets.write_text("TOKEN=1\n")
    assert (
        "name: os-" in workbench.optsweep("run", "--grid", grid, "--host", "cloud", "--dry-run", workspace=place).stdout
    )


def test_what_a_bucket_keeps_of_done_runs_is_cleared_away_on_demand(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    os.environ[walker.PACE] = "0.03"
    run_ids = launched(place, tmp_path, 1)
    driven(place, run_ids)
    checkpoints = list((tmp_path / "bucket" / "runs").glob("*/a1/ckpt/*"))
    assert checkpoints, "one was carried while it trained"
    removed = fleet.of(settings.workspace(place)).drop_checkpoints()
    assert removed["cloud"][0] == len(checkpoints) and not list((tmp_path / "bucket").rglob("ckpt/*"))


def test_a_torch_run_whose_machine_is_taken_away_ends_with_the_parameters_of_an_undisturbed_one(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    grid = str(workbench.grid_file(tmp_path, "0.02", 1, name="real", engine="torch", optimizers=["adamw"]))
    here = settings.workspace(place)
    (run_id,) = flow.launch(here, flow.plan(here, flow.Request(grid=grid), prepare=True), hosts=("cloud",))
    wait_for(lambda: list((tmp_path / "bucket" / "runs").glob("*/a1/ckpt/[!.]*")), "a checkpoint is carried", 60.0)
    cloud.preempt(1)
    assert not (cloud.root / "nodes" / "1.0").exists(), "nothing of the first machine is left"
    driven(place, [run_id], 120.0)
    record = rundir.state_of(place / "runs" / run_id).record
    assert record is not None and record.status == "done" and record.attempt == 2 and record.resumed_from_step > 0
    first = json.loads((place / "runs" / run_id / "a1" / "exit.json").read_text())
    assert first["reason"] == "lost" and "gone without a word" in first["error"]
    assert len(cloud.jobs()) == 1, "the job was recovered, not submitted again"
    undisturbed = tmp_path / "undisturbed"
    workbench.optsweep("run", "--grid", grid, workspace=undisturbed)
    straight = rundir.state_of(undisturbed / "runs" / run_id).record
    assert straight is not None and record.parameters_sha256 == straight.parameters_sha256


def test_two_controllers_with_one_bucket_train_each_run_once_and_both_have_it(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    os.environ[walker.PACE] = "0.01"
    other = tmp_path / "other"
    other.mkdir()
    for name in ("hosts.toml", "optsweep.toml"):
        shutil.copy(place / name, other / name)
    try:
        run_ids = launched(place, tmp_path, 2)
        assert launched(other, tmp_path, 2) == run_ids
        for workspace in (place, other):
            driven(workspace, run_ids)
            assert_done(workspace, run_ids)
    finally:
        fleet.of(settings.workspace(other)).close()
    for run_id in run_ids:
        assert [path.name for path in (tmp_path / "bucket" / "runs" / run_id).glob("a*")] == ["a1"]


def test_an_engine_that_dies_is_tried_again_by_the_rules_and_not_for_ever(
    place: Path, cloud: fake_sky.Cloud, tmp_path: Path
) -> None:
    os.environ[walker.PACE] = "0.05"
    (run_id,) = launched(place, tmp_path, 1)
    lease = wait_for(
        lambda: next((cloud.root / "nodes").glob(f"*/.optsweep-node/runs/{run_id}/a1/lease"), None), "it runs"
    )
    wait_for(lambda: list((tmp_path / "bucket" / "runs").glob("*/a1/ckpt/[!.]*")), "a checkpoint is carried")
    os.environ[walker.PACE] = "0"
    os.kill(int(json.loads(lease.read_text())["engine_pid"]), signal.SIGKILL)
    driven(place, [run_id])
    assert_done(place, [run_id])
    first = json.loads((place / "runs" / run_id / "a1" / "exit.json").read_text())
    assert first["reason"] == "died" and len(cloud.jobs()) == 2
    record = rundir.state_of(place / "runs" / run_id).record
    assert record is not None and record.attempt == 2 and record.resumed_from_step > 0
