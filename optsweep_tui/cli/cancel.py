"""`optsweep cancel RUN..`: durable cancel; what runs saves a checkpoint and stops."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    runs: options.Runs = None,
    everything: Annotated[bool, typer.Option("--all", help="Every run that is not over.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Cancel runs. A cancelled run starts again only by `optsweep retry`, from its checkpoint.

    Examples: optsweep cancel 3fa2 77b0 | optsweep cancel --all
    """
    from optsweep_tui import flow
    from optsweep_tui.errors import OptsweepError

    place = options.open_workspace(context, workspace)
    if not runs and not everything:
        raise OptsweepError("no run is named", "optsweep cancel RUN.. or --all")
    wanted = options.chosen_runs(place, None if everything else runs)
    marked = flow.cancel(place, wanted)
    rows = [{"run_id": run_id, "cancelled": run_id in marked} for run_id in wanted]
    if json_:
        output.emit_json(rows)
    else:
        print(f"{output.runs_text(len(marked))} cancelled, {len(wanted) - len(marked)} were over already")
        away = sum(line.state == "unreachable" for line in flow.run_lines(place, marked))
        if away:
            output.say(
                f"note: {output.runs_text(away)} may go on: the host does not answer, and is told once it does. "
                "optsweep resume sees to it"
            )
