"""Random keys, clicks and window sizes on every screen: nothing may crash, and nothing may be left running."""

from __future__ import annotations

import random
from typing import Any

import pytest
from textual.pilot import OutOfBounds

from optsweep_tui import flow
from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.settings import Workspace

KEYS = [
    "1",
    "2",
    "3",
    "4",
    "5",
    "j",
    "k",
    "g",
    "G",
    "h",
    "l",
    "left",
    "right",
    "up",
    "down",
    "space",
    "enter",
    "escape",
    "x",
    "L",
    "s",
    "S",
    "m",
    "plus",
    "minus",
    "0",
    "a",
    "c",
    "p",
    "u",
    "slash",
    "asterisk",
    "K",
    "R",
    "y",
    "n",
    "o",
    "A",
    "e",
    "E",
    "d",
    "r",
    "f5",
    "t",
    "i",
    "question_mark",
    "left_square_bracket",
    "right_square_bracket",
    "tab",
    "pageup",
    "pagedown",
    "shift+left",
    "shift+right",
    "ctrl+p",
    "f",
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_random_input_never_crashes(sweep_workspace: Workspace, seed: int, monkeypatch: Any) -> None:
    for name in ("retry", "cancel"):
        monkeypatch.setattr(flow, name, lambda workspace, run_ids: [])
    monkeypatch.setattr(flow, "detach", lambda workspace: 1)
    chance = random.Random(seed)
    app = OptsweepApp(sweep_workspace)
    async with app.run_test(size=chance.choice([(80, 24), (120, 40), (62, 16)])) as pilot:
        for _ in range(200):
            await pilot.press(chance.choice(KEYS))
            if chance.random() < 0.03:
                await pilot.resize_terminal(chance.randint(5, 140), chance.randint(3, 45))
            if chance.random() < 0.05:
                width, height = app.size
                try:
                    await pilot.click(offset=(chance.randrange(width), chance.randrange(height)))
                except OutOfBounds:
                    pass  # the window has just shrunk
        assert app.is_running
    assert not app.feed.is_alive()
    assert not app.poller.is_alive()
