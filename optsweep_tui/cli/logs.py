"""`optsweep logs RUN [-f]`: the engine's own output of a run's newest attempt."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Run id, or its first digits.", autocompletion=options.complete_run)],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines from the end.")] = 40,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Print the log of a run, its events and its newest metric lines included.

    Examples: optsweep logs 3fa2 | optsweep logs 3fa2 -f --json
    """
    from optsweep_tui import flow
    from optsweep_tui.live.logs import printable

    place = options.open_workspace(context, workspace)
    run_id = options.chosen_runs(place, [run])[0]
    stream = flow.log_lines(place, run_id, last=lines, follow=follow)
    if json_ and not follow:
        output.emit_json(list(stream))
        return
    for entry in stream:
        if json_:
            output.emit_json(entry)
        else:
            text = printable(entry["text"]) if sys.stdout.isatty() else entry["text"]
            print(f"a{entry['attempt']} {entry['source']:8}{text}")
        sys.stdout.flush()
