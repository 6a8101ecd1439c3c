"""Certificates from the command line, and runs of both engines in one workspace: each engine is a cell of its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.workbench import optsweep

KILLS = int(os.environ.get("OPTSWEEP_RESUME_KILLS", "1"))
STEPS = os.environ.get("OPTSWEEP_RESUME_STEPS", "60")
ENGINES = ("jax", "torch") if KILLS > 1 else ("jax",)  # a kill test of torch is in tests/numerics
CELL = ["run", "-o", "adamw", "-m", "bench-micro", "-c", "0.01"]
QUICK = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""Programs of tests run a few steps each: compiling well costs more than it gives."""


@pytest.fixture(autouse=True)
def programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled programs are kept between sessions."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(request.config.cache.mkdir("jax-programs")))
    monkeypatch.setenv("XLA_FLAGS", QUICK)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_killed_again_and_again_ends_at_the_same_bits(engine: str, tmp_path: Path) -> None:
    options = ["--engine", engine, "--steps", STEPS, "--kills", str(KILLS), "--json"]
    found = json.loads(optsweep("certify", "resume", *options, workspace=tmp_path, timeout=7000).stdout)
    assert found["verdict"] == "equal"
    assert found["kills"] == KILLS and found["resumed_from_step"] > 0
    assert found["straight_sha256"] == found["resumed_sha256"] and all(found["same"].values())
    kept = json.loads(Path(found["file"]).read_text(encoding="utf-8"))
    assert (kept["kind"], kept["verdict"], kept["spec"]["engine"]) == ("resume", "equal", engine)
    assert list((tmp_path / "certificates").glob(".resume-*")) == []


def test_a_parity_certificate_has_its_control_and_is_kept(tmp_path: Path) -> None:
    found = json.loads(optsweep("parity", "--steps", "4", "--json", workspace=tmp_path).stdout)
    assert found["verdict"] == "equal"
    assert [row["step"] for row in found["by_step"]] == [0, 1, 2, 3]
    assert found["by_step"][0]["tolerance"] == 2e-6 and found["by_step"][0]["difference"] <= 2e-6
    assert found["control_difference"] == max(row["control"] for row in found["by_step"]) > 0
    assert found["versions"]["jax"]["jax"] and found["versions"]["torch"]["torch"]
    assert json.loads(Path(found["file"]).read_text(encoding="utf-8"))["verdict"] == "equal"


def training_programs(folder: Path) -> set[str]:
    """The kept programs of steps and of validation; small helpers are kept only where compiling them took long."""
    kept = (path.name for path in folder.iterdir() if path.name.endswith("-cache"))
    return {name for name in kept if name.startswith(("jit_step", "jit_program"))}


def test_a_mixed_sweep_stands_in_one_table_engine_by_engine_and_compiles_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JAX alone, JAX in a pack, and torch: the losses agree, and nothing is averaged over the engines."""
    programs = tmp_path / "programs"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(programs))
    optsweep(*CELL, "--engine", "jax", "--set", "lr=0.004", workspace=tmp_path)
    once = training_programs(programs)
    optsweep(*CELL, "--engine", "jax", "--set", "lr=0.004", "--set", "weight_decay=0.2", workspace=tmp_path)
    assert once and training_programs(programs) == once, "compiled again"
    optsweep(*CELL, "--engine", "jax", "--sweep", "lr=0.002,0.006", "--pack", "4", workspace=tmp_path)
    optsweep(*CELL, "--engine", "torch", "--set", "lr=0.004", workspace=tmp_path)
    rows = json.loads(optsweep("table", "--json", workspace=tmp_path).stdout)
    assert sorted(row["engine"] for row in rows) == ["jax", "torch"]
    losses: dict[str, float] = {}
    packs: list[int] = []
    for path in tmp_path.glob("runs/*/spec.json"):
        spec, record = (json.loads((path.parent / name).read_text()) for name in ("spec.json", "a1/record.json"))
        events = [json.loads(line) for line in (path.parent / "a1" / "events.jsonl").read_text().splitlines()]
        packs += [event["replicas"] for event in events if event["kind"] == "packed"]
        assert record["status"] == "done" and (path.parent / "a1" / "exit.json").exists()
        if (spec["hyperparameters"]["lr"], spec["hyperparameters"]["weight_decay"]) == (0.004, 0.1):
            losses[spec["engine"]] = record["val_loss"]
    assert losses["jax"] == pytest.approx(losses["torch"], abs=1e-5)
    assert packs and set(packs) == {len(packs)}  # every member says how many they were
    best = {row["engine"]: row["loss"] for row in rows}
    assert best["torch"] == losses["torch"]  # not the mean of both


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([*CELL, "--pack", "4"], "engine torch cannot pack runs"),
        ([*CELL, "--engine", "jax", "--pack", "4"], "share a program"),
        ([*CELL, "--engine", "jax", "--pack", "65"], "between 1 and 64"),
        (["parity", "--engine", "torch"], "does not name two engines"),
        (["parity", "--steps", "0"], "leaves nothing to train"),
        (["parity", "--device", "cuda:7", "--engine", "jax,jax", "--steps", "2"], "could not train this"),
        (["certify", "speed"], 'certificate "speed" is not known'),
        (["certify", "resume", "--kills", "0"], "proves nothing"),
        (["bench", "--pack", "1"], "packs nothing"),
        (["bench", "--engine", "torch", "--pack", "4"], "engine torch cannot pack runs"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    result = optsweep(*arguments, workspace=tmp_path, check=False)
    assert result.returncode == 2
    assert line in result.stderr.splitlines()[-1] and result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
