"""What a benchmark found is kept by key and device, predicts the hours of a plan, and is held against finished runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines.spec import RunRecord
from optsweep_tui import benches, flow, preview, settings
from tests.unit.test_spec import spec


def place(folder: Path) -> settings.Workspace:
    (folder / "optsweep.toml").write_text("slots = 2\n")
    return settings.workspace(folder)


def row(optimizer: str, rate: float, **changes: Any) -> dict[str, Any]:
    return {
        "engine": "torch", "optimizer": optimizer, "model": "bench-micro", "batch_size": 8, "seq_len": 128, "dtype": "fp32",
        "device": "cpu (AMD EPYC)", "tokens_per_second": rate, "mfu": 0.2, "versions": {"torch": "2.13"}, "pack": 1, **changes,
    }  # fmt: skip


def test_a_newer_measurement_takes_the_place_of_the_older_one_of_its_key(tmp_path: Path) -> None:
    work = place(tmp_path)
    benches.remember(work, [row("adamw", 100.0), row("muon", 50.0), row("adamw", 7.0, device="cuda:0 (NVIDIA H200)")])
    benches.remember(work, [row("adamw", 200.0), row("adamw", 900.0, pack=8)])
    assert sorted(entry["tokens_per_second"] for entry in benches.kept(work)) == [7.0, 50.0, 200.0]
    key = ("torch", "adamw", "bench-micro", 8, 128, "fp32")
    assert benches.rates(work)[key] == 200.0, "of the device that runs take here"


def test_a_dry_run_takes_its_hours_from_a_bench_and_says_nothing_without(tmp_path: Path) -> None:
    work = place(tmp_path)
    request = flow.Request(optimizers=("adamw",), models=("bench-micro",), chinchillas=("0.1",))
    assert preview.of(work, flow.plan(work, request))["totals"]["seconds_estimate"] is None
    benches.remember(work, [row("adamw", 1000.0)])
    document = preview.of(work, flow.plan(work, request))
    assert document["totals"]["seconds_estimate"] == pytest.approx(document["runs"][0]["tokens"] / 1000.0, rel=0.01)
    assert document["runs"][0]["seconds_basis"] == "measured"
    other = preview.of(work, flow.plan(work, dataclasses.replace(request, optimizers=("muon",))))
    assert [run["seconds_basis"] for run in other["runs"]] == ["neighbours"]
    other = preview.of(work, flow.plan(work, dataclasses.replace(request, models=("bench-tiny",))))
    assert [(run["seconds_basis"], run["seconds_estimate"]) for run in other["runs"]] == [(None, None)]


@pytest.mark.parametrize("text", ["", "[", "{}", '[{"engine": "torch"}]', '[{"tokens_per_second": "fast"}]'])
def test_a_damaged_file_is_no_measurement(text: str, tmp_path: Path) -> None:
    work = place(tmp_path)
    (tmp_path / benches.FILE).write_text(text)
    assert benches.kept(work) == [] and benches.rates(work) == {}


def test_the_error_of_the_prediction_is_the_time_taken_over_the_time_predicted(tmp_path: Path) -> None:
    work = place(tmp_path)
    one = dataclasses.replace(
        spec(), engine="torch", optimizer="adamw", model="bench-micro", batch_size=8, seq_len=128, dtype="fp32"
    )
    benches.remember(work, [row("adamw", 100.0)])
    record = RunRecord(
        run_id=one.run_id, attempt=1, status="done", train_loss=2.0, val_loss=2.0, steps=10, tokens=10_000, train_seconds=1.0,
        tokens_per_second=1.0, peak_bytes=1, optimizer_state_bytes=1, device="cpu (AMD EPYC)", versions={},
    )  # fmt: skip
    took = [dataclasses.replace(record, train_seconds=seconds) for seconds in (90.0, 120.0, 300.0)]
    elsewhere = dataclasses.replace(record, train_seconds=1.0, device="cuda:0 (NVIDIA H200)")
    found = benches.prediction_error(work, [(one, each) for each in (*took, elsewhere)])
    assert found == {"benches": 1, "runs": 3, "median": 1.2, "low": 0.9, "high": 3.0}
    spread = dataclasses.replace(record, train_seconds=500.0, mesh="data=2")
    assert benches.prediction_error(work, [(one, each) for each in (*took, spread)]) == found, "a bench is one process"
    assert benches.prediction_error(work, [])["median"] is None
    # A branch from step 8: 2 of its 10 steps are its own, 2048 of its tokens; at 100 tokens/s 20.48 s.
    branch = dataclasses.replace(record, tokens=10 * 1024, started_from_step=8, train_seconds=20.48 * 1.5)
    found = benches.prediction_error(work, [(one, branch), (one, dataclasses.replace(branch, tokens=8 * 1024))])
    assert found["runs"] == 1 and found["median"] == pytest.approx(1.5)
