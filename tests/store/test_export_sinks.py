"""Live sinks: every step once, whatever is killed, torn, retried or copied by two at a time; trouble ends a sink, not a run."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import imports, rundir, settings
from optsweep_tui.errors import OptsweepError
from optsweep_tui.exporters import follow, sinks
from optsweep_tui.importers import protocol
from optsweep_tui.importers.protocol import Found
from optsweep_tui.settings import Workspace
from tests.store import run_folders
from tests.store.run_folders import make_spec

KINDS = ("tensorboard", "wandb")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return settings.workspace(tmp_path / "work").ensure()


def started(place: Workspace, **changes: Any) -> tuple[Path, Path]:
    """(run folder, its first attempt) of a run that has a claim."""
    (folder,) = run_folders.plant(place.runs, make_spec(**changes), study="grid")
    attempt = run_folders.attempt_folder(folder)
    claim = {"pid": 1, "start": 1, "boot_id": "x", "host": "x", "token": "x", "claimed_at": 1.7e9}
    (attempt / rundir.CLAIM).write_text(json.dumps(claim))
    return folder, attempt


def followed(place: Workspace, root: Path, kind: str, looks: int = 2, said: list[str] | None = None) -> None:
    """A process that copies for some looks and is then gone."""
    lines: list[str] = []
    follower = follow.Follower(place.runs, [(kind, root)], lines.append)
    follower.watch(rundir.run_ids(place.runs))
    for _ in range(looks):
        follower.look()
    for sink in follower._sinks:
        sink.close()
    if said is None:
        assert lines == []
    else:
        said += lines


def read(kind: str, root: Path) -> Found:
    return protocol.load_importer(kind).read(protocol.Request(path=root))


def curve(found: Found) -> list[tuple[int, float | None]]:
    (run,) = found.runs
    steps = [row["step"] for row in run.metrics]
    assert steps == sorted(set(steps))
    return [(row["step"], row.get("train_loss")) for row in run.metrics]


def written_steps(kind: str, root: Path) -> list[int]:
    """Every step as often as it stands in the files."""
    from optsweep_tui.formats import tfevents, tfrecord, wandblog

    steps = []
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        with open(path, "rb") as handle:
            if kind == "tensorboard" and tfevents.NAME in path.name:
                events = [tfevents.parse(record.data) for record in tfrecord.records(handle) if record.problem is None]
                steps += [event.step for event in events if event.scalars]
            elif kind == "wandb" and path.suffix == ".wandb":
                handle.read(7)
                parts = [
                    wandblog.parts_of(record.data) for record in wandblog.records(handle) if record.problem is None
                ]
                steps += [
                    int(dict(wandblog.items(message))["_step",])
                    for number, message in parts
                    if number == wandblog.HISTORY
                ]
    return steps


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_is_copied_as_it_grows(kind: str, place: Workspace, tmp_path: Path) -> None:
    root = tmp_path / kind
    folder, attempt = started(place)
    for first in range(1, 40, 3):
        run_folders.append(attempt, run_folders.lines(range(first, first + 3)))
        followed(place, root, kind)
    assert curve(read(kind, root)) == [(step, pytest.approx(10 / step, rel=1e-6)) for step in range(1, 40)]
    assert read(kind, root).runs[0].outcome.state == "failed", "it still goes on"
    run_folders.append(attempt, run_folders.line(192, val_loss=2.5))
    run_folders.finish(folder)
    followed(place, root, kind)
    (run,) = read(kind, root).runs
    assert (run.outcome.state, run.outcome.loss, run.spec.optimizer) == ("done", 2.5, "adamw")
    assert run.spec.hyperparameters == {"lr": 0.003, "weight_decay": 0.1, "beta1": 0.9}
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    followed(place, root, kind)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before, "over is over"


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_byte_every_step_is_there_once(kind: str, place: Workspace, tmp_path: Path) -> None:
    rng = random.Random(3)
    root = tmp_path / kind
    folder, attempt = started(place)
    for turn in range(25):
        run_folders.append(attempt, run_folders.lines(range(1 + 8 * turn, 9 + 8 * turn)))
        followed(place, root, kind, looks=rng.choice([1, 2]))
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != follow.LOCK)
        newest = files[-1]
        size = newest.stat().st_size
        with open(newest, "r+b") as handle:  # what a kill in the middle of a write leaves
            handle.truncate(max(0, size - rng.choice([0, 0, 1, 5, 40, 200])))
    run_folders.finish(folder)
    followed(place, root, kind)
    steps = written_steps(kind, root)
    assert steps == sorted(set(steps)) and set(steps) == set(range(1, 201))


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_attempt_repeats_no_step_and_a_retry_goes_on(kind: str, place: Workspace, tmp_path: Path) -> None:
    root = tmp_path / kind
    folder, attempt = started(place)
    run_folders.append(attempt, run_folders.lines(range(1, 11)))
    run_folders.finish(folder, status="failed", val_loss=None, error="boom")
    followed(place, root, kind)
    assert read(kind, root).runs[0].outcome.state == "failed"
    second = run_folders.attempt_folder(folder, 2)
    (second / rundir.CLAIM).write_text((attempt / rundir.CLAIM).read_text())
    run_folders.append(second, run_folders.lines(range(6, 16)) + run_folders.line(16, val_loss=2.5))
    run_folders.finish(folder, 2, steps=16)
    followed(place, root, kind)
    assert written_steps(kind, root) == list(range(1, 17))
    (run,) = read(kind, root).runs
    assert [row["step"] for row in run.metrics] == list(range(1, 17))


def test_two_lines_of_one_step_are_one_step(place: Workspace, tmp_path: Path) -> None:
    folder, attempt = started(place)
    tail = follow.Tail(folder)
    run_folders.append(attempt, run_folders.line(1) + '{"step": 2, "train_loss": 3.0}\n{"torn')
    assert [row["step"] for row in tail.read()] == [1]
    run_folders.append(attempt, '": 1}\n{"step": 2, "val_loss": 2.0}\n[1]\nnull\n{"step": -1}\n{"step": true}\n')
    assert tail.read() == []
    assert tail.read() == [{"step": 2, "train_loss": 3.0, "val_loss": 2.0}]
    assert tail.read() == []


def test_two_at_once_are_one(place: Workspace, tmp_path: Path) -> None:
    _, attempt = started(place)
    run_folders.append(attempt, run_folders.lines(range(1, 10)))
    said: list[str] = []
    first, second = (follow.Follower(place.runs, [("tensorboard", tmp_path / "tb")], said.append) for _ in range(2))
    for follower in (first, second, first, second):
        follower.watch(rundir.run_ids(place.runs))
        follower.look()
    assert written_steps("tensorboard", tmp_path / "tb") == list(range(1, 10))
    assert len(said) == 1 and "another optsweep" in said[0]
    first._sinks[0].close()
    run_folders.append(attempt, run_folders.lines(range(10, 12)))
    second.look()
    second.look()
    assert written_steps("tensorboard", tmp_path / "tb") == list(range(1, 12))


def test_trouble_with_a_sink_is_one_line_and_the_other_sink_goes_on(place: Workspace, tmp_path: Path) -> None:
    _, attempt = started(place)
    run_folders.append(attempt, run_folders.lines(range(1, 10)))
    (tmp_path / "file").write_text("")
    said: list[str] = []
    targets = [("wandb", tmp_path / "file"), ("tensorboard", Path("/proc/nowhere")), ("tensorboard", tmp_path / "tb")]
    follower = follow.Follower(place.runs, targets, said.append)
    follower.watch([*rundir.run_ids(place.runs), "f" * 32])
    follower.look()
    follower.look()
    assert len(said) == 2 and all("The runs go on" in line and "\n" not in line for line in said)
    assert written_steps("tensorboard", tmp_path / "tb") == list(range(1, 10))


def test_the_thread_makes_a_last_look_when_it_is_stopped(place: Workspace, tmp_path: Path) -> None:
    folder, attempt = started(place)
    follower = follow.Follower(place.runs, [("wandb", tmp_path / "wandb")], lambda line: None)
    follower.watch([folder.name])
    follower.start()
    run_folders.append(attempt, run_folders.lines(range(1, 6)))
    run_folders.finish(folder)
    began = time.monotonic()
    follower.stop()
    assert time.monotonic() - began < 5 and not follower.is_alive()
    assert written_steps("wandb", tmp_path / "wandb") == [1, 2, 3, 4, 5]


def test_a_run_without_a_beginning_and_an_imported_run_are_not_copied(place: Workspace, tmp_path: Path) -> None:
    run_folders.plant(place.runs, make_spec(seed=5))
    (tmp_path / "x.csv").write_text("optimizer,model,loss\nadamw,130m,3.5\n")
    imports.import_results(place, "csv", path=tmp_path / "x.csv")
    followed(place, tmp_path / "wandb", "wandb")
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == [follow.LOCK]


@pytest.mark.parametrize(
    ("text", "said"), [("tensorbord:x", 'did you mean "tensorboard"'), ("", "is not known"), ("wandb:a\0b", "no path")]
)
def test_a_wrong_sink_is_one_line(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(OptsweepError) as caught:
        sinks.parsed(text, tmp_path)
    assert said in str(caught.value)


def test_sinks_come_from_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "optsweep.toml").write_text('sinks = ["tensorboard", "wandb:elsewhere"]\n')
    place = settings.workspace(tmp_path)
    assert [sinks.parsed(text, place.root) for text in place.sinks] == [
        ("tensorboard", tmp_path / "tensorboard"), ("wandb", tmp_path / "elsewhere"),
    ]  # fmt: skip
    (tmp_path / "optsweep.toml").write_text('sinks = "tensorboard"\n')
    with pytest.raises(OptsweepError, match="not a list of texts"):
        settings.workspace(tmp_path)
