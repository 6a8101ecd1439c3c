"""`optsweep export FORMAT FILE`: every run with its configuration and final loss, a row each, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help="csv or parquet.")],
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    study: Annotated[str | None, typer.Option("--study", help="Only runs of this study [default: all].")] = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Write the runs of the store to a file that `optsweep import` of the same format reads back.

    Examples: optsweep export csv runs.csv | optsweep export parquet muon.parquet --study reference -o muon
    """
    from optsweep_tui import flow

    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    rows = flow.export_results(options.open_workspace(context, workspace), format_, file, chosen)
    if json_:
        output.emit_json({"file": str(file), "rows": rows})
    else:
        print(f"{file}   {output.runs_text(rows)}")
