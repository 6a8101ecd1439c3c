"""`optsweep collect`: bring results.duckdb up to date with the run folders; twice = once."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the store anew from the run folders.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Fetch from the hosts, ingest what is new. The run folders are the truth: the store can always be rebuilt from them.

    Examples: optsweep collect | optsweep collect --rebuild
    """
    from optsweep_tui import flow

    report = flow.collect(options.open_workspace(context, workspace), rebuild=rebuild, say=output.say)
    if json_:
        output.emit_json(report)
        return
    print(
        f"{report.runs} runs, {report.finished} finished, {report.points} new points, {report.skipped_lines} lines skipped"
    )
    if report.archived:
        output.say(f"{report.archived:,} points of finished runs moved to Parquet files (results.duckdb.archive)")
    if report.vanished:
        output.say(f"{report.vanished} runs are in the store but no longer in the workspace; --rebuild drops them")
    if report.kept:
        output.say(f"the old store is kept as {report.kept}")
    for entry in report.skipped[:20]:
        output.say(f"skipped: {entry.where}: {entry.why}")
