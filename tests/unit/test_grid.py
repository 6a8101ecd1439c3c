"""Grids: the published plan, the command line's changes, and every mistake named where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_engines import models
from optsweep_engines.optimizers import catalogue
from optsweep_tui import flow, grid, gridfile, plan, published
from optsweep_tui.core import Study
from optsweep_tui.errors import OptsweepError
from optsweep_tui.grid import DatasetFacts


def facts(name: str) -> DatasetFacts:
    """Every dataset prepared."""
    return DatasetFacts(name=name, sha256="0" * 64, vocab_size=256)


def written(folder: Path, text: str) -> Study:
    path = folder / "lr.toml"
    path.write_text(text)
    return gridfile.load(str(path))


CELL = '[[cells]]\noptimizer = ["adamw"]\nmodel = ["bench-micro"]\nchinchilla = [0.05]\n'


def test_a_plan_without_a_grid_starts_from_the_published_incumbent() -> None:
    study = grid.from_names(["adamw", "muon"], ["130M"], ["1", "8"])
    specs = {(spec.optimizer, spec.chinchilla): spec for spec in grid.expand(study, facts)}
    assert len(specs) == 4
    for (optimizer, ratio), spec in specs.items():
        cell = published.reference()[optimizer, "130m", ratio]
        assert spec.steps == cell.steps
        assert spec.batch_size == cell.incumbent["train_batch_size"]
        assert spec.seq_len == 4096
        assert spec.hyperparameters["lr"] == cell.incumbent["learning_rate"]
    assert specs["adamw", 1.0].steps == 5120
    assert specs["adamw", 1.0].schedule == "cosine"
    assert specs["muon", 1.0].schedule == "linear"


def test_every_published_cell_of_a_known_optimizer_has_its_published_step_count() -> None:
    from optsweep_engines.optimizers import catalogue

    cells = [cell for cell in published.reference().values() if cell.optimizer in catalogue.optimizers()]
    assert len(cells) >= 36
    for cell in cells:
        study = grid.from_names([cell.optimizer], [cell.model], [cell.chinchilla])
        assert grid.expand(study, facts)[0].steps == cell.steps, cell


def test_around_start_takes_the_value_that_the_published_sweep_began_from() -> None:
    import dataclasses

    study = grid.from_names(["adamw"], ["130m"], ["1"])
    start = grid.expand(dataclasses.replace(study, around="start"), facts)[0]
    cell = published.reference()["adamw", "130m", 1.0]
    assert start.hyperparameters["lr"] == cell.start["learning_rate"] == 0.016
    assert cell.incumbent["learning_rate"] == 0.008


def test_the_reference_grid_gives_the_incumbent_first_then_one_change_at_a_time() -> None:
    study = grid.select(gridfile.load("reference"), ["muon"], ["130m"], ["1"])
    specs = grid.expand(study, facts)
    incumbent = specs[0]
    assert incumbent.hyperparameters["lr"] == 0.016
    for spec in specs[1:]:
        changes = [key for key in spec.hyperparameters if spec.hyperparameters[key] != incumbent.hyperparameters[key]]
        changes += ["batch_size"] if spec.batch_size != incumbent.batch_size else []
        assert len(changes) == 1, changes
        assert spec.steps == spec.tokens // (spec.batch_size * 4096)
    swept = published.reference()["muon", "130m", 1.0].sweep
    batches = {spec.batch_size: spec.steps for spec in specs}
    assert set(batches) == {*swept["train_batch_size"], 128}
    assert batches[256] == incumbent.steps // 2


def test_set_and_sweep_do_what_a_file_does(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        CELL
        + "[defaults]\nseq_len = 64\n[optimizer.adamw]\nset = { beta2 = 0.98 }\nsweep = { lr = [0.001, 0.002] }\n"
        + "[[optimizer.adamw.block]]\nlr = [0.01, 0.02]\nweight_decay = [0.0, 0.1]\n",
    )
    line = grid.with_settings(
        grid.from_names(["adamw"], ["bench-micro"], ["1/20"]),
        ["seq_len=64", "adamw.beta2=0.98"],
        ["lr=0.001,0.002", "lr=0.01,0.02*weight_decay=0,0.1"],
    )
    assert [spec.run_id for spec in grid.expand(file, facts)] == [spec.run_id for spec in grid.expand(line, facts)]


def test_overrides_reach_only_the_cells_that_match(tmp_path: Path) -> None:
    study = written(
        tmp_path,
        CELL.replace("[0.05]", "[0.05, 0.1]")
        + "[[override]]\nchinchilla = [0.1]\nset = { lr = 0.5, batch_size = 4 }\n",
    )
    first, second = grid.expand(study, facts)
    assert (first.batch_size, second.batch_size) == (8, 4)
    assert second.hyperparameters["lr"] == 0.5 != first.hyperparameters["lr"]
    assert second.steps == second.tokens // (4 * second.seq_len)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CELL.replace("adamw", "adamww"), 'optimizer[0]: optimizer "adamww" is not known; did you mean "adamw"?'),
        (CELL.replace("bench-micro", "bench-mikro"), 'did you mean "bench-micro"?'),
        (CELL.replace("0.05", "-1"), "not a positive number"),
        (CELL.replace("[0.05]", "[]"), "chinchilla is missing or empty"),
        (CELL + "[defaults]\nlearnin_rate = 1\n", 'knob "learnin_rate" is not known'),
        (CELL + "[optimizer.adamw]\nsweep = { betta1 = [0.9] }\n", 'did you mean "beta1"?'),
        (CELL + "[optimizer.adamw]\nswep = { lr = [0.9] }\n", 'key "swep" is not known; did you mean "sweep"?'),
        (CELL + "sedes = [1]\n", "is not known"),
        ("seeds = [1, 1]\n" + CELL, "names one twice"),
        ("seeds = [-1]\n" + CELL, "whole number"),
        ("name = '../x'\n" + CELL, "cannot name a study"),
        ("name = 'x'\n", "there are no [[cells]]"),
        ("cells = 3\n", "write [[cells]]"),
        ("cells = 'adamw'\n", "write [[cells]]"),
        (CELL + "[[override]]\noptimizer = 'muon'\nset = { lr = 0.1 }\n", "override[0] meets no cell"),
        (CELL + "[[override]]\nchinchilla = 77\nset = { lr = 0.1 }\n", "override[0] meets no cell"),
        (CELL + "[optimizer.lion]\nset = { lr = 0.1 }\n", "optimizer.lion has no cell"),
        (CELL + "[fresh_seeds]\noptimizer = 'lion'\n", "lion has no cell"),
        ("not toml", "is not TOML"),
        (CELL + "[fresh_seeds]\ncount = 0\n", "count = 0"),
        (CELL + "[fresh_seeds]\nbudgets = 'end'\n", 'did you mean "ends"?'),
    ],
)
def test_a_mistake_in_a_file_is_named_where_it_stands(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(OptsweepError) as caught:
        written(tmp_path, text)
    assert expected in str(caught.value)
    assert "lr.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("lr=-1", "outside"),
        ("lr=abc", "not a number"),
        ("lr=nan", "not a number"),
        ("schedule=cosin", 'did you mean "cosine"?'),
        ("batch_size=0", "whole number"),
        ("batch_size=2.5", "whole number"),
        ("dtype=fp64", "dtype"),
        ("beta1=1.5", "outside"),
        ("accumulation=3", "does not divide"),
        ("lr", "knob=value"),
        ("lr=", "knob=value"),
        ("soapy.lr=1", "is not known"),
        ("momentum=0.9", "is not known"),
        ("batch_size=100000", "less than one step"),
        ("seq_len=1e9", "less than one step"),
        ("warmup=1.5", "neither a fraction below 1"),
        ("seed=3", "give --seeds"),
        ("muon.lr=0.1", "no cell of muon, only of adamw"),
        ("engine=jax", "give --engine"),
    ],
)
def test_a_bad_setting_is_one_clear_line(assignment: str, expected: str) -> None:
    with pytest.raises(OptsweepError) as caught:
        study = grid.with_settings(grid.from_names(["adamw"], ["bench-micro"], ["0.1"]), [assignment], [])
        grid.expand(study, facts)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("sweep", "expected"), [("muon.lr=0.1,0.2", "no cell of muon"), ("lr=0.1,0.2*lr=0.3", "given twice")]
)
def test_a_sweep_that_would_be_left_out_is_refused(sweep: str, expected: str) -> None:
    with pytest.raises(OptsweepError, match=expected):
        grid.with_settings(grid.from_names(["adamw"], ["bench-micro"], ["0.1"]), [], [sweep])


def test_a_plan_says_which_configurations_are_not_the_published_ones() -> None:
    cells = [("adamw", "130m", 1.0), ("adamw", "130m", 3.0), ("sgd", "130m", 1.0), ("sgd", "bench-micro", 1.0)]
    first, second = published.origins(cells)
    assert "adamw 130m 3" in first and "of ratio 4" in first
    assert "sgd 130m 1" in second and "no published configuration" in second


def test_a_grid_that_explodes_is_refused_before_it_is_expanded_and_cut_by_a_limit() -> None:
    values = ",".join(str(value / 1000) for value in range(1, 400))
    product = f"lr={values}*weight_decay={values}"
    study = grid.with_settings(grid.from_names(["adamw"], ["bench-micro"], ["0.1"]), [], [product])
    with pytest.raises(OptsweepError, match="asks for 159,202 runs, more than 100,000"):
        grid.expand(study, facts)
    assert len(grid.expand(study, facts, limit=5)) == 5


def test_a_default_that_the_chosen_schedule_does_not_read_is_left_out_but_an_explicit_one_is_refused(
    tmp_path: Path,
) -> None:
    text = CELL + "[defaults]\ndecay = 0.5\nschedule = 'linear'\n[optimizer.adamw]\nset = { schedule = 'constant' }\n"
    specs = grid.expand(written(tmp_path, text), facts)
    assert {spec.schedule for spec in specs} == {"constant"}
    assert all(spec.hyperparameters.get("decay") != 0.5 for spec in specs)
    with pytest.raises(OptsweepError, match="does not read decay"):
        grid.expand(written(tmp_path, text.replace("'constant' }", "'constant', decay = 0.5 }")), facts)


def test_an_optimizer_that_needs_a_schedule_of_its_own_gets_it_unless_the_grid_names_one() -> None:
    for model in ("bench-micro", "130m"):
        study = grid.from_names(["adamw", "sf_adamw", "adalayer_frozen"], [model], ["1"])
        found = {spec.optimizer: spec.schedule for spec in grid.expand(study, facts)}
        assert found["sf_adamw"] == "constant" and found["adalayer_frozen"] == "freeze_cosine_with_warmup"
        assert found["adamw"] == models.model(model).schedule
    with pytest.raises(OptsweepError, match=r"sf_adamw\.schedule=constant"):
        grid.expand(grid.with_settings(study, ["schedule=cosine"], []), facts)


def test_another_schedule_is_proposed_only_where_the_schedule_is_what_is_wrong() -> None:
    for name, setting in (
        ("sf_adamw", "decay=0.5"),
        ("adamw", "lr=0.1,schedule=linear"),
        ("prodigy", "growth_rate=0.5"),
    ):
        study = grid.from_names([name], ["bench-micro"], ["0.1"])
        with pytest.raises(OptsweepError) as caught:
            grid.expand(grid.with_settings(study, [setting], []), facts)
        assert "--set" not in str(caught.value) and f"optsweep optimizers {name}" in str(caught.value), caught.value


def test_a_name_of_the_published_study_means_there_what_it_means_in_that_study() -> None:
    whole = gridfile.load("reference")
    for name, ours in (("scion", "scion_fantastic"), ("Sophia", "sophia_h"), ("mini", "adam_mini")):
        study = grid.with_settings(grid.select(whole, [name], ["130m"], ["1"]), [f"{name}.beta1=0.5"], [])
        specs = grid.expand(study, facts, limit=1)
        assert {spec.optimizer for spec in specs} == {ours} and specs[0].hyperparameters["beta1"] == 0.5
        assert published.study_name("reference", name) == ours
    assert grid.from_names(["scion"], ["130m"], ["1"]).cells[0].optimizer == ("scion",)
    assert published.study_name(None, "scion") == published.study_name("mine", "scion") == "scion"


def test_what_a_published_configuration_leaves_to_the_study_s_code_is_as_that_code_has_it() -> None:
    """Its SoapConfig cuts gradients into blocks unless told otherwise; the largest model's cells do not say."""
    for model in ("130m", "1.2b"):
        (spec,) = grid.expand(grid.from_names(["soap"], [model], ["1"]), facts)
        assert spec.hyperparameters["partition_grads_into_blocks"] is True
    (spec,) = grid.expand(grid.from_names(["soap"], ["bench-micro"], ["1"]), facts)
    assert spec.hyperparameters["partition_grads_into_blocks"] is False


def test_a_knob_that_does_nothing_beside_the_others_is_remarked_on() -> None:
    study = grid.from_names(["soap", "adamw"], ["bench-micro"], ["0.1"])
    specs = grid.expand(grid.with_settings(study, ["soap.block_size=128", "weight_decay=0.2"], []), facts)
    assert flow.cautions(specs) == ["soap: block_size does nothing without partition_grads_into_blocks (1 of 2 runs)"]
    switched = ["soap.block_size=128", "soap.partition_grads_into_blocks=true"]
    assert flow.cautions(grid.expand(grid.with_settings(study, switched, []), facts)) == []


def test_every_optimizer_of_the_catalogue_can_be_planned_without_a_word_more() -> None:
    names = list(catalogue.optimizers())
    specs = grid.expand(grid.from_names(names, ["bench-micro"], ["0.1"]), facts)
    assert [spec.optimizer for spec in specs] == names


def test_a_knob_given_twice_under_two_names_is_refused() -> None:
    study = grid.from_names(["muon"], ["bench-micro"], ["0.1"])
    with pytest.raises(OptsweepError, match="lr is given twice"):
        grid.with_settings(study, ["lr=0.1", "learning_rate=0.2"], [])


def test_an_empty_selection_is_an_error() -> None:
    with pytest.raises(OptsweepError, match="selection is empty"):
        grid.select(gridfile.load("quickstart"), ["muon"], ["130m"], [])


def test_every_shipped_grid_expands() -> None:
    for name in gridfile.names():
        specs = grid.expand(gridfile.load(name), facts)
        assert len({spec.run_id for spec in specs}) == len(specs) > 0, name


def test_the_quickstart_is_a_fair_comparison() -> None:
    study = gridfile.load("quickstart")
    specs = grid.expand(study, facts)
    cells: dict[tuple[str, float], set[object]] = {}
    for spec in specs:
        cells.setdefault((spec.optimizer, spec.chinchilla), set()).add(spec.hyperparameters["lr"])
    assert {len(values) for values in cells.values()} == {3}
    budgets = {name: [ratio for cell, ratio in cells if cell == name] for name in ("adamw", "muon", "sgd")}
    assert len(budgets["adamw"]) >= 4 and min(map(len, budgets.values())) >= 3
    assert study.seeds == (0,)
    assert plan.fresh_seed_count(study, specs) == 6
    assert all(spec.validation_tokens >= 65536 for spec in specs)


names = st.sampled_from(
    ["name", "cells", "optimizer", "seeds", "defaults", "override", "fresh_seeds", "around", "published"]
)
junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, junk, max_size=5))
def test_no_table_of_a_grid_file_makes_a_traceback(data: dict[str, object]) -> None:
    try:
        grid.expand(gridfile.parse(data, "junk.toml", "junk"), facts)
    except OptsweepError as error:
        assert str(error)


def test_fresh_seeds_wait_for_the_whole_sweep_and_take_its_best() -> None:
    study = gridfile.load("quickstart")
    specs = grid.expand(study, facts)
    smallest = [spec for spec in specs if spec.optimizer == "adamw" and spec.chinchilla == 0.05]
    losses: dict[str, float | None] = {spec.run_id: 2.0 + index for index, spec in enumerate(smallest)}
    assert plan.fresh_seeds(study, specs, dict(list(losses.items())[:-1])) == []
    added = plan.fresh_seeds(study, specs, losses)
    assert [spec.seed for spec in added] == [1, 2, 3]
    assert {json.dumps(dict(spec.hyperparameters)) for spec in added} == {json.dumps(dict(smallest[0].hyperparameters))}
    assert plan.fresh_seeds(study, specs, dict.fromkeys(losses)) == []
