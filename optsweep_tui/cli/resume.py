"""`optsweep resume`: take up everything that is unfinished, whoever started it and however it stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.settings import Workspace


def command(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option("--host", help="Where new attempts go from now on: a,b [default: as launched].")
    ] = None,
    accelerator: Annotated[str | None, typer.Option("--accelerator", help="The same, by accelerator: h100.")] = None,
    sinks: options.Sinks = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Reattach to running runs, restart lost ones from their checkpoints, plant owed fresh seeds, wait for all.

    Examples: optsweep resume | optsweep resume --host box2
    """
    from optsweep_tui import flow
    from optsweep_tui.cli import progress

    place = options.with_sinks(options.open_workspace(context, workspace), sinks)
    hosts = flow.chosen_hosts(place, host, accelerator) if host or accelerator else ()
    wanted = flow.unfinished(place)
    if hosts:
        flow.send_to(place, wanted, hosts)
    for why in flow.broken(place).values():
        output.say(f"left alone: {why}")
    if not wanted:
        output.say(f"nothing is unfinished in {place.root}")
        _say_tunings(place)
        if json_:
            output.emit_json([])
        return
    flow.require_engines_here(place, wanted)
    look = progress.drive(place, wanted, f"{output.runs_text(len(wanted))} taken up in {place.root}")
    flow.collect(place, say=output.say)
    if json_:
        output.emit_json(progress.lines_json(look.lines))
    else:
        print(progress.summary(look))
    _say_tunings(place)
    if progress.report_failures(look.lines):
        raise typer.Exit(1)


def _say_tunings(workspace: Workspace) -> None:
    """The runs of a tuning were taken up like any others; what to run next is its own command's affair."""
    from optsweep_tui.errors import OptsweepError
    from optsweep_tui.tune import kept, session

    for name in kept.names(workspace):
        try:
            tuning = kept.load(workspace, name)
            ended = tuning is None or all(entry.ended for entry in session.Session(workspace, tuning).places())
        except OptsweepError as error:
            output.say(f"tuning {name}: {error}")
            continue
        if not ended:
            output.say(f"tuning {name} has not ended: optsweep tune --resume --study {name} goes on")
