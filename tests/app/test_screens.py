"""The screens under Pilot at 80x24 and 120x40: what they show, what the keys do, and that nothing breaks without data."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from optsweep_engines import folder
from optsweep_engines.run import AttemptLog
from optsweep_tui import flow, rundir
from optsweep_tui.app import answers
from optsweep_tui.app.screens.compare import CompareScreen
from optsweep_tui.app.screens.modal import Confirm, HelpScreen
from optsweep_tui.app.screens.run import RunScreen
from optsweep_tui.app.screens.runs import RunsScreen
from optsweep_tui.app.screens.sql import Editor, SqlScreen
from optsweep_tui.app.screens.sweep import SweepScreen
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import driven, sizes


@sizes
async def test_the_first_screen_is_the_matrix_of_the_study_with_live_states(
    sweep_workspace: Workspace, size: tuple[int, int]
) -> None:
    async with driven(sweep_workspace, size) as driver:
        lines = driver.text.split("\n")
        assert "quickstart" in lines[0]
        assert "2 run  8 wait  25 done  1 other  0 ✗" in lines[0]
        assert lines[1].split() == ["1", "Sweep", "2", "Runs", "3", "Compare", "4", "Run", "5", "SQL", "6", "Hosts"]
        assert lines[2].split()[:6] == ["bench-micro", "0.05", "0.08", "0.13", "0.22", "0.36"]
        assert "◐3" in driver.text
        assert "● done" in driver.text
        assert lines[-1].rstrip().endswith("q quit")
        moved = await driver.press("down", "right")
        assert " muon 0.08  3 runs: lr 0.01" in moved


async def test_a_tall_matrix_shows_the_curves_of_the_selected_cell(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40)) as driver:
        await driver.until(lambda: "train_loss, nats/token of the cell's runs" in driver.text)
        assert any(0x2800 < ord(sign) <= 0x28FF for sign in driver.text)
        await driver.press("right", "right", "right", "right")
        await driver.until(lambda: "of the cell's runs" not in driver.text)


@sizes
async def test_every_screen_opens_with_its_number_and_help_and_closes_again(
    sweep_workspace: Workspace, size: tuple[int, int]
) -> None:
    expected = {"2": "loss, nats", "3": "smoothing", "4": "batch_size", "5": "example 1 of", "1": "bench-micro"}
    async with driven(sweep_workspace, size) as driver:
        for key, text in expected.items():
            await driver.press(key)
            await driver.settle()
            assert text in driver.text, f"screen {key}:\n{driver.text}"
            helped = await driver.press("question_mark")
            assert isinstance(driver.app.screen, HelpScreen)
            assert "on this screen" in helped
            await driver.press("escape")
            assert not isinstance(driver.app.screen, HelpScreen)


async def test_the_help_of_each_screen_lists_each_of_its_keys(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 80)) as driver:
        for key in "12345":
            await driver.press(key)
            screen = driver.app.screen
            wanted = {
                binding.description  # type: ignore[union-attr]
                for binding in type(screen).BINDINGS
                if screen.check_action(binding.action.partition("(")[0], ())  # type: ignore[union-attr]
            }
            helped = await driver.press("question_mark")
            assert {text for text in wanted if text not in helped} == set()
            await driver.press("q")


@pytest.mark.parametrize("size", [(60, 10), (20, 5)])
async def test_a_window_without_room_says_so_and_recovers(sweep_workspace: Workspace, size: tuple[int, int]) -> None:
    async with driven(sweep_workspace) as driver:
        for key in "134":
            await driver.press(key)
            await driver.pilot.resize_terminal(*size)
            await driver.pilot.pause(0.05)
            if size[0] > 30:
                assert "needs a window of at least 60 x 15" in driver.text
                assert f"{size[0]} x {size[1]}" in driver.text
            await driver.pilot.resize_terminal(120, 40)
            await driver.pilot.pause(0.05)
            assert "1 Sweep" in driver.text
            assert "needs a window" not in driver.text


@sizes
async def test_an_empty_workspace_says_what_to_do_next(empty_workspace: Workspace, size: tuple[int, int]) -> None:
    async with driven(empty_workspace, size) as driver:
        assert "optsweep quickstart" in driver.text
        assert str(empty_workspace.root)[:30] in driver.text
        for key in "2345":
            await driver.press(key)
            await driver.pilot.pause(0.05)
        made.plant(empty_workspace, made.spec(ratio=0.05), "planned")
        await driver.press("1")
        driver.app.feed.poke()
        await driver.until(lambda: "○1" in driver.text)


async def test_i_on_a_cell_lists_its_runs_and_enter_on_a_run_opens_it(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace) as driver:
        await driver.press("down", "i")
        screen = driver.app.screen
        assert isinstance(screen, RunsScreen)
        await driver.until(lambda: len(screen.shown) == 3)
        assert {row.line.optimizer for row in screen.shown} == {"muon"}
        await driver.press("down", "enter")
        assert isinstance(driver.app.screen, RunScreen)
        await driver.settle()
        assert screen.shown[1].run_id in driver.text
        assert "48.8k" in driver.text
        await driver.press("j")
        await driver.settle()
        assert screen.shown[2].run_id in driver.text
        await driver.press("2", "escape")
        await driver.until(lambda: len(screen.shown) == 36)


async def test_typing_a_filter_narrows_the_table_and_esc_clears_it(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (80, 24), "runs") as driver:
        screen = driver.app.screen
        assert isinstance(screen, RunsScreen)
        await driver.press("slash", *"muon", "space", *"done")
        assert {(row.line.optimizer, row.line.state) for row in screen.shown} == {("muon", "done")}
        await driver.press("1", "2")  # digits are typed, not screens
        assert driver.app.current_mode == "runs"
        assert "no run fits" in driver.text
        await driver.press("escape")
        assert len(screen.shown) == 36
        await driver.press("slash", *"sgd", "enter", "G")
        assert screen.table.cursor == len(screen.shown) - 1 == 8
        await driver.press("3")
        assert driver.app.current_mode == "compare"


async def test_marks_are_shared_by_the_screens_and_choose_the_curves(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40), "runs") as driver:
        await driver.press("space", "space")
        assert "2 marked" in driver.text
        await driver.press("3")
        await driver.settle()
        assert "2 of 36 runs marked" in driver.text
        screen = driver.app.screen
        assert isinstance(screen, CompareScreen)
        assert list(driver.app.marks) == [row.run_id for row in screen.choice.rows]
        await driver.press("u")
        await driver.settle()
        assert "no marks: the 2 running" in driver.text
        await driver.press("1", "m")
        assert "1 marked" in driver.text
        await driver.press("m")
        assert not driver.app.marks


@sizes
async def test_the_chart_obeys_its_keys(sweep_workspace: Workspace, size: tuple[int, int]) -> None:
    async with driven(sweep_workspace, size, "compare") as driver:
        await driver.settle()
        assert "x: tokens " in driver.text
        assert "A sgd" in driver.text or "A adamw" in driver.text
        assert "x: seconds" in await driver.press("x")
        assert "x: steps" in await driver.press("x")
        assert "x: steps (log)" in await driver.press("l")
        assert "nats/token (log)" in await driver.press("L")
        assert "smoothing 100 steps" in await driver.press("s")
        assert "not smoothed" in await driver.press("S", "S", "S", "S", "S")
        assert "zoom 4x" in await driver.press("plus", "plus")
        assert "zoom" not in (await driver.press("0")).split("\n")[2]
        crossed = await driver.press("c")
        assert "┆" in crossed
        assert " at " in crossed
        before = driver.app.screen.model.crosshair  # type: ignore[attr-defined]
        await driver.press("left", "shift+left")
        assert driver.app.screen.model.crosshair < before  # type: ignore[attr-defined]
        assert "┆" not in await driver.press("escape")
        assert "grad_norm" in await driver.press("m")


async def test_new_metrics_reach_the_chart_by_themselves(empty_workspace: Workspace) -> None:
    of = made.spec(ratio=0.22)
    claim = made.plant(empty_workspace, of, "running", part=0.2)
    try:
        async with driven(empty_workspace, (120, 40), "compare") as driver:
            await driver.settle()
            series = driver.app.store.series(of.run_id, "train_loss")
            assert series is not None
            before, length = driver.text, len(series.y)
            log = AttemptLog(empty_workspace.runs / of.run_id / "a1")
            made.write_metrics(log, of, int(of.steps * 0.2) + 1, int(of.steps * 0.8))
            log.close()

            def grown() -> bool:
                now = driver.app.store.series(of.run_id, "train_loss")
                return now is not None and len(now.y) > 2 * length

            await driver.until(grown)
            await driver.until(lambda: driver.text != before)
    finally:
        assert claim is not None
        os.close(claim)


async def test_the_speedup_panel_asks_to_collect_first_and_shows_results_after_it(tmp_path_factory: Any) -> None:
    workspace = made.workspace(tmp_path_factory.mktemp("collected"))
    for ratio in (0.05, 0.08, 0.13, 0.22):
        for lr in made.LRS["adamw"]:
            made.plant(workspace, made.spec("adamw", ratio, lr))
        made.plant(workspace, made.spec("muon", ratio, 0.02))
    for seed in (1, 2, 3):
        for ratio in (0.05, 0.22):
            made.plant(workspace, made.spec("adamw", ratio, 0.006, seed))
    folder.write_json(workspace.studies / "quickstart.json", {"name": "quickstart", "baseline": "adamw", "runs": []})
    async with driven(workspace, (120, 40), "compare") as driver:
        assert "no results collected yet: x on screen 1 collects" in driver.text
        flow.collect(workspace)
        await driver.press("1", "3")
        await driver.until(lambda: "INTERP" in driver.text or "EXTRAP" in driver.text or "REFUSE" in driver.text)
        assert "speedup over adamw, tokens" in driver.text
        # The store is free again at once: a writer gets in while the screen is open.
        flow.collect(workspace)
        await driver.settle()
        assert "runs ended since" not in driver.text
        made.plant(workspace, made.spec("muon", 0.08, 0.04))
        driver.app.feed.poke()
        await driver.until(lambda: "runs ended since: x on screen 1 collects" in driver.text)


async def test_a_store_that_is_garbage_is_said_in_the_panel_and_tried_again(
    sweep_workspace: Workspace, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(answers, "RETRY_SECONDS", 0.3)
    copy = made.workspace(tmp_path / "copy")
    shutil.copytree(sweep_workspace.runs, copy.runs, dirs_exist_ok=True)
    copy.store.write_bytes(b"garbage" * 1000)
    async with driven(copy, (120, 40), "compare") as driver:
        await driver.until(lambda: "results.duckdb" in driver.text)
        assert "Traceback" not in driver.text
        copy.store.unlink()
        await driver.press("1", "3")
        await driver.until(lambda: "no results collected yet" in driver.text)


async def test_sql_runs_the_statement_in_the_editor_and_number_keys_work_outside_it(
    sweep_workspace: Workspace, tmp_path: Any
) -> None:
    copy = made.workspace(tmp_path / "copy")
    shutil.copytree(sweep_workspace.runs, copy.runs, dirs_exist_ok=True)
    flow.collect(copy)
    async with driven(copy, (120, 40), "sql") as driver:
        screen = driver.app.screen
        assert isinstance(screen, SqlScreen)
        await driver.press("r")
        await driver.until(lambda: "rows in" in driver.text)
        assert "quickstart" in driver.text.split("rows in")[1]
        await driver.press("enter")
        editor = screen.query_one(Editor)
        assert driver.app.focused is editor
        editor.text = ""
        await driver.press(*"select 1", "f5")
        await driver.until(lambda: "1 row in" in driver.text)
        editor.text = "select nonsense from nowhere"
        await driver.press("f5")
        await driver.until(lambda: "nowhere" in driver.text.split("╯")[1])
        await driver.press("escape")
        assert driver.app.focused is not editor
        await driver.press("d")
        assert "columns of tables and views" in driver.text
        await driver.press("1")
        assert isinstance(driver.app.screen, SweepScreen)


async def test_sql_without_a_store_says_the_next_step(empty_workspace: Workspace) -> None:
    async with driven(empty_workspace, (80, 24), "sql") as driver:
        await driver.press("r")
        await driver.until(lambda: "collect" in driver.text)


async def test_cancel_asks_with_the_count_and_does_nothing_on_n(empty_workspace: Workspace) -> None:
    specs = [made.spec(ratio=0.05, lr=lr) for lr in made.LRS["adamw"]]
    for spec in specs:
        made.plant(empty_workspace, spec, "planned")
    made.plant(empty_workspace, made.spec("muon", 0.05, 0.02), "done")
    async with driven(empty_workspace, (80, 24), "runs") as driver:
        await driver.press("asterisk", "K")
        assert isinstance(driver.app.screen, Confirm)
        assert "Cancel 3 runs?" in driver.text
        await driver.press("n")
        assert not any((empty_workspace.runs / spec.run_id / rundir.CANCEL).exists() for spec in specs)
        await driver.press("K", "y")
        await driver.until(lambda: all((empty_workspace.runs / spec.run_id / rundir.CANCEL).exists() for spec in specs))
        await driver.until(lambda: "cancelled 3 runs" in driver.text)
        await driver.until(lambda: driver.text.count("- cancelled") == 3)
        await driver.press("K")
        assert "nothing to cancel" in driver.text


async def test_retry_queues_a_new_attempt_and_leaves_a_controller(empty_workspace: Workspace, monkeypatch: Any) -> None:
    spec = made.spec(ratio=0.05)
    made.plant(empty_workspace, spec, "failed")
    shards = empty_workspace.data / f"{spec.dataset}-{str(spec.dataset_hash)[:12]}"
    shards.mkdir(parents=True)
    (shards / "manifest.json").write_text("{}")  # the data is there: nothing has to be prepared for another attempt
    detached: list[Workspace] = []
    monkeypatch.setattr(flow, "detach", detached.append)
    async with driven(empty_workspace, (120, 40), "runs") as driver:
        assert "✗ failed" in driver.text
        assert "something went wrong" in driver.text
        await driver.press("R")
        assert "Retry 1 run?" in driver.text
        await driver.press("y")
        await driver.until(lambda: (empty_workspace.runs / spec.run_id / "a2").exists())
        await driver.until(lambda: "○ queued" in driver.text)
        assert detached == [empty_workspace]


async def test_a_cancel_taken_back_while_the_run_is_still_stopping_lets_it_go_on(
    empty_workspace: Workspace, monkeypatch: Any
) -> None:
    spec = made.spec(ratio=0.05)
    claim = made.plant(empty_workspace, spec, "running", part=0.5)
    assert claim is not None
    shards = empty_workspace.data / f"{spec.dataset}-{str(spec.dataset_hash)[:12]}"
    shards.mkdir(parents=True)
    (shards / "manifest.json").write_text("{}")
    detached: list[Workspace] = []
    monkeypatch.setattr(flow, "detach", detached.append)
    run = empty_workspace.runs / spec.run_id
    async with driven(empty_workspace, (120, 40), "runs") as driver:
        await driver.press("K", "y")
        await driver.until(lambda: (run / rundir.CANCEL).exists() and driver.heard("cancelled 1 run"))
        await driver.press("U")
        await driver.pilot.pause(0.3)
        assert not driver.heard("queued") and not detached  # it has not stopped yet
        folder.write_json(run / "a1" / rundir.EXIT, {"returncode": 0, "reason": "cancelled", "ended_at": time.time()})
        os.close(claim)
        await driver.until(lambda: (run / "a2").exists() and driver.heard("queued 1 run"))
        assert detached == [empty_workspace]
        assert not (run / rundir.CANCEL).exists()


async def test_log_and_events_of_a_run_are_shown_and_followed(empty_workspace: Workspace) -> None:
    spec = made.spec(ratio=0.22)
    claim = made.plant(empty_workspace, spec, "running", part=0.3)
    try:
        async with driven(empty_workspace, (120, 40), "run") as driver:
            await driver.until(lambda: "training on cpu" in driver.text)
            with open(empty_workspace.runs / spec.run_id / "a1" / rundir.LOG, "a") as handle:
                handle.write("a new line\x1b[2J\n")
            made.plant(empty_workspace, made.spec(ratio=0.05), "planned")  # any change makes a new snapshot
            await driver.pilot.pause(1.1)
            driver.app.screen.refresh_all()  # type: ignore[attr-defined]
            await driver.until(lambda: "a new line·[2J" in driver.text)
            await driver.press("t")
            assert "started  device cpu" in driver.text
    finally:
        assert claim is not None
        os.close(claim)


async def test_a_run_folder_that_vanishes_while_it_is_shown_breaks_nothing(tmp_path: Any) -> None:
    workspace = made.workspace(tmp_path)
    for ratio in (0.05, 0.08):
        made.plant(workspace, made.spec(ratio=ratio), "done")
    async with driven(workspace, (120, 40), "compare") as driver:
        await driver.press("2", "space", "4")
        await driver.settle()
        shutil.rmtree(workspace.runs / next(iter(driver.app.marks)))
        driver.app.feed.poke()
        await driver.until(lambda: len(driver.app.snapshot.rows) == 1)
        assert not driver.app.marks
        for key in "12345":
            await driver.press(key)
            await driver.pilot.pause(0.05)
        shutil.rmtree(workspace.root)
        driver.app.feed.poke()
        await driver.until(lambda: len(driver.app.snapshot.rows) == 0)
        for key in "12345":
            await driver.press(key)
            await driver.pilot.pause(0.05)


async def test_garbage_in_a_metrics_file_is_counted_on_the_runs_screen(empty_workspace: Workspace) -> None:
    spec = made.spec(ratio=0.05)
    made.plant(empty_workspace, spec, "done")
    with open(empty_workspace.runs / spec.run_id / "a1" / rundir.METRICS, "ab") as handle:
        handle.write(b"\x00garbage\n" + json.dumps({"step": "x"}).encode() + b"\n")
    async with driven(empty_workspace, (120, 40), "run") as driver:
        await driver.until(lambda: "2, skipped" in driver.text)


async def test_several_studies_are_stepped_through(empty_workspace: Workspace) -> None:
    made.plant(empty_workspace, made.spec(ratio=0.05), "planned", study="one")
    made.plant(empty_workspace, made.spec(ratio=0.08), "planned", study="two")
    async with driven(empty_workspace, (80, 24)) as driver:
        assert "one 1/2" in driver.text
        assert "two 2/2" in await driver.press("right_square_bracket")
        assert "0.08" in driver.text
        assert "one 1/2" in await driver.press("right_square_bracket")
        assert "two 2/2" in await driver.press("left_square_bracket")


async def test_the_mouse_selects_cells_rows_and_places_the_crosshair(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace, (120, 40)) as driver:
        await driver.pilot.click("#matrix", offset=(32, 2))
        assert " muon 0.08 " in driver.text
        await driver.pilot.click("#top", offset=(driver.text.split("\n")[1].index("Compare"), 1))
        await driver.settle()
        assert driver.app.current_mode == "compare"
        await driver.pilot.click("#chart", offset=(30, 5))
        await driver.pilot.pause()
        assert "┆" in driver.text


async def test_q_quits_and_the_threads_end(sweep_workspace: Workspace) -> None:
    async with driven(sweep_workspace) as driver:
        app = driver.app
        await driver.pilot.press("q")
    assert not app.feed.is_alive()
    assert not app.poller.is_alive()
