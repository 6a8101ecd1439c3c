"""Many cells: equal budgets, phases one after the other, and what is said of the winner."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from optsweep_engines.spec import Scalar
from optsweep_tui import gridfile
from optsweep_tui.core import CellSelection, Phases, Study
from optsweep_tui.errors import OptsweepError
from optsweep_tui.tune import account
from optsweep_tui.tune.estimate import to_come
from optsweep_tui.tune.problem import Problem, Results, Rules
from optsweep_tui.tune.procedure import Position, position
from optsweep_tui.tune.sizes import phase_of
from optsweep_tui.tune.tuning import TunedCell, Tuning
from optsweep_tui.tune.whole import Advice, Placed, places
from tests.unit.tuning_made import BETA, LR, NESTEROV, Player, Surface, bowl, problem

START: Mapping[str, Scalar] = {"lr": 0.002, "beta2": 0.95, "nesterov": False}
AXES = {axis.knob: axis.values for axis in (LR, BETA, NESTEROV)}


class Made:
    """A tuning over made surfaces, played to its end."""

    def __init__(self, surfaces: Mapping[str, Surface], cells: list[TunedCell], **fields: Any) -> None:
        rules = Rules(block=None)
        plain: dict[str, Any] = {
            "name": "made",
            "baseline": "adamw",
            "engine": "torch",
            "dataset": None,
            "rules": rules,
            **fields,
        }
        self.tuning = Tuning(cells=tuple(cells), **plain)
        self.players = {cell.name: Player(surfaces[cell.optimizer]) for cell in cells}

    def problem(self, cell: TunedCell) -> Problem:
        axes = [axis for axis in (LR, BETA, NESTEROV) if axis.knob in cell.axes]
        return problem(axes, cell.start)

    def results(self, cell: TunedCell) -> Results:
        return self.players[cell.name]

    def places(self, advice: Advice | None = None) -> list[Placed]:
        return places(self.tuning, self.problem, self.results, advice)

    def play(self, advice: Advice | None = None) -> list[Placed]:
        for _ in range(200):
            found = self.places(advice)
            waiting = [(entry, candidate) for entry in found for candidate in entry.position.pending]
            if not waiting:
                return found
            entry, candidate = waiting[0]  # one run at a time: cells go on by themselves
            self.players[entry.cell.name].run(candidate)
        raise AssertionError("still running")


def cell(
    optimizer: str, ratio: float = 1.0, phase: int = 1, axes: Mapping[str, tuple[Scalar, ...]] = AXES
) -> TunedCell:
    return TunedCell(
        optimizer=optimizer, reference=optimizer, model="m", chinchilla=ratio, start=START, axes=axes, phase=phase
    )


def test_equal_budgets_are_equal_and_every_optimizer_has_its_seeds() -> None:
    far, near = bowl(lr=0.064, beta2=0.99), bowl(lr=0.002, nesterov=True)
    few = {"lr": LR.values}
    made = Made({"a": far, "b": near}, [cell("a"), cell("b", axes=few), cell("a", 2.0)], equal_budget=True)
    found = made.play()
    used = {entry.cell.name: entry.position.used for entry in found}
    assert used["a m 1"] == used["b m 1"] > 10 and all(entry.ended for entry in found)
    assert any(step.kind == "refine" for step in found[1].position.steps)
    assert all(len(entry.position.winner_losses) == 4 for entry in found)
    unequal = Made({"a": far, "b": near}, [cell("a"), cell("b", axes=few)])
    assert len({entry.position.used for entry in unequal.play()}) == 2


def test_an_equal_budget_waits_for_the_slowest_and_says_so() -> None:
    made = Made({"a": bowl(lr=0.064), "b": bowl(lr=0.002)}, [cell("a"), cell("b")], equal_budget=True)
    made.players["a m 1"].states['{"beta2":0.95,"lr":0.002,"nesterov":false}'] = "failed"
    states = [entry.position.state for entry in made.play()]
    assert states == ["stuck", "waiting"]


def test_later_phases_wait_for_earlier_ones_of_their_optimizer_only() -> None:
    decided: list[tuple[str, int]] = []

    def advice(of: TunedCell, earlier: Sequence[Placed]) -> tuple[TunedCell, str]:
        decided.append((of.name, len(earlier)))
        winner = earlier[-1].position.winner
        assert winner is not None and all(entry.ended for entry in earlier)
        axes = {"lr": LR.values} if of.phase == 2 else {}
        return replace(of, start=winner, axes=axes), f"from {len(earlier)} cells"

    cells = [cell("a", 1.0), cell("a", 2.0), cell("a", 4.0, 2), cell("a", 8.0, 3), cell("b", 1.0)]
    made = Made({"a": bowl(lr=0.016, beta2=0.96), "b": lambda config: None}, cells, phased=True)
    first = made.places(advice)
    assert [entry.position.state for entry in first] == ["running", "running", "waiting", "waiting", "running"]
    found = made.play(advice)
    assert all(entry.ended for entry in found) and [entry.why for entry in found[2:4]] == [
        "from 2 cells",
        "from 3 cells",
    ]
    assert found[2].cell.axes == {"lr": LR.values} and found[3].position.used == 1
    assert found[3].position.winner == found[2].position.winner and len(found[3].position.winner_losses) == 4
    assert {name for name, _ in decided} == {"a m 4", "a m 8"}


def test_phases_are_thirds_of_an_optimizers_own_cells_by_flops() -> None:
    def of(ratios: tuple[float, ...], phases: Phases | None = None) -> list[int]:
        selection = CellSelection(optimizer=("adamw",), model=("bench-micro",), chinchilla=ratios)
        other = CellSelection(optimizer=("muon",), model=("bench-micro",), chinchilla=(9.0, 8.0))
        study = Study(name="s", cells=(selection, other), phases=phases)
        return [phase_of(study, "adamw", "bench-micro", value) for value in ratios]

    assert of((1.0, 2.0)) == [1, 3]
    assert of((3.0, 1.0, 2.0)) == [3, 1, 2]
    assert of((1.0, 2.0, 3.0, 4.0, 5.0, 6.0)) == [1, 1, 2, 2, 3, 3]
    assert of((1.0,)) == [1]
    named = Phases(small=(("bench-micro", 2.0),), middle=(), large=(("bench-micro", 1.0),))
    assert of((1.0, 2.0), named) == [3, 1]
    with pytest.raises(OptsweepError, match="one model and ratio"):
        study = Study(name="s", cells=(CellSelection(optimizer=("adamw",), model=("130m",), chinchilla=(1.0,)),))
        phase_of(study, "adamw", "130m", 1.0)


GRID: dict[str, Any] = {
    "cells": [{"optimizer": "adamw", "model": "bench-micro", "chinchilla": [1, 2, 3]}],
    "phases": {
        "small": {"model": "bench-micro", "chinchilla": [1, "2"]},
        "large": [{"model": ["BENCH-MICRO"], "chinchilla": 3}],
    },
}


def test_a_grid_names_its_phases() -> None:
    phases = gridfile.parse(GRID, "here", "g").phases
    assert phases == Phases(
        small=(("bench-micro", 1.0), ("bench-micro", 2.0)), middle=(), large=(("bench-micro", 3.0),)
    )


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ({"small": {"model": "bench-micro", "chinchilla": [1, 2]}}, "bench-micro 3 is in none"),
        ({"small": {"model": "bench-micro", "chinchilla": [1, 2, 3, 4]}}, "bench-micro 4 has no cell"),
        ({**GRID["phases"], "middle": {"model": "bench-micro", "chinchilla": 1}}, "is in small and middle"),
        ({"large": {"model": "bench-micro", "chinchilla": [1, 2, 3]}}, "small is missing"),
        ({"tiny": []}, 'key "tiny"'),
        ({"small": {"model": "bench-micro"}}, "model or chinchilla is missing"),
        ({"small": {"model": "bench-macro", "chinchilla": 1}}, "bench-macro"),
        ({"small": 3}, "is not a table"),
        ([], "is not a table"),
    ],
)
def test_mistakes_in_phases_are_named(phases: object, said: str) -> None:
    with pytest.raises(OptsweepError, match="phases") as caught:
        gridfile.parse({**GRID, "phases": phases}, "here", "g")
    assert said in str(caught.value)


def test_the_improvement_is_the_difference_of_means_with_the_pooled_students_interval() -> None:
    start, winner = (2.30, 2.34, 2.28), (2.05, 2.10, 2.12, 2.07)
    ended = Position(
        state="ended", start={"lr": 1}, winner={"lr": 2}, start_losses=start, winner_losses=winner, threshold=0.003
    )
    found = account.improvement(ended)
    variance = (2 * np.var(start, ddof=1) + 3 * np.var(winner, ddof=1)) / 5
    half = stats.t.ppf(0.975, 5) * math.sqrt(variance * (1 / 3 + 1 / 3))
    gain = np.mean(start) - np.mean(winner[1:])
    assert found.nats == pytest.approx(gain) and found.sigma_dof == 5
    assert (found.low, found.high) == pytest.approx((gain - half, gain + half))
    assert found.resolved is True and (found.n_start, found.n_winner) == (3, 3)


def test_a_sigma_that_was_given_is_used_as_it_is() -> None:
    ended = Position(
        state="ended",
        start={"lr": 1},
        winner={"lr": 2},
        start_losses=(2.0,),
        winner_losses=(1.99, 1.98, 1.985, 1.99),
        sigma=0.01,
        sigma_source="given",
    )
    found = account.improvement(ended)
    half = 1.959964 * 0.01 * math.sqrt(1 + 1 / 3)
    assert found.high is not None and found.nats is not None and found.resolved is False
    assert found.high - found.nats == pytest.approx(half)


def test_without_noise_or_without_a_move_there_is_no_interval() -> None:
    bare = Position(state="ended", start={"lr": 1}, winner={"lr": 2}, start_losses=(2.0,), winner_losses=(1.9,))
    found = account.improvement(bare)
    assert found.nats == pytest.approx(0.1) and found.resolved is None and found.low is None
    assert account.improvement(replace(bare, winner={"lr": 1})).nats is None
    assert account.improvement(replace(bare, start_losses=())).nats is None


def test_what_is_to_come_is_exact_when_nothing_moves() -> None:
    rules = Rules(block=None, seeds_for_start=True)
    made = cell("a")
    player = Player(lambda config: 2.0 if config == START else 2.1)
    shape = problem([LR, BETA, NESTEROV], START, seeds_for_start=True)
    expected = []
    while (found := position(shape, player)).state == "running":
        expected.append((len(player.done), to_come(Placed(cell=made, position=found), rules)))
        for candidate in found.pending:
            player.run(candidate)
    # The start wins, so its seeds are the winner's: the three that are counted for a winner elsewhere are not needed.
    assert all(total - 3 <= len(player.done) <= total for total in (done + rest for done, rest in expected))
    assert to_come(Placed(cell=made, position=found), rules) == 0
