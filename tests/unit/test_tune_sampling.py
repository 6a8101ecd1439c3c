"""Optuna in the place of the descent: the same search after any kill, inside its lists, its budget spent."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from optsweep_tui.tune.axes import Config
from optsweep_tui.tune.procedure import position
from tests.unit.tuning_made import BETA, LR, NESTEROV, STEPS, Player, bowl, problem

pytest.importorskip("optuna")

AXES = [replace(LR, values=(0.0005, 0.001, 0.002, 0.004, 0.008)), BETA, STEPS, NESTEROV]
START = {"lr": 0.001, "beta2": 0.95, "ns_steps": 5, "nesterov": False}


def surface(config: Config) -> float | None:
    smooth = bowl(lr=0.004, beta2=0.96, nesterov=True)(config)
    return None if float(str(config["lr"])) > 0.006 else smooth


def test_it_spends_its_budget_inside_the_lists_and_ends_with_seeds() -> None:
    found = Player(surface).play(problem(AXES, START, sampler="optuna", max_runs=18))
    assert found.state == "ended" and found.used == 18 and len(found.winner_losses) == 4
    assert found.winner_losses[0] < 2.1 < found.start_losses[0]
    for candidate, _, _ in found.runs:
        config = candidate.config
        assert 0.0005 <= float(str(config["lr"])) <= 0.008 and 0.9 <= float(str(config["beta2"])) <= 0.98
        assert type(config["ns_steps"]) is int and type(config["nesterov"]) is bool
        for knob in ("lr", "beta2"):
            rest = 1.0 - float(str(config[knob])) if knob == "beta2" else float(str(config[knob]))
            assert float(f"{rest:.3g}") == pytest.approx(rest, rel=1e-9), "three significant digits"


def test_the_order_in_which_a_batch_ends_and_kills_in_it_change_nothing() -> None:
    cell = problem(AXES, START, sampler="optuna", max_runs=13)
    straight, player, chance = Player(surface), Player(surface), random.Random(1)
    expected = straight.play(cell)
    while (found := position(cell, player)).state == "running":
        for candidate in chance.sample(found.pending, chance.randint(1, len(found.pending))):
            player.run(candidate)
    assert [run[0] for run in found.runs] == [run[0] for run in expected.runs]
    assert found.winner == expected.winner and set(player.done) == set(straight.done)


def test_a_space_without_anything_new_ends_early_and_says_so() -> None:
    found = Player(bowl(nesterov=True)).play(problem([NESTEROV], {"nesterov": False}, sampler="optuna", max_runs=9))
    assert found.used == 2 and found.winner == {"nesterov": True}
    assert any("nothing new" in step.why for step in found.steps)
