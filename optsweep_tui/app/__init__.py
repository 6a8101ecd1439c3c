"""The terminal app, the only package that imports Textual: `run_app(workspace)`, and a picture of a screen for docs."""

from __future__ import annotations

from optsweep_tui.settings import Workspace


def run_app(workspace: Workspace, screen: str = "sweep") -> int:
    """Run the app until the user quits; returns the exit status."""
    from optsweep_tui.app.app import OptsweepApp

    app = OptsweepApp(workspace, screen)
    app.run()
    return app.return_code or 0


def screenshot(workspace: Workspace, screen: str, width: int = 120, height: int = 40) -> str:
    """An SVG of one screen as it is now, drawn without a terminal.

    Raises:
        OptsweepError: there is no such screen.
    """
    import asyncio

    from optsweep_tui.app.picture import take

    return asyncio.run(take(workspace, screen, width, height))
