"""The audits at the command line: words and JSON on a native study and on the shipped figures, numbers that lead back to runs."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import flow, imports, rundir, settings
from optsweep_tui import plan as planning
from optsweep_tui.analysis.audits.ground import ROLES
from optsweep_tui.cli import present_why
from optsweep_tui.cli.root import run_command
from tests.store.run_folders import attempt_folder, finish

Ask = Callable[..., Any]
"""(verb, arguments) -> the JSON document; `code` is the exit code that is expected."""

GRID = """
name = "planted"
dataset = "embedded"
[defaults]
batch_size = 4
seq_len = 32
validation_tokens = 2048
schedule = "linear"
[[cells]]
optimizer = ["adamw", "muon"]
model = ["bench-micro", "bench-tiny"]
chinchilla = [0.02, 0.04, 0.08]
[optimizer.adamw]
set = { lr = 0.004 }
sweep = { lr = [0.002, 0.004, 0.008] }
[optimizer.muon]
set = { lr = 0.02 }
sweep = { lr = [0.01, 0.02, 0.04, 0.08] }
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the shipped figures."""
    root = tmp_path_factory.mktemp("reference")
    imports.import_results(settings.workspace(root), "reference")
    return root


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A swept study of two sizes with curves; one run diverged, one was cancelled half way; nothing was trained."""
    root = tmp_path_factory.mktemp("native")
    place = settings.workspace(root / "work")
    (root / "planted.toml").write_text(GRID)
    chosen = flow.plan(place, flow.Request(grid=str(root / "planted.toml")), prepare=True)
    planning.plant(place, chosen.study, chosen.specs)
    rng = random.Random(1)
    for number, spec in enumerate(chosen.specs):
        better = 0.1 * (spec.optimizer == "muon") + 0.3 * (spec.model == "bench-tiny")
        loss = 1.5 + 40 * spec.tokens**-0.35 - better + 0.02 * rng.random()
        # The run of smallest loss of its cell spikes on its way; muon lags before the end.
        early = loss + (0.5 if spec.optimizer == "muon" else 0.3)
        values = [loss + 1.0, early, loss] if number % 3 else [loss + 0.2, loss + 0.9, loss]
        rows = [
            {"step": step, "tokens": step * 128, "train_seconds": 1.0, "train_loss": value, "val_loss": value}
            for step, value in zip((spec.steps // 3, 2 * spec.steps // 3, spec.steps), values, strict=True)
        ]
        changes: dict[str, Any] = {"val_loss": loss, "steps": spec.steps, "tokens": spec.tokens}
        if number == 1:
            rows, changes = rows[:2], changes | {"status": "diverged", "tokens": spec.tokens // 2}
        if number == 2:
            rows, changes = rows[:1], changes | {"status": "cancelled", "val_loss": None, "tokens": spec.tokens // 3}
        folder = attempt_folder(place.runs / spec.run_id, 1)
        (folder / rundir.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        finish(place.runs / spec.run_id, **changes)
    flow.collect(place)
    return place.root


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    def asked(verb: str, *arguments: str, workspace: Path, code: int = 0) -> Any:
        assert run_command([*verb.split(), *arguments, "--json", "--workspace", str(workspace)]) == code
        return json.loads(capfd.readouterr().out)

    return asked


@pytest.fixture
def words(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def said(verb: str, *arguments: str, workspace: Path, code: int = 0) -> str:
        assert run_command([*verb.split(), *arguments, "--workspace", str(workspace)]) == code
        return capfd.readouterr().out

    return said


VERBS = {
    "fairness": 0,
    "flips": 0,
    "noise": 0,
    "power --target-ci 5% --sigma 0.002": 0,
    "stop-audit": 0,
    "stop-audit --rule median --after 0.4": 0,
    "profile": 0,
    "ttest --target-loss 2.0": 1,
    "project -m bench-small -c 0.1": 1,
    "why table/planted/muon/bench-micro/0.08": 0,
}
"""Verb -> exit code on the native study: without fresh seeds nothing is tested, two sizes are too few for a joint law."""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_words_and_one_json_document(
    verb: str, native: Path, ask: Ask, words: Callable[..., str]
) -> None:
    assert ask(verb, workspace=native, code=VERBS[verb])
    text = words(verb, workspace=native, code=VERBS[verb])
    assert len(text.splitlines()) > 1 and "None" not in text and "nan" not in text.split()


def test_a_native_study_knows_the_order_of_its_runs_and_what_they_trained(native: Path, ask: Ask) -> None:
    rows = ask("fairness", workspace=native)
    assert len(rows) == 12 and {row["order"] for row in rows} == {"plan"}
    by_cell = {(row["optimizer"], row["model"], row["chinchilla"]): row for row in rows}
    whole = by_cell["muon", "bench-tiny", 0.08]
    assert (whole["runs"], whole["baseline_runs"], whole["verdict"]) == (4, 3, "FAIL")
    assert whole["tokens_source"] == "trained" and whole["values_per_knob"] == {"lr": 4}
    best = whole["best_after"]
    assert len(best) == 4 and best == sorted(best, reverse=True) and best[-1] == whole["loss"]
    cut = min(rows, key=lambda row: row["tuning_tokens"] / row["runs"] / row["tokens"])
    assert cut["states"] == {"cancelled": 1, "diverged": 1, "done": 1}
    assert cut["runs"] == 3 and cut["tuning_tokens"] == pytest.approx(cut["tokens"] * (1 + 1 / 2 + 1 / 3), rel=1e-2)
    filtered = ask("fairness", "-o", "muon", "-c", "0.08", workspace=native)
    assert filtered == [row for row in rows if row["optimizer"] == "muon" and row["chinchilla"] == 0.08]


def test_flips_inside_training_are_found_and_labelled(native: Path, ask: Ask, words: Callable[..., str]) -> None:
    found = ask("flips", "--sigma", "0.001", workspace=native)
    assert [entry["over"] for entry in found["examined"]] == ["D", "N", "training"]
    assert found["examined"][1]["pairs"] == 3, "three ratios, two sizes, one pair"
    inside = [row for row in found["flips"] if row["over"] == "training"]
    assert inside and all(row["label"] for row in inside)
    assert found["examined"][2]["rank_flips"] == sum(row["rank_flips"] for row in inside)
    assert "NO-SIGMA" in words("flips", workspace=native), "a byte model without seeds has no sigma"


def test_a_stopping_rule_is_judged_by_how_the_runs_ended(native: Path, ask: Ask, words: Callable[..., str]) -> None:
    found = ask("stop-audit", workspace=native)
    assert found["judged"] == 41 and found["stopped"] == 1 and found["killed"] == len(found["kills"]) > 0
    for row in found["kills"]:
        assert row["wrong"] == (row["gap"] is not None and row["gap"] < 0.003 and row["state"] == "done")
        assert row["tokens_saved"] > 0 and "above its earlier minimum" in row["why"]
    assert found["tokens_saved"] == pytest.approx(sum(row["tokens_saved"] for row in found["kills"]))
    text = words("stop-audit", workspace=native)
    assert f"would stop {found['killed']} of them, {found['wrong']} wrongly" in text
    assert "were stopped in fact: censored" in text
    median = ask("stop-audit", "--rule", "median", workspace=native)
    assert median["rule"] == "median" and median["killed"] > found["killed"]


@pytest.mark.slow
def test_the_reference_study_is_audited_as_published_figures_allow(
    reference: Path, ask: Ask, words: Callable[..., str]
) -> None:
    fairness = ask("fairness", workspace=reference)
    assert len(fairness) == 150 and {row["order"] for row in fairness} == {None}
    assert Counter(row["verdict"] for row in fairness) == {None: 18, "PASS": 74, "FAIL": 58}
    found = ask("flips", workspace=reference)
    counts = {entry["over"]: (entry["rank_flips"], entry["noise_flips"]) for entry in found["examined"]}
    assert counts == {"D": (25, 64), "N": (9, 43), "training": (0, 0)} and len(found["flips"]) == 141
    noise = {row["model"]: row for row in ask("noise", workspace=reference)}
    assert {row["sigma"] for row in noise.values()} == {0.0013} and noise["130m"]["misfit_scale"] > 2
    assert noise["130m"]["interval_sigma_small"] == pytest.approx(0.0013 * noise["130m"]["misfit_scale"])
    assert ask("stop-audit", workspace=reference, code=1)["without_curve"] > 1700
    assert "no finished run here has a curve" in words("stop-audit", workspace=reference, code=1)
    assert {row["state"] for row in ask("ttest --target-loss 3.3", workspace=reference, code=1)} == {"REFUSE"}
    (law,) = ask("project -m 1.2b -c 16", workspace=reference)
    assert law["state"] == "PLAN" and law["use"] == "planning only, never used for speedups"
    assert law["tokens_factor"] == pytest.approx(2, rel=1e-3) and law["n_cells"] == 18
    assert "PLANNING ONLY" in words("project -m 1.2b -c 16", workspace=reference)
    profile = ask("profile -o muon,adamw", workspace=reference)
    assert [row["optimizer"] for row in profile] == ["muon", "adamw"] and profile[0]["score"] > profile[1]["score"]
    power = ask("power --target-ci 5% -o muon", workspace=reference)
    assert len(power) == 18 and all(
        "MISFIT" in row["equal_reason"] for row in power if row["model"] == "130m" and not row["reached"]
    )


@pytest.mark.slow
def test_every_printed_number_leads_back_to_itself_and_to_runs(reference: Path, ask: Ask) -> None:
    """A sample of all rows of the reference study, and options and filters on top."""
    rng = random.Random(4)
    cases = [("table", ()), ("fit", ()), ("speedup", ()), ("speedup", ("--unit", "flops", "--sigma", "0.002"))]
    cases += [
        ("fit", ("--max-chinchilla", "8", "-m", "300m")),
        ("table", ("-m", "130m", "-c", "1,8", "-o", "muon,adamw")),
    ]
    cases += [("speedup", ("--where", "optimizer <> 'soap' AND loss < 5", "-o", "muon"))]
    for verb, options in cases:
        rows = ask(verb, *options, workspace=reference)
        ids = [row["number_id"] for row in rows]
        assert len(set(ids)) == len(ids)
        for row in rng.sample(rows, 1):
            found = ask("why", row["number_id"], workspace=reference)
            assert found["number_id"] == row["number_id"] and found["kind"] == verb
            # shared_b and SUPPORT speak of the other sizes, which a filter on the model leaves out.
            passing = {"shared_b", "shared_b_p", "flags", "number_id"}
            same = {name: value for name, value in row.items() if name not in passing}
            assert {name: found["number"][name] for name in same} == same
            assert set(row["run_ids"]) <= {run["run_id"] for run in found["runs"]}
            assert all(run["source"]["url"] and run["dataset_hash"] is None for run in found["runs"])


def test_why_a_native_number_shows_data_code_and_host_and_a_run_its_numbers(
    native: Path, ask: Ask, words: Callable[..., str]
) -> None:
    found = ask("why", "speedup/planted/muon/bench-micro/0.08", workspace=native)
    assert {role for run in found["runs"] for role in run["roles"]} == {"loss", "curve"}
    for run in found["runs"]:
        assert (
            len(run["dataset_hash"]) == 64 and run["numerics_version"] >= 1 and run["versions"] == {"torch": "2.13.0"}
        )
    assert len(found["selected_from"]) == 4 and found["curve"]["state"] == "FIT"
    text = words("why", "speedup/planted/muon/bench-micro/0.08", workspace=native)
    assert "in the cell's loss" in text and "NO-SIGMA" in text
    run_id = next(run["run_id"] for run in found["runs"] if "loss" in run["roles"])
    one = ask("why", run_id[:10], workspace=native)
    (cell,) = one["cells"]
    assert one["run_id"] == run_id and one["provenance"]["dataset_hash"] and one["attempts"]
    assert {number for number, _ in cell["numbers"]} == {
        f"{verb}/planted/muon/bench-micro/0.08" for verb in ("table", "speedup")
    }
    assert "speedup/planted/muon/bench-micro/0.08" in words("why", run_id, workspace=native)


NATIVE_NUMBERS = {
    "stable": 0,
    "hp --threshold 0.005": 0,
    "edges -o muon -c 0.08": 0,
    "sensitivity lr -m bench-tiny": 0,
    "predict -o muon -m bench-small -c 0.1": 0,
    "fairness": 0,
    "flips --sigma 0.001": 0,
    "noise": 0,
    "power --target-ci 10% --sigma 0.002": 0,
    "profile -m bench-micro --tau-max 3": 0,
    "ttest --target-loss 2.0 --level 0.05": 1,
    "project -m bench-small -c 0.1 --loss huber": 1,
    "stop-audit --threshold 0.01": 0,
    "speedup --target-loss 1.9,1.7 -c 0.08": 0,
}
"""Verb with options -> exit code on the native study."""


def rows_with_ids(answer: Any) -> list[dict[str, Any]]:
    """The rows of a document, whatever it keeps them in."""
    if isinstance(answer, list):
        return answer
    lists = [answer[name] for name in ("flips", "kills", "misses", "cells") if name in answer]
    return [row for each in lists for row in each] or [answer]


@pytest.mark.parametrize("verb", NATIVE_NUMBERS)
def test_every_row_of_every_verb_comes_back_from_its_id(
    verb: str, native: Path, ask: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = rows_with_ids(ask(verb, workspace=native, code=NATIVE_NUMBERS[verb]))
    assert rows
    for row in rows[-1:]:
        found = ask("why", row["number_id"], workspace=native)
        assert (found["number_id"], found["number"]) == (row["number_id"], row)
        behind = {run["run_id"] for run in found["runs"]}
        assert set(row.get("run_ids") or ()) <= behind and all(len(run["dataset_hash"]) == 64 for run in found["runs"])
        for address in found["rests_on"][:1]:
            assert {run["run_id"] for run in ask("why", address, workspace=native)["runs"]} & behind
    present_why.print_number(found)
    text = capfd.readouterr().out
    assert rows[-1]["number_id"] in text and "None" not in text and "nan" not in text.split()


def test_behind_a_kill_stand_the_run_the_best_of_its_cell_and_for_a_median_the_others(native: Path, ask: Ask) -> None:
    tuning, losses = ask("fairness", workspace=native), ask("table", workspace=native)
    for options, others in (((), False), (("--rule", "median", "--after", "0.4"), True)):
        kill = ask("stop-audit", *options, workspace=native)["kills"][0]
        found = ask("why", kill["number_id"], workspace=native)
        roles = {role: {run["run_id"] for run in found["runs"] if role in run["roles"]} for role in ROLES}
        place = ("optimizer", "model", "chinchilla")
        cell, row = (
            next(each for each in rows if all(each[name] == kill[name] for name in place)) for rows in (tuning, losses)
        )
        assert roles["replayed"] == {kill["run_id"]} and roles["cell-best"] == set(row["run_ids"])
        assert roles["median"] == (set(cell["run_ids"]) - {kill["run_id"]} if others else set())


SHIPPED_NUMBERS = [
    "stable -o muon -m 130m --threshold 0.005",
    "sensitivity beta1 -o muon -m 130m -c 8 --within 0.01",
    "speedup --study speedrun-2024-10 --target-loss 3.35,3.30 --x time",
]
MORE_NUMBERS = [
    "edges -m 130m -o muon,lion -c 8",
    "hp -o sophia_h -m 130m,300m",
    "profile -m 130m -o adamw,muon,kron -c 1,8",
    "predict -o sophia_h -m 1.2b -c 8",
    "flips -m 130m -o muon --where loss<5",
]


@pytest.mark.parametrize(
    "verb", [*SHIPPED_NUMBERS, *(pytest.param(verb, marks=pytest.mark.slow) for verb in MORE_NUMBERS)]
)
def test_options_and_filters_travel_in_the_id_and_the_row_is_computed_again(
    verb: str, reference: Path, ask: Ask
) -> None:
    row = rows_with_ids(ask(verb, workspace=reference))[-1]
    found = ask("why", row["number_id"], workspace=reference)
    assert (found["number_id"], found["number"]) == (row["number_id"], row)
    assert found["runs"] and all(run["source"]["url"] and run["dataset_hash"] is None for run in found["runs"])


MISTAKES = [
    (["power", "--target-ci", "5"], "did you mean 5%?"),
    (["power", "--target-ci", "wide"], "is no share"),
    (["stop-audit", "--rule", "medain"], 'did you mean "median"?'),
    (["profile", "--tau-max", "1"], "has to exceed 1"),
    (["ttest", "--target-loss", "nan"], "positive and finite"),
    (["project", "-m", "bench-smal", "-c", "1"], 'did you mean "bench-small"?'),
    (["project", "-m", "bench-small", "-c", "1", "-o", "lion"], "lion has no runs here"),
    (["why", "speedup/planted/muun/bench-micro/0.08"], 'did you mean "speedup/planted/muon/bench-micro/0.08"?'),
    (["why", "speedup/plnted/muon/bench-micro/0.08"], 'did you mean "planted"?'),
    (["why", "speedup/planted/muon/bench-micro/0.08?baseline=lion"], "has no runs in that study"),
    (["why", "speedup/planted/muon/bench-micro/0.08?sigma=x"], '"x" is no number'),
    (["why", "table/planted/muon"], "expected table/STUDY/OPTIMIZER/MODEL/CHINCHILLA"),
    (["why", "tabel/planted/muon/bench-micro/0.08"], 'did you mean "table"?'),
    (["why", "zzzz"], "no run starts with"),
    (["why", "hp/planted/muon/lrr"], 'did you mean "hp/planted/muon/lr"?'),
    (["why", "hp/planted/muon"], "expected hp/STUDY/OPTIMIZER/KNOB"),
    (["why", "sensitivity/planted/muon/bench-micro/lr"], "or sensitivity/STUDY/OPTIMIZER/KNOB"),
    (["why", "edges/planted/muon/bench-micro/0.08/lr?sigma=0.1"], 'option "sigma"'),
    (["why", "stable/planted/muon/lr?threshold=-1"], "not a positive number of nats"),
    (["why", "ttest/planted/muon/bench-micro/0.08"], "?target_loss=LOSS"),
    (["why", "ttest/planted/muon/bench-micro/0.08?target_loss=x"], '"x" is no number'),
    (["why", "predict/planted/muon/bench-micro/x"], "x"),
    (["why", "profile/planted/muon?tau_max=0.5"], "has to exceed 1"),
    (["why", "stop-audit/planted/muon/bench-micro/0.08/zz"], "optsweep stop-audit --json lists"),
    (["fairness", "--where", "loss > 99"], "the selection is empty"),
    (["flips", "--baseline", "lion"], "has no runs here"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[" ".join(entry[0]) for entry in MISTAKES])
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, native: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*arguments, "--workspace", str(native)]) == 2
    said = capfd.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and expected in said.err, said.err
