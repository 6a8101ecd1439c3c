"""The six screens by name, each loaded when it is first needed: the first frame waits for none but its own."""

from __future__ import annotations

import contextlib
import importlib
import threading
from functools import partial

from optsweep_tui.app.screens.base import BaseScreen

_PLACES = {
    "sweep": "SweepScreen",
    "runs": "RunsScreen",
    "compare": "CompareScreen",
    "run": "RunScreen",
    "sql": "SqlScreen",
    "hosts": "HostsScreen",
}
TABS = {"sweep": "Sweep", "runs": "Runs", "compare": "Compare", "run": "Run", "sql": "SQL", "hosts": "Hosts"}
"""Names in the row of tabs, in the order of the number keys."""


def screen_class(name: str) -> type[BaseScreen]:
    """The class of a screen."""
    found: type[BaseScreen] = getattr(importlib.import_module(f"optsweep_tui.app.screens.{name}"), _PLACES[name])
    return found


def made(name: str) -> BaseScreen:
    """A new screen."""
    return screen_class(name)()


MODES = {name: partial(made, name) for name in _PLACES}
"""What makes a screen, by its name."""


def load_all() -> None:
    """Load the other screens in a thread of their own, so that no key waits for it."""

    def load() -> None:
        with contextlib.suppress(Exception):  # the key that needs it will say what is wrong
            for name in _PLACES:
                screen_class(name)

    threading.Thread(target=load, name="optsweep-screens", daemon=True).start()
