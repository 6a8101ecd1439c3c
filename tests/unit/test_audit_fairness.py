"""The fairness audit counts what was spent, fails unequal budgets, and says what unequal numbers of draws do to minima."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from optsweep_tui.analysis import fairness_audit
from optsweep_tui.analysis.audits.fairness_audit import expected_lowest
from optsweep_tui.analysis.audits.rows import records
from optsweep_tui.analysis.columns import FACTS, FAIRNESS
from tests.unit.analysis_frames import PARAMS, frame, run
from tests.unit.reference_frame import FOLDER, catalogue_name, reference

DONE = [3.0, 3.01, 3.02, 3.03]
TOKENS = 20 * PARAMS


def swept(
    optimizer: str, losses: list[float | None], states: list[str] | None = None, **other: Any
) -> list[dict[str, Any]]:
    states = states or ["done"] * len(losses)
    return [
        run(optimizer, 1, loss, state=state, knobs={"lr": 0.001 * 2**place, "beta1": 0.9}, **other)
        for place, (loss, state) in enumerate(zip(losses, states, strict=True))
    ]


def test_a_budget_counts_diverged_and_stopped_runs_but_not_crashed_missing_or_unfinished_ones() -> None:
    losses: list[float | None] = [3.0, None, None, None, None, None, 3.1]
    states = ["done", "diverged", "cancelled", "failed", "missing", "running", "done"]
    found = fairness_audit(frame([*swept("adamw", [*DONE]), *swept("muon", losses, states)]), sigma=0.001)
    muon = found[found.optimizer == "muon"].iloc[0]
    assert list(found.columns) == list(FAIRNESS)
    assert (muon.runs, muon.missing_runs, muon.unlisted_runs) == (4, 1, 0)
    assert muon.tuning_tokens == 4 * TOKENS and muon.tokens_source == "planned"
    assert (muon.knobs_swept, muon.values_per_knob) == (1, {"lr": 4})
    assert muon.verdict == "PASS" and muon.runs_ratio == 1


@pytest.mark.parametrize(("own", "verdict"), [(4, "PASS"), (5, "PASS"), (6, "FAIL"), (3, "FAIL"), (0, "FAIL")])
def test_budgets_fail_above_a_factor_of_one_and_a_quarter(own: int, verdict: str) -> None:
    losses: list[float | None] = [3.0 + 0.01 * place for place in range(own)]
    crashed = run("muon", 1, None, state="failed")
    found = fairness_audit(frame([*swept("adamw", [*DONE]), *swept("muon", losses), crashed]))
    muon = found[found.optimizer == "muon"].iloc[0]
    assert muon.verdict == muon.cell_verdict == verdict
    assert muon.runs_ratio == (math.inf if own == 0 else max(own, 4) / min(own, 4))
    assert found[found.optimizer == "adamw"].verdict.isna().all(), "the baseline is not compared with itself"
    assert f"{own} run" in muon.reason and "4 runs of adamw" in muon.reason


def test_the_verdict_over_all_optimizers_is_about_the_extremes_and_not_about_the_baseline() -> None:
    rows = [*swept("adamw", [*DONE]), *swept("muon", [3.0] * 5), *swept("lion", [3.0] * 3)]
    found = fairness_audit(frame(rows)).set_index("optimizer")
    assert found.verdict.loc["muon"] == "PASS" and found.verdict.loc["lion"] == "FAIL"
    assert (found.cell_verdict == "FAIL").all() and (found.cell_runs_ratio == 5 / 3).all()
    assert "3 (lion) to 5 (muon)" in found.reason.loc["adamw"]


def test_runs_stopped_early_count_with_the_tokens_they_trained() -> None:
    rows = [*swept("adamw", [*DONE]), *swept("muon", [3.0, 3.1, None, None], ["done", "done", "cancelled", "diverged"])]
    data = frame(rows)
    done = dict(zip(data.run_id, [TOKENS] * 6 + [TOKENS // 10] * 2, strict=True))
    facts = pd.DataFrame(
        [{"run_id": name, "study": "s", "tokens_done": tokens, "place": None} for name, tokens in done.items()],
        columns=list(FACTS),
    )
    found = fairness_audit(data, facts=facts)
    muon = found[found.optimizer == "muon"].iloc[0]
    assert muon.tuning_tokens == 2 * TOKENS + 2 * (TOKENS // 10) and muon.tokens_source == "trained"
    assert muon.runs_ratio == 1 and muon.tokens_ratio == pytest.approx(4 / 2.2) and muon.verdict == "FAIL"
    assert "1.82x apart in tokens trained" in muon.reason
    assert fairness_audit(data, facts=facts.iloc[:6]).tokens_source.tolist() == ["trained", "planned"]


def test_best_after_k_follows_the_plan_and_is_withheld_where_the_order_is_not_known() -> None:
    data = frame(swept("adamw", [3.3, None, 3.1, 3.2], ["done", "diverged", "done", "done"]))
    order = [2, 0, 1, 3]  # place of each run in the plan: diverged, 3.1, 3.3, 3.2
    facts = pd.DataFrame({"run_id": data.run_id, "study": "s", "tokens_done": None, "place": order})
    (best,) = fairness_audit(data, facts=facts).best_after
    assert np.array_equal(best, [math.nan, 3.1, 3.1, 3.1], equal_nan=True)
    for places in ([0, 0, 1, 2], [math.nan, 0, 1, 2]):
        unknown = facts.assign(place=np.array(places))
        assert fairness_audit(data, facts=unknown).best_after.isna().all()
    assert fairness_audit(data).order.isna().all()


def test_fresh_seeds_are_no_tuning() -> None:
    rows = [*swept("adamw", [*DONE]), *(run("adamw", 1, 3.0 + 0.001 * seed, seed=seed, knobs={"lr": 0.001, "beta1": 0.9})
                                        for seed in (1, 2, 3))]  # fmt: skip
    (row,) = fairness_audit(frame(rows)).to_dict("records")
    assert (row["runs"], row["seeds"], row["fresh_seeds"]) == (4, 4, 3)
    assert row["sigma_source"] == "measured" and row["cell_verdict"] is None


def test_the_expected_minimum_is_that_of_normal_draws() -> None:
    # 1/sqrt(pi) and 3/(2 sqrt(pi)) are exact; the others come from the mean of simulated minima.
    assert expected_lowest(1) == 0 and math.isnan(expected_lowest(0))
    assert expected_lowest(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-9)
    assert expected_lowest(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-9)
    rng = np.random.default_rng(1)
    for draws in (5, 20, 33, 200):
        minima = rng.standard_normal((20000, draws)).min(axis=1)
        assert expected_lowest(draws) == pytest.approx(-minima.mean(), abs=4 * minima.std() / math.sqrt(20000))
    (row,) = fairness_audit(frame(swept("adamw", [*DONE])), sigma=0.002).to_dict("records")
    assert row["expected_drop"] == pytest.approx(0.002 * expected_lowest(4))
    assert row["near_best"] == 1 and row["expected_drop_near"] == 0


def test_the_reference_study_counts_every_published_configuration_once() -> None:
    """Counted again from the figures: a configuration is the incumbent with one value changed; null losses do not count."""

    def read(name: str) -> list[dict[str, str]]:
        with open(Path(FOLDER) / name, newline="") as handle:
            return list(csv.DictReader(handle))

    def plain(value: object) -> str:
        return f"{value:.12g}" if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)

    incumbents = {
        (row["optimizer"], row["model"], row["chinchilla"]): json.loads(row["incumbent_hyperparameters"])
        for row in read("cells.csv")
    }
    expected = defaultdict(set)
    for row in read("ablations.csv"):
        key = (row["optimizer"], row["model"], row["chinchilla"])
        if row["loss"] != "":
            changed = {row["hyperparameter"]: json.loads(row["value"])} if row["hyperparameter"] else {}
            knobs = incumbents[key] | changed
            expected[catalogue_name(key[0]), key[1], float(key[2])].add(
                tuple(sorted((name, plain(value)) for name, value in knobs.items()))
            )
    found = fairness_audit(reference())
    counted = {(row["optimizer"], row["model"], row["chinchilla"]): row["runs"] for row in records(found)}
    assert len(counted) == 150
    assert counted == {key: len(expected.get(key, ())) for key in counted}
    judged = found[found.verdict.notna()]
    by_hand = [
        max(row["runs"], row["baseline_runs"]) > 1.25 * min(row["runs"], row["baseline_runs"])
        for row in records(judged)
    ]
    assert ((judged.verdict == "FAIL") == by_hand).mean() > 0.98, "tokens decide the rest: equal configurations twice"
