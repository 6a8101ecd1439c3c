"""The reference study computed a second time from its CSV with scipy alone, and held against the program to 1e-3."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.optimize import brentq, least_squares

from optsweep_tui.analysis import fit, speedup
from tests.unit.analysis_frames import frame, run

CELLS = Path(__file__).parents[2] / "grids" / "reference" / "cells.csv"
SIGMA = 0.0013
RISE = 3.841458820694124  # chi-square quantile, 95 %, 1 degree of freedom
MODELS = ("130m", "300m", "520m", "1.2b")
Floats = npt.NDArray[np.float64]


def published() -> list[dict[str, Any]]:
    with open(CELLS, newline="") as handle:
        return [
            {"optimizer": row["optimizer"], "model": row["model"], "c": float(row["chinchilla"]),
             "loss": float(row["min_loss"]), "n": float(row["non_embedding_params"]), "tokens": float(row["tokens"])}
            for row in csv.DictReader(handle)
        ]  # fmt: skip


PUBLISHED = published()


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return frame(
        run(cell["optimizer"], cell["c"], cell["loss"], model=cell["model"], params=int(cell["n"]),
            tokens=int(cell["tokens"]), seed=None, engine=None, study="reference")
        for cell in PUBLISHED
    )  # fmt: skip


@pytest.fixture(scope="module")
def answer(data: pd.DataFrame) -> pd.DataFrame:
    return speedup(data, sigma=SIGMA)


def points(model: str) -> tuple[Floats, Floats]:
    """(D / (20 N), loss) of the baseline."""
    cells = sorted((cell["tokens"] / (20 * cell["n"]), cell["loss"]) for cell in PUBLISHED
                   if (cell["model"], cell["optimizer"]) == (model, "adamw"))  # fmt: skip
    return np.array([c for c, _ in cells]), np.array([loss for _, loss in cells])


def solved(c: Floats, y: Floats, sd: Floats, held: tuple[float, float] | None = None) -> tuple[Floats, float]:
    """(alpha, B, beta), chi-square: least squares from several starts; `held` = (place, loss) that the curve takes in."""
    if held is not None:
        c, y, sd = np.append(c, held[0]), np.append(y, held[1]), np.append(sd, SIGMA)

    def residuals(theta: Floats) -> Floats:
        alpha, b, beta = theta
        return np.asarray((alpha * c**-b + beta - y) / sd)

    best: Any = None
    for b in (0.2, 0.45, 0.9):
        start = np.array([float(y.max() - y.min()) * 1.6, b, float(y.min()) - 0.1])
        found = least_squares(
            residuals, start, bounds=([0, 1e-3, 0], [np.inf, 10, np.inf]), xtol=1e-14, ftol=1e-14, gtol=1e-14
        )
        if best is None or found.cost < best.cost:
            best = found
    return np.asarray(best.x), 2 * float(best.cost)


@pytest.fixture(scope="module")
def curves() -> dict[str, tuple[Floats, float]]:
    return {model: solved(*points(model), np.full(len(points(model)[0]), SIGMA)) for model in MODELS}


def test_the_fits_are_those_of_a_direct_least_squares(
    data: pd.DataFrame, curves: dict[str, tuple[Floats, float]]
) -> None:
    found = fit(data, sigma=SIGMA).set_index("model")
    for model, ((alpha, b, beta), chi2) in curves.items():
        row = found.loc[model]
        assert (row.alpha, row.b, row.beta) == pytest.approx((alpha, b, beta), abs=1e-4)
        assert row.chi2 == pytest.approx(chi2, abs=1e-4)


def test_every_speedup_state_and_bound_follows_from_the_inverted_curve(
    answer: pd.DataFrame, curves: dict[str, tuple[Floats, float]]
) -> None:
    """All 150 cells: the 18 of the baseline have no row."""
    rows: list[Any] = list(answer.itertuples())
    found = {(row.optimizer, row.model, round(row.chinchilla, 3)): row for row in rows}
    others = [cell for cell in PUBLISHED if cell["optimizer"] != "adamw"]
    assert len(found) == len(answer) == len(others) == 132
    for cell in others:
        alpha, b, beta = curves[cell["model"]][0]
        c, _ = points(cell["model"])
        row = found[(cell["optimizer"], cell["model"], cell["c"])]
        at = math.inf if cell["loss"] <= beta else ((cell["loss"] - beta) / alpha) ** (-1 / b)
        if at > 1.5 * c[-1] or at < c[0] / 1.5:
            assert row.state == "REFUSE" and math.isnan(row.speedup)
            bound = 1.5 * c[-1] / cell["c"] if at > c[-1] else c[0] / 1.5 / cell["c"]
            assert row.bound == f"{'>' if at > c[-1] else '<'} {bound:.3g}x"
            continue
        assert row.state == ("INTERP" if c[0] <= at <= c[-1] else "EXTRAP")
        assert row.speedup == pytest.approx(at / cell["c"], abs=1e-3)
        assert row.d_eff == pytest.approx(at * 20 * cell["n"], rel=1e-3)


def ends(model: str, loss: float) -> tuple[float, float]:
    """Where the chi-square of the baseline's points and the competitor's loss has risen by the quantile, by root finding."""
    c, y = points(model)
    sd = np.full(len(c), SIGMA)
    (alpha, b, beta), least = solved(c, y, sd)
    at = math.log(((loss - beta) / alpha) ** (-1 / b))

    def excess(place: float) -> float:
        return solved(c, y, sd, (math.exp(place), loss))[1] - least - RISE

    found = []
    for side in (-1.0, 1.0):
        outer = at
        while excess(outer) < 0:
            outer += 0.1 * side
        found.append(math.exp(brentq(excess, outer - 0.1 * side, outer, xtol=1e-7)))
    return found[0], found[1]


@pytest.mark.parametrize(
    ("optimizer", "model", "c"),
    [("muon", "130m", 8), ("soape", "300m", 4), ("kron", "520m", 8), ("muon", "1.2b", 8), ("nadamw", "1.2b", 1)],
)
def test_profile_intervals_are_those_of_a_constrained_minimisation(
    answer: pd.DataFrame, optimizer: str, model: str, c: float
) -> None:
    row = answer[(answer.optimizer == optimizer) & (answer.model == model) & (answer.chinchilla == c)].iloc[0]
    low, high = ends(model, float(row.loss))
    assert (row.low, row.high) == pytest.approx((low / c, high / c), abs=1e-3)


def test_the_shared_exponent_is_that_of_a_joint_least_squares(data: pd.DataFrame) -> None:
    every = [points(model) for model in MODELS]

    def residuals(theta: Floats) -> Floats:
        b, alphas, betas = theta[0], theta[1:5], theta[5:]
        return np.concatenate(
            [(alpha * c**-b + beta - y) / SIGMA for (c, y), alpha, beta in zip(every, alphas, betas, strict=True)]
        )

    best = least_squares(residuals, np.array([0.4, *[0.4] * 4, *[2.5] * 4]), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    found = fit(data, sigma=SIGMA, shared_exponent=True)
    assert found.b.tolist() == pytest.approx([best.x[0]] * 4, abs=1e-5)
    assert found.set_index("model").loc[list(MODELS)].beta.tolist() == pytest.approx(best.x[5:].tolist(), abs=1e-4)
    assert float(found.chi2.sum()) == pytest.approx(2 * best.cost, abs=1e-3)
    assert float(found.chi2_dof.sum()) == pytest.approx(18 - 8 - 1)
