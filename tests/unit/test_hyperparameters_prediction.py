"""Predicted configurations: which basis each knob gets, what is extrapolated, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from optsweep_tui.analysis import predict
from optsweep_tui.errors import OptsweepError
from tests.unit.analysis_frames import frame, run
from tests.unit.hyperparameter_frames import RATIOS, SIZES, planted, sweep

GRID = [1e-4 * 2**step for step in range(12)]
FIXED = {"beta1": 0.9, "scheme": "a"}


def knob(found: dict[str, Any], name: str) -> dict[str, Any]:
    (entry,) = [entry for entry in found["knobs"] if entry["knob"] == name]
    assert isinstance(entry, dict)
    return entry


def ask(rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "optimizer": "adamw",
        "model": "300m",
        "params": 301_989_888.0,
        "chinchilla": 2.0,
    } | options
    return predict(frame(rows), **asked)


def law(n: float, c: float) -> float:
    return 0.004 * math.exp(-0.6 * math.log(n / 3e8))


def test_a_trend_is_followed_beyond_the_largest_model_and_marked() -> None:
    found = ask(planted(law, GRID, fixed=FIXED), model="1.2b", params=1_207_959_552.0)
    assert found["state"] == "EXTRAP" and found["params_factor"] == pytest.approx(1_207_959_552 / SIZES["520m"])
    assert found["chinchilla_factor"] == 1.0 and "N 2.25x" in found["reason"]
    lr = knob(found, "lr")
    assert lr["basis"] == "trend" and lr["value"] == pytest.approx(law(1_207_959_552, 2), rel=0.25)
    assert lr["low"] < law(1_207_959_552, 2) < lr["high"]
    assert lr["grid_below"] <= lr["value"] <= lr["grid_above"] == 2 * lr["grid_below"]
    assert found["hyperparameters"]["lr"] == lr["value"]
    assert found["tokens"] == (2 * 20 * 1_207_959_552)
    assert found["batch_size"] == 128 and found["steps"] == found["tokens"] // (128 * 4096)
    assert found["nearest_cell"]["model"] == "520m" and found["nearest_cell"]["chinchilla"] == 2.0


def test_inside_the_cells_nothing_is_extrapolated() -> None:
    found = ask(planted(law, GRID), chinchilla=3.0)
    assert found["state"] == "INTERP" and found["reason"] == "" and found["n_cells"] == 12


def test_a_knob_that_was_never_swept_keeps_its_value_or_that_of_the_nearest_cell() -> None:
    rows = []
    for ratio, batch in zip(RATIOS, (64, 64, 128, 256), strict=True):
        rows += sweep("lr", {0.001: 3.1, 0.002: 3.0, 0.004: 3.1}, fixed=FIXED, chinchilla=ratio, batch_size=batch)
    found = ask(rows, chinchilla=7.0)
    assert knob(found, "beta1")["basis"] == "fixed" and found["hyperparameters"]["scheme"] == "a"
    entry = knob(found, "batch_size")
    assert (entry["value"], entry["basis"]) == (256, "nearest cell") and "300m 8" in entry["rule"]


def test_a_stable_value_goes_before_the_constant_and_categories_by_majority() -> None:
    rows = []
    for ratio in RATIOS:
        rows += sweep("eps", {1e-20: 3.001, 1e-15: 3.0, 1e-10: 3.05}, fixed={"nesterov": True}, chinchilla=ratio)
        rows.append(run(chinchilla=ratio, loss=3.2, knobs={"eps": 1e-15, "nesterov": False}))
    found = ask(rows)
    eps = knob(found, "eps")
    assert (eps["value"], eps["basis"]) == (1e-15, "stable") and "near-best in all 4" in eps["rule"]
    nesterov = knob(found, "nesterov")
    assert (nesterov["value"], nesterov["basis"], nesterov["rule"]) == (True, "choice", "best in 4 of 4 cells")


def test_a_constant_stays_within_a_step_of_what_was_tried() -> None:
    """Eleven of twelve best values at the lower end say "lower", not how far."""
    rows = planted(lambda n, c: 1e-9, GRID[4:8], sizes=["130m", "300m"])
    rows += planted(lambda n, c: GRID[5] if c == 8 else 1e-9, GRID[4:8], sizes=["520m"])
    found = ask(rows)
    lr = knob(found, "lr")
    assert lr["value"] >= GRID[3] * 0.999


def test_too_few_cells_are_refused_with_the_reason() -> None:
    rows = planted(law, GRID, sizes=["300m"], ratios=[1.0, 2.0])
    found = ask(rows)
    assert found["state"] == "REFUSE" and "needs 3" in found["reason"] and found["knobs"] == []
    rows = [run(chinchilla=c) for c in RATIOS]
    assert "0 cells" in ask(rows)["reason"], "cells without a sweep taught nothing"


def test_an_unknown_optimizer_and_scopes_that_do_not_compare_are_mistakes() -> None:
    rows = planted(law, GRID)
    with pytest.raises(OptsweepError, match="muon has no finished run"):
        ask(rows, optimizer="muon")
    with pytest.raises(OptsweepError, match="2 scopes"):
        ask(rows + planted(law, GRID, dataset="other"))


def test_a_warmup_as_long_as_the_run_is_remarked() -> None:
    rows = [
        row
        for ratio in RATIOS
        for row in sweep("warmup", {500: 3.1, 1000: 3.0, 2000: 3.1}, fixed={"lr": 0.01}, chinchilla=ratio)
    ]
    found = ask(rows, params=1e6, chinchilla=8.0)
    assert any("never reaches its peak" in note for note in found["notes"])
    assert found["steps"] == math.floor(160e6 / (128 * 4096))
