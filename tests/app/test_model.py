"""The matrix, the filter and the choice of curves, from plain rows."""

from __future__ import annotations

import pytest

from optsweep_engines.spec import BRANCH, Start
from optsweep_tui.app import model
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.views import compare
from tests.app import made


def test_a_cell_shows_its_best_final_loss_and_not_a_smaller_training_loss() -> None:
    rows = [
        made.row(made.spec(lr=0.003), "done", 2.10),
        made.row(made.spec(lr=0.006), "done", 2.03),
        made.row(made.spec(lr=0.012), "running", 1.50, step=10),
    ]
    cell = model.cell_view(rows)
    assert (cell.state, cell.loss, cell.final, cell.unfinished) == ("running", 2.03, True, True)
    assert cell.best is rows[1]


def test_a_cell_with_fresh_seeds_shows_their_mean_as_the_table_does_not_the_luckiest_run() -> None:
    rows = [made.row(made.spec(lr=lr), "done", loss) for lr, loss in ((0.003, 2.2), (0.006, 2.1), (0.012, 2.3))]
    rows += [made.row(made.spec(lr=0.006, seed=seed), "done", loss) for seed, loss in ((1, 2.0), (2, 2.12), (3, 2.18))]
    cell = model.cell_view(rows, model.base_seed(rows))
    assert cell.loss == pytest.approx(2.1) and (cell.seeds, cell.fresh) == (3, True)
    assert cell.best is not None and (cell.best.line.lr, cell.best.line.seed) == (0.006, 0)
    assert model.base_seed(rows) == 0


def test_a_whole_run_stands_for_its_cell_and_no_luckier_branch_of_a_trunk() -> None:
    start = Start(run_id="0" * 32, step=5, mode=BRANCH, parameters_sha256="1" * 64)
    rows = [made.row(made.spec(), "done", 2.1), made.row(made.spec().replace(start=start), "done", 2.0)]
    assert model.cell_view(rows).loss == 2.1
    assert model.cell_view(rows[1:]).loss == 2.0


def test_the_base_seed_of_the_matrix_is_that_of_the_runs_that_are_compared() -> None:
    start = Start(run_id="0" * 32, step=5, mode=BRANCH, parameters_sha256="1" * 64)
    whole = [made.row(made.spec(lr=lr), "done", loss) for lr, loss in ((0.003, 2.2), (0.006, 2.1))]
    fresh = made.row(made.spec(lr=0.006, seed=1), "done", 2.15)
    branches = [
        made.row(made.spec(lr=lr, seed=1).replace(start=start), "done", 2.0) for lr in (0.003, 0.006, 0.012, 0.024)
    ]
    (block,) = model.matrix([*whole, fresh, *branches])
    (cell,) = block.cells.values()
    assert (cell.loss, cell.fresh, cell.tried) == (2.15, True, 2)


def test_a_cell_without_a_final_loss_shows_the_training_loss_as_unfinished() -> None:
    cell = model.cell_view(
        [made.row(made.spec(), "running", 2.5, step=10), made.row(made.spec(lr=0.003), "queued", None)]
    )
    assert (cell.state, cell.loss, cell.final, cell.unfinished) == ("running", 2.5, False, True)


@pytest.mark.parametrize(
    ("states", "shown"),
    [
        (("done", "done"), "done"),
        (("done", "failed"), "bad"),
        (("done", "orphan"), "bad"),
        (("planned", "done"), "waiting"),
        (("failed", "running"), "running"),
        (("diverged", "diverged"), "none"),
        (("diverged", "done"), "done"),
        (("cancelled",), "none"),
    ],
)
def test_the_glyph_of_a_cell_is_what_needs_a_look_first(states: tuple[str, ...], shown: str) -> None:
    rows = [
        made.row(made.spec(lr=0.001 * (place + 1)), state, 2.0 if state in ("done", "running") else None)
        for place, state in enumerate(states)
    ]
    assert model.cell_view(rows).state == shown


def test_the_edge_mark_is_set_only_when_the_best_lr_is_an_end_of_those_tried() -> None:
    def cell(losses: list[float | None]) -> model.CellView:
        lrs = (0.003, 0.006, 0.012)
        return model.cell_view(
            [
                made.row(made.spec(lr=lr), "done" if loss else "diverged", loss)
                for lr, loss in zip(lrs, losses, strict=True)
            ]
        )

    assert not cell([2.1, 2.0, 2.2]).lr_edge
    assert cell([2.0, 2.1, 2.2]).lr_edge
    assert cell([2.2, 2.1, 2.0]).lr_edge
    assert not cell([2.1, 2.0, None]).lr_edge
    assert not model.cell_view([made.row(made.spec(), "done", 2.0)]).lr_edge


def test_the_matrix_has_models_by_size_ratios_in_order_and_marks_the_best_of_a_column() -> None:
    rows = [
        made.row(made.spec("adamw", 0.5, model="bench-tiny"), "planned", None),
        made.row(made.spec("adamw", 0.25), "done", 2.1),
        made.row(made.spec("muon", 0.25), "done", 1.9),
        made.row(made.spec("adamw", 0.05), "done", 2.5),
    ]
    blocks = model.matrix(rows)
    assert [block.title for block in blocks] == ["bench-micro", "bench-tiny"]
    assert blocks[0].ratios == (0.05, 0.25)
    assert blocks[0].optimizers == ("adamw", "muon")
    assert blocks[0].best == {0.25: "muon"}
    assert ("muon", 0.05) not in blocks[0].cells


def test_two_datasets_never_share_a_cell() -> None:
    other = made.spec().replace(dataset="other", dataset_hash="cd" * 32)
    blocks = model.matrix([made.row(made.spec()), made.row(other)])
    assert sorted(block.title for block in blocks) == ["bench-micro embedded", "bench-micro other"]


def test_counts_put_every_run_in_one_group() -> None:
    states = [
        "running",
        "planned",
        "queued",
        "submitting",
        "done",
        "failed",
        "oom",
        "lost",
        "orphan",
        "diverged",
        "cancelled",
    ]
    rows = [made.row(made.spec(seed=place), state, None) for place, state in enumerate(states)]
    assert model.counts(rows) == {"run": 1, "wait": 3, "done": 1, "bad": 4, "other": 2}


def test_curves_are_the_marked_runs_else_the_running_else_the_best_of_each_cell() -> None:
    done = [made.row(made.spec(lr=lr), "done", loss) for lr, loss in ((0.003, 2.2), (0.006, 2.0))]
    running = made.row(made.spec("muon", lr=0.02), "running", 2.4, step=9)
    everything = [*done, running]

    def choose(rows: list[RunRow], marked: list[RunRow]) -> compare.Choice:
        return compare.choose(rows, marked, lambda: model.matrix(rows))

    assert choose(everything, [done[0]]).rows == (done[0],)
    assert choose(everything, []).rows == (running,)
    assert choose(done, []).rows == (done[1],)
    assert "no marks" in choose(done, []).why
    assert choose([], []).rows == ()


def test_no_more_curves_are_chosen_than_there_are_letters() -> None:
    rows = [made.row(made.spec(seed=seed), "running", 2.0, step=3) for seed in range(60)]
    choice = compare.choose(rows, [], lambda: model.matrix(rows))
    assert len(choice.rows) == compare.MOST
    assert "first 52 shown" in choice.why
