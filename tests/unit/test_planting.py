"""From a plan to run folders: cut short anywhere it is finished later, and fresh seeds are owed by what ended only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from optsweep_tui import flow, grid, plan, rundir, settings, studies
from optsweep_tui.core import FreshSeeds, Study
from optsweep_tui.errors import OptsweepError
from optsweep_tui.grid import DatasetFacts
from optsweep_tui.settings import Workspace
from tests.unit.made_runs import attempt


def facts(name: str) -> DatasetFacts:
    return DatasetFacts(name=name, sha256="0" * 64, vocab_size=256)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return settings.workspace(tmp_path).ensure()


@pytest.fixture
def study() -> Study:
    selected = grid.from_names(["adamw"], ["bench-micro"], ["0.1"])
    swept = grid.with_settings(selected, [], ["lr=0.001,0.002,0.004"])
    rule = FreshSeeds(optimizer=("adamw",), count=2, budgets="all")
    return Study(name="made", cells=swept.cells, overrides=swept.overrides, fresh_seeds=rule)


def ended(workspace: Workspace, run_id: str, status: str = "done") -> None:
    attempt(workspace.runs / run_id, steps=3, status=status, ending={"reason": "finished"})


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_a_planting_cut_short_is_finished_by_resume(workspace: Workspace, study: Study, cut: int) -> None:
    specs = grid.expand(study, facts)
    studies.intend(workspace.studies, studies.rules_of(study), specs)
    rundir.write(workspace.runs, specs[:cut], study.name)
    if cut:  # the last one has its folder and nothing in it yet
        shutil.rmtree(workspace.runs / specs[cut - 1].run_id)
        (workspace.runs / specs[cut - 1].run_id).mkdir()
    assert set(flow.unfinished(workspace)) == {spec.run_id for spec in specs}
    (known,) = studies.listed(workspace.studies)
    assert known["runs"] == [spec.run_id for spec in specs] and known["fresh_seeds"]["count"] == 2
    assert not list(workspace.studies.glob("*.plan"))


def test_planting_twice_is_planting_once(workspace: Workspace, study: Study) -> None:
    specs = grid.expand(study, facts)
    plan.plant(workspace, study, specs)
    before = {path: path.read_bytes() for path in workspace.root.rglob("*.json")}
    plan.plant(workspace, study, specs)
    assert {path: path.read_bytes() for path in workspace.root.rglob("*.json")} == before


def test_a_damaged_plan_is_passed_over(workspace: Workspace, study: Study) -> None:
    (workspace.studies / "torn.plan").write_text('{"name": "torn", "specs": [')
    (workspace.studies / "odd.plan").write_text('{"name": 3, "specs": []}')
    assert plan.finish_planting(workspace) == 0


def test_a_cancelled_sweep_owes_no_fresh_seeds(workspace: Workspace, study: Study) -> None:
    specs = grid.expand(study, facts)
    plan.plant(workspace, study, specs)
    for spec in specs[:-1]:
        ended(workspace, spec.run_id)
    rundir.cancel(workspace.runs / specs[-1].run_id)
    assert flow.unfinished(workspace) == []
    assert len(rundir.run_ids(workspace.runs)) == len(specs)


def test_a_fresh_seed_that_failed_is_part_of_every_later_look(workspace: Workspace, study: Study) -> None:
    specs = grid.expand(study, facts)
    plan.plant(workspace, study, specs)
    for spec in specs:
        ended(workspace, spec.run_id)
    fresh = flow.unfinished(workspace)
    assert len(fresh) == 2
    ended(workspace, fresh[0])
    ended(workspace, fresh[1], status="oom")
    *_, look = flow.drive(workspace, [spec.run_id for spec in specs])
    assert look.complete and look.counts == {"done": len(specs) + 1, "oom": 1}


def test_a_store_that_cannot_take_the_results_is_named_before_anything_is_planted(
    workspace: Workspace, study: Study
) -> None:
    workspace.store.write_bytes(b"garbage" * 1000)
    specs = grid.expand(study, facts)
    with pytest.raises(OptsweepError):
        flow.launch(workspace, flow.Plan(study=study, specs=specs, fresh_seed_runs=0))
    assert rundir.run_ids(workspace.runs) == [] and not list(workspace.studies.iterdir())


def test_a_metric_step_that_cannot_be_one_is_no_step(workspace: Workspace, study: Study) -> None:
    specs = grid.expand(study, facts)
    plan.plant(workspace, study, specs)
    where = attempt(workspace.runs / specs[0].run_id, steps=3)
    with open(where / rundir.METRICS, "a") as handle:
        for step in (10**24, -1, True):
            handle.write(json.dumps({"step": step, "train_loss": 1.0}) + "\n")
    last = rundir.last_metric(where)
    assert last is not None and last["step"] == 3
    assert [row["step"] for row in rundir.metric_rows(where.parent)] == [1, 2, 3]
