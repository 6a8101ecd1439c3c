"""What holds whatever the losses are: a tuning ends, runs nothing twice, and does not depend on when results come."""

from __future__ import annotations

import json
import random

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui import analysis
from optsweep_tui.analysis.columns import RESULTS
from optsweep_tui.tune.axes import Config, key_of
from optsweep_tui.tune.problem import Outcome, Problem
from optsweep_tui.tune.procedure import Position, position
from tests.unit.tuning_made import BETA, DECAY, LR, NESTEROV, STEPS, Player, Surface, bowl, problem

AXES = (LR, BETA, DECAY, STEPS, NESTEROV)
START = {"lr": 0.002, "beta2": 0.95, "weight_decay": 0.1, "ns_steps": 5, "nesterov": False}


def rough(salt: int, diverging: float, steps: float) -> Surface:
    """Losses without any order: a number per configuration, some equal, some diverging."""

    def loss(config: Config) -> float | None:
        chance = random.Random(f"{salt} {key_of(config)}")
        return None if chance.random() < diverging else 2.0 + round(chance.random() / steps) * steps

    return loss


problems = st.builds(
    lambda chosen, block, seeds, most, extensions, equal: problem(
        list(chosen),
        START,
        block=("lr", "weight_decay") if block else None,
        seeds_for_start=seeds,
        max_runs=most,
        max_extensions=extensions,
    ),
    st.lists(st.sampled_from(AXES), min_size=1, unique_by=lambda axis: axis.knob),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 30),
    st.integers(0, 5),
    st.booleans(),
)
surfaces = st.builds(rough, st.integers(0, 10**6), st.sampled_from([0.0, 0.2, 0.9, 1.0]), st.sampled_from([0.3, 0.01]))


def facts(found: Position) -> object:
    """A position without the run ids, which depend on the order of the ends."""
    steps = [
        (step.kind, step.knobs, step.round, step.best, step.loss, step.gain, step.moved, step.why, step.new)
        for step in found.steps
    ]
    return found.state, [run[0] for run in found.runs], found.incumbent, found.winner, found.winner_losses, steps


@settings(max_examples=50, deadline=None)
@given(cell=problems, surface=surfaces)
def test_it_ends_with_every_run_asked_for_once(cell: Problem, surface: Surface) -> None:
    player = Player(surface)
    found = player.play(cell)
    assert found.state == "ended"
    assert {run[0].key for run in found.runs} == set(player.done), "nothing was run that it does not account for"
    tuning = [run for run in found.runs if run[0].seed == 0]
    assert found.used == len(tuning) and (cell.rules.max_runs is None or found.used <= cell.rules.max_runs)
    losses = [outcome.loss for _, _, outcome in tuning if outcome is not None and outcome.loss is not None]
    assert (found.winner is None) == (not losses)
    if losses:
        assert found.winner_losses[0] == min(losses)
    gains = [step.gain for step in found.steps if step.moved and step.gain is not None]
    assert all(gain > found.threshold for gain in gains)
    assert sum(step.new for step in found.steps) == len(found.runs), "every run is told of in one step"


@settings(max_examples=30, deadline=None)
@given(cell=problems, surface=surfaces, chance=st.randoms(use_true_random=False))
def test_when_and_in_which_order_results_come_changes_nothing(
    cell: Problem, surface: Surface, chance: random.Random
) -> None:
    straight = Player(surface).play(cell)
    player = Player(surface)
    while True:
        found = position(cell, player)
        if found.state != "running":
            break
        waiting = list(found.pending)
        chance.shuffle(waiting)
        for candidate in waiting[: chance.randint(1, len(waiting))]:  # killed after some of them
            player.run(candidate)
    assert facts(found) == facts(straight)


@settings(max_examples=25, deadline=None)
@given(cell=problems, surface=surfaces, extra=st.integers(0, 25))
def test_an_equal_budget_is_spent_to_its_last_run_or_nothing_finer_is_left(
    cell: Problem, surface: Surface, extra: int
) -> None:
    from dataclasses import replace

    player, equal = Player(surface), replace(cell, equal=True)
    natural = player.play(equal)
    assert natural.state == "waiting"
    found = player.play(equal, natural.used + extra)
    assert found.state == "ended" and found.used <= natural.used + extra
    if found.used < natural.used + extra:
        assert any("nothing finer" in step.why for step in found.steps)
    if any(axis.knob == "lr" for axis in cell.axes.values()) and extra <= 6:
        assert found.used == natural.used + extra, "the learning rate can always be halved"


@settings(max_examples=12, deadline=None)
@given(
    lr=st.floats(1e-4, 0.5), beta2=st.floats(0.8, 0.999), decay=st.floats(0.01, 2.0), noise=st.sampled_from([0.0, 0.01])
)
def test_what_it_calls_free_of_edges_the_audit_of_edges_calls_so_too(
    lr: float, beta2: float, decay: float, noise: float
) -> None:
    player = Player(bowl(lr=lr, beta2=beta2, weight_decay=decay), noise=noise)
    found = player.play(problem([LR, BETA, DECAY], START, block=("lr", "weight_decay"), max_extensions=25))
    assert found.edges == {}
    (row,) = analysis.table(frame_of(found)).to_dict("records")
    assert row["edges"] == []
    assert row["n"] == 3 and abs(row["loss"] - sum(found.winner_losses[1:]) / 3) < 1e-12
    assert row["tuning_runs"] == found.used


def frame_of(found: Position) -> pd.DataFrame:
    """The runs of a tuned cell as the analysis takes them."""
    rows = []
    for candidate, _, outcome in found.runs:
        assert outcome is not None
        rows.append({**_row(candidate.config, outcome), "seed": candidate.seed})
    return pd.DataFrame(rows, columns=list(RESULTS))


def _row(config: Config, outcome: Outcome) -> dict[str, object]:
    return {
        "run_id": outcome.run_id,
        "study": "made",
        "optimizer": "adamw",
        "model": "bench-micro",
        "params": 1e5,
        "chinchilla": 1.0,
        "tokens": 2e6,
        "batch_size": 8,
        "schedule": "linear",
        "dtype": "fp32",
        "hyperparameters": json.dumps(dict(config)),
        "state": outcome.state,
        "loss": outcome.loss,
    }
