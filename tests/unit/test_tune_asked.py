"""From what is typed to what is tuned: cells, starts, lists, names; and a later command must ask for the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import grid, settings
from optsweep_tui.datasets import DatasetLookup
from optsweep_tui.errors import OptsweepError
from optsweep_tui.tune import kept
from optsweep_tui.tune.asked import Request, tuning_of
from optsweep_tui.tune.lists import axis_of
from optsweep_tui.tune.problem import Rules
from optsweep_tui.tune.tuning import Tuning, from_dict, to_dict

MICRO: dict[str, Any] = {"optimizers": ("adamw",), "models": ("bench-micro",), "chinchillas": ("0.05",)}


def asked(folder: Path, **fields: Any) -> Tuning:
    place = settings.workspace(folder)
    return tuning_of(Request(**fields), DatasetLookup(place, prepare=False), place.grids)


def test_the_start_is_the_grids_configuration_whole_and_resolved(tmp_path: Path) -> None:
    tuning = asked(tmp_path, grid="quickstart", optimizers=("muon",), chinchillas=("0.1",))
    (cell,) = tuning.cells
    assert tuning.name == "tune-quickstart-muon-bench-micro-0.1" and tuning.dataset == "embedded"
    assert {knob: cell.start[knob] for knob in ("lr", "momentum", "batch_size", "schedule")} == {
        "lr": 0.02,
        "momentum": 0.95,
        "batch_size": 8,
        "schedule": "linear",
    }
    assert dict(cell.axes) == {"lr": (0.01, 0.02, 0.04)}
    assert tuning.rules.fresh_seeds == 3, "as many as the grid's rule"


def test_an_option_of_the_command_line_wins_over_the_grid(tmp_path: Path) -> None:
    tuning = asked(
        tmp_path,
        grid="quickstart",
        optimizers=("adamw",),
        chinchillas=("0.05",),
        sets=("lr=0.005",),
        sweeps=("weight_decay=0,0.1", "lr=0.003,0.006"),
        fresh_seeds=5,
    )
    (cell,) = tuning.cells
    assert cell.start["lr"] == 0.005
    assert dict(cell.axes) == {"lr": (0.003, 0.005, 0.006), "weight_decay": (0, 0.1)}, "the start is on every list"
    assert dict(cell.given) == {"lr": (0.003, 0.006), "weight_decay": (0, 0.1)}
    assert list(cell.axes) == ["lr", "weight_decay"] and tuning.rules.fresh_seeds == 5


def test_without_any_list_the_published_ones_of_the_shape_are_taken(tmp_path: Path) -> None:
    (cell,) = asked(tmp_path, optimizers=("muon",), models=("130m",), chinchillas=("1",)).cells
    assert cell.axes["lr"] == (0.008, 0.016, 0.032, 0.064, 0.128)
    assert cell.axes["batch_size"] == (128, 256, 512, 1024) and cell.axes["decay"] == (0.2, 0.4, 0.6, 0.8, 1)
    assert list(cell.axes)[:3] == ["lr", "batch_size", "weight_decay"], "what moves the others most comes first"


def test_without_published_cells_the_catalogues_lists_are_taken_as_far_as_they_fit(tmp_path: Path) -> None:
    (cell,) = asked(tmp_path, **MICRO).cells
    assert cell.axes["lr"] == (0.0015, 0.003, 0.006), "half and twice a start that nobody swept around"
    assert cell.axes["beta2"] == (0.9, 0.95, 0.98)
    assert "warmup" not in cell.axes, "the published numbers of steps do not go with a fraction"
    assert cell.axes["decay"] == (0, 0.2, 0.4, 0.6, 0.8, 1)
    (cosine,) = asked(tmp_path, **MICRO, sets=("schedule=cosine",)).cells
    assert "decay" not in cosine.axes, "the published study did not cut a cosine short"


def test_knobs_picks_and_orders(tmp_path: Path) -> None:
    fields = {**MICRO, "optimizers": ("adamw", "muon")}
    first, second = asked(tmp_path, **fields, knobs=("momentum", "wd", "lr")).cells
    assert list(first.axes) == ["weight_decay", "lr"] and list(second.axes) == ["momentum", "weight_decay", "lr"]
    (cell,) = asked(tmp_path, **MICRO, knobs=("nesterov", "max_grad_norm", "eps")).cells
    assert cell.axes["nesterov"] == (False, True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sweeps": ("lrr=0.1",)}, 'did you mean "lr"'),
        ({"sweeps": ("lr=",)}, "not of the form"),
        ({"sweeps": ("lr=,",)}, "not a number"),
        ({"sweeps": ("lr=100",)}, "outside 1e-07 to 10"),
        ({"sweeps": ("lr=nan",)}, "not a number"),
        ({"sweeps": ("lr=0.1*weight_decay=0.1",)}, "is a product"),
        ({"sweeps": ("schedule=cosine,linear",)}, "schedule is a setting of the run"),
        ({"sweeps": ("warmup=0.1,100",)}, "mixes fractions with numbers of steps"),
        ({"sweeps": ("momentum=0.9",)}, "knob of adamw"),
        ({"knobs": ("nosuch",)}, "nosuch"),
        ({"knobs": ("min_lr_ratio",)}, "has no list of values"),
        ({"chinchillas": ()}, "-c RATIO is missing"),
        ({"engine": "tf"}, 'engine "tf"'),
        ({"around": "there"}, '"there" is not known'),
        ({"study": "a b"}, "cannot name a study"),
        ({"rules": Rules(max_runs=0)}, "leaves no run"),
        ({"rules": Rules(threshold=-1.0)}, "not a number of nats"),
        ({"rules": Rules(threshold=float("nan"))}, "not a number of nats"),
        ({"rules": Rules(max_extensions=-1)}, "is negative"),
        ({"rules": Rules(block=("lr", "lr"))}, "names one knob twice"),
        ({"rules": Rules(block=("lr", "foo"))}, "foo"),
        ({"rules": Rules(sampler="grid")}, "--sampler"),
        ({"rules": Rules(seeds_for_start=True), "fresh_seeds": 0}, "contradict"),
        ({"fresh_seeds": -1}, "is negative"),
        ({"grid": "quickstart", "optimizers": ("sgd",), "chinchillas": ("0.05",)}, "has no such cell"),
        ({"grid": "nosuch"}, '"nosuch" is not known'),
    ],
)
def test_mistakes_are_named(fields: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(OptsweepError, match=None) as caught:
        asked(tmp_path, **{**MICRO, **fields})
    assert said in str(caught.value), caught.value
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_would_be_too_long_is_cut_and_told_apart(tmp_path: Path) -> None:
    many = {
        **MICRO,
        "optimizers": ("adamw", "muon", "sgd", "lion", "soap", "mars"),
        "chinchillas": ("0.05", "0.1", "0.2"),
    }
    one = asked(tmp_path, **many)
    other = asked(tmp_path, **{**many, "chinchillas": ("0.05", "0.1", "0.3")})
    assert len(one.name) <= 64 and one.name != other.name and one.name == asked(tmp_path, **many).name


def test_a_warmup_in_fractions_never_becomes_one_in_steps() -> None:
    axis = axis_of("adamw", "warmup", [0.1, 0.2, 0.4], "here")
    assert axis.high == 0.9 and axis.kind == "float"
    assert axis_of("adamw", "warmup", [100, 200], "here").kind == "int"


def test_a_tuning_is_kept_as_it_is(tmp_path: Path) -> None:
    tuning = asked(
        tmp_path, grid="quickstart", chinchillas=("0.1",), rules=Rules(max_runs=9, sigma=0.01), equal_budget=True
    )
    assert from_dict(json.loads(json.dumps(to_dict(tuning)))) == tuning


def test_the_sets_of_a_grid_and_its_metric_are_those_of_its_tuning(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path).ensure()
    text = """
name = "held"
dataset = "embedded"
{metric}
[validation_sets]
seen = "embedded:train"
[[cells]]
optimizer = ["adamw"]
model = ["bench-micro"]
chinchilla = [0.05]
"""
    file = tmp_path / "held.toml"
    file.write_text(text.format(metric='metric_set = "seen"'))
    tuning = asked(tmp_path, grid=str(file))
    assert from_dict(json.loads(json.dumps(to_dict(tuning)))) == tuning
    (cell,) = tuning.cells
    spec = grid.resolve(
        tuning.study, cell.optimizer, cell.model, cell.chinchilla, cell.start, 0, DatasetLookup(place, prepare=False)
    )
    assert spec.validation_set == "seen"
    assert {name: (item.dataset, item.split) for name, item in spec.validation_sets.items()} == {
        "seen": ("embedded", "train")
    }
    kept.keep(place, tuning)
    file.write_text(text.format(metric=""))
    with pytest.raises(OptsweepError, match="was begun with other options: validation_set was seen, now validation"):
        kept.agreed(place, asked(tmp_path, grid=str(file)))


def test_the_same_command_finds_its_tuning_and_another_is_refused_with_the_difference(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path).ensure()
    tuning = asked(tmp_path, **MICRO)
    measured = replace(tuning, cells=tuple(replace(cell, sigma=0.02, sigma_source="measured") for cell in tuning.cells))
    assert kept.agreed(place, tuning) == (tuning, False)
    kept.keep(place, measured)
    again, known = kept.agreed(place, asked(tmp_path, **MICRO))
    assert known and again == measured, "what was known of the noise at the beginning stays"
    changes: list[tuple[dict[str, Any], str]] = [
        ({"rules": Rules(threshold=0.01)}, "threshold was not given, now 0.01"),
        ({"rules": Rules(block=None)}, "block was lr,weight_decay, now not given"),
        ({"sweeps": ("lr=0.001,0.003",)}, "list of"),
        ({"sets": ("weight_decay=0.2",)}, "start weight_decay was 0.1, now 0.2"),
        ({"equal_budget": True}, "equal_budget was False, now True"),
    ]
    for fields, said in changes:
        with pytest.raises(OptsweepError, match="was begun with other options") as caught:
            kept.agreed(place, asked(tmp_path, **MICRO, **fields))
        assert said in str(caught.value)
    skipping, _ = kept.agreed(place, asked(tmp_path, **MICRO, rules=Rules(skip_failed=True)))
    assert skipping.rules.skip_failed, "this may be decided later"
    assert kept.the_only(place, None) == measured
    kept.keep(place, replace(tuning, name="other"))
    with pytest.raises(OptsweepError, match="there are 2 tunings"):
        kept.the_only(place, None)


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    place = settings.workspace(tmp_path).ensure()
    for text in ("", "{", "[]", "{}", '{"name": "x"}'):
        (place.studies / "bad.tune").write_text(text)
        with pytest.raises(OptsweepError, match="cannot be used"):
            kept.load(place, "bad")
