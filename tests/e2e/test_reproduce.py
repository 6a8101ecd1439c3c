"""A trained run, bundled and reproduced by the real commands: identical, judged by the noise, and every difference stated."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import sources
from optsweep_tui.bundle import layout
from tests.e2e import workbench
from tests.e2e.workbench import optsweep
from tests.store.test_export_bundle import contents, packed, resigned

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """(workspace with one trained run, its bundle)."""
    root = tmp_path_factory.mktemp("reproduce")
    work, grid = root / "work", workbench.grid_file(root, "0.01", seeds=1)
    sinks = ("--sink", "tensorboard", "--sink", f"wandb:{root / 'offline'}")
    optsweep("run", "--grid", str(grid), "-o", "muon", *sinks, workspace=work)
    (run,) = (work / "runs").iterdir()
    said = json.loads(
        optsweep("export", "bundle", run.name[:8], "--out", str(root / "run.zip"), "--json", workspace=work).stdout
    )
    assert said["run_id"] == run.name and said["code_is_what_ran"] is True and said["data_is_described"] is True
    yield work, root / "run.zip"
    workbench.stop_everything(work)


def reproduced(path: Path, workspace: Path, *options: str) -> tuple[int, dict[str, Any]]:
    result = optsweep("reproduce", str(path), *options, "--json", workspace=workspace, check=False)
    return result.returncode, json.loads(result.stdout)


def rewritten(path: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The bundle with a changed record, as an author with another machine would have sent it."""
    files = contents(path)
    record = json.loads(files[layout.RECORD])
    change(record)
    return packed(target, resigned({**files, layout.RECORD: json.dumps(record).encode()}))


def test_a_rerun_beside_the_original_is_trained_anew_and_identical(bundle: tuple[Path, Path]) -> None:
    work, path = bundle
    before = {file: file.read_bytes() for file in (work / "runs").rglob("*") if file.is_file()}
    code, found = reproduced(path, work)
    assert (code, found["verdict"], found["difference"], found["differences"]) == (0, "identical", 0.0, [])
    assert found["workspace"] != str(work) and found["rerun"]["run_id"] == found["run_id"]
    assert found["rerun"]["train_seconds"] != found["original"]["train_seconds"], "it was really trained again"
    assert found["code"]["ran"] == found["code"]["in_bundle"] == found["code"]["here"] == sources.digest()
    assert {file: file.read_bytes() for file in (work / "runs").rglob("*") if file.is_file()} == before
    once_more = optsweep("reproduce", str(path), workspace=work)
    assert "rerun before" in once_more.stderr and "verdict: identical" in once_more.stdout


def test_a_rerun_elsewhere_is_a_run_of_a_study_of_its_own(bundle: tuple[Path, Path], tmp_path: Path) -> None:
    _, path = bundle
    checked = optsweep("reproduce", str(path), "--dry-run", workspace=tmp_path / "w")
    assert "a sound bundle" in checked.stdout and not (tmp_path / "w").exists()
    code, found = reproduced(path, tmp_path / "w")
    assert (code, found["verdict"]) == (0, "identical") and found["workspace"] == str(tmp_path / "w")
    rows = json.loads(
        optsweep("sql", "select study, run_id, state, versions from v_run", "--json", workspace=tmp_path / "w").stdout
    )
    assert [(row["study"], row["run_id"], row["state"]) for row in rows] == [(found["study"], found["run_id"], "done")]
    assert sources.digest() in str(rows[0]["versions"]), "which code trained a run is in the store"


def test_the_noise_decides_where_parameters_differ(bundle: tuple[Path, Path], tmp_path: Path) -> None:
    work, path = bundle

    def elsewhere(record: dict[str, Any]) -> None:
        record["parameters_sha256"] = "0" * 64
        record["val_loss"] += 0.001
        record["device"] = "another device"
        record["versions"] |= {"torch": "9.9", sources.VERSION: hashlib.sha256(b"old").hexdigest()}

    other = rewritten(path, tmp_path / "other.zip", elsewhere)
    code, found = reproduced(other, work)
    assert (code, found["verdict"], found["tie_width"]) == (1, "cannot say", None) and "NO-SIGMA" in found["reason"]
    assert found["difference"] == pytest.approx(-0.001)
    said = "\n".join(found["differences"])
    for words in ("trained the original", "not what ran either", "torch: 9.9 there", "device: another device there"):
        assert words in said
    code, found = reproduced(other, work, "--sigma", "0.001")
    assert (code, found["verdict"]) == (0, "within noise")
    assert found["tie_width"] == pytest.approx(1.645 * 0.001 * 2**0.5)
    code, found = reproduced(other, work, "--sigma", "0.0001")
    assert (code, found["verdict"]) == (1, "different")


def test_a_tampered_bundle_is_one_line_and_trains_nothing(bundle: tuple[Path, Path], tmp_path: Path) -> None:
    _, path = bundle
    files = contents(path)
    spec = json.loads(files[layout.SPEC])
    spec["seed"] += 1
    bad = packed(tmp_path / "bad.zip", resigned({**files, layout.SPEC: json.dumps(spec).encode()}))
    result = optsweep("reproduce", str(bad), workspace=tmp_path / "w", check=False)
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ") and not (tmp_path / "w").exists()


def test_the_code_in_a_bundle_is_python_that_its_reader_can_look_at(bundle: tuple[Path, Path], tmp_path: Path) -> None:
    _, path = bundle
    subprocess.run(["python3", "-m", "zipfile", "-e", str(path), str(tmp_path / "out")], check=True, timeout=60)
    assert (tmp_path / "out" / "code" / "optsweep_engines" / "torch_engine" / "train.py").is_file()
    assert "optsweep reproduce" in (tmp_path / "out" / "README.txt").read_text()


def test_the_sinks_of_a_real_run_hold_it_whole(bundle: tuple[Path, Path], tmp_path: Path) -> None:
    work, _ = bundle
    rows = json.loads(
        optsweep(
            "sql", "select step, value from v_metric where key = 'train_loss' order by step", "--json", workspace=work
        ).stdout
    )
    (loss,) = json.loads(optsweep("sql", "select loss from v_run", "--json", workspace=work).stdout)
    for kind, place in (("tensorboard", work / "tensorboard"), ("wandb", work.parent / "offline")):
        report = json.loads(optsweep("import", kind, str(place), "--json", workspace=tmp_path / kind).stdout)
        assert report["states"] == {"done": 1}
        query = "select step, value from v_metric where key = 'train_loss' order by step"
        copied = json.loads(optsweep("sql", query, "--json", workspace=tmp_path / kind).stdout)
        assert [row["step"] for row in copied] == [row["step"] for row in rows] and len(rows) > 100
        assert [row["value"] for row in copied] == pytest.approx([row["value"] for row in rows], rel=1e-6)
        (run,) = json.loads(
            optsweep("sql", "select loss, optimizer, lr from v_run", "--json", workspace=tmp_path / kind).stdout
        )
        assert run["loss"] == pytest.approx(loss["loss"], rel=1e-6) and (run["optimizer"], run["lr"]) == ("muon", 0.02)
