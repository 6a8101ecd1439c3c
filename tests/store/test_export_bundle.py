"""Bundles: the same run is the same bytes, and whatever was changed, swapped or smuggled in is refused before it is used."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import sources
from optsweep_engines.spec import RunSpec, ValidationSet
from optsweep_tui import exchange, imports, rundir, settings
from optsweep_tui.analysis import reproduction
from optsweep_tui.bundle import layout, read, rerun, write
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from tests.store import run_folders
from tests.store.run_folders import make_spec
from tests.store.test_import_marin import mutated_bytes

FUZZ = int(os.environ.get("OPTSWEEP_FUZZ", "800")) // 16


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return settings.workspace(tmp_path / "work").ensure()


def finished(place: Workspace, **changes: Any) -> str:
    """A run that ended, with a curve of 40 steps."""
    (folder,) = run_folders.plant(place.runs, make_spec(**changes))
    attempt = run_folders.attempt_folder(folder)
    run_folders.append(attempt, run_folders.lines(range(1, 41)))
    run_folders.append(attempt, json.dumps({"seq": 1, "time": 1.0, "kind": "started"}) + "\n", rundir.EVENTS)
    run_folders.finish(
        folder, versions={"torch": "2.13.0", sources.VERSION: sources.digest()}, parameters_sha256="ab" * 32
    )
    return folder.name


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """A zip of these files as they are."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def resigned(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The files with a manifest whose hashes hold."""
    manifest = json.loads(files[layout.MANIFEST]) | changes
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
        if name != layout.MANIFEST
    }
    return {**files, layout.MANIFEST: json.dumps(manifest).encode()}


def test_a_bundle_holds_everything_and_the_same_run_is_the_same_bytes(place: Workspace, tmp_path: Path) -> None:
    run_id = finished(place)
    first = exchange.export_bundle(place, run_id, tmp_path / "a.zip")
    os.utime(place.runs / run_id / rundir.SPEC, (1, 1))
    second = exchange.export_bundle(place, run_id, tmp_path / "b.zip")
    assert first.sha256 == second.sha256 and (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (first.code_is_what_ran, first.data_is_described, first.sigma) == (True, False, None)
    files = contents(tmp_path / "a.zip")
    spec = rundir.read_spec(place.runs / run_id)
    assert json.loads(files["spec.json"]) == spec.to_dict()
    assert files["metrics.jsonl"].count(b"\n") == 40 and files["events.jsonl"].count(b"\n") == 1
    code = {name.removeprefix(layout.CODE): content for name, content in files.items() if name.startswith(layout.CODE)}
    assert code == sources.files() and sources.digest_of(code) == sources.digest()
    assert json.loads(files["data.json"])["sha256"] == spec.dataset_hash
    assert json.loads(files["environment.json"])["versions"]["torch"] == "2.13.0"
    hashes = json.loads(files["manifest.json"])["files"]
    assert {name: hashlib.sha256(files[name]).hexdigest() for name in hashes} == {
        name: entry["sha256"] for name, entry in hashes.items()
    }
    bundle = read.read(tmp_path / "a.zip")
    assert (bundle.run_id, bundle.metrics, bundle.ran, bundle.code) == (run_id, 40, sources.digest(), sources.digest())
    assert exchange.export_bundle(place, run_id, tmp_path / "a.zip").sha256 == first.sha256, "twice is once"
    (tmp_path / "b.zip").write_bytes(b"else")
    with pytest.raises(OptsweepError, match="holds something else"):
        exchange.export_bundle(place, run_id, tmp_path / "b.zip")


def test_the_noise_of_the_study_travels_with_the_run(place: Workspace, tmp_path: Path) -> None:
    """Four seeds of the baseline at two budgets: sigma as numpy's standard deviation says, linear in log tokens between."""
    import math

    import numpy as np

    seeds = {98304: [2.50, 2.52, 2.47, 2.51], 393216: [2.20, 2.21, 2.19, 2.22]}
    ids = {}
    for tokens, losses in seeds.items():
        for seed, loss in enumerate(losses):
            (folder,) = run_folders.plant(place.runs, make_spec(tokens=tokens, seed=seed, model="bench-micro"))
            run_folders.attempt_folder(folder)
            run_folders.finish(folder, val_loss=loss)
            ids[tokens, seed] = folder.name
    ends = [float(np.std(losses, ddof=1)) for losses in seeds.values()]
    for tokens, expected in zip(seeds, ends, strict=True):
        report = exchange.export_bundle(place, ids[tokens, 0], tmp_path / f"{tokens}.zip")
        assert report.sigma == pytest.approx(expected) and report.sigma_source == "measured"
        noise = read.read(tmp_path / f"{tokens}.zip").noise
        assert noise["dof"] == pytest.approx(3.0)
    (folder,) = run_folders.plant(place.runs, make_spec(tokens=196608, model="bench-micro", optimizer="muon"))
    run_folders.attempt_folder(folder)
    run_folders.finish(folder, val_loss=2.3)
    share = math.log(2) / math.log(4)
    between = exchange.export_bundle(place, folder.name, tmp_path / "between.zip").sigma
    assert between == pytest.approx((1 - share) * ends[0] + share * ends[1])


@pytest.mark.parametrize(
    ("state", "said"),
    [("planned", "is planned"), ("failed", "left no record"), ("imported", "was imported")],
)
def test_only_a_run_of_ours_that_is_over_is_bundled(state: str, said: str, place: Workspace, tmp_path: Path) -> None:
    (folder,) = run_folders.plant(place.runs, make_spec())
    run_id = folder.name
    if state == "failed":
        attempt = run_folders.attempt_folder(folder)
        (attempt / rundir.EXIT).write_text(json.dumps({"reason": "failed", "returncode": 1}))
    if state == "imported":
        (tmp_path / "x.csv").write_text("optimizer,model,loss\nadamw,130m,3.5\n")
        imports.import_results(place, "csv", path=tmp_path / "x.csv")
        run_id = next(each for each in rundir.run_ids(place.runs) if each != folder.name)
    with pytest.raises(OptsweepError, match=said):
        exchange.export_bundle(place, run_id, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()


# ---------------------------------------------------------------- what somebody may send


def changed_spec(files: dict[str, bytes]) -> dict[str, bytes]:
    spec = json.loads(files["spec.json"])
    spec["hyperparameters"]["lr"] = 9.0
    return {**files, "spec.json": json.dumps(spec).encode()}


def respecified(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """Another spec under its own id, with a record and a manifest that fit: only its content tells."""
    data = json.loads(files["spec.json"]) | changes
    record = json.loads(files["record.json"])
    try:
        run_id = RunSpec.from_dict(data).run_id
    except (ValueError, TypeError, AttributeError):
        run_id = record["run_id"]
    changed = {"spec.json": json.dumps(data).encode(), "record.json": json.dumps(record | {"run_id": run_id}).encode()}
    return resigned({**files, **changed}, run_id=run_id)


def recorded(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    return resigned({**files, "record.json": json.dumps(json.loads(files["record.json"]) | changes).encode()})


START = {"run_id": "1a2b3c4d" * 4, "step": 5, "mode": "weights", "parameters_sha256": "ab" * 32}
BOOKS = {"dataset": "embedded", "dataset_hash": "ab" * 32, "split": "train"}
HOSTILE_SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "a start with another run": ({"start": START}, "begins with the state of run 1a2b3c4d, which no bundle holds"),
    "a start that is a text": ({"start": "x"}, "start is not a table"),
    "a start without a step": ({"start": {"run_id": "x"}}, "start lacks the key"),
    "a start with an id that drives a terminal": ({"start": START | {"run_id": "\x1b[2J"}}, "no text that can be shown"),
    "a start with an id that is a number": ({"start": START | {"run_id": 7}}, "no text that can be shown"),
    "no epochs": ({"simulate_epochs": 0}, "its simulate_epochs is no whole number from 1"),
    "half an epoch": ({"simulate_epochs": 1.5}, "its simulate_epochs is no whole number from 1"),
    "epochs that are a text": ({"simulate_epochs": "4"}, "its simulate_epochs is no whole number from 1"),
    "epochs without end": ({"simulate_epochs": 10**300}, "its spec has no step to train"),
    "no micro-batch": ({"accumulation": 0}, "its accumulation is no whole number from 1"),
    "sets that are a list": ({"validation_sets": ["a"]}, "validation_sets is not a table"),
    "a set that is a text": ({"validation_sets": {"books": "embedded"}}, "validation_sets.books is not a table"),
    "a set of another name": ({"validation_sets": {"a/b": BOOKS}}, "cannot name a validation set"),
    "a set that drives a terminal": ({"validation_sets": {"\x1b[2J": BOOKS}}, "no text that can be shown"),
    "a set that leads out": (
        {"validation_sets": {"books": BOOKS | {"dataset": "../../etc"}}}, "which names no dataset"),
    "a set without a hash": ({"validation_sets": {"books": BOOKS | {"dataset_hash": None}}}, "books has no hash"),
    "a set of a split that is a list": ({"validation_sets": {"books": BOOKS | {"split": ["train"]}}}, "of the split"),
    "a metric that is none of its sets": ({"validation_set": "books"}, "its metric is the validation set books"),
    "a dataset that leads out": ({"dataset": "../x"}, "its dataset is called '../x', which names no dataset"),
}  # fmt: skip
HOSTILE_RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "a record of a branch": ({"started_from_step": 5}, "goes on from step 5 of a trunk, its spec from none"),
    "a first step that is a text": ({"started_from_step": "5"}, "the started_from_step of its record is no whole number"),
    "losses of sets that it does not have": ({"val_losses": {"books": 2.0}}, "not of the sets of its spec"),
    "losses that are a list": ({"val_losses": [2.0]}, "not of the sets of its spec"),
    "a loss of a set that is a text": ({"val_losses": {"validation": "2"}}, "val_losses.validation of its record is no number"),
    "steps that are a text": ({"steps": "192"}, "the steps of its record is no whole number"),
    "no seconds": ({"train_seconds": None}, "the train_seconds of its record is no number"),
}  # fmt: skip
TAMPERED = {
    **{what: (functools.partial(respecified, **change), said) for what, (change, said) in HOSTILE_SPECS.items()},
    **{what: (functools.partial(recorded, **change), said) for what, (change, said) in HOSTILE_RECORDS.items()},
    "a changed spec": (lambda files: changed_spec(files), "spec.json was changed"),
    "a changed spec under a new manifest": (lambda files: resigned(changed_spec(files)), "its spec hashes to run"),
    "a changed spec under its own id": (
        lambda files: resigned(changed_spec(files), run_id=hashlib.sha256(b"x").hexdigest()[:32]), "its spec hashes to run"),
    "a record of another run": (
        lambda files: resigned({**files, "record.json": files["record.json"].replace(b'"run_id": "', b'"run_id": "0')}),
        "its record is of run"),
    "an optimizer that the spec does not name": (
        lambda files: resigned({**files, "optimizer.py": b"raise SystemExit"}), "do not fit"),
    "a path that leads out": (lambda files: {**files, "../../evil.py": b"x"}, "does not belong in a bundle"),
    "an absolute path": (lambda files: {**files, "/tmp/evil.py": b"x"}, "does not belong in a bundle"),
    "a path with a backslash": (lambda files: {**files, "code\\evil.py": b"x"}, "does not belong in a bundle"),
    "a path inside code that leads out": (
        lambda files: {**files, "code/optsweep_engines/../x.py": b"x"}, "does not belong in a bundle"),
    "something else": (lambda files: {**files, "run.sh": b"x"}, "does not belong in a bundle"),
    "no spec": (lambda files: {name: files[name] for name in files if name != "spec.json"}, "it has no spec.json"),
    "code left out": (
        lambda files: {name: files[name] for name in files if not name.endswith("shim.py")}, "not those of its manifest"),
    "another version": (lambda files: resigned(files, version=2), "it has version 2"),
    "another format": (lambda files: resigned(files, format="x"), "not that of a bundle"),
    "a record whose device would drive a terminal": (
        lambda files: resigned({**files, "record.json": files["record.json"].replace(b'"cpu"', b'"\\u001b[2J"')}),
        "no text that can be shown"),
    "a loss that is a text": (
        lambda files: resigned({**files, "record.json": files["record.json"].replace(b"2.5,", b'"2.5",')}),
        "is no number"),
    "a spec that is a list": (lambda files: resigned({**files, "spec.json": b"[]"}), "not a table"),
    "a spec that is nested": (lambda files: resigned({**files, "spec.json": b"[" * 100_000}), "not a sound bundle"),
}  # fmt: skip


def test_a_bundle_with_further_sets_and_epochs_is_read(place: Workspace, tmp_path: Path) -> None:
    sets = {"books": ValidationSet(**BOOKS)}
    run_id = finished(place, validation_sets=sets, validation_set="books", simulate_epochs=4)
    noise = {"sigma": None, "dof": None, "source": "none"}
    write.keep(tmp_path / "x.zip", write.bundled(place, run_id, noise).content)
    found = read.read(tmp_path / "x.zip").spec
    assert (dict(found.validation_sets), found.validation_set, found.simulate_epochs) == (sets, "books", 4)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle."""
    root = tmp_path_factory.mktemp("good")
    place = settings.workspace(root / "work").ensure()
    exchange.export_bundle(place, finished(place), root / "good.zip")
    return root / "good.zip"


@pytest.mark.parametrize("what", TAMPERED)
def test_a_bundle_that_was_tampered_with_is_refused(what: str, good: Path, tmp_path: Path) -> None:
    change, said = TAMPERED[what]
    path = packed(tmp_path / "bad.zip", change(contents(good)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OptsweepError) as caught:
        read.read(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"


def test_sizes_doubles_and_liars_are_refused(place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange.export_bundle(place, finished(place), tmp_path / "good.zip")
    files = contents(tmp_path / "good.zip")
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, b"\0" * (9 << 20) if name == "metrics.jsonl" else content)
    assert bomb.stat().st_size < 1 << 20
    monkeypatch.setattr(layout, "MAX_BYTES", 8 << 20)
    with pytest.raises(OptsweepError, match="more than 8 MiB"):
        read.read(bomb)
    with (
        zipfile.ZipFile(packed(tmp_path / "twice.zip", files), "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr("spec.json", b"{}")
    with pytest.raises(OptsweepError, match=r"spec\.json is in it twice"):
        read.read(tmp_path / "twice.zip")
    monkeypatch.setattr(layout, "MAX_FILES", 10)
    with pytest.raises(OptsweepError, match="more than a bundle has"):
        read.read(tmp_path / "good.zip")
    for content in (b"", b"PK", b"garbage" * 100):
        (tmp_path / "x.zip").write_bytes(content)
        with pytest.raises(OptsweepError, match="not a sound bundle"):
            read.read(tmp_path / "x.zip")
    for path in (tmp_path, tmp_path / "nowhere.zip"):
        with pytest.raises(OptsweepError):
            read.read(path)


@pytest.mark.timeout(7200)
def test_mutated_bundles_are_refused_or_whole(place: Workspace, tmp_path: Path) -> None:
    rng = random.Random(1)
    exchange.export_bundle(place, finished(place), tmp_path / "good.zip")
    starts = [(tmp_path / "good.zip").read_bytes()]
    with zipfile.ZipFile(tmp_path / "deflated.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents(tmp_path / "good.zip").items():
            archive.writestr(name, content)
    starts.append((tmp_path / "deflated.zip").read_bytes())
    assert read.read(tmp_path / "deflated.zip").run_id == read.read(tmp_path / "good.zip").run_id, "packed anew"
    files = {name: content for name, content in contents(tmp_path / "good.zip").items() if not name.startswith("code/")}
    good = read.read(tmp_path / "good.zip")
    path = tmp_path / "bad.zip"
    for turn in range(FUZZ):
        if turn % 2:
            path.write_bytes(mutated_bytes(rng, rng.choice(starts)))
        else:
            victim = rng.choice(sorted(set(files) - {layout.MANIFEST}))
            target = io.BytesIO()
            with zipfile.ZipFile(target, "w") as archive:
                for name, content in resigned({**files, victim: mutated_bytes(rng, files[victim])}).items():
                    archive.writestr(name, content)
            path.write_bytes(target.getvalue())
        try:
            bundle = read.read(path)
        except OptsweepError as error:
            assert "\n" not in str(error)
        else:
            assert bundle.run_id == good.run_id and bundle.spec == good.spec
            noise = reproduction.RunNoise.from_dict(bundle.noise)
            assert reproduction.judge(bundle.record, good.record, noise).verdict
            rerun.version_differences(bundle.record, good.record)
            rerun._code_differences(bundle)


# ---------------------------------------------------------------- where a rerun goes


def test_a_rerun_goes_where_the_run_is_not(place: Workspace, tmp_path: Path) -> None:
    run_id = finished(place)
    study = f"reproduce-{run_id[:8]}"
    assert rerun._place(place, run_id, study, False).root == place.root / "reproduced" / run_id[:12]
    other = settings.workspace(tmp_path / "other").ensure()
    assert rerun._place(other, run_id, study, False).root == other.root
    run_folders.plant(other.runs, make_spec(), study=study)
    assert rerun._place(other, run_id, study, False).root == other.root
    run_folders.attempt_folder(other.runs / run_id)
    run_folders.finish(other.runs / run_id)
    assert rerun._place(other, run_id, study, False).root == other.root
    assert rerun._place(other, run_id, study, True).root == other.root / "reproduced" / run_id[:12]


def test_data_that_cannot_be_had_is_said_and_nothing_is_written(place: Workspace, tmp_path: Path) -> None:
    exchange.export_bundle(place, finished(place), tmp_path / "a.zip")
    other = settings.workspace(tmp_path / "other")
    with pytest.raises(
        OptsweepError, match="the data of the original, embedded abababababab, cannot be had here"
    ) as caught:
        exchange.rerun(other, tmp_path / "a.zip")
    assert "--other-data" in str(caught.value)
    assert rundir.run_ids(other.runs) == []


def test_a_users_own_optimizer_is_never_taken_from_the_bundle(place: Workspace, tmp_path: Path) -> None:
    marker = tmp_path / "EXECUTED"
    own = f"open({str(marker)!r}, 'w').close()\n".encode()
    digest = hashlib.sha256(own).hexdigest()
    rundir.keep_optimizers(place.runs, {digest: own})
    name = f"mine:Own@{digest[:6]}"
    run_id = finished(place, optimizer=name, optimizer_file_hash=digest)
    noise = {"sigma": None, "dof": None, "source": "none"}
    write.keep(tmp_path / "own.zip", write.bundled(place, run_id, noise).content)
    assert contents(tmp_path / "own.zip")["optimizer.py"] == own
    with pytest.raises(OptsweepError, match="code of a bundle is never executed"):
        exchange.rerun(place, tmp_path / "own.zip")
    (tmp_path / "mine.py").write_bytes(own + b"\n")
    with pytest.raises(OptsweepError, match="hashes to"):
        exchange.rerun(place, tmp_path / "own.zip", optimizer=tmp_path / "mine.py")
    assert not marker.exists()
    with pytest.raises(OptsweepError, match="no optimizer of a file"):
        exchange.export_bundle(place, finished(place), tmp_path / "plain.zip")
        exchange.rerun(place, tmp_path / "plain.zip", optimizer=tmp_path / "mine.py")


@pytest.mark.parametrize(
    ("change", "said"), [({"engine": "abacus"}, 'engine "abacus"'), ({"optimizer": "adamww"}, 'did you mean "adamw"')]
)
def test_an_engine_or_a_rule_that_is_not_here_is_one_line(
    change: dict[str, str], said: str, place: Workspace, tmp_path: Path
) -> None:
    run_id = finished(place, **change)
    noise = {"sigma": None, "dof": None, "source": "none"}
    write.keep(tmp_path / "x.zip", write.bundled(place, run_id, noise).content)
    with pytest.raises(OptsweepError) as caught:
        exchange.rerun(settings.workspace(tmp_path / "other"), tmp_path / "x.zip")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "other").exists()
