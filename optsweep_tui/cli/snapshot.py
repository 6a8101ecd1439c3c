"""`optsweep snapshot FILE`: a copy of the store for notebooks and other programs that keep a file open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Copy results.duckdb to a file of its own. Whoever opens the copy is in nobody's way.

    Example: optsweep snapshot today.duckdb && duckdb -readonly today.duckdb
    """
    from optsweep_tui import flow

    written = flow.snapshot(options.open_workspace(context, workspace), file, overwrite=overwrite)
    size = written.stat().st_size
    if json_:
        output.emit_json({"file": str(written), "bytes": size})
    else:
        print(f"{written}   {output.count_text(size)}B")
