"""`optsweep import FORMAT [PATH]`: results that others have published, as runs of a study of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def complete_format(incomplete: str) -> list[str]:
    """Names for shell completion."""
    from optsweep_tui.importers import protocol

    return [name for name in protocol.importer_names() if name.startswith(incomplete.lower())]


def command(
    context: typer.Context,
    format_: Annotated[
        str | None,
        typer.Argument(metavar="FORMAT", help="Format; without one they are listed.", autocompletion=complete_format),
    ] = None,
    path: Annotated[Path | None, typer.Argument(help="File or folder; none for reference.")] = None,
    study: Annotated[str | None, typer.Option("--study", help="Study to import into [default: the format's].")] = None,
    mapping: Annotated[Path | None, typer.Option("--mapping", help="TOML file: which column means what.")] = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Import results. Twice equals once; what cannot be read is listed with the reason. Exit code 1 if nothing could.

    Examples: optsweep import reference | optsweep import marin ~/marin/experiments --study marin
    """
    from optsweep_tui import flow

    if format_ is None:
        formats = flow.import_formats()
        if json_:
            output.emit_json(formats)
        else:
            output.print_table(["format", "reads"], [list(entry.values()) for entry in formats], left=(0, 1))
        return
    place = options.open_workspace(context, workspace)
    report = flow.import_results(place, format_, path=path, study=study, mapping=mapping)
    if json_:
        output.emit_json(report)
    else:
        for name, count in report.studies.items():
            print(f"study {name}: {output.runs_text(count)}")
        states = ", ".join(f"{count} {state}" for state, count in report.states.items())
        print(f"{output.runs_text(report.runs)} ({states or 'none'}): {report.new} new, {report.changed} changed, "
              f"{report.unchanged} here already")  # fmt: skip
        print(f"{len(report.skipped)} entries left out")
        for entry in report.skipped:
            output.say(f"left out: {entry.where}: {entry.why}")
    if not report.runs and report.skipped:
        raise typer.Exit(1)
