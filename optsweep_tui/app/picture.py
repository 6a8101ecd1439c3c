"""Pictures of the screens for docs: the app runs without a terminal until nothing changes, then exports itself as SVG."""

from __future__ import annotations

import re
import time

from optsweep_tui.app.app import OptsweepApp
from optsweep_tui.errors import UnknownName
from optsweep_tui.settings import Workspace

SETTLE_SECONDS = 30.0
"""How long a screen may take to show everything."""

_REMOTE_FONTS = re.compile(r"@font-face\s*\{.*?\}", re.DOTALL)


async def take(workspace: Workspace, screen: str, width: int, height: int) -> str:
    """The SVG text of a screen, by its mode: sweep, runs, compare, run, sql."""
    if screen not in OptsweepApp.MODES:
        raise UnknownName("screen", screen, OptsweepApp.MODES)
    app = OptsweepApp(workspace)
    async with app.run_test(size=(width, height)) as pilot:
        deadline = time.monotonic() + SETTLE_SECONDS
        while not app.settled() and time.monotonic() < deadline:
            await pilot.pause(0.05)
        if screen != "sweep":
            await app.switch_mode(screen)
            await pilot.pause(0.1)
        while not app.settled() and time.monotonic() < deadline:
            await pilot.pause(0.05)
        shown = app.base_screen()
        if shown is not None:
            shown.refresh_all()
        await pilot.pause(0.1)
        return without_remote_fonts(app.export_screenshot(title=f"optsweep tui: {screen}"))


def without_remote_fonts(svg: str) -> str:
    """The same picture without fonts from elsewhere: showing a document must not call a server."""
    return _REMOTE_FONTS.sub("", svg).replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
