"""Screen 1: cells are selected, changed, previewed, launched and kept as grids, all from the keyboard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from optsweep_tui import flow, preview
from optsweep_tui.app.model import matrix
from optsweep_tui.app.screens.pick import Pick
from optsweep_tui.app.screens.preview import PreviewScreen
from optsweep_tui.app.screens.prompt import Prompt
from optsweep_tui.app.screens.sweep import SweepScreen
from optsweep_tui.app.verdicts import CellVerdict, Verdicts, key_of
from optsweep_tui.app.views import sweep, sweep_lines
from optsweep_tui.app.views.sweep import Cursor
from optsweep_tui.charts.chart import plain
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import Driver, driven, sizes


def screen_of(driver: Driver) -> SweepScreen:
    screen = driver.app.base_screen()
    assert isinstance(screen, SweepScreen)
    return screen


@pytest.fixture
def detached(monkeypatch: pytest.MonkeyPatch) -> list[Workspace]:
    """Launches leave no controller behind; the workspaces for which one was asked."""
    asked: list[Workspace] = []
    monkeypatch.setattr(flow, "detach", lambda workspace: asked.append(workspace) or 4711)
    return asked


async def open_quickstart(driver: Driver) -> SweepScreen:
    await driver.press("g")
    assert isinstance(driver.app.screen, Pick)
    await driver.press(*"quickst", "enter")
    screen = screen_of(driver)
    await driver.until(lambda: screen.opened is not None)
    await driver.pilot.pause()
    return screen


@sizes
async def test_a_grid_is_opened_previewed_and_launched_from_an_empty_workspace(
    empty_workspace: Workspace, size: tuple[int, int], detached: list[Workspace]
) -> None:
    async with driven(empty_workspace, size) as driver:
        screen = await open_quickstart(driver)
        assert "not launched" in driver.text
        assert "·3" in driver.text
        assert not list(empty_workspace.runs.iterdir())
        await driver.press("space", "down", "space")
        await driver.until(lambda: " 2 cells" in driver.text and " 6 runs" in driver.text)
        await driver.press("enter")
        shown = driver.app.screen
        assert isinstance(shown, PreviewScreen)
        await driver.until(lambda: shown.document is not None)
        await driver.pilot.pause()
        head = next(line for line in driver.text.split("\n") if "534G FLOPs" in line and "│" in line)
        assert "6 runs" in head and " + 3 " in head and "639k tok" in head
        assert "no rate measured here" in head or "time unknown" in head
        assert "dry run: nothing is written yet" in driver.text
        assert not list(empty_workspace.runs.iterdir())
        await driver.press("y")
        await driver.until(lambda: len(list(empty_workspace.runs.iterdir())) == 6)
        await driver.until(lambda: driver.heard("launched 6 runs"))
        assert detached == [empty_workspace]
        await driver.until(lambda: screen.opened is None)
        await driver.until(lambda: "○3" in driver.text)
        assert driver.app.study == "quickstart"
        await driver.until(lambda: {row.line.state for row in driver.app.snapshot.rows} == {"queued"})


async def test_the_preview_says_what_the_command_says(sweep_workspace: Workspace) -> None:
    draft = preview.Draft(grid="quickstart", cells=(("muon", "bench-micro", 0.1),), changes=("lr=0.01,0.02",))
    plan = preview.plan(sweep_workspace, draft)
    request = flow.Request(grid="quickstart", optimizers=("muon",), chinchillas=("0.1",), sweeps=("lr=0.01,0.02",))
    assert plan.run_ids == flow.plan(sweep_workspace, request).run_ids
    document = preview.of(sweep_workspace, plan)
    assert document["totals"]["tokens"] == sum(spec.tokens for spec in plan.specs)
    assert document["totals"]["runs"] == len(plan.specs)


async def test_leaving_the_preview_launches_nothing(empty_workspace: Workspace, detached: list[Workspace]) -> None:
    async with driven(empty_workspace, (80, 24)) as driver:
        await open_quickstart(driver)
        for key in ("escape", "n"):
            await driver.press("enter")
            await driver.until(lambda: isinstance(driver.app.screen, PreviewScreen))
            await driver.press(key)
            assert isinstance(driver.app.screen, SweepScreen)
        assert not list(empty_workspace.runs.iterdir())
        assert not detached
        await driver.press("escape")
        assert "No runs yet" in driver.text


async def test_knobs_and_seeds_are_changed_in_place_and_mistakes_are_the_planners_sentences(
    empty_workspace: Workspace,
) -> None:
    async with driven(empty_workspace, (120, 40)) as driver:
        screen = await open_quickstart(driver)
        await driver.press("v")
        prompt = driver.app.screen
        assert isinstance(prompt, Prompt)
        await driver.press(*"lrr=0.1")
        await driver.until(lambda: 'knob of adamw "lrr" is not known; did you mean "lr"?' in driver.text)
        await driver.press("enter")
        assert driver.app.screen is prompt
        for _ in range(5):
            await driver.press("backspace")
        await driver.press(*"=0.1,0.2", "enter")
        await driver.until(lambda: driver.app.screen is not prompt)
        assert screen.edits.changes == ("lr=0.1,0.2",)
        await driver.press("s", *"0,x")
        await driver.until(lambda: "are not a list of whole numbers" in driver.text)
        await driver.press("backspace", "1", "enter")
        await driver.until(lambda: screen.edits.seeds == (0, 1))
        await driver.until(lambda: "6 runs to train" in driver.text)
        assert "seeds 0,1" in driver.text
        assert "lr=0.1,0.2" in driver.text
        await driver.press("escape")
        assert not screen.edits.changed


async def test_the_engine_and_the_host_are_chosen_from_those_that_there_are(empty_workspace: Workspace) -> None:
    async with driven(empty_workspace, (120, 40)) as driver:
        screen = await open_quickstart(driver)
        await driver.press("o", *"torch", "enter")
        assert screen.edits.engine == "torch"
        await driver.press("H")
        assert "local" in driver.text
        await driver.press("enter")
        assert screen.edits.host == "local"


async def test_the_selection_is_kept_as_a_grid_that_plans_the_same_runs(empty_workspace: Workspace) -> None:
    async with driven(empty_workspace, (120, 40)) as driver:
        screen = await open_quickstart(driver)
        await driver.press("shift+right", "shift+down")
        assert len(screen.selected) == 4
        draft = screen.draft()
        assert draft is not None
        wanted = preview.plan(empty_workspace, draft).run_ids
        await driver.press("w", *"quickstart", "enter")
        await driver.until(lambda: "is the name of a shipped grid" in driver.text)
        await driver.press("2", "enter")
        written = empty_workspace.grids / "quickstart2.toml"
        await driver.until(written.exists)
        again = flow.plan(empty_workspace, flow.Request(grid="quickstart2"))
        assert sorted(again.run_ids) == sorted(wanted)
        await driver.until(lambda: driver.heard("written:"))


async def test_cells_of_ones_own_are_typed_checked_and_shown(empty_workspace: Workspace) -> None:
    async with driven(empty_workspace, (120, 40)) as driver:
        await driver.press("n", *"adamw,muon bench-micro")
        await driver.until(lambda: "three lists are needed" in driver.text)
        await driver.press(*" 1/20,1/16 lr=0.003,0.006 study=mine")
        await driver.until(lambda: "4 cells" in driver.text)
        await driver.press("enter")
        screen = screen_of(driver)
        await driver.until(lambda: screen.opened is not None)
        await driver.pilot.pause()
        assert screen.opened is not None and screen.opened.name == "mine"
        assert "muon" in driver.text and "1/16" in driver.text


async def test_selecting_by_space_row_column_all_and_rectangle(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40)) as driver:
        screen = screen_of(driver)
        await driver.press("space")
        assert "[●" in driver.text
        await driver.press("space", "r")
        assert {spot[1] for spot in screen.selected} == {"adamw"} and len(screen.selected) == 5
        await driver.press("r", "right", "c")
        assert {spot[2] for spot in screen.selected} == {0.08}
        await driver.press("escape")
        assert not screen.selected
        await driver.press("A")
        assert len(screen.selected) == len(sweep.spots(screen.blocks())) == 11
        await driver.press("A", "left", "shift+down", "shift+right")
        assert {spot[1:] for spot in screen.selected} == {
            (optimizer, ratio) for optimizer in ("adamw", "muon") for ratio in (0.05, 0.08)
        }


async def test_the_filter_hides_cells_but_never_changes_what_is_left_of_them(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40)) as driver:
        before = next(line for line in driver.text.split("\n") if line.strip().startswith("adamw"))
        await driver.press("slash", *"opt:adamw lr:0.003 c<0.2", "enter")
        lines = driver.text.split("\n")
        after = next(line for line in lines if line.strip().startswith("adamw"))
        assert not any(line.strip().startswith(("muon", "sgd")) for line in lines)
        assert before.split()[:6] == after.split()[:6]
        await driver.press("slash", *" oops:1")
        assert "there is no field oops" in driver.text
        await driver.press("escape")
        assert any(line.strip().startswith("sgd") for line in driver.text.split("\n"))


async def test_gaps_and_ties_come_from_the_analysis_and_stale_ones_are_not_shown(
    sweep_workspace: Workspace, tmp_path: Path
) -> None:
    copy = made.workspace(tmp_path / "copy")
    shutil.copytree(sweep_workspace.runs, copy.runs, dirs_exist_ok=True)
    shutil.copytree(sweep_workspace.studies, copy.studies, dirs_exist_ok=True)
    async with driven(copy, (120, 40)) as driver:
        await driver.until(lambda: "no gap: not collected yet" in driver.text)
        await driver.press("x")
        await driver.until(lambda: driver.heard("collected 36 runs"))
        await driver.press("down")
        await driver.until(lambda: " to adamw" in driver.text)
        from optsweep_tui import ask
        from optsweep_tui.core import Filter

        table = ask.table(ask.results(copy, Filter(study="quickstart")), baseline="adamw")
        muon = table[(table["optimizer"] == "muon") & (table["chinchilla"].round(3) == 0.05)].iloc[0]
        interval = (
            f"{muon['gap_low']:+.3f} .. {muon['gap_high']:+.3f}" if muon["gap_low"] == muon["gap_low"] else "no sigma"
        )
        assert f"gap {muon['gap']:+.3f} ({interval}) to adamw" in driver.text
        await driver.press("d")
        assert f"{muon['gap']:+.3f}" in next(
            line for line in driver.text.split("\n") if line.strip().startswith("muon")
        )
        made.plant(copy, made.spec("muon", 0.05, 0.03), "done")
        driver.app.feed.poke()
        await driver.until(lambda: "runs have ended since the last collect" in driver.text)


def verdict(**changes: Any) -> CellVerdict:
    values: dict[str, Any] = {
        "loss": 2.3, "seeds": 1, "gap": -0.2, "low": -0.25, "high": -0.15, "rank": 1, "tied": False, "tied_with": (),
        "known_noise": True, "selected": True, "done": 3,
    }  # fmt: skip
    return CellVerdict(**(values | changes))


def test_a_tie_is_marked_in_the_cell_and_named_below_it() -> None:
    rows = [
        made.row(made.spec(optimizer, 0.0625, lr), "done", 2.4 + lr)
        for optimizer in ("adamw", "muon")
        for lr in (0.1, 0.2, 0.3)
    ]
    blocks = matrix(rows)
    cell = blocks[0].cells["muon", 0.0625]
    found = Verdicts(cells={key_of(cell.rows[0].cell, 0.0625): verdict(tied=True, tied_with=("adamw",))})
    shown = plain(sweep.matrix_rows(blocks, Cursor(), frozenset(), 60, 9, sweep.Look(verdicts=found)))
    assert " < beats adamw " in plain(sweep_lines.legend(80))
    assert "●3 <2.300=e" in shown  # better than the baseline beyond noise, without a colour
    assert "●3  2.500e" in shown  # no verdict: the smallest loss as it is, no tie mark
    below = plain(sweep_lines.cell_lines(blocks, Cursor(line=1), "adamw", 150, found))
    assert "gap -0.200 (-0.250 .. -0.150) to adamw   = adamw" in below
    gaps = plain(sweep.matrix_rows(blocks, Cursor(), frozenset(), 60, 9, sweep.Look(verdicts=found, gaps=True)))
    assert "● <-0.200=e" in gaps and "base e" in gaps


def test_an_answer_older_than_a_run_of_its_cell_is_not_used() -> None:
    blocks = matrix([made.row(made.spec("muon", 0.0625, 0.1), "done", 2.4)])
    cell = blocks[0].cells["muon", 0.0625]
    assert sweep.verdict_of(cell, 0.0625, Verdicts(cells={key_of(cell.rows[0].cell, 0.0625): verdict(done=0)})) is None


async def test_a_grid_with_a_mistake_says_so_and_nothing_opens(empty_workspace: Workspace) -> None:
    empty_workspace.grids.mkdir()
    (empty_workspace.grids / "broken.toml").write_text(
        '[[cells]]\noptimizer = ["muonn"]\nmodel = ["bench-micro"]\nchinchilla = [0.1]\n'
    )
    async with driven(empty_workspace, (120, 40)) as driver:
        await driver.press("g", *"broken", "enter")
        await driver.until(lambda: driver.heard("muonn"))
        assert screen_of(driver).opened is None


async def test_the_cells_runs_are_cancelled_and_the_cancel_is_taken_back(
    empty_workspace: Workspace, detached: list[Workspace]
) -> None:
    flow.launch(
        empty_workspace, flow.plan(empty_workspace, flow.Request(grid="quickstart", optimizers=("sgd",)), prepare=True)
    )
    async with driven(empty_workspace, (120, 40)) as driver:
        await driver.until(lambda: "9 wait" in driver.text)
        await driver.press("r", "K")
        assert "Cancel 9 runs?" in driver.text
        await driver.press("y")
        await driver.until(lambda: "0 wait" in driver.text.split("\n")[0])
        await driver.until(lambda: driver.heard("U takes it back"))
        await driver.press("U")
        await driver.until(lambda: "9 wait" in driver.text.split("\n")[0])
        await driver.until(lambda: bool(detached))
    for folder in empty_workspace.runs.iterdir():
        assert not (folder / "cancel").exists()
        assert json.loads((folder / "spec.json").read_text())["optimizer"] == "sgd"


async def test_a_line_that_is_taken_twice_closes_one_box(empty_workspace: Workspace) -> None:
    async with driven(empty_workspace, (120, 40)) as driver:
        screen = await open_quickstart(driver)
        prompt = Prompt("knobs", "lr=0.1", lambda text: "fine")
        driver.app.push_screen(prompt)
        await driver.until(lambda: "fine" in driver.text)
        for _ in range(3):
            prompt.post_message(Input.Submitted(prompt.query_one("#line", Input), "lr=0.1"))
        await driver.until(lambda: driver.app.screen is screen)
        await driver.press("?")
        await driver.until(lambda: driver.app.screen is not screen)
