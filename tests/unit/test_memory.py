"""What a machine cannot hold is refused before anything is written; whatever may fit is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from optsweep_engines import survey
from optsweep_tui import cost, flow, grid, settings
from optsweep_tui.errors import OptsweepError
from optsweep_tui.grid import DatasetFacts

GIB = 1 << 30


def facts(name: str) -> DatasetFacts:
    return DatasetFacts(name=name, sha256="0" * 64, vocab_size=256)


def plan_of(model: str, *sets: str) -> flow.Plan:
    study = grid.with_settings(grid.from_names(["adamw"], [model], ["0.01"]), sets, [])
    study = dataclasses.replace(study, dataset="embedded")
    return flow.Plan(study=study, specs=grid.expand(study, facts), fresh_seed_runs=0)


def test_weights_gradients_and_both_moments_alone_must_fit() -> None:
    (spec,) = plan_of("olmo-1.2b", "accumulation=256").specs
    firm = 16 * spec.shape.total_params  # fp32: a weight, its gradient, two moments
    with pytest.raises(OptsweepError, match=f"optimizer state {firm / GIB:.1f}") as told:
        cost.require_memory([spec], firm - 1)
    assert "accumulation" not in str(told.value), "smaller batches would not help"
    cost.require_memory([spec], 2 * firm)


def test_a_batch_far_beyond_the_memory_is_refused_and_fits_in_pieces() -> None:
    with pytest.raises(OptsweepError, match=r"256 x 512 tokens at once.*accumulation=N"):
        cost.require_memory(plan_of("olmo-1.2b").specs, 24 * GIB)
    cost.require_memory(plan_of("olmo-1.2b", "accumulation=256").specs, 24 * GIB)


def test_two_checkpoints_of_every_run_that_goes_on_must_fit_on_the_disk() -> None:
    (spec,) = plan_of("bench-small").specs
    one = 12 * spec.shape.total_params  # a weight and two moments
    runs = [spec.replace(seed=seed) for seed in range(5)]
    with pytest.raises(OptsweepError, match="too little disk"):
        cost.require_disk(runs, 4 * one - 1, slots=2)
    cost.require_disk(runs, 4 * one, slots=2)
    kept = {runs[0].run_id: 3, "another": 100}
    with pytest.raises(OptsweepError, match="states to be kept"):
        cost.require_disk(runs, 7 * one - 1, 2, kept)
    cost.require_disk(runs, 7 * one, 2, kept)
    cost.require_disk([], 0, slots=2)


def test_a_launch_without_the_disk_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.Workspace, "free_bytes", 1000)
    with pytest.raises(OptsweepError, match="too little disk"):
        flow.launch(settings.workspace(tmp_path), plan_of("bench-micro"))
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_does_not_tell_its_memory_refuses_nothing() -> None:
    cost.require_memory(plan_of("1.2b").specs, None)


def test_a_launch_without_the_memory_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "memory", lambda: (0, GIB // 1024))
    place = settings.workspace(tmp_path)
    if place.gpus:
        pytest.skip("memory of a GPU is the engine's to ask for")
    with pytest.raises(OptsweepError, match="too little memory"):
        flow.launch(place, plan_of("bench-small"))
    assert list(tmp_path.iterdir()) == []
