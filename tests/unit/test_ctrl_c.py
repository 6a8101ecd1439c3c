"""A Ctrl-C that Python itself would swallow is not lost."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import signal, sys, time, weakref
from optsweep_tui import cli
from optsweep_tui.cli import root

class Thing: pass

def verb(arguments):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing  # the interrupt is raised inside the callback, where no exception can leave
    time.sleep(5)
    return 0

root.run_command = verb
sys.argv = ["optsweep", "ls"]
sys.exit(cli.main())
"""


def test_a_ctrl_c_inside_a_callback_that_cannot_raise_comes_again() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stderr) == (130, "error: interrupted\n")
