"""A store that another program holds: the app says so once, answers every key, leaves at once, and recovers by itself."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from optsweep_tui import flow
from optsweep_tui.app import answers, working
from optsweep_tui.app.screens.compare import CompareScreen
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import driven
from tests.app.test_fuzz import HOLDER


@contextmanager
def held(store: Path) -> Iterator[int]:
    """Another process has the store open for writing; gives its pid."""
    command = [sys.executable, "-c", HOLDER, str(store), "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            yield other.pid
        finally:
            other.kill()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two optimizers at two budgets, collected; questions wait for a short time only."""
    monkeypatch.setattr(answers, "STORE_SECONDS", 0.2)
    monkeypatch.setattr(answers, "RETRY_SECONDS", 0.5)
    workspace = made.workspace(tmp_path)
    for ratio in (0.05, 0.08):
        for seed in (0, 1):
            made.plant(workspace, made.spec("adamw", ratio, 0.006, seed))
        made.plant(workspace, made.spec("muon", ratio, 0.02))
    flow.collect(workspace)
    return workspace


@pytest.mark.parametrize(
    ("mode", "before", "after"), [("sweep", "no gap: ", "gap "), ("compare", "for more than", "speedup over adamw")]
)
async def test_a_held_store_is_said_where_the_answer_would_stand_and_the_screen_recovers_by_itself(
    small: Workspace, mode: str, before: str, after: str
) -> None:
    with held(small.store) as pid:
        async with driven(small, (120, 40), mode) as driver:
            await driver.press("j")  # on screen 1: a cell that is not the baseline's
            await driver.until(lambda: f"(pid {pid})" in " ".join(driver.text.replace("│", " ").split()))
            assert before in driver.text
            await driver.press("2")
            await driver.until(lambda: "by cell and lr" in driver.text)
            await driver.press("1" if mode == "sweep" else "3")
            await driver.until(lambda: f"(pid {pid})" in driver.text)
            assert not driver.said  # no toast beside it
            subprocess.run(["kill", "-9", str(pid)], check=True)
            await driver.until(lambda: f"(pid {pid})" not in driver.text and after in driver.text)
            assert "no gap" not in driver.text
            assert "working it out" not in driver.text


async def test_an_older_answer_stays_while_the_store_is_held_and_one_toast_says_why(small: Workspace) -> None:
    async with driven(small, (120, 40), "compare") as driver:
        screen = driver.app.screen
        assert isinstance(screen, CompareScreen)
        await driver.until(lambda: "0.05" in driver.text and not screen.answers.busy)
        rows = screen._speedups.rows
        assert rows
        with held(small.store) as pid:
            small.store.touch()  # as somebody who has just collected leaves it
            screen.refresh_all()
            await driver.until(lambda: driver.heard(f"(pid {pid})"))
            end = time.monotonic() + 3.0
            while time.monotonic() < end:  # several more tries
                await driver.pilot.pause(0.1)
            assert screen._speedups.rows == rows
            assert sum(f"(pid {pid})" in said for said in driver.said) == 1
        await driver.until(lambda: not any(slot.wrong for slot in screen.answers._slots.values()))


def test_the_end_waits_for_what_changes_something_and_for_nothing_that_only_looks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left: list[int] = []
    monkeypatch.setattr(working.os, "_exit", left.append)
    monkeypatch.setattr(working, "TELL_SECONDS", 0.05)
    done, forever = threading.Event(), threading.Event()

    def act() -> None:
        time.sleep(0.3)
        done.set()

    working._start(act, f"{working.KEPT}-work")
    working.finish(0)
    assert done.is_set()
    assert not left
    assert "finishing what was begun" in capsys.readouterr().err
    looking: Any = threading.Event()

    def look() -> None:
        looking.set()
        forever.wait(60)

    working._start(look, f"{working.LEFT_BEHIND}-hosts")
    looking.wait(5)
    working.finish(3)
    assert left == [3]
    forever.set()
