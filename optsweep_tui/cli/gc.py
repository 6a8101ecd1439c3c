"""`optsweep gc`: remove what nothing needs any more; no run, no result, no log is ever touched."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Checkpoints of runs that are done, too: they cannot be trained on.")
    ] = False,
    kept: Annotated[
        bool, typer.Option("--kept", help="Old stores that a rebuild put aside, too (results.duckdb.kept-...).")
    ] = False,
    states: Annotated[
        bool, typer.Option("--states", help="States that runs keep for others to begin with (run --keep), too.")
    ] = False,
    archive: Annotated[
        bool,
        typer.Option(
            "--archive",
            help="Move the points of finished runs from results.duckdb to Parquet files; queries find them.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Tidy up: leftovers of killed programs and stale queue entries; with options also what takes up the space.

    Examples: optsweep gc --dry-run | optsweep gc --checkpoints | optsweep gc --archive
    """
    from optsweep_tui import flow

    place = options.open_workspace(context, workspace)
    rows = flow.tidy_up(place, checkpoints=checkpoints, kept=kept, dry_run=dry_run, states=states)
    if dry_run and checkpoints and place.sends_elsewhere:
        output.say("hosts were not asked: checkpoints of done runs there go too")
    moved = flow.archive(place, dry_run=dry_run) if archive else 0
    if json_:
        documents = [dataclasses.asdict(row) for row in rows]
        if archive:
            documents.append({"what": "points moved to the archive", "count": moved, "removed": not dry_run})
        output.emit_json(documents)
        return
    verb = "would be removed" if dry_run else "removed"
    output.print_table(
        ["what", verb, "bytes", "note"],
        [
            (row.what, row.count, output.count_text(row.bytes), "" if row.removed or dry_run else f"kept: {row.option}")
            for row in rows
        ],
        left=(0, 3),
    )
    if archive:
        print(f"{moved:,} points of finished runs {'would move' if dry_run else 'moved'} to {place.store.name}.archive")
