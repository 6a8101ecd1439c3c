"""Runs kept by Weights & Biases and by TensorBoard, read from files that those packages wrote (fixtures/make.py)."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from optsweep_tui import ask, flow, imports, rundir, settings
from optsweep_tui.core import Filter
from optsweep_tui.errors import OptsweepError
from optsweep_tui.formats import tfevents, tfrecord, wandblog
from optsweep_tui.importers import curves, logged, plant, protocol
from optsweep_tui.importers.protocol import Found
from optsweep_tui.settings import Workspace
from tests.store.run_folders import sql_rows
from tests.store.test_import_marin import mutated_bytes

FIXTURES = Path(__file__).parent / "fixtures"
FUZZ = -(-int(os.environ.get("OPTSWEEP_FUZZ", "800")) // 16)
"""Mutated files of each format, as in test_import_marin."""


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return settings.workspace(tmp_path / "work")


def read(name: str, path: Path, mapping: str | None = None) -> Found:
    file = None
    if mapping is not None:
        file = path.parent / "mapping.toml"
        file.write_text(mapping)
    return protocol.load_importer(name).read(protocol.Request(path=path, mapping=file))


def reasons(found: Found) -> str:
    return "\n".join(f"{entry.where}: {entry.why}" for entry in found.skipped)


# ---------------------------------------------------------------- Weights & Biases


def test_only_a_run_that_ended_well_at_its_last_step_is_done(place: Workspace) -> None:
    report = imports.import_results(place, "wandb", path=FIXTURES / "wandb")
    assert report.states == {"failed": 2, "done": 1, "nan": 1} and report.studies == {"wandb": 4}
    rows = sql_rows(
        place.store,
        "SELECT source->>'entry', state, loss, optimizer, model, lr, batch_size, tokens, seed, error FROM v_run ORDER BY 1",
    )
    assert [row[:3] for row in rows] == [
        ("broken", "failed", None), ("fine", "done", 3.25), ("nan", "nan", None), ("short", "failed", None),
    ]  # fmt: skip
    assert {row[3:9] for row in rows} == {("muon", "130m", 0.02, 8, 20 * 8 * 64, 1)}
    assert rows[0][9] == "it exited with status 3" and rows[3][9] == "its last validation is at step 9 of 20"
    curve = sql_rows(
        place.store,
        "SELECT key, step, value FROM v_metric JOIN v_run USING (run_id) WHERE source->>'entry' = 'fine' ORDER BY key, step",
    )
    assert [(step, value) for key, step, value in curve if key == "train_loss"] == [
        (step, 5 - step / 8) for step in range(20)
    ]
    assert [(step, value) for key, step, value in curve if key == "val_loss"][:3] == [(4, 5.0), (9, 4.375), (14, 3.75)]
    assert {key for key, _, _ in curve} == {"train_loss", "val_loss", "big", "inner.norm", "wall_seconds", "tokens"}
    again = imports.import_results(place, "wandb", path=FIXTURES / "wandb")
    assert (again.new, again.changed, again.points) == (0, 0, 0)
    table = ask.table(ask.results(place, Filter(study="wandb")))
    assert table["loss"].tolist() == [3.25]


def test_a_mapping_names_metrics_knobs_and_runs() -> None:
    mapping = """
        study = "mine"
        [columns]
        seed = "batch_size"
        [hyperparameters]
        lr = "learning_rate"
        weird = "seed"
        [metrics]
        val_loss = "train/loss"
        norm = "inner.norm"
        [constants]
        dataset = "c4"
        [[runs]]
        match = "*short*"
        steps = 10
        optimizer = "adamw"
        """
    found = read("wandb", FIXTURES / "wandb", mapping)
    runs = {run.entry: run for run in found.runs}
    assert {run.study for run in found.runs} == {"mine"}
    assert runs["fine"].spec.hyperparameters == {"lr": 0.02, "weird": 1} and runs["fine"].spec.seed == 8
    assert runs["fine"].outcome.loss == 2.625 and runs["fine"].spec.dataset == "c4"
    assert runs["short"].outcome.state == "done" and runs["short"].outcome.loss == 5 - 9 / 8
    assert runs["short"].spec.optimizer == "adamw"
    last = runs["fine"].metrics[-1]
    assert last["val_loss"] == 2.625 and last["norm"] == 1.5 and last["val/loss"] == 3.25


def online(folder: Path, *messages: tuple[int, bytes], name: str = "run-20260101_000000-abc", run: str = "abc") -> Path:
    """A run folder with a log of these records."""
    where = folder / name
    where.mkdir(parents=True)
    with open(where / f"run-{run}.wandb", "wb") as handle:
        wandblog.LogWriter(handle).extend(messages)
    return where


def begun(**config: Any) -> tuple[int, bytes]:
    whole = {"optimizer": "adamw", "model": "130m"} | config
    return wandblog.RUN, wandblog.put_run("abc", "p", "name", "g", whole, 1.7e9)


def history(at: int, **values: Any) -> tuple[int, bytes]:
    return wandblog.HISTORY, wandblog.put_history(at, values)


ENDED = (wandblog.EXIT, wandblog.put_exit(0, 1.0))


def test_a_run_without_an_end_is_not_done_however_good_its_last_loss(tmp_path: Path) -> None:
    online(tmp_path, begun(), history(5, val_loss=3.0))
    (run,) = read("wandb", tmp_path).runs
    assert run.outcome.state == "failed" and run.outcome.loss is None and "no end" in str(run.outcome.error)


def test_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    online(tmp_path, begun(steps=9), history(3, train_loss=5.0), history(4, train_loss=4.0))
    online(
        tmp_path, begun(steps=9), history(4, train_loss=4.5), history(9, val_loss=3.0), ENDED, name="run-20260102_0-abc"
    )
    (run,) = read("wandb", tmp_path).runs
    assert run.outcome.state == "done" and run.outcome.loss == 3.0
    assert [(row["step"], row.get("train_loss")) for row in run.metrics] == [(3, 5.0), (4, 4.5), (9, None)]


def test_a_minimum_in_the_summary_is_no_final_loss(tmp_path: Path) -> None:
    lowest = (wandblog.SUMMARY, wandblog.put_items({"val/loss": {"min": 2.0}}))
    online(tmp_path, begun(), history(1, **{"val/loss": 2.0}), history(2, **{"val/loss": 3.0}), lowest, ENDED)
    (run,) = read("wandb", tmp_path).runs
    assert run.outcome.loss == 3.0


def test_a_trainers_own_count_of_steps_goes_before_the_count_of_lines(tmp_path: Path) -> None:
    lines = [history(line, **{"trainer/global_step": line * 100, "val_loss": 4.0 - line}) for line in range(3)]
    online(tmp_path, begun(steps=200), *lines, ENDED)
    (run,) = read("wandb", tmp_path).runs
    assert [row["step"] for row in run.metrics] == [0, 100, 200] and run.outcome.state == "done"


def test_two_validation_losses_are_not_guessed_between(tmp_path: Path) -> None:
    online(tmp_path, begun(), history(1, **{"val/loss": 3.0, "eval/loss": 4.0}), ENDED)
    found = read("wandb", tmp_path)
    assert found.runs == [] and "could all be val_loss" in reasons(found)
    assert read("wandb", tmp_path, '[metrics]\nval_loss = "eval/loss"\n').runs[0].outcome.loss == 4.0


def test_names_that_are_ours_stay_ours(tmp_path: Path) -> None:
    online(tmp_path, begun(), history(1, val_loss=9.0, real=3.0, attempt=7, step=4), ENDED)
    (run,) = read("wandb", tmp_path, '[metrics]\nval_loss = "real"\n').runs
    (row,) = run.metrics
    assert (row["step"], row["val_loss"], row["logged.val_loss"], row["logged.attempt"], row["logged.step"]) == (
        1,
        3,
        9,
        7,
        4,
    )


def test_nan_in_every_spelling_and_numbers_that_fit_nowhere(tmp_path: Path) -> None:
    for place, text in enumerate(
        ["NaN", '"NaN"', "Infinity", '"-Infinity"', "1e999", "-1e999", "1" * 60, "null", "[1]"]
    ):
        where = tmp_path / str(place)
        item = wandblog.wire.put_bytes(
            1, wandblog.wire.put_bytes(1, "val_loss") + wandblog.wire.put_bytes(16, text)
        ) + wandblog.wire.put_bytes(2, wandblog.wire.put_varint(1, 3))
        online(where, begun(), (wandblog.HISTORY, item), ENDED)
        (run,) = read("wandb", where).runs
        state = {"null": "missing", "[1]": "missing", "1" * 60: "done"}.get(text, "nan")
        assert run.outcome.state == state, text


def test_a_folder_without_its_log_has_its_files(tmp_path: Path) -> None:
    files = tmp_path / "run-20260101_000000-xyz" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_bytes(
        b"\xef\xbb\xbfoptimizer:\r\n  desc: null\r\n  value: lionw\r\nmodel: {value: 300m}\r\nlr: {value: 1.0e-3}\r\nsteps:\r\n"
        b"  value: 50\r\nwandb_version: 1\r\n"
    )
    (files / "wandb-summary.json").write_text('{"_step": 50, "val_loss": 3.5}')
    (run,) = read("wandb", tmp_path).runs
    assert (run.entry, run.spec.optimizer, run.outcome.state, run.outcome.loss) == ("xyz", "lion", "done", 3.5)
    (files / "wandb-summary.json").write_text('{"_step": 40, "val_loss": 3.5}')
    assert read("wandb", tmp_path).runs[0].outcome.state == "failed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "\n".join(["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))]),
            "aliases stand for",
        ),
        ("a: &x [*x]\n", "inside of what it names"),
        ("!!python/object/apply:os.system ['touch EXECUTED']\n", "not YAML"),
        ("a: [\n", "not YAML"),
        ("[" * 1500, "nested too deeply"),
        ("optimizer: {value: muon}\nmodel: {value: 130m}\noptimizer: {value: sgd}\n", "occurs twice"),
    ],
)
def test_a_hostile_configuration_is_listed_and_never_executed(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = tmp_path / "run-1-xyz" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_text(text)
    found = read("wandb", tmp_path)
    assert said in reasons(found) and not (tmp_path / "EXECUTED").exists()


# ---------------------------------------------------------------- exports of their server


def test_an_exported_table_is_a_run_per_line(tmp_path: Path) -> None:
    path = tmp_path / "wandb_export.csv"
    path.write_bytes(
        b"\xef\xbb\xbfName,State,Notes,optimizer,model,learning_rate,val/loss,tokens\r\na,finished,-,adamw,130m,0.008,3.5,1000\r\n"
        b"b,crashed,-,muon,130m,0.02,3.4,1000\r\nc,finished,-,sgd,130m,1,NaN,1000\r\nd,finished,-,,130m,1,3,1000\r\n"
        b"e,running,-,lion,130m,1e-3,3,1000\r\nf,,-,lion,130m,1e-3,3,1000\r\n"
    )
    found = read("wandb", path)
    states = {run.entry: (run.outcome.state, run.outcome.loss) for run in found.runs}
    assert states == {
        "a": ("done", 3.5),
        "b": ("failed", None),
        "c": ("nan", None),
        "e": ("failed", None),
        "f": ("failed", None),
    }
    assert "row 4: it has no optimizer" in reasons(found)
    assert next(run for run in found.runs if run.entry == "f").outcome.error == logged.NO_END


def test_an_exported_chart_is_a_curve_per_run(tmp_path: Path) -> None:
    path = tmp_path / "chart.csv"
    path.write_text(
        '"Step","muon-1 - val/loss","muon-1 - val/loss__MIN","muon-1 - val/loss__MAX","adamw - val/loss"\n'
        '"0","5.0","5.0","5.0","6.0"\n"100","4.0","4.0","4.0",""\n"200","3.0","3.0","3.0","3.5"\n"x","1","1","1","1"\n'
    )
    mapping = '[constants]\nmodel = "130m"\nsteps = 200\n[[runs]]\nmatch = "muon*"\noptimizer = "muon"\n'
    mapping += '[[runs]]\nmatch = "adam*"\noptimizer = "adamw"\n'
    found = read("wandb", path, mapping)
    assert {run.entry: run.outcome.loss for run in found.runs} == {"muon-1": 3.0, "adamw": 3.5}
    assert [row["step"] for row in found.runs[1].metrics] == [0, 200]
    assert "row 4: its Step is 'x', no step" in reasons(found)


def test_garbage_does_not_fill_the_screen_and_names_do_not_drive_it(tmp_path: Path) -> None:
    lines = "".join("x,1\n" for _ in range(500))
    (tmp_path / "many.csv").write_text("_step,val/loss\n1,3.0\n" + lines)
    found = read("wandb", tmp_path / "many.csv", WHO + 'state = "done"\n')
    assert len(found.skipped) == 21 and "480 further places" in reasons(found)
    evil = "\x1b[2Jevil"
    (tmp_path / "table.csv").write_text(
        f'Name,State,optimizer,model,val/loss\n"{evil}",finished,adamw,130m,3.5\n"{evil}2",finished,,x,1\n'
    )
    found = read("wandb", tmp_path / "table.csv")
    assert [run.entry for run in found.runs] == ["?[2Jevil"] and reasons(found).replace("\n", "").isprintable()
    named = wandblog.put_run("abc", "p", evil, "g", {"optimizer": "adamw", "model": "130m"}, 1.0)
    online(tmp_path / "log", (wandblog.RUN, named), history(1, val_loss=3.0), ENDED)
    (run,) = read("wandb", tmp_path / "log").runs
    assert run.source["name"] == "?[2Jevil"


def test_an_exported_history_is_one_run(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    lines = [json.dumps({"_step": step, "val_loss": 5.0 - step, "deep": {"er": 1}}) for step in range(3)]
    path.write_text("\n".join([*lines, "{torn", '"text"', "x" * (2 << 20)]))
    found = read("wandb", path, '[constants]\noptimizer = "muon"\nmodel = "130m"\nstate = "done"\n')
    (run,) = found.runs
    assert run.entry == "history" and run.outcome.loss == 3.0 and run.metrics[0]["deep.er"] == 1
    assert len(found.skipped) == 3 and "longer than" in reasons(found)


# ---------------------------------------------------------------- TensorBoard


def test_scalars_and_hyperparameters_of_event_files_are_a_run(place: Workspace) -> None:
    report = imports.import_results(place, "tensorboard", path=FIXTURES / "tensorboard")
    assert report.states == {"done": 1}
    (row,) = sql_rows(place.store, "SELECT optimizer, model, lr, loss, steps_done, source->>'entry' FROM v_run")
    assert row == ("muon", "130m", 0.02, 4.25, 10, "torch")
    curve = sql_rows(place.store, "SELECT step, value FROM v_metric WHERE key = 'val_loss' ORDER BY step")
    assert curve == [(5, 4.875), (10, 4.25)]
    said = "\n".join(f"{entry.where}: {entry.why}" for entry in report.skipped)
    assert "1 x a tensor of text, 1 x a histogram" in said and "tensor: it has no optimizer" in said
    assert imports.import_results(place, "tensorboard", path=FIXTURES / "tensorboard").unchanged == 1


def events(folder: Path, *records: bytes, name: str = "events.out.tfevents.1") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(b"".join(map(tfrecord.frame, records)))
    return path


def scalars(step: int, **values: float) -> bytes:
    return tfevents.put_scalars(1.7e9 + step, step, list(values.items()))


WHO = '[constants]\noptimizer = "muon"\nmodel = "130m"\n'


def test_event_files_alone_do_not_say_that_a_run_ended(tmp_path: Path) -> None:
    events(tmp_path / "logs" / "a", scalars(10, val_loss=3.0))
    (run,) = read("tensorboard", tmp_path / "logs", WHO).runs
    assert run.outcome.state == "failed" and run.outcome.error == logged.NO_END
    for more, state in (
        ("steps = 10\n", "done"),
        ("steps = 11\n", "done"),
        ("steps = 20\n", "failed"),
        ('state = "done"\n', "done"),
    ):
        (run,) = read("tensorboard", tmp_path / "logs", WHO + more).runs
        assert (run.outcome.state, run.outcome.loss) == (state, 3.0 if state == "done" else None)


def test_a_torn_end_is_listed_and_a_damaged_record_never_used(tmp_path: Path) -> None:
    path = events(tmp_path / "logs", *(scalars(step, val_loss=float(step)) for step in range(1, 6)))
    whole = path.read_bytes()
    length = len(whole) // 5
    path.write_bytes(whole[:-3])
    found = read("tensorboard", tmp_path / "logs", WHO + "steps = 4\n")
    assert found.runs[0].outcome.loss == 4.0 and "cut off" in reasons(found)
    damaged = bytearray(whole)
    damaged[2 * length + 20] ^= 1
    path.write_bytes(damaged)
    found = read("tensorboard", tmp_path / "logs", WHO + "steps = 5\n")
    assert [row["step"] for row in found.runs[0].metrics] == [1, 2, 4, 5] and "cannot be used" in reasons(found)
    damaged[2 * length] ^= 1
    path.write_bytes(damaged)
    found = read("tensorboard", tmp_path / "logs", WHO + 'state = "done"\n')
    assert [row["step"] for row in found.runs[0].metrics] == [1, 2] and "the length at byte" in reasons(found)


def test_a_restarted_writer_takes_back_what_came_after_its_step(tmp_path: Path) -> None:
    again = tfevents.wire.put_varint(2, 3) + tfevents.wire.put_bytes(7, tfevents.wire.put_varint(1, 1))
    events(tmp_path / "logs", *(scalars(step, loss=1.0 * step) for step in range(1, 6)))
    events(tmp_path / "logs", again, scalars(3, loss=30.0), name="events.out.tfevents.2")
    (run,) = read("tensorboard", tmp_path / "logs", WHO).runs
    assert [(row["step"], row["train_loss"]) for row in run.metrics] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_too_many_values_leave_the_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MAX_VALUES", 50)
    events(tmp_path / "logs", *(scalars(step, val_loss=3.0, layer=1.0, other=2.0) for step in range(30)))
    found = read("tensorboard", tmp_path / "logs", WHO + 'state = "done"\n')
    assert [row["val_loss"] for row in found.runs[0].metrics] == [3.0] * 30
    assert all("layer" not in row for row in found.runs[0].metrics)
    assert "2 are too many and left out: layer, other" in reasons(found)


# ---------------------------------------------------------------- mutated inputs


def as_file(content: bytes, place: int) -> BinaryIO:
    handle = tempfile.TemporaryFile()  # noqa: SIM115 - the caller reads it to its end
    handle.write(content)
    handle.seek(place)
    return handle


def mutated_records(rng: random.Random, content: bytes) -> bytes:
    """Records changed inside, with checksums that are right: what a writer with a fault would leave."""
    if content.startswith(wandblog.HEADER):
        parts = [record.data for record in wandblog.records(as_file(content, 7))]
        target = io.BytesIO()
        writer = wandblog.LogWriter(target)
        for data in (mutated_bytes(rng, part) if rng.random() < 0.1 else part for part in parts):
            writer._record(data)
        return target.getvalue()
    parts = [record.data for record in tfrecord.records(as_file(content, 0))]
    return b"".join(tfrecord.frame(mutated_bytes(rng, part) if rng.random() < 0.2 else part) for part in parts)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["wandb", "wandb-records", "tensorboard", "tensorboard-records", "yaml", "export"])
def test_mutated_logs_end_in_a_listed_skip_or_one_line(kind: str, tmp_path: Path, place: Workspace) -> None:
    rng = random.Random(7)
    name, inside = kind.partition("-")[0], kind.endswith("-records")
    mapping = '[constants]\noptimizer = "muon"\nmodel = "130m"\n[metrics]\nval_loss = "val/loss"\n'
    root = tmp_path / "logs"
    if name == "wandb":
        file = root / "run-fine.wandb"
        start = (FIXTURES / "wandb" / "run-fine.wandb").read_bytes()
    elif name == "tensorboard":
        file = root / "events.out.tfevents.1"
        start = b"".join(path.read_bytes() for path in sorted((FIXTURES / "tensorboard").rglob("events.*")))
    elif kind == "yaml":
        name, file = "wandb", root / "run-1-x" / "files" / "config.yaml"
        start = (
            b"optimizer: {value: muon}\nmodel: {value: 130m}\nlr: {value: 1.0e-3}\nsteps: {value: [1, 2, {a: .nan}]}\n"
        )
    else:
        name, root = "wandb", tmp_path / "logs" / "history.csv"
        file = root
        start = b"_step,val/loss,big,a - b\n0,3.5,1e14,NaN\n100,-inf,100000000000000,x\n200,3.25,,1\n"
    file.parent.mkdir(parents=True)
    kept: dict[str, Any] = {}
    for turn in range(FUZZ):
        change = mutated_records if inside else mutated_bytes
        file.write_bytes(change(rng, start) if turn else start)
        try:
            found = read(name, root, mapping)
        except OptsweepError as error:
            assert "\n" not in str(error)
            continue
        assert all(entry.why and "\n" not in entry.why for entry in found.skipped)
        assert len({run.run_id for run in found.runs}) == len(found.runs)
        assert found.runs or found.skipped
        if turn % max(1, FUZZ // 25) == 0:
            kept |= {run.run_id: run for run in found.runs}
    assert kept
    place.ensure()
    plant.plant(place.runs, kept.values())
    report = flow.collect(place)
    assert report.skipped == [] and report.runs == len(kept)
    for run_id in rundir.run_ids(place.runs):
        assert flow.run_line(place, run_id).state
    for view in ("v_run", "v_cell", "v_best", "v_gap", "v_knob", "v_metric"):
        sql_rows(place.store, f"SELECT count(*) FROM (SELECT * FROM {view})")


def test_links_are_not_followed_twice(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "wandb", tmp_path / "logs" / "run-1-fine")
    (tmp_path / "logs" / "latest-run").symlink_to("run-1-fine")
    (tmp_path / "logs" / "loop").symlink_to(tmp_path)
    assert len(read("wandb", tmp_path / "logs").runs) == 4
