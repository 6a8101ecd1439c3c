"""The command `optsweep`: `main()` answers --version at once, else runs the verb and turns errors into one line."""

from __future__ import annotations

import signal
import sys
import threading


def _once_more(unraisable: sys.UnraisableHookArgs) -> None:
    """A Ctrl-C that fell into a callback of Python's own (a lock of an import, a destructor) would be lost: it comes again."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        # A moment later, when Python is out of that callback, and by a real signal, which ends a sleep.
        threading.Timer(0.02, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def main() -> int:
    """Entry point of the console script; returns the exit code (0 done, 1 failed, 2 user's mistake, 130 interrupted)."""
    if sys.argv[1:] == ["--version"]:
        from optsweep_tui import __version__

        print(f"optsweep {__version__}")
        return 0
    sys.unraisablehook = _once_more
    try:
        from optsweep_tui.cli.root import run_command

        return run_command(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the verb: run_command answers for what happens inside it
        print("error: interrupted", file=sys.stderr)
        return 130
