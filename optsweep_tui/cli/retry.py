"""`optsweep retry RUN..`: a new attempt of runs that are over, from their newest checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    runs: options.Runs = None,
    failed: Annotated[bool, typer.Option("--failed", help="Every run that failed or was lost.")] = False,
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="States that other runs will begin with: 300,600,end,c0.5 (as run --keep)."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Open a new attempt of each run named, and drive it to its end.

    Examples: optsweep retry 3fa2 | optsweep retry --failed | optsweep retry 3fa2 --keep 300,end
    """
    from optsweep_tui import flow, keeping, rundir, starting
    from optsweep_tui.cli import progress
    from optsweep_tui.errors import OptsweepError

    place = options.open_workspace(context, workspace)
    if not runs and not failed:
        raise OptsweepError("no run is named", "optsweep retry RUN.. or --failed")
    wanted = options.chosen_runs(place, runs) if runs else []
    for run_id in wanted:
        if rundir.is_imported(place.runs / run_id):
            raise OptsweepError(f"run {run_id[:8]} was imported, it is not trained here", "name runs of this workspace")
    if failed:
        bad = ("failed", "lost", "oom")
        wanted += [
            line.run_id
            for line in flow.run_lines(place)
            if line.state in bad and line.host and line.run_id not in wanted
        ]
    if keep is not None:
        keeping.require_asked(place, wanted)
        asked = {run_id: starting.keep_steps(flow.spec_of(place, run_id), keep) for run_id in wanted}
        for run_id, steps in keeping.remember(place, asked).items():
            output.say(keeping.passed_line(run_id, steps))
        have = [run_id for run_id in wanted if keeping.keeps_all(place, run_id)]
        for run_id in have:
            output.say(f"run {run_id[:8]} is done and keeps all that was asked for: it is not tried again")
        wanted = [run_id for run_id in wanted if run_id not in have]
    queued = flow.retry(place, wanted)
    lines = flow.run_lines(place, wanted)
    if queued and detach:
        flow.detach(place)
    elif queued:
        look = progress.drive(place, queued, f"{output.runs_text(len(queued))} tried again")
        flow.collect(place)
        lines = [line for line in look.lines if line.run_id in wanted]
    if keep is not None and not detach:
        for line in keeping.unkept_lines(place, wanted):
            output.say(line)
    if json_:
        output.emit_json([{**row, "retried": row["run_id"] in queued} for row in progress.lines_json(lines)])
    else:
        print(f"{output.runs_text(len(queued))} tried again, {len(wanted) - len(queued)} were still under way")
    if progress.report_failures(lines):
        raise typer.Exit(1)
