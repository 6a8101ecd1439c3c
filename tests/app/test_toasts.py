"""Toasts: what ended within a few seconds is one of them, and nothing of one stays on the terminal."""

from __future__ import annotations

from typing import Any

import pytest
from textual._compositor import CompositorUpdate

from optsweep_tui.app import notices
from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.app.wire import Wire
from optsweep_tui.settings import Workspace
from tests.app import made
from tests.app.driving import driven


async def test_more_toasts_than_fit_leave_nothing_on_the_terminal(
    sweep_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, display = Wire(), OptsweepApp._display

    def seen(self: OptsweepApp, screen: Any, renderable: Any) -> None:
        if isinstance(renderable, CompositorUpdate):
            shown.difference(renderable, self.size.width, self.console)
        display(self, screen, renderable)

    monkeypatch.setattr(OptsweepApp, "_display", seen)
    async with driven(sweep_workspace, (80, 24)) as driver:
        for number in range(8):
            driver.app.notify(f"toast {number} of a cause of its own, in words that need two lines of it", timeout=0.6)
            await driver.pilot.pause(0.05)
        await driver.until(lambda: any("toast" in "".join(line.signs) for line in shown._lines.values()))
        await driver.until(lambda: not driver.app._notifications)
        await driver.settle()
        await driver.pilot.pause(0.2)
        terminal = ["".join(shown._lines[y].signs) for y in range(24)]
        assert not [line for line in terminal if "▌" in line or "toast" in line]
        assert terminal[:2] == driver.text.split("\n")[:2]


def test_what_ends_while_a_notice_is_read_joins_it() -> None:
    specs = [made.spec(lr=0.001 * (1 + place)) for place in range(3)]
    states = [("running", "running", "running"), ("done", "running", "running"), ("done", "diverged", "done")]
    looks = [
        made.snapshot([made.row(spec, state, 2.0) for spec, state in zip(specs, look, strict=True)]) for look in states
    ]
    first = notices.ended(looks[0], looks[1])
    assert first is not None and [row.run_id for row in first.rows] == [specs[0].run_id]
    both = notices.ended(looks[1], looks[2], first.rows)
    assert both is not None
    assert both.text.startswith("runs: 2 done, 1 diverged: adamw 1/4 lr 0.002 seed 0")
    assert both.wrong


async def test_runs_that_end_one_after_the_other_share_one_toast(empty_workspace: Workspace) -> None:
    specs = [made.spec(lr=0.001 * (1 + place)) for place in range(4)]
    async with driven(empty_workspace) as driver:
        driver.app.feed.stop()
        for done in range(5):
            rows = [made.row(spec, "done" if place < done else "running", 2.0) for place, spec in enumerate(specs)]
            driver.app.post_message(OptsweepApp.SnapshotTaken(made.snapshot(rows)))
            await driver.pilot.pause(0.05)
        told = [toast.message for toast in driver.app._notifications]
        assert told == ["runs: 4 done   nothing is running or waiting any more"]
