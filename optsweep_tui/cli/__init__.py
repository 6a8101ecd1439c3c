"""The command `optsweep`: `main()` answers --version at once, else runs the verb and turns errors into one line."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry point of the console script; returns the exit code (0 done, 1 failed, 2 user's mistake, 130 interrupted)."""
    if sys.argv[1:] == ["--version"]:
        from optsweep_tui import __version__

        print(f"optsweep {__version__}")
        return 0
    try:
        from optsweep_tui.cli.root import run_command

        return run_command(sys.argv[1:])
    except KeyboardInterrupt:  # before or after the verb: run_command answers for what happens inside it
        print("error: interrupted", file=sys.stderr)
        return 130
