"""`optsweep watch [RUN..]`: live progress of what is under way; changes nothing."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    runs: options.Runs = None,
    once: Annotated[bool, typer.Option("--once", help="One look, then leave.")] = False,
    sinks: options.Sinks = None,
    workspace: options.WorkspaceDir = None,
    json_: options.JsonLines = False,
) -> None:
    """Watch runs until all are over.

    Examples: optsweep watch | optsweep watch 3fa2 --json | optsweep watch --once | optsweep watch --sink tensorboard:tb
    """
    from optsweep_tui import flow, rundir
    from optsweep_tui.cli import progress

    place = options.with_sinks(options.open_workspace(context, workspace), sinks)
    wanted = options.chosen_runs(place, runs)
    if not runs:
        wanted = rundir.native_ids(place.runs)
        current = flow.run_lines(place, wanted)
        wanted = [line.run_id for line in current if line.state not in progress.OVER] or wanted
    if not wanted:
        output.say(f"no runs in {place.root}. optsweep quickstart makes some")
        return
    looks = flow.look(place, wanted, once=once, say=output.say)
    if json_:
        seen: dict[str, object] = {}
        for look in looks:
            for line in look.lines:
                if seen.get(line.run_id) != line:
                    seen[line.run_id] = line
                    output.emit_json(line)
            sys.stdout.flush()
        return
    for _ in progress.drawn(looks, f"watching {output.runs_text(len(wanted))} in {place.root}"):
        pass
