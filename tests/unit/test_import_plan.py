"""The published study as a plan: its incumbent, every change that was published, each with its own step count."""

from __future__ import annotations

from optsweep_engines.spec import canonical_scalar
from optsweep_tui import grid, gridfile, published
from optsweep_tui.cli import run
from optsweep_tui.importers.cells import catalogue_name, knob_name
from optsweep_tui.importers.reference import reference_cells


def facts(name: str) -> grid.DatasetFacts:
    return grid.DatasetFacts(name=name, sha256=None, vocab_size=128256)


def test_a_plan_of_any_published_cell_holds_its_incumbent_and_every_published_change() -> None:
    study = gridfile.load("reference")
    wanted, planned_beyond = 0, 0
    for cell in reference_cells():
        optimizer = catalogue_name(cell.optimizer)
        specs = grid.expand(grid.select(study, [optimizer], [cell.model], [cell.chinchilla]), facts)
        assert cell.incumbent is not None
        base = {knob_name(optimizer, key): canonical_scalar(value) for key, value in cell.incumbent.items()}
        incumbent = {**specs[0].hyperparameters, "batch_size": specs[0].batch_size, "schedule": specs[0].schedule}
        assert base.items() <= incumbent.items(), cell.name
        planned = set()
        for spec in specs:
            assert spec.steps == spec.tokens // (spec.batch_size * 4096)
            values = {**spec.hyperparameters, "batch_size": spec.batch_size, "schedule": spec.schedule}
            changes = [(key, value) for key, value in values.items() if incumbent[key] != value]
            assert len(changes) == (spec is not specs[0]), cell.name
            planned.update(changes)
        changed = {
            (knob_name(optimizer, entry.hyperparameter), canonical_scalar(entry.value))
            for entry in cell.entries
            if entry.hyperparameter is not None
        }
        changed = {(knob, value) for knob, value in changed if base[knob] != value}
        assert changed <= planned, cell.name
        # What is planned beyond the published runs is in the published sweep lists, and was not run there.
        swept = published.reference()[optimizer, cell.model, cell.chinchilla].sweep
        lists = {knob_name(optimizer, key): set(map(canonical_scalar, values)) for key, values in swept.items()}
        assert all(value in lists[knob] for knob, value in planned - changed), cell.name
        wanted, planned_beyond = wanted + len(changed), planned_beyond + len(planned - changed)
    # 1715 published changes, six of which are the incumbent again in another spelling of 1e-25.
    assert (wanted, planned_beyond) == (1709, 46)


def test_batch_sweeps_have_the_steps_of_their_own_batch() -> None:
    study = gridfile.load("reference")
    specs = grid.expand(grid.select(study, ["muon"], ["130m"], ["1"]), facts)
    assert {spec.batch_size: spec.steps for spec in specs} == {128: 5120, 256: 2560, 512: 1280, 1024: 640}
    specs = grid.expand(grid.select(study, ["adamw"], ["520m"], ["8"]), facts)
    assert specs[0].batch_size == 256 and specs[0].steps == 81920
    assert all(spec.steps == 81920 * 256 // spec.batch_size for spec in specs)


def test_a_crowded_plan_says_what_each_run_changes() -> None:
    study = gridfile.load("reference")
    specs = grid.expand(grid.select(study, ["muon"], ["130m"], ["1"]), facts)
    rows = [
        {
            "optimizer": spec.optimizer, "model": spec.model, "tokens": spec.tokens, "batch_size": spec.batch_size,
            "schedule": spec.schedule, "hyperparameters": dict(spec.hyperparameters),
        }
        for spec in specs
    ]  # fmt: skip
    changes = run._changes(rows)
    assert changes[0] == "incumbent"
    assert len(set(changes)) == len(rows) == 33
    assert {"muon_eps 1e-25", "batch_size 1024", "muon_to_adam_lr 0.3", "weight_decay 0"} <= set(changes)
    assert len(run._varying(rows)) > run.MOST_KNOBS
