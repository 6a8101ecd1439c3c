"""Screen 2: any order, chosen columns, filters with their mistakes, bulk actions with undo, and 100,000 rows."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key

from optsweep_tui import flow
from optsweep_tui.app.memory import Memory
from optsweep_tui.app.model import RunRow, cell_order
from optsweep_tui.app.screens.columns import ColumnsScreen
from optsweep_tui.app.screens.runs import RunsScreen
from optsweep_tui.app.views import runs
from optsweep_tui.app.widgets.filterline import FilterLine
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import Driver, driven, sizes


def screen_of(driver: Driver) -> RunsScreen:
    screen = driver.app.base_screen()
    assert isinstance(screen, RunsScreen)
    return screen


@pytest.mark.parametrize("key", runs.COLUMNS)
@pytest.mark.parametrize("descending", [False, True])
def test_every_column_sorts_and_runs_without_a_value_stand_at_the_end(key: str, descending: bool) -> None:
    rows = [
        made.row(made.spec(optimizer, ratio, lr, seed), state, loss)
        for place, (optimizer, ratio, lr, state, loss) in enumerate(
            [
                ("muon", 0.25, 0.02, "done", 2.0),
                ("adamw", 0.05, 0.006, "running", 2.5),
                ("sgd", 0.13, 0.2, "planned", None),
                ("adamw", 0.25, 0.003, "diverged", math.nan),
                ("muon", 0.05, 0.01, "done", 1.5),
            ]
        )
        for seed in (place,)
    ]
    order = runs.COLUMNS[key].order
    found = runs.ordered(rows, key, descending)
    assert sorted(row.run_id for row in found) == sorted(row.run_id for row in rows)
    values = [order(row) for row in found]
    there = [value for value in values if value not in (None, "") and value == value]
    assert values[: len(there)] == there
    assert there == sorted(there, reverse=descending)  # type: ignore[type-var]


def test_the_usual_order_is_cell_by_cell_then_lr_and_seed() -> None:
    rows = [
        made.row(made.spec("adamw", ratio, lr, seed))
        for ratio in (0.25, 0.05)
        for lr in (0.01, 0.002)
        for seed in (1, 0)
    ]
    found = sorted(rows, key=cell_order)
    assert [(row.line.chinchilla > 0.1, row.line.lr, row.line.seed) for row in found] == [
        (late, lr, seed) for late in (False, True) for lr in (0.002, 0.01) for seed in (0, 1)
    ]


@sizes
async def test_the_chosen_column_decides_the_order_and_turns_it_around(
    sweep_workspace: Workspace, size: tuple[int, int]
) -> None:
    async with driven(sweep_workspace, size, "runs") as driver:
        screen = screen_of(driver)
        while screen.table.column != "loss":
            await driver.press("right")
        text = await driver.press("o")
        assert "by loss, nats" in text and "▲" in text
        losses = [row.line.loss for row in screen.shown if row.line.loss is not None]
        assert losses == sorted(losses)
        assert "largest first" in await driver.press("o")
        losses = [row.line.loss for row in screen.shown if row.line.loss is not None]
        assert losses == sorted(losses, reverse=True)
        assert "by cell and lr" in await driver.press("O")
        await driver.pilot.click("#runs", offset=(driver.text.split("\n")[2].index("optimizer"), 0))
        assert "by optimizer" in driver.text


async def test_columns_are_chosen_moved_and_kept_and_knobs_are_columns(
    sweep_workspace: Workspace, tmp_path: Path
) -> None:
    memory = Memory(sweep_workspace.root, tmp_path)
    async with driven(sweep_workspace, (120, 40), "runs", memory=memory) as driver:
        screen = screen_of(driver)
        await driver.press("C")
        chooser = driver.app.screen
        assert isinstance(chooser, ColumnsScreen)
        assert "[x] optimizer" in driver.text
        chooser.cursor = chooser.keys.index("knob:max_grad_norm")
        await driver.press("space", "g", "escape")
        assert screen.chosen == []
        await driver.press("C")
        chooser = driver.app.screen
        assert isinstance(chooser, ColumnsScreen)
        chooser.cursor = chooser.keys.index("knob:warmup")
        await driver.press("space", "enter")
        assert screen.chosen[-1] == "knob:warmup"
        await driver.press("end", *["right"] * 14)
        assert "warmup" in driver.text
        await driver.press("slash", *"warmup:0.1", "enter")
        assert len(screen.shown) == 36
        await driver.press("q")
    async with driven(sweep_workspace, (120, 40), "", memory=Memory(sweep_workspace.root, tmp_path)) as driver:
        assert driver.app.current_mode == "runs"
        screen = screen_of(driver)
        assert screen.chosen[-1] == "knob:warmup"
        assert screen.filter_text == "warmup:0.1"
        await driver.press("C", "0")
        assert screen.chosen == []


async def test_a_mistake_in_the_filter_is_shown_at_its_place_and_the_rows_stay(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (80, 24), "runs") as driver:
        screen = screen_of(driver)
        await driver.press("slash", *"opt:muon")
        assert {row.line.optimizer for row in screen.shown} == {"muon"}
        count = len(screen.shown)
        screen.query_one("#filter", FilterLine).value = "opt:muon loss<x"
        await driver.pilot.pause()
        text = driver.text
        assert 'loss is a number, "x" is none' in text
        assert len(screen.shown) == count
        line = text.split("\n")[3]
        assert line.index("^") == 1 + len("opt:muon loss<")
        await driver.press("end", "backspace", *"3.0")
        assert "is none" not in driver.text
        assert screen.shown and all((row.line.loss or 9) < 3.0 for row in screen.shown)


async def test_bulk_cancel_says_the_count_and_undo_brings_the_runs_back(
    empty_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "detach", lambda workspace: 1)
    request = flow.Request(grid="quickstart", optimizers=("sgd",))
    flow.launch(empty_workspace, flow.plan(empty_workspace, request, prepare=True))
    async with driven(empty_workspace, (80, 24), "runs") as driver:
        screen = screen_of(driver)
        await driver.until(lambda: len(screen.shown) == 9)
        await driver.press("asterisk")
        assert "9 marked" in driver.text
        await driver.press("slash", *"c<0.08", "enter")
        assert "6 runs marked outside this list" in driver.text
        await driver.press("K")
        assert "Cancel 9 runs?" in driver.text
        await driver.press("n", "K", "y")
        await driver.until(lambda: {row.line.state for row in screen.shown} == {"cancelled"})
        await driver.press("U")
        await driver.until(lambda: {row.line.state for row in screen.shown} == {"queued"})
        await driver.press("escape", "u")
        assert not driver.app.marks
        await driver.press("U")
        assert len(driver.app.marks) == 9
        await driver.press("U")
        assert "9 marks" in driver.text or not driver.app.marks
        await driver.press("U", "U")
        assert driver.heard("nothing to take back")


def many(count: int) -> list[RunRow]:
    """So many rows, made from few."""
    import dataclasses

    seeds = [made.row(made.spec(optimizer, ratio)) for optimizer in made.LRS for ratio in (0.05, 0.13, 0.25)]
    return [
        dataclasses.replace(
            seeds[place % len(seeds)],
            line=dataclasses.replace(
                seeds[place % len(seeds)].line, run_id=f"{place:032x}", loss=2.0 + place % 997 / 1000, seed=place // 9
            ),
        ).labelled()
        for place in range(count)
    ]


async def test_a_hundred_thousand_runs_are_shown_sorted_and_filtered_at_once(empty_workspace: Workspace) -> None:
    snapshot = made.snapshot(sorted(many(100_000), key=cell_order))
    async with driven(empty_workspace, (120, 40), "runs") as driver:
        app, screen = driver.app, screen_of(driver)
        app.feed.stop()
        spent: dict[str, float] = {}

        def timed(name: str, act: Any) -> None:
            started = time.thread_time()
            act()
            spent[name] = time.thread_time() - started

        timed("first paint", lambda: app.on_optsweep_app_snapshot_taken(app.SnapshotTaken(snapshot)))
        await driver.pilot.pause()
        assert "100,000 runs" in driver.text
        timed("sort", lambda: screen._sort_by("loss"))
        assert screen.shown[0].line.loss == 2.0
        screen.filter_text = "opt:muon lr>0.001 loss<2.5"
        timed("filter", screen.draw)
        assert 0 < len(screen.shown) < 40_000
        # Processor time, four times what an idle core takes: others may be at work beside the tests.
        assert spent["first paint"] < 4 * 0.3, spent
        assert spent["filter"] < 4 * 0.2, spent
        await driver.press("G")
        assert screen.table.cursor == len(screen.shown) - 1


@pytest.mark.parametrize(("mode", "line"), [("sweep", "#filter"), ("runs", "#filter"), ("run", "#search")])
async def test_keys_that_come_in_one_read_with_the_slash_are_the_filter(
    sweep_workspace: Workspace, mode: str, line: str
) -> None:
    async with driven(sweep_workspace, (100, 30), mode) as driver:
        for sign in "/muKR":
            driver.app.post_message(Key("slash" if sign == "/" else sign, sign))
        await driver.until(lambda: driver.app.base_screen().query_one(line, FilterLine).value == "muKR")  # type: ignore[union-attr]
        assert len(driver.app.screen_stack) == 1  # K and R have asked nothing


async def test_a_key_right_behind_the_enter_of_a_filter_is_for_the_rows(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40), "runs") as driver:
        for key in ("slash", *"muon", "enter", "j", "space"):  # as a terminal sends what was typed in one go
            driver.app.post_message(Key(key, key if len(key) == 1 else " " if key == "space" else None))
        await driver.until(lambda: len(driver.app.marks) == 1)
        screen = driver.app.screen
        assert isinstance(screen, RunsScreen)
        assert screen.filter_text == "muon"
        assert list(driver.app.marks) == [screen.shown[1].run_id]


async def test_imports_alone_open_with_the_reference_study_and_own_runs_with_theirs(
    reference_workspace: Workspace, tmp_path: Path
) -> None:
    async with driven(reference_workspace, (120, 40), "runs") as driver:
        assert driver.app.study == "reference"
    copy = made.workspace(tmp_path)
    shutil.copytree(reference_workspace.runs, copy.runs, dirs_exist_ok=True)
    shutil.copytree(reference_workspace.studies, copy.studies, dirs_exist_ok=True)
    made.plant(copy, made.spec(), study="mine")
    async with driven(copy, (120, 40), "runs") as driver:
        assert driver.app.study == "mine"
