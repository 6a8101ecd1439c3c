"""The verdict over a rerun: equal parameters, the tie width with degrees of freedom counted, and what cannot be told."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_engines.spec import RunRecord
from optsweep_tui.analysis.reproduction import NO_NOISE, RunNoise, judge, tie_width

RECORD = RunRecord(
    run_id="0" * 32, attempt=1, status="done", train_loss=2.0, val_loss=2.5, steps=10, tokens=10, train_seconds=1.0,
    tokens_per_second=10.0, peak_bytes=1, optimizer_state_bytes=1, device="cpu", versions={}, parameters_sha256="aa",
)  # fmt: skip
KNOWN = RunNoise(sigma=0.01, dof=None, source="prior")


def again(**changes: Any) -> RunRecord:
    return dataclasses.replace(RECORD, **{"parameters_sha256": "bb"} | changes)


def test_the_tie_width_is_that_of_the_definitions() -> None:
    # analysis.md: gap < 1.645 sigma sqrt(1/n1 + 1/n2); Student's 95 % quantiles from any printed table.
    assert tie_width(KNOWN) == pytest.approx(1.645 * 0.01 * math.sqrt(2), rel=1e-9)
    for dof, quantile in ((1, 6.314), (2, 2.920), (3, 2.353), (10, 1.812), (30, 1.697)):
        width = tie_width(RunNoise(sigma=0.01, dof=dof, source="measured"))
        assert width == pytest.approx(quantile * 0.01 * math.sqrt(2), rel=5e-4)
    assert tie_width(NO_NOISE) is None


@pytest.mark.parametrize(
    ("second", "noise", "verdict"),
    [
        (again(parameters_sha256="aa"), NO_NOISE, "identical"),
        (again(parameters_sha256="aa", val_loss=2.5), KNOWN, "identical"),
        (again(), NO_NOISE, "cannot say"),
        (again(val_loss=2.5232), KNOWN, "within noise"),
        (again(val_loss=2.4768), KNOWN, "within noise"),
        (again(val_loss=2.5234), KNOWN, "different"),
        (again(val_loss=2.5234), RunNoise(sigma=0.01, dof=3, source="measured"), "within noise"),
        (again(status="diverged", val_loss=9.0), KNOWN, "different"),
        (again(status="failed", val_loss=None, error="boom"), KNOWN, "cannot say"),
        (again(status="failed", val_loss=None, parameters_sha256="aa"), KNOWN, "cannot say"),
        (again(val_loss=None), KNOWN, "cannot say"),
        (again(val_loss=math.nan), KNOWN, "cannot say"),
    ],
)
def test_a_rerun_is_judged(second: RunRecord, noise: RunNoise, verdict: str) -> None:
    found = judge(RECORD, second, noise)
    assert found.verdict == verdict and found.reason and found.reproduced == (verdict in ("identical", "within noise"))
    if verdict == "cannot say" and noise is NO_NOISE:
        assert "NO-SIGMA" in found.reason


def test_two_that_diverged_without_equal_parameters_say_nothing() -> None:
    first = dataclasses.replace(RECORD, status="diverged", val_loss=8.0)
    assert judge(first, again(status="diverged", val_loss=8.0), KNOWN).verdict == "cannot say"
    assert judge(first, again(status="diverged", val_loss=8.0, parameters_sha256="aa"), KNOWN).verdict == "identical"


def test_other_data_can_only_say_how_far_apart() -> None:
    found = judge(RECORD, again(parameters_sha256="aa"), KNOWN, same_data=False)
    assert found.verdict == "cannot say" and found.difference == 0.0


@settings(deadline=None)
@given(st.floats(1, 5), st.floats(1, 5), st.floats(1e-4, 1), st.one_of(st.none(), st.floats(1, 100)))
def test_the_verdict_does_not_depend_on_which_came_first(
    first: float, second: float, sigma: float, dof: float | None
) -> None:
    noise = RunNoise(sigma=sigma, dof=dof, source="measured")
    one, two = dataclasses.replace(RECORD, val_loss=first), again(val_loss=second)
    there, back = judge(one, two, noise), judge(two, one, noise)
    assert there.verdict == back.verdict and there.difference == pytest.approx(-(back.difference or 0.0))


@pytest.mark.parametrize(
    "data", [{}, {"sigma": -1}, {"sigma": "x"}, {"sigma": True}, {"sigma": 0.1, "dof": 0}, {"sigma": 1e999}]
)
def test_noise_that_cannot_be_is_none(data: dict[str, Any]) -> None:
    assert RunNoise.from_dict(data) == NO_NOISE


def test_noise_comes_back_from_a_bundle() -> None:
    noise = RunNoise(sigma=0.02, dof=3.5, source="measured")
    assert RunNoise.from_dict(noise.to_dict()) == noise
