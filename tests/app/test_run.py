"""Screen 4 in depth: the history of all attempts with reasons, spikes on the curve, a log that scrolls and is searched."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

import numpy as np
import pytest

from optsweep_engines import folder
from optsweep_tui import rundir
from optsweep_tui.app.screens.run import RunScreen
from optsweep_tui.app.views import history
from optsweep_tui.app.views.pane import Pane, marked
from optsweep_tui.charts.chart import Span, plain
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import Driver, driven, sizes

THREE = pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=["80x24", "120x40", "200x60"])


def screen_of(driver: Driver) -> RunScreen:
    screen = driver.app.screen
    assert isinstance(screen, RunScreen)
    return screen


def retried(workspace: Workspace) -> str:
    """A run whose first attempt was killed and whose second went through, with a spike on the way."""
    of = made.spec("muon", 0.05, 0.02)
    made.plant(workspace, of, "failed", part=0.4)
    first = workspace.runs / of.run_id / "a1"
    (first / rundir.RECORD).unlink()
    ending = {"returncode": -9, "signal": 9, "reason": "killed", "ended_at": time.time(), "seconds": 3.5}
    folder.write_json(first / rundir.EXIT, ending)
    made.plant(workspace, of, "done", attempt=2)
    step = of.steps // 2
    event = {"seq": 3, "time": time.time(), "kind": "grad_spike", "step": step, "ratio": 12.5}
    with open(workspace.runs / of.run_id / "a2" / rundir.EVENTS, "a") as handle:
        handle.write(json.dumps(event) + "\n")
    log = "".join(f"step {number} loss {5 - number / 100:.2f}\n" for number in range(300))
    (workspace.runs / of.run_id / "a2" / rundir.LOG).write_text(log + "last words\n")
    return of.run_id


@THREE
async def test_a_retried_run_tells_its_history_and_marks_its_spike(
    empty_workspace: Workspace, size: tuple[int, int]
) -> None:
    run_id = retried(empty_workspace)
    async with driven(empty_workspace, size, "run") as driver:
        screen = screen_of(driver)
        assert screen.run_id == run_id
        await driver.until(lambda: "last words" in driver.text)
        assert "▲ 1 spike" in driver.text  # the status line says what the mark is
        assert driver.text.count("▲") == 2
        assert "log of attempt 2, 301 lines" in driver.text
        await driver.press("t")
        shown = driver.text + "\n".join(plain([row]) for row in screen.lower_rows())
        assert "a1  ended: killed  signal 9  returncode -9" in shown
        assert "a2  attempt 2 queued" in shown
        assert "grad_spike  step" in shown
        assert "ended: record" in shown


async def test_the_log_is_searched_from_its_end_and_n_goes_around(empty_workspace: Workspace) -> None:
    retried(empty_workspace)
    async with driven(empty_workspace, (120, 40), "run") as driver:
        screen = screen_of(driver)
        await driver.until(lambda: "last words" in driver.text)
        await driver.press("slash", *"step 2", "enter")
        wanted = [place for place in range(300) if str(place).startswith("2")]
        pane = screen.panes["log"]
        assert pane.found == wanted
        assert f"/step 2: {len(wanted)} of {len(wanted)}" in driver.text
        assert f" step {wanted[-1]} " in driver.text
        assert f"/step 2: 1 of {len(wanted)}" in await driver.press("n")
        assert " step 2 " in driver.text
        assert f"/step 2: {len(wanted)} of {len(wanted)}" in await driver.press("N")
        assert "/step 2" not in await driver.press("escape")
        assert "last words" in driver.text
        await driver.press("pageup")
        assert "last words" not in driver.text
        assert " step 0 " in await driver.press("g")
        assert "last words" in await driver.press("G")
        await driver.press("slash", *"nowhere", "enter")
        assert "/nowhere: not here" in driver.text


async def test_a_run_whose_folder_is_removed_while_it_is_shown_gives_way_with_a_word(
    empty_workspace: Workspace,
) -> None:
    run_id = retried(empty_workspace)
    made.plant(empty_workspace, made.spec("sgd", 0.13, 0.2))
    async with driven(empty_workspace, mode="run") as driver:
        screen_of(driver).show_run(run_id)
        screen_of(driver).refresh_all()
        await driver.settle()
        assert run_id in driver.text and not driver.heard("is gone")
        shutil.rmtree(empty_workspace.runs / run_id)
        await driver.until(lambda: run_id not in driver.text)
        assert driver.heard(f"run {run_id[:8]} is gone: this is another one")


@sizes
async def test_what_is_searched_for_is_seen_while_it_is_typed(
    empty_workspace: Workspace, size: tuple[int, int]
) -> None:
    retried(empty_workspace)
    async with driven(empty_workspace, size, "run") as driver:
        await driver.until(lambda: "last words" in driver.text)
        assert "search the log" in await driver.press("slash")
        assert " step 2" in (await driver.press(*"step 2")).split("\n")[-2]
        assert "last words" in await driver.press("escape")
        await driver.press("t")
        assert "search the events" in await driver.press("slash")


async def test_a_log_that_grows_scrolls_in_only_while_it_is_followed(empty_workspace: Workspace) -> None:
    run_id = retried(empty_workspace)
    path = empty_workspace.runs / run_id / "a2" / rundir.LOG
    async with driven(empty_workspace, (120, 40), "run") as driver:
        await driver.until(lambda: "last words" in driver.text)
        screen = screen_of(driver)
        for followed, words in ((True, "more words"), (False, "still more")):
            with open(path, "a") as handle:
                handle.write(f"{words}\n")
            screen._read_at = 0.0
            screen.refresh_all()
            await driver.until(lambda words=words: any(words in plain([row]) for row in screen.lower_rows()))  # type: ignore[misc]
            screen.refresh_all()
            await driver.pilot.pause()
            assert (words in driver.text) is followed
            await driver.press("f")


async def test_an_imported_run_shows_what_was_published_and_where(reference_workspace: Workspace) -> None:
    async with driven(reference_workspace, (80, 24), "run") as driver:
        await driver.press("J", "J", "J", "J")
        await driver.until(lambda: "imported" in driver.text)


def test_the_history_is_in_order_and_garbage_in_a_folder_does_no_harm() -> None:
    attempts: list[dict[str, Any]] = [
        {"attempt": 1, "intent": {"submitted_at": 5.0, "host": "a"}, "claim": None, "exit": None, "events": []},
        {
            "attempt": 2,
            "intent": None,
            "claim": {"claimed_at": "yesterday"},
            "exit": {"reason": None},
            "events": [{"kind": "spike", "step": 7, "time": 9}, {"kind": "spike", "step": "x"}, {}],
        },
    ]
    shown = plain(history.history_rows(history.happenings(attempts)))
    assert "queued  host a" in shown
    found = history.spikes(attempts)
    assert found is not None
    assert np.array_equal(found, [7.0])
    assert history.spikes([]) is None
    assert plain(history.history_rows([])) == " no events yet"


def test_words_of_a_search_are_reversed_wherever_they_stand() -> None:
    row = (Span("ab", "#ffffff"), Span("cAbc"))
    assert marked(row, "aB") == (
        Span("ab", "#ffffff", reverse=True),
        Span("c"),
        Span("Ab", reverse=True),
        Span("c"),
    )
    assert marked(row, "bc") == (
        Span("a", "#ffffff"),
        Span("b", "#ffffff", reverse=True),
        Span("c", reverse=True),
        Span("A"),
        Span("bc", reverse=True),
    )


def test_a_pane_follows_its_end_until_it_is_scrolled() -> None:
    pane = Pane()
    rows = [(Span(str(number)),) for number in range(100)]
    assert plain(pane.rows(rows, 10, 3)) == "97\n98\n99"
    pane.scroll(-3, 100)
    assert plain(pane.rows(rows, 10, 3)) == "94\n95\n96"
    assert "3 below" in plain([pane.rule("log", 100, 40)])
    pane.scroll(50, 100)
    assert pane.follows
    pane.look_for("9", rows)
    assert pane.found[-1] == 99
    assert pane.at == len(pane.found) - 1
