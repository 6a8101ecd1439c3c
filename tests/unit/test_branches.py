"""Branches in comparisons: flagged in table, fit and speedup, never in one cell with whole runs."""

from __future__ import annotations

import pytest

from optsweep_engines import schedules
from optsweep_tui.analysis import fit, speedup, table
from optsweep_tui.analysis import flags as F
from optsweep_tui.core import Cell
from tests.unit.analysis_frames import curve, frame, law, run
from tests.unit.test_spec import spec


def flags_of(rows: list[dict[str, object]], optimizer: str, ratio: float) -> list[str]:
    found = table(frame(rows))
    (row,) = found[(found["optimizer"] == optimizer) & (found["chinchilla"] == ratio)].to_dict("records")
    return list(row["flags"])


def test_a_cell_of_branches_says_so_and_what_is_compared_with_it_too() -> None:
    rows = [run("adamw", 1.0, 3.2, start_mode="branch"), run("muon", 1.0, 3.1), run("adamw", 2.0, 3.1)]
    assert F.BRANCH in flags_of(rows, "adamw", 1.0)
    assert F.BRANCH in flags_of(rows, "muon", 1.0)
    assert F.BRANCH not in flags_of(rows, "adamw", 2.0)


def test_whole_runs_leave_the_branches_of_their_cell_out() -> None:
    rows = [run("adamw", 1.0, 3.2), run("adamw", 1.0, 3.0, start_mode="branch")]
    (cell,) = table(frame(rows)).to_dict("records")
    assert cell["loss"] == 3.2
    assert F.BRANCHES_OUT in cell["flags"] and F.BRANCH not in cell["flags"]
    lost = [run("adamw", 1.0, None, state="diverged"), run("adamw", 1.0, 3.0, start_mode="branch")]
    (cell,) = table(frame(lost)).to_dict("records")
    assert cell["loss"] == 3.0
    assert F.BRANCH in cell["flags"]


def test_the_base_seed_is_chosen_among_the_runs_that_are_compared() -> None:
    """Three whole configurations under seed 0; the branches that stay out were four, under seed 1."""
    whole = [run("adamw", 1.0, 3.2 + 0.01 * step, knobs={"lr": 0.01 * (1 + step)}) for step in range(3)]
    again = run("adamw", 1.0, 3.1, knobs={"lr": 0.01}, seed=1)
    branches = [
        run("adamw", 1.0, 3.0, knobs={"lr": 0.01 * (1 + step)}, seed=1, start_mode="branch") for step in range(4)
    ]
    (cell,) = table(frame([*whole, again, *branches])).to_dict("records")
    assert cell["loss"] == 3.1, "the fresh seed of the best of seed 0"
    assert F.BRANCHES_OUT in cell["flags"] and F.SELECTED_MIN not in cell["flags"] and F.OTHER_SEED not in cell["flags"]
    assert cell["loss"] == table(frame([*whole, again])).to_dict("records")[0]["loss"]


def test_a_curve_that_rests_on_one_branch_marks_the_fit_and_every_speedup() -> None:
    whole = [*curve((1, 2, 8)), run("muon", 2.0, law(4.0))]
    branch = run("adamw", 4.0, law(4.0), start_mode="branch")
    assert all(F.BRANCH not in flags for flags in speedup(frame(whole))["flags"])
    (row,) = speedup(frame([*whole, branch])).to_dict("records")
    assert F.BRANCH in row["flags"]
    assert row["speedup"] == pytest.approx(2.0, rel=0.02)  # the branch is a point like any other
    (fitted,) = fit(frame([*whole, branch])).to_dict("records")
    assert F.BRANCH in fitted["flags"]


def test_runs_from_other_weights_are_not_branches_and_branches_are_cells_apart() -> None:
    assert F.BRANCH not in flags_of([run("adamw", 1.0, 3.2, start_mode="weights")], "adamw", 1.0)
    from optsweep_engines.spec import Start

    start = Start(run_id="1a2b3c4d" + "0" * 24, step=3, mode="branch", parameters_sha256="0" * 64)
    plain = spec()
    branch = plain.replace(start=start)
    weights = plain.replace(start=Start(**{**start.__dict__, "mode": "weights"}))
    assert (Cell.of(plain).branches, Cell.of(branch).branches, Cell.of(weights).branches) == (False, True, False)
    assert Cell.of(weights).dataset == f"{plain.dataset} from 1a2b3c4d@3"
    assert (branch.first_step, branch.trained_steps) == (3, plain.steps - 3)
    assert (weights.first_step, weights.trained_steps) == (0, plain.steps)
    assert branch.trained_flops == pytest.approx(plain.flops * (plain.steps - 3) / plain.steps)


@pytest.mark.parametrize("steps", [7, 100, 832])
@pytest.mark.parametrize("decay", [0.1, 0.2, 0.5, 1.0])
def test_the_decay_starts_where_the_rate_leaves_its_peak(steps: int, decay: float) -> None:
    knobs = {"warmup": 3, "decay": decay}
    begin = schedules.decay_start(steps, "wsd", knobs)
    factors = [schedules.lr_factor(step, steps, "wsd", knobs) for step in range(steps)]
    assert all(factor == 1.0 for factor in factors[3 : begin + 1])
    assert all(factor < 1.0 for factor in factors[begin + 1 :])
