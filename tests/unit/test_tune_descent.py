"""Coordinate descent on made surfaces: it finds what is there, goes beyond a list only where it must, and always ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from optsweep_tui.tune.axes import Axis, Config, proposed
from optsweep_tui.tune.problem import Problem
from tests.unit.tuning_made import BETA, DECAY, LR, NESTEROV, STEPS, Player, bowl, problem, with_rules


def test_an_optimum_far_beyond_a_narrow_list_is_found_by_extending_it() -> None:
    player = Player(bowl(lr=0.032))
    found = player.play(problem([LR], {"lr": 0.002}))
    assert found.state == "ended" and found.winner == {"lr": 0.032}
    values = [tried.change.get("lr", 0.002) for step in found.steps if step.kind == "extend" for tried in step.tried]
    assert values == [0.008, 0.016, 0.032, 0.064], "by the list's own ratio, until the best value is interior"
    assert found.edges == {} and found.used == 7


def test_the_other_end_is_extended_as_well() -> None:
    player = Player(bowl(lr=0.00025))
    found = player.play(problem([LR], {"lr": 0.002}))
    assert found.winner == {"lr": 0.00025} and found.edges == {}


@pytest.mark.parametrize(
    ("given", "start", "high", "low"),
    [
        ((0.001, 0.002), 0.003, 0.006, 0.0005),  # in equal steps with its start, and still a list of factors of two
        ((0.001, 0.01), 0.003, 0.1, 0.0001),
        ((0.1, 0.2, 0.3), 0.25, 0.4, 0.0),
        ((0.9, 0.95), 0.96, 0.98, 0.8),
        ((4, 8, 16), 32, 64, 2),
    ],
)
def test_a_start_beside_the_list_does_not_change_its_spacing(
    given: tuple[float, ...], start: float, high: float, low: float
) -> None:
    kind = {0.96: BETA, 32: Axis(knob="batch_size", values=(), kind="int", low=1, log=True)}.get(start, LR)
    plain = replace(kind, values=given, given=given, low=0 if start == 0.25 else kind.low, log=kind.log)
    axis = plain.with_value(start)
    assert proposed(axis, "high") == pytest.approx(high)
    assert proposed(axis, "low") == pytest.approx(low)
    further = axis.with_value(high)
    assert float(str(proposed(further, "high"))) > high, "and so on"


def test_a_list_of_one_value_is_doubled_and_halved() -> None:
    narrow = Axis(knob="lr", values=(0.001,), low=1e-7, high=10.0, log=True)
    for optimum in (0.004, 0.00025):
        found = Player(bowl(lr=optimum)).play(problem([narrow], {"lr": 0.001}))
        assert found.winner == {"lr": optimum}


def test_extension_stops_at_its_limit_and_says_which_end_is_open() -> None:
    found = Player(bowl(lr=1.0)).play(problem([LR], {"lr": 0.002}, max_extensions=2))
    assert found.winner == {"lr": 0.016} and dict(found.edges) == {"lr": "high"}


def test_no_extension_without_one_allowed() -> None:
    found = Player(bowl(lr=0.1)).play(problem([LR], {"lr": 0.002}, max_extensions=0))
    assert found.used == 3 and dict(found.edges) == {"lr": "high"}


def test_a_declared_bound_is_no_edge() -> None:
    low = Axis(knob="lr", values=(0.001, 0.002), low=1e-7, high=0.004, log=True)
    found = Player(bowl(lr=1.0)).play(problem([low], {"lr": 0.002}))
    assert found.winner == {"lr": 0.004} and found.edges == {}


def test_weight_decay_zero_is_the_end_of_its_list() -> None:
    def loss(config: Config) -> float:
        return 2.0 + float(str(config["weight_decay"]))

    found = Player(loss).play(problem([DECAY], {"weight_decay": 0.1}))
    assert found.winner == {"weight_decay": 0} and found.edges == {} and found.used == 3


def test_a_value_beyond_which_every_run_diverges_is_interior() -> None:
    surface = bowl(lr=1.0)
    found = Player(lambda config: None if float(str(config["lr"])) > 0.004 else surface(config)).play(
        problem([LR], {"lr": 0.002})
    )
    assert found.winner == {"lr": 0.004} and found.edges == {}
    assert [outcome.state for _, _, outcome in found.runs if outcome].count("diverged") == 1


def test_what_cannot_be_run_ends_a_list_with_its_reason() -> None:
    cell = problem([LR], {"lr": 0.002})
    cell = Problem(
        start=cell.start,
        axes=cell.axes,
        rules=cell.rules,
        proposed=proposed,
        refused=lambda config: "too large" if float(str(config["lr"])) > 0.01 else None,
    )
    found = Player(bowl(lr=1.0)).play(cell)
    assert found.winner == {"lr": 0.008} and found.edges == {} and set(found.refusals.values()) == {"too large"}


def test_knobs_that_depend_on_each_other_are_passed_over_until_nothing_moves() -> None:
    def valley(config: Config) -> float:
        x = math.log2(float(str(config["lr"])) / 0.004)
        y = math.log2((1.0 - float(str(config["beta2"]))) / 0.05)
        return 2.0 + 0.05 * (x - y) ** 2 + 0.01 * (x + y - 4.0) ** 2

    found = Player(valley).play(problem([LR, BETA], {"lr": 0.002, "beta2": 0.95}, max_extensions=20))
    assert max(step.round for step in found.steps) >= 2 and found.winner is not None
    assert valley(found.winner) < valley({"lr": 0.002, "beta2": 0.95}) - 0.003
    around = [{"lr": factor * float(str(found.winner["lr"])), "beta2": found.winner["beta2"]} for factor in (0.5, 2.0)]
    assert all(valley(config) > valley(found.winner) - 0.003 for config in around)
    changes = [tried.change for step in found.steps for tried in step.tried if step.kind in ("sweep", "extend")]
    assert all(len(change) <= 1 for change in changes), "one knob at a time"


def test_later_passes_try_the_neighbours_only() -> None:
    long = Axis(knob="lr", values=tuple(0.001 * 2.0**k for k in range(8)), low=1e-7, high=10.0, log=True)
    player = Player(bowl(lr=0.004, nesterov=True))
    found = player.play(problem([long, NESTEROV], {"lr": 0.002, "nesterov": False}))
    second = [step for step in found.steps if step.round == 2 and step.knobs == ("lr",)]
    assert [len(step.tried) for step in second] == [2]
    assert found.winner == {"lr": 0.004, "nesterov": True}


def test_whole_numbers_stay_whole_and_switches_switch() -> None:
    found = Player(bowl(ns_steps=12, nesterov=True)).play(
        problem([STEPS, NESTEROV], {"ns_steps": 5, "nesterov": False})
    )
    assert found.winner is not None and found.winner["nesterov"] is True
    for candidate, _, _ in found.runs:
        assert type(candidate.config["ns_steps"]) is int and type(candidate.config["nesterov"]) is bool
    assert found.edges == {}


def test_decays_are_extended_towards_one_by_the_ratio_of_their_distance() -> None:
    found = Player(bowl(beta2=0.995)).play(problem([BETA], {"beta2": 0.95}))
    tried = sorted(float(str(candidate.config["beta2"])) for candidate, _, _ in found.runs if candidate.seed == 0)
    assert tried[:4] == [0.9, 0.95, 0.98, 0.992] and all(value < 1.0 for value in tried)


def test_a_gain_within_the_threshold_moves_nothing_but_the_smallest_loss_gets_the_seeds() -> None:
    losses = {0.001: 2.1, 0.002: 2.0, 0.004: 1.998, 0.008: 2.2}
    found = Player(lambda config: losses[float(str(config["lr"]))]).play(problem([LR], {"lr": 0.002}))
    assert found.incumbent == {"lr": 0.002} and found.winner == {"lr": 0.004}
    assert not any(step.moved for step in found.steps)
    assert [step.kind for step in found.steps][-2:] == ["settle", "seeds"]
    seeds = [candidate for candidate, _, _ in found.runs if candidate.seed > 0]
    assert [candidate.seed for candidate in seeds] == [1, 2, 3]
    assert all(candidate.config == {"lr": 0.004} for candidate in seeds)


def test_a_start_without_a_loss_is_left_for_the_first_value_that_has_one() -> None:
    surface = bowl(lr=0.001)
    found = Player(lambda config: None if float(str(config["lr"])) > 0.001 else surface(config)).play(
        problem([LR], {"lr": 0.004})
    )
    assert found.winner == {"lr": 0.001} and found.start_losses == ()


def test_a_list_that_diverges_whole_is_extended_to_lower_learning_rates() -> None:
    surface = bowl(lr=0.0001)
    found = Player(lambda config: None if float(str(config["lr"])) > 0.0003 else surface(config)).play(
        problem([LR], {"lr": 0.002})
    )
    assert found.winner is not None and float(str(found.winner["lr"])) < 0.0003


def test_a_cell_in_which_nothing_trains_ends_without_a_winner() -> None:
    found = Player(lambda config: None).play(problem([LR, BETA], {"lr": 0.002, "beta2": 0.95}, max_extensions=3))
    assert found.state == "ended" and found.winner is None and found.steps[-1].kind == "settle"
    assert all(candidate.seed == 0 for candidate, _, _ in found.runs), "no seeds for nothing"


def test_the_block_sees_what_one_knob_at_a_time_cannot() -> None:
    """Moving either knob alone costs, moving both gains: a saddle that coordinate descent sits on."""

    def saddle(config: Config) -> float:
        x, y = math.log2(float(str(config["lr"])) / 0.002), float(str(config["weight_decay"])) / 0.1 - 1.0
        return 2.0 - 0.1 * x * y + 0.05 * x * x + 0.04 * y * y + (0.0 if abs(x) < 2 and abs(y) < 2 else 1.0)

    start = {"lr": 0.002, "weight_decay": 0.1}
    wide = Axis(knob="weight_decay", values=(0, 0.1, 0.2), low=0.0, high=0.2, log=True)
    without = Player(saddle).play(problem([LR, wide], start))
    found = Player(saddle).play(problem([LR, wide], start, block=("lr", "weight_decay")))
    assert without.winner == start
    assert found.winner is not None and saddle(found.winner) < 1.995
    (step,) = [step for step in found.steps if step.kind == "block"]
    assert len(step.tried) == 9 and step.new == 4 and step.moved


def test_the_block_is_left_out_where_a_knob_has_no_other_value() -> None:
    found = Player(bowl(lr=0.002)).play(problem([LR], {"lr": 0.002, "weight_decay": 0}, block=("lr", "weight_decay")))
    (step,) = [step for step in found.steps if step.kind == "block"]
    assert step.tried == () and "weight_decay" in step.why and found.state == "ended"


@pytest.mark.parametrize("most", [1, 2, 4, 6])
def test_a_budget_is_never_overspent_and_its_end_is_said(most: int) -> None:
    player = Player(bowl(lr=0.064))
    found = player.play(problem([LR], {"lr": 0.002}, max_runs=most))
    assert found.used == most and found.spent and found.state == "ended"
    assert found.winner is not None and len(found.winner_losses) == 4, "the best so far has its seeds all the same"


def test_the_threshold_grows_with_the_noise_that_the_starts_seeds_show() -> None:
    from statistics import stdev

    player = Player(bowl(lr=0.004), noise=0.02)
    found = player.play(problem([LR], {"lr": 0.002}, seeds_for_start=True))
    losses = [outcome.loss for key, outcome in player.done.items() if key[0] == (("lr", 0.002),)]
    assert found.sigma is not None and len(losses) == 4
    assert found.sigma == pytest.approx(stdev(loss for loss in losses if loss is not None))
    assert found.threshold == pytest.approx(1.645 * found.sigma * math.sqrt(2.0))
    assert found.sigma_source == "start" and found.sigma_dof == 3
    given = Player(bowl(lr=0.004), noise=0.02).play(problem([LR], {"lr": 0.002}, seeds_for_start=True, threshold=0.001))
    assert given.threshold == 0.001, "a threshold that was given is used as it is"


def test_a_known_sigma_below_the_threshold_leaves_it_as_it_is() -> None:
    found = Player(bowl(lr=0.004)).play(problem([LR], {"lr": 0.002}, sigma=0.0005, sigma_source="given"))
    assert found.threshold == 0.003


def test_a_failed_run_holds_the_search_until_it_is_retried_or_skipped() -> None:
    cell = problem([LR], {"lr": 0.002})
    player = Player(bowl(lr=0.001), states={'{"lr":0.004}': "failed"})
    stuck = player.play(cell)
    assert stuck.state == "stuck" and "failed" in stuck.reason and stuck.winner is None
    skipped = player.play(with_rules(cell, skip_failed=True))
    assert skipped.state == "ended" and skipped.winner == {"lr": 0.001}
    player.states.clear()
    del player.done[(("lr", 0.004),), 0]
    assert player.play(cell).state == "ended"


@pytest.mark.parametrize("state", ["cancelled", "lost"])
def test_other_ends_that_say_nothing_hold_it_too(state: str) -> None:
    player = Player(bowl(lr=0.001), states={'{"lr":0.001}': state})
    assert player.play(problem([LR], {"lr": 0.002})).state == "stuck"


def test_out_of_memory_is_a_value_without_a_loss() -> None:
    batch = Axis(knob="batch_size", values=(8, 16), kind="int", low=1, log=True)
    player = Player(bowl(batch_size=128), states={'{"batch_size":32}': "oom"})
    found = player.play(problem([batch], {"batch_size": 8}))
    assert found.state == "ended" and found.winner == {"batch_size": 16} and found.edges == {}
