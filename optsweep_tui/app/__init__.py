"""The terminal app, the only package that imports Textual: `run_app(workspace)`, and a picture of a screen for docs."""

from __future__ import annotations

from optsweep_tui.settings import Workspace

SWITCH_SECONDS = 0.001
"""After so long a thread that reads runs hands the interpreter over to the one that has a key to answer; Python's usual 5 ms
are paid at every turn that a key takes through the threads."""


def run_app(workspace: Workspace, screen: str = "", slow_link: bool = False) -> int:
    """Run the app until the user quits; returns the exit status.

    Args:
        screen: the first one; empty = the one that was left last.
        slow_link: fewer frames, no animation.

    Raises:
        OptsweepError: the config file, its keymap or its theme cannot be used.
    """
    import dataclasses
    import gc
    import os
    import sys

    gc.disable()  # until the first frame: it takes a tenth of the time of the imports
    from optsweep_tui.app import hangup, heap, memory, preferences, terminal

    heap.bound()

    chosen = preferences.load(workspace)
    chosen = dataclasses.replace(chosen, slow_link=chosen.slow_link or slow_link)
    if chosen.slow_link:
        os.environ["TEXTUAL_FPS"] = "8"  # read by Textual when it is imported, and nowhere else

    from optsweep_tui.app import working
    from optsweep_tui.app.app import OptsweepApp

    kept = memory.Memory(workspace.root if chosen.remember else None)
    app = OptsweepApp(workspace, screen, chosen, kept, in_terminal=True)
    sys.setswitchinterval(SWITCH_SECONDS)
    with terminal.guarded(sys.stdin.fileno()), hangup.watched(sys.stdin.fileno(), app.leave):
        app.run()
    status = app.return_code or 0
    working.finish(status)
    return status


def screenshot(workspace: Workspace, screen: str, width: int = 120, height: int = 40, study: str | None = None) -> str:
    """An SVG of one screen as it is now, drawn without a terminal.

    Args:
        study: that is shown; None = the newest.

    Raises:
        OptsweepError: there is no such screen, or no such study.
    """
    import asyncio

    from optsweep_tui.app.picture import take

    return asyncio.run(take(workspace, screen, width, height, study))
