"""A running app under Pilot, and what is on its screen as text."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from textual.pilot import Pilot

from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.settings import Workspace

SIZES = [(80, 24), (120, 40), (200, 60)]
sizes = pytest.mark.parametrize("size", SIZES, ids=["80x24", "120x40", "200x60"])


class Driver:
    """A running app, and what is on its screen as text."""

    def __init__(self, app: OptsweepApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot
        self.said: list[str] = []
        """Every toast so far: on a busy machine one may have come and gone between two looks at the screen."""
        told = app.notify

        def notify(message: str, **options: Any) -> None:
            self.said.append(message)
            told(message, **options)

        app.notify = notify  # type: ignore[method-assign,assignment]

    def heard(self, words: str) -> bool:
        """A toast with these words has been shown."""
        return any(words in message for message in self.said)

    @property
    def text(self) -> str:
        screen = self.app.screen
        width, height = self.app.size
        return "\n".join(
            "".join(segment.text for segment in line) for line in screen._compositor.render_strips()[:height]
        ).ljust(width)

    async def press(self, *keys: str) -> str:
        await self.pilot.press(*keys)
        await self.pilot.pause()
        return self.text

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"it did not happen in time:\n{self.text}"
            await self.pilot.pause(0.02)

    async def settle(self) -> str:
        await self.until(self.app.settled)
        await self.pilot.pause(0.05)
        return self.text


@asynccontextmanager
async def driven(
    workspace: Workspace, size: tuple[int, int] = (120, 40), mode: str = "sweep", **options: Any
) -> AsyncIterator[Driver]:
    app = OptsweepApp(workspace, mode, **options)
    async with app.run_test(size=size, notifications=True) as pilot:
        driver = Driver(app, pilot)
        await driver.settle()
        yield driver
