"""A word about hosts that are silent while something waits for their first answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from optsweep_tui.dispatch import fleet
from optsweep_tui.settings import Workspace

SILENT_SECONDS = 2.0


@contextmanager
def told(workspace: Workspace, hosts: Sequence[str], say: Callable[[str], None]) -> Iterator[None]:
    """Name the silent ones, once, where what is done meanwhile takes longer than a moment.

    Args:
        hosts: that were chosen; others are asked too, once runs were sent elsewhere.
        say: called with the line, from another thread.
    """
    if tuple(hosts) == ("local",) and not workspace.sends_elsewhere:
        yield
        return
    known = fleet.of(workspace)

    def tell() -> None:
        silent = known.unheard()
        if silent:
            say(f"waiting for {', '.join(silent)} to answer, {fleet.CONNECT_SECONDS:.0f} s at most")

    timer = threading.Timer(SILENT_SECONDS, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
