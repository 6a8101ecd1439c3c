"""Runs that begin with the state of another: a branch ends at the bits of the whole run, killed or not; weights come exactly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from optsweep_engines import folder, kept, schedules
from optsweep_engines.data import PreparedDataset
from optsweep_engines.engine import Preempted, Superseded, load_engine
from optsweep_engines.history import LossHistory, StepLosses
from optsweep_engines.run import AttemptLog, train_attempt
from optsweep_engines.spec import RunRecord, RunSpec, Start
from tests.numerics.toy import spec


def attempt(
    runs: Path,
    run: RunSpec,
    data_root: Path,
    keep: list[int] | None = None,
    number: int = 1,
    checkpoint_seconds: float = 30.0,
) -> AttemptLog:
    """The log of an attempt, its run folder made."""
    where = runs / run.run_id / f"a{number}"
    where.mkdir(parents=True)
    folder.write_json(
        where / folder.INTENT, {"data_root": str(data_root), "device": "cpu", "checkpoint_seconds": checkpoint_seconds}
    )
    folder.write_json(where.parent / folder.SPEC, run.to_dict())
    if keep is not None:
        folder.write_json(where.parent / folder.KEEP, {"steps": keep})
    return AttemptLog(where)


def trained(runs: Path, run: RunSpec, data_root: Path, keep: list[int] | None = None, number: int = 1) -> RunRecord:
    return load_engine(run.engine).train(run, attempt(runs, run, data_root, keep, number))


def from_kept(runs: Path, trunk: RunSpec, step: int, mode: str) -> Start:
    state = kept.find(runs, trunk.run_id, step)
    return Start(run_id=trunk.run_id, step=step, mode=mode, parameters_sha256=state.parameters_sha256)


def trunk_of(dataset: PreparedDataset, optimizer: str = "adamw", engine: str = "torch") -> RunSpec:
    knobs = {"warmup": 4, "decay": 0.25} if optimizer != "schedule_free_adamw" else {"warmup": 4}
    return spec(dataset, optimizer, knobs=knobs, schedule="wsd", tokens=60 * 64, engine=engine)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "soap", "mars"])
def test_a_branch_ends_at_the_bits_of_the_whole_run(
    optimizer: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    trunk = trunk_of(dataset, optimizer)
    whole = trunk.replace(tokens=32 * 64)
    begin = schedules.decay_start(whole.steps, whole.schedule, whole.hyperparameters)
    assert begin == 24
    trained(tmp_path, trunk, data_root, keep=[begin, 60])
    branch = whole.replace(start=from_kept(tmp_path, trunk, begin, "branch"))
    assert branch.run_id != whole.run_id
    expected, found = trained(tmp_path, whole, data_root), trained(tmp_path, branch, data_root)
    assert found.parameters_sha256 == expected.parameters_sha256
    assert found.val_loss == expected.val_loss
    assert (found.started_from_step, found.steps, found.status) == (24, 32, "done")
    rows = [json.loads(line) for line in (tmp_path / branch.run_id / "a1" / folder.METRICS).read_text().splitlines()]
    straight = [json.loads(line) for line in (tmp_path / whole.run_id / "a1" / folder.METRICS).read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(25, 33))
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in straight[24:]]
    assert kept.find(tmp_path, trunk.run_id, 60).parameters_sha256 == _record_hash(tmp_path, trunk, data_root)


def _record_hash(runs: Path, trunk: RunSpec, data_root: Path) -> str | None:
    return trained(runs / "again", trunk, data_root).parameters_sha256


def test_a_branch_that_was_stopped_goes_on_from_its_own_checkpoint_to_the_same_bits(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    trunk = trunk_of(dataset)
    whole = trunk.replace(tokens=32 * 64)
    trained(tmp_path, trunk, data_root, keep=[24])
    branch = whole.replace(start=from_kept(tmp_path, trunk, 24, "branch"))
    log = attempt(tmp_path, branch, data_root)
    turns = iter(range(100))
    log.stop_requested = lambda: "preempted" if next(turns) == 4 else None  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        load_engine("torch").train(branch, log)
    again = trained(tmp_path, branch, data_root, number=2)
    assert (again.resumed_from_step, again.started_from_step) == (28, 24)
    assert again.parameters_sha256 == trained(tmp_path, whole, data_root).parameters_sha256


def test_a_state_asked_for_later_is_made_by_a_new_attempt_that_goes_back_before_it(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    trunk = trunk_of(dataset)
    first = trained(tmp_path, trunk, data_root, keep=[10])
    second = trained(tmp_path, trunk, data_root, keep=[10, 24], number=2)
    assert second.resumed_from_step == 10
    assert second.parameters_sha256 == first.parameters_sha256
    assert kept.steps(tmp_path / trunk.run_id) == [10, 24]
    third = trained(tmp_path, trunk, data_root, keep=[5], number=3)
    assert third.resumed_from_step == 0
    assert kept.steps(tmp_path / trunk.run_id) == [5, 10, 24]


@pytest.mark.parametrize("optimizer", ["adamw", "schedule_free_adamw"])
def test_weights_are_those_of_the_record_and_the_rest_is_new(
    optimizer: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    parent = spec(dataset, "adamw" if optimizer == "adamw" else optimizer)
    record = trained(tmp_path, parent, data_root, keep=[40])
    start = from_kept(tmp_path, parent, 40, "weights")
    assert start.parameters_sha256 == record.parameters_sha256
    child = spec(dataset, "muon", seed=3, start=start)
    found = trained(tmp_path, child, data_root)
    assert (found.started_from_step, found.steps, found.tokens) == (0, 40, 40 * 64)
    first = json.loads((tmp_path / child.run_id / "a1" / folder.METRICS).read_text().splitlines()[0])
    assert record.train_loss is not None
    assert abs(first["train_loss"] - record.train_loss) < 0.5  # from scratch it is 3.4
    assert first["train_loss"] < 2.5


def test_a_damaged_missing_or_other_state_is_refused_before_a_step(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    trunk = trunk_of(dataset)
    trained(tmp_path, trunk, data_root, keep=[24])
    start = from_kept(tmp_path, trunk, 24, "branch")
    branch = trunk.replace(tokens=32 * 64, start=start)
    for number, (change, message) in enumerate(
        (
            ({"step": 23}, f"keeps no state of step 23, with which this run begins: optsweep retry {trunk.run_id[:8]} --keep 23"),
            ({"run_id": "0" * 32}, "run 00000000 keeps no state of step 24"),
            ({"parameters_sha256": "0" * 64}, "the spec asks for 000000000000"),
        ),
    ):  # fmt: skip
        run = branch.replace(start=Start(**{**start.__dict__, **change}))
        with pytest.raises(ValueError, match=message):
            trained(tmp_path / str(number) / "..", run, data_root)
    with pytest.raises(ValueError, match="goes on with the engine of its trunk: torch, this run is for jax"):
        kept.start_of(branch.replace(engine="jax"), tmp_path)
    path = kept.find(tmp_path, trunk.run_id, 24).path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="is damaged: its content does not have the hash"):
        trained(tmp_path, branch, data_root)


def test_a_branch_without_steps_is_refused(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    start = Start(run_id="0" * 32, step=40, mode="branch", parameters_sha256="0" * 64)
    with pytest.raises(ValueError, match="a branch from step 40 has none of its 40 steps left"):
        trained(tmp_path, spec(dataset, start=start), data_root)


def test_a_branch_that_is_killed_goes_on_to_the_same_bits(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    trunk = trunk_of(dataset).replace(tokens=800 * 64)
    whole = trunk.replace(tokens=600 * 64)
    begin = schedules.decay_start(600, "wsd", whole.hyperparameters)
    trained(tmp_path, trunk, data_root, keep=[begin])
    branch = whole.replace(start=from_kept(tmp_path, trunk, begin, "branch"))
    attempt(tmp_path, branch, data_root, checkpoint_seconds=0).close()
    where = tmp_path / branch.run_id / "a1"
    command = [sys.executable, "-m", "optsweep_engines.run", str(where)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < limit and not kept.listed(where / folder.CHECKPOINTS):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was killed before its end"
    again = trained(tmp_path, branch, data_root, number=2)
    assert begin < again.resumed_from_step < 600
    assert again.parameters_sha256 == trained(tmp_path, whole, data_root).parameters_sha256


def test_a_branch_is_judged_by_the_losses_that_it_would_have_logged_itself(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    """Trunk: a line each 4 steps, validations each 30. Branch and whole run: each 2 steps, and 90. The trunk is killed once."""
    trunk = trunk_of(dataset).replace(tokens=840 * 64, validation_interval=30)
    whole = trunk.replace(tokens=480 * 64, validation_interval=90)
    assert (trunk.log_interval, whole.log_interval) == (4, 2)
    log = attempt(tmp_path, trunk, data_root, keep=[360])
    turns = iter(range(1000))
    log.stop_requested = lambda: "preempted" if next(turns) == 101 else None  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        load_engine("torch").train(trunk, log)
    trained(tmp_path, trunk, data_root, number=2)
    branch = whole.replace(start=from_kept(tmp_path, trunk, 360, "branch"))

    def seen(run: RunSpec) -> dict[str, object]:
        """The losses that its verdict rests on, as its last state holds them."""
        trained(tmp_path, run, data_root, keep=[480])
        with safe_open(kept.find(tmp_path, run.run_id, 480).path, framework="np") as file:
            return dict(json.loads(file.metadata()["progress"])["history"])

    expected = seen(whole)
    assert expected["least_window_mean"] is not None and expected["least_val_loss"] is not None
    assert seen(branch) == expected


def test_a_verdict_is_of_losses_at_ones_own_steps_only() -> None:
    """Every fourth loss of a trunk is 3, the others are 2: logged each fourth step its windows say 3, each step 2.25."""
    losses = StepLosses()
    for step in range(1, 101):
        losses.train.append(3.0 if step % 4 == 0 else 2.0)
    losses.val = {40: 2.5, 80: 2.0, 100: 2.1}
    coarse = losses.history(lambda step: step % 4 == 0, lambda step: step % 40 == 0)
    fine = losses.history(lambda step: True, lambda step: step % 100 == 0)
    assert coarse.least_window_mean == 3.0 and fine.least_window_mean == pytest.approx(2.2)
    assert (coarse.least_val_loss, coarse.val_loss) == (2.5, 2.0)
    assert (fine.least_val_loss, fine.val_loss) == (None, 2.1)
    again = StepLosses.from_dict(json.loads(json.dumps(losses.to_dict())), 100)
    assert again is not None and (again.train, again.val) == (losses.train, losses.val)
    assert StepLosses.from_dict(losses.to_dict(), 101) is None
    assert StepLosses.from_dict(None, 100) is None
    short = LossHistory(window=[9.0], least_window_mean=2.0)
    assert short.divergence() is None, "a window that is not full is no mean of ten losses"


@pytest.mark.parametrize("when", ["writing", "syncing", "naming", "superseded"])
def test_a_state_that_cannot_be_kept_leaves_nothing(
    when: str, dataset: PreparedDataset, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trunk_of(dataset)
    log = attempt(tmp_path, run, data_root, keep=[10, 20])
    log.save_kept(10, lambda path: path.write_bytes(b"whole"))
    full = OSError(28, "No space left on device")

    def broken(*_: object) -> None:
        raise full

    def write(path: Path) -> None:
        path.write_bytes(b"half")
        if when == "writing":
            raise full

    if when == "syncing":
        monkeypatch.setattr("optsweep_engines.run.os.fsync", broken)
    if when == "naming":
        monkeypatch.setattr("optsweep_engines.run.os.replace", broken)
    if when == "superseded":
        (log.run_folder / "a2").mkdir()
    with pytest.raises(Superseded if when == "superseded" else OSError):
        log.save_kept(20, write)
    assert kept.steps(log.run_folder) == [10] and kept.unmet(log.run_folder) == {20}
    left = [path.name for path in (log.run_folder / folder.KEPT).iterdir() if not path.name.startswith("step-")]
    assert left == [], "half a state would keep a full disk full"


def test_a_new_attempt_tells_of_states_that_a_killed_one_kept_and_did_not_tell_of(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path
) -> None:
    trunk = trunk_of(dataset)
    trained(tmp_path, trunk, data_root, keep=[10, 24])
    (tmp_path / trunk.run_id / "a1" / folder.EVENTS).write_bytes(b"")  # killed between the state's name and its event
    attempt(tmp_path, trunk, data_root, number=2).close()
    assert train_attempt(tmp_path / trunk.run_id / "a2") == 0
    lines = (tmp_path / trunk.run_id / "a2" / folder.EVENTS).read_text().splitlines()
    told = [event for event in map(json.loads, lines) if event["kind"] == "kept"]
    assert {event["step"]: event["parameters_sha256"] for event in told} == {
        step: kept.find(tmp_path, trunk.run_id, step).parameters_sha256 for step in (10, 24)
    }


def test_of_two_files_of_a_step_the_whole_one_counts(dataset: PreparedDataset, data_root: Path, tmp_path: Path) -> None:
    trunk = trunk_of(dataset)
    trained(tmp_path, trunk, data_root, keep=[24])
    found = kept.find(tmp_path, trunk.run_id, 24)
    for digest in ("0" * 16, "f" * 16):
        found.path.with_name(f"step-0000000024-{digest}.safetensors").write_bytes(b"torn")
    assert kept.find(tmp_path, trunk.run_id, 24) == found
    found.path.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        kept.find(tmp_path, trunk.run_id, 24)


def test_a_running_run_sees_what_it_is_asked_for_meanwhile(
    dataset: PreparedDataset, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trunk_of(dataset)
    log = attempt(tmp_path, run, data_root)
    assert log.keeps == set()
    folder.write_json(log.run_folder / folder.KEEP, {"steps": [30]})
    later = time.monotonic() + 5
    monkeypatch.setattr("optsweep_engines.run.time.monotonic", lambda: later)
    assert log.keeps == {30}
    folder.write_json(log.run_folder / folder.KEEP, {"steps": "all", "also": 3})
    assert kept.wanted(log.run_folder) == set()
