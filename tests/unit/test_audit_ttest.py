"""The target test: a one-sided t-test over replicates, the run that chose the configuration left out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from optsweep_tui.analysis import target_test
from optsweep_tui.analysis.columns import TTEST
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import frame, run

FRESH = [3.28, 3.27, 3.29, 3.275]


def test_it_is_the_one_sided_t_test_of_scipy_over_the_fresh_seeds() -> None:
    rows = [run("muon", 1, 3.2), run("muon", 1, 3.4, knobs={"lr": 0.1})]
    rows += [run("muon", 1, loss, seed=seed) for seed, loss in enumerate(FRESH, start=1)]
    (row,) = target_test(frame(rows), 3.3).to_dict("records")
    expected = stats.ttest_1samp(FRESH, 3.3, alternative="less")
    assert list(row) == list(TTEST)
    assert (row["n"], row["excluded"], row["losses"]) == (4, 3.2, FRESH)
    assert row["t"] == pytest.approx(expected.statistic) and row["p"] == pytest.approx(expected.pvalue)
    assert row["mean"] == pytest.approx(np.mean(FRESH)) and row["sd"] == pytest.approx(np.std(FRESH, ddof=1))
    assert row["verdict"] == "BELOW" and expected.pvalue < 0.01
    assert target_test(frame(rows), 3.3, level=0.001).verdict.tolist() == ["NOT-SHOWN"]
    assert target_test(frame(rows), 3.2).p.iloc[0] > 0.99
    assert len(row["run_ids"]) == 4


def test_fewer_than_two_replicates_are_refused_with_the_reason() -> None:
    rows = [run("adamw", 1, 3.0), run("muon", 1, 3.0), run("muon", 1, 3.1, seed=1), run("lion", 1, None, state="nan")]
    rows += [run("soap", 1, 3.0, seed=seed) for seed in range(4)]
    found = target_test(frame(rows), 3.3).set_index("optimizer")
    assert (found.state == "REFUSE").all() and found[["t", "p"]].isna().all(axis=None) and found.verdict.isna().all()
    assert "the one that chose the configuration" in found.reason["adamw"]
    assert "one fresh seed" in found.reason["muon"]
    assert "1 nan" in found.reason["lion"]
    assert "equal to the last digit" in found.reason["soap"]


def test_a_target_or_a_level_that_cannot_be_one_is_refused() -> None:
    for target, level in ((math.nan, 0.01), (-1.0, 0.01), (math.inf, 0.01), (3.0, 0.0), (3.0, 1.0), (3.0, math.nan)):
        with pytest.raises(OptsweepError):
            target_test(frame([run()]), target, level=level)
    assert target_test(frame([]), 3.0).empty
