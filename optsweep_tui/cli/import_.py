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
    out: Annotated[
        Path | None,
        typer.Option("--out", help="olmo-sweep: the grid file [default: grids/STUDY.toml in the workspace]."),
    ] = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Import results. Twice equals once; what cannot be read is listed with the reason. Exit code 1 if nothing could.

    A foreign sweep (olmo-sweep) becomes a grid file, which `optsweep run --grid` launches.

    Examples: optsweep import reference | optsweep import marin ~/marin/experiments --study marin
    | optsweep import wandb ./wandb --mapping m.toml | optsweep import olmo-sweep base.yaml+300m.yaml+lr.yaml
    """
    from optsweep_tui import imports

    if format_ is None:
        formats = imports.import_formats()
        if json_:
            output.emit_json(formats)
        else:
            output.print_table(["format", "reads"], [list(entry.values()) for entry in formats], left=(0, 1))
        return
    place = options.open_workspace(context, workspace)
    report = imports.import_results(place, format_, path=path, study=study, mapping=mapping, out=out)
    if json_:
        output.emit_json(report)
    else:
        for name, count in report.studies.items():
            print(f"study {name}: {output.runs_text(count)}")
        for name, file in report.grids.items():
            print(f"study {name}: a plan of {output.runs_text(report.planned)} in {file}")
            grid = name if Path(file).parent == place.grids else file
            print(f"optsweep run --grid {grid} --dry-run shows them")
        if report.runs or not report.grids:
            states = ", ".join(f"{count} {state}" for state, count in report.states.items())
            print(f"{output.runs_text(report.runs)} ({states or 'none'}): {report.new} new, {report.changed} changed, "
                  f"{report.unchanged} here already")  # fmt: skip
        left = len(report.skipped)
        print(
            f"{left} {'entry' if left == 1 else 'entries'} left out{', or without a counterpart here' * bool(report.grids)}"
        )
        for entry in report.skipped:
            output.say(f"left out: {entry.where}: {entry.why}")
    if not report.runs and not report.planned and report.skipped:
        raise typer.Exit(1)
