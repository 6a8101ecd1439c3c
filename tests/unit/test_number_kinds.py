"""Every kind of number on the shipped study: its id leads back to its row, and the runs behind it are those that pandas picks."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import pandas as pd
import pytest

from optsweep_engines.optimizers import catalogue
from optsweep_tui import analysis
from optsweep_tui.analysis.audits import stops
from optsweep_tui.analysis.audits.behind import BEHIND, behind
from optsweep_tui.analysis.audits.ground import ROLES, Ground
from optsweep_tui.analysis.audits.rows import records
from optsweep_tui.analysis.number_ids import DEFAULTS, KINDS, matching, parsed
from optsweep_tui.answers import ANSWERS
from tests.unit.analysis_frames import frame as made
from tests.unit.analysis_frames import run
from tests.unit.reference_frame import reference

INFO = {entry.name: {knob.name: knob for knob in catalogue.all_knobs(entry)} for entry in catalogue.known().values()}
N_1B = 1207959552.0
RATIO_OF_RULES = 3e-3
FEW = ("adamw", "muon", "sophia_h")


@cache
def study() -> pd.DataFrame:
    """Three optimizers of the shipped study: no run of it names a seed, so the others change none of their numbers."""
    data = reference()
    return data[data.optimizer.isin(FEW)].reset_index(drop=True)


@cache
def rows_of(kind: str) -> list[dict[str, Any]]:
    data, info = study(), {"knob_info": INFO}
    sophia = data[data.optimizer == "sophia_h"]
    answers: Mapping[str, Callable[[], pd.DataFrame]] = {
        "table": lambda: analysis.table(data, **info),
        "fit": lambda: analysis.fit(data),
        "speedup": lambda: analysis.speedup(data, **info),
        "stable": lambda: analysis.stable(data, **info),
        "hp": lambda: analysis.scaling_rules(sophia, **info),
        "edges": lambda: analysis.grid_edges(data, **info),
        "sensitivity": lambda: analysis.sensitivity(data, "lr", **info),
        "fairness": lambda: analysis.fairness_audit(data),
        "flips": lambda: analysis.flips(data),
        "noise": lambda: analysis.noise_ledger(data),
        "power": lambda: analysis.power(data[data.optimizer.isin(("adamw", "muon"))], 0.1, **info),
        "profile": lambda: analysis.performance_profile(data, **info),
        "ttest": lambda: analysis.target_test(data, 3.3),
        "project": lambda: analysis.joint_law(data, optimizer="muon", model="1.2b", params=N_1B, chinchilla=16.0),
    }
    if kind == "predict":
        place = {"optimizer": "sophia_h", "model": "1.2b", "params": N_1B, "chinchilla": 8.0}
        return [analysis.predict(sophia, **place, **info)]
    return list(records(answers[kind]()))


# ---------------------------------------------------------------- the same runs, picked by pandas alone


def cell(optimizer: str, model: str, ratio: float) -> pd.DataFrame:
    data = study()
    return data[(data.optimizer == optimizer) & (data.model == model) & (data.chinchilla == ratio)]


@cache
def cells_of(optimizer: str) -> list[pd.DataFrame]:
    data = study()
    return [part for _, part in data[data.optimizer == optimizer].groupby(["model", "chinchilla"])]


def done(part: pd.DataFrame) -> pd.DataFrame:
    return part[(part.state == "done") & (part.loss > 0) & (part.loss < float("inf"))]


def best(part: pd.DataFrame, by: str = "hyperparameters") -> set[str]:
    """Of one seed: the run of smallest loss; of equal ones (some are equal to the last digit) the first by its knobs."""
    ended = done(part).sort_values(["loss", by], kind="stable")
    return set(ended.run_id[:1])


@cache
def curve(model: str) -> set[str]:
    return set().union(*(best(part) for part in cells_of("adamw") if part.model.iloc[0] == model))


def settings(item: Any) -> dict[str, Any] | None:
    """Batch size and knobs; None where a run's are not published."""
    if not isinstance(item.hyperparameters, str):
        return None
    knobs = {"batch_size": item.batch_size, **json.loads(item.hyperparameters)}
    return {
        name: value for name, value in knobs.items() if value == value and isinstance(value, bool | int | float | str)
    }


def along(part: pd.DataFrame, knob: str) -> frozenset[str]:
    """The runs of one cell on the knob's line, and those that tried values which it lacks; empty where it was not swept."""
    return line(part.optimizer.iloc[0], part.model.iloc[0], part.chinchilla.iloc[0], knob)


@cache
def line(optimizer: str, model: str, ratio: float, knob: str) -> frozenset[str]:
    part = cell(optimizer, model, ratio)
    known = [(item, own) for item in part.itertuples() if (own := settings(item)) is not None and knob in own]
    if len({own[knob] for _, own in known}) < 2:
        return frozenset()
    lists: dict[str, list[tuple[Any, Any]]] = {}
    for item, own in known:
        rest = {name: value for name, value in own.items() if name != knob}
        lists.setdefault(json.dumps([item.schedule, item.dtype, rest], sort_keys=True), []).append((item, own[knob]))
    ended = set(done(part).run_id)
    ranks = []
    for name, members in lists.items():
        losses = {value: item.loss for item, value in members if item.run_id in ended}
        if len({value for _, value in members}) > 1 and losses:
            ranks.append((min(losses.values()), -len(losses), name))
    if not ranks:
        return frozenset(item.run_id for item, _ in known)
    members = lists[min(ranks)[2]]
    values = {value for _, value in members}
    return frozenset(
        {item.run_id for item, _ in members} | {item.run_id for item, own in known if own[knob] not in values}
    )


def near(part: pd.DataFrame, knobs: Iterable[str]) -> set[str]:
    """Listed runs less than the threshold above the smallest loss of the cell, and the one of that loss."""
    ended = done(part)
    close = ended[ended.loss < ended.loss.min() + RATIO_OF_RULES]
    saying = {item.run_id for item in close.itertuples() if set(knobs) & set(settings(item) or {})}
    return saying | best(part, "run_id")


def rules(row: Mapping[str, Any]) -> set[str]:
    swept = [part for part in cells_of(row["optimizer"]) if along(part, row["knob"])]
    return set().union(*(along(part, row["knob"]) | near(part, [row["knob"]]) for part in swept))


def one(row: Mapping[str, Any]) -> pd.DataFrame:
    return cell(row["optimizer"], row["model"], row["chinchilla"])


def strip(row: Mapping[str, Any]) -> set[str]:
    if row["level"] == "cell":
        return set(along(one(row), row["knob"]))
    return set().union(*(along(part, row["knob"]) for part in cells_of(row["optimizer"])))


def prediction(row: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for part in cells_of(row["optimizer"]):
        names = {name for item in part.itertuples() for name in settings(item) or {}}
        swept = [name for name in names if along(part, name)]
        found |= set().union(*(along(part, name) for name in swept))
        found |= near(part, swept) if swept else set()
        found |= best(part[part.hyperparameters.notna()], "run_id")
    return found


def tuning(row: Mapping[str, Any]) -> set[str]:
    """Every listed run of the budget that spent tokens, of any optimizer, and the cell's own loss."""
    data = study()
    here = data[(data.model == row["model"]) & (data.chinchilla == row["chinchilla"]) & data.hyperparameters.notna()]
    return set(here.run_id[here.state.isin(["done", "diverged", "nan", "cancelled"])]) | best(one(row))


def pair(row: Mapping[str, Any]) -> set[str]:
    sides = [(row[f"model_{side}"], row[f"chinchilla_{side}"]) for side in "ab"]
    return set().union(*(best(cell(name, *side)) for name in (row["first"], row["second"]) for side in sides))


def workloads(row: Mapping[str, Any]) -> set[str]:
    """Losses of all three at the optimizer's cells, and the baseline's curve of those sizes: every cell here has a loss."""
    places = {(part.model.iloc[0], part.chinchilla.iloc[0]) for part in cells_of(row["optimizer"]) if len(done(part))}
    losses = set().union(*(best(cell(name, *place)) for name in FEW for place in places))
    return losses.union(*(curve(model) for model, _ in places))


PICKED: Mapping[str, Callable[[Mapping[str, Any]], set[str]]] = {
    "table": lambda row: best(one(row)) | best(cell("adamw", row["model"], row["chinchilla"])),
    "fit": lambda row: curve(row["model"]),
    "speedup": lambda row: best(one(row)) | curve(row["model"]),
    "power": lambda row: best(one(row)) | curve(row["model"]),
    "stable": rules,
    "hp": rules,
    "edges": lambda row: set(along(one(row), row["knob"])) | best(one(row), "run_id"),
    "sensitivity": strip,
    "predict": prediction,
    "fairness": tuning,
    "flips": pair,
    "noise": lambda row: curve(row["model"]),
    "profile": workloads,
    "ttest": lambda row: best(one(row)),
    "project": lambda row: set().union(*(best(part) for part in cells_of(row["optimizer"]))),
}
"""Kind -> the runs that a row has to rest on. The study knows one run per configuration, so a loss is one run's."""


@pytest.mark.parametrize("kind", PICKED)
def test_the_runs_behind_a_number_are_those_of_an_independent_selection(kind: str) -> None:
    rows = rows_of(kind)
    options = {name: DEFAULTS[name] for name in KINDS[kind].options} | {"baseline": "adamw"}
    data = study()[study().optimizer == "sophia_h"] if kind == "predict" else study()
    ground = Ground.of(data, rows, options, INFO)
    for row in rows[:: max(1, len(rows) // 3)]:
        parts = behind(ground, kind, row)
        assert {part.run_id for part in parts} == PICKED[kind](row), row["number_id"]
        assert {part.role for part in parts} <= set(ROLES)


@pytest.mark.parametrize("kind", PICKED)
def test_every_row_has_an_id_that_names_it_alone(kind: str) -> None:
    rows = rows_of(kind)
    assert rows and len({row["number_id"] for row in rows}) == len(rows)
    for row in rows[:: max(1, len(rows) // 20)]:
        assert matching(parsed(row["number_id"]), rows) == [row]


def test_ids_read_like_the_questions() -> None:
    def first(kind: str, **values: Any) -> str:
        return str(next(row for row in rows_of(kind) if all(row[k] == v for k, v in values.items()))["number_id"])

    assert first("hp", knob="lr") == "hp/reference/sophia_h/lr"
    assert first("profile", optimizer="muon") == "profile/reference/muon"
    assert first("fairness", optimizer="muon", model="130m", chinchilla=8.0) == "fairness/reference/muon/130m/8"
    assert first("edges", optimizer="muon", model="130m", chinchilla=8.0).startswith("edges/reference/muon/130m/8/")
    assert first("sensitivity", optimizer="muon", level="optimizer") == "sensitivity/reference/muon/lr"
    assert first("noise", model="520m") == "noise/reference/520m"
    assert first("power", model="520m", chinchilla=1.0) == "power/reference/muon/520m/1?target=0.1"
    assert first("ttest", optimizer="adamw", model="1.2b", chinchilla=8.0).endswith("1.2b/8?target_loss=3.3")
    assert rows_of("predict")[0]["number_id"] == "predict/reference/sophia_h/1.2b/8"


def test_replicates_stand_behind_a_measured_sigma_and_a_test_of_them_and_a_run_far_off_does_not() -> None:
    def seeds(budget: float, losses: list[float]) -> list[dict[str, Any]]:
        return [run("adamw", budget, loss, seed=seed) for seed, loss in enumerate(losses)]

    data = made([*seeds(1, [3.26, 3.262, 3.261, 3.259, 3.9]), *seeds(8, [3.04, 3.041, 3.042, 3.043])])
    ids = data.run_id.tolist()
    for kind, answer in (("noise", analysis.noise_ledger(data)), ("ttest", analysis.target_test(data, 3.3))):
        rows = list(records(answer))
        ground = Ground.of(data, rows, {"baseline": "adamw"})
        found = {row["chinchilla"]: behind(ground, kind, row) for row in rows}
        first = {part.run_id for part in found[1.0] if part.role in ("sigma", "replicate", "selected")}
        assert ids[4] not in first and set(ids[:4]) <= first, kind
        assert ids[5] in {part.run_id for part in found[8.0] if part.role == "selected"}


def test_every_kind_has_a_shape_an_answer_and_its_runs_and_leaves_out_what_the_analysis_takes_by_default() -> None:
    assert set(KINDS) == set(ANSWERS) == set(BEHIND) == {*PICKED, "crossings", "stop-audit"}
    functions = {
        "stable": analysis.stable, "hp": analysis.scaling_rules, "edges": analysis.grid_edges,
        "sensitivity": analysis.sensitivity, "predict": analysis.predict, "fairness": analysis.fairness_audit,
        "flips": analysis.flips, "noise": analysis.noise_ledger, "profile": analysis.performance_profile,
        "ttest": analysis.target_test, "project": analysis.joint_law, "stop-audit": stops.stop_audit,
        "crossings": analysis.in_run_crossings, "power": analysis.power, "speedup": analysis.speedup,
        "table": analysis.table, "fit": analysis.fit,
    }  # fmt: skip
    for kind, function in functions.items():
        taken = inspect.signature(function).parameters
        for name in set(KINDS[kind].options) - {"target_loss"}:
            default = taken[name].default
            assert default == DEFAULTS[name] or default is inspect.Parameter.empty, (kind, name)
