"""`optsweep grids [NAME]`: the studies that ship with the program, or one of them as its file."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optsweep_tui.cli import options, output


def command(
    name: Annotated[
        str | None, typer.Argument(help="A shipped grid, or a file.", autocompletion=options.complete_grid)
    ] = None,
    _workspace: options.UnreadWorkspace = None,
    json_: options.Json = False,
) -> None:
    """List the grids, or show one: its cells and its file, to copy and change.

    Examples: optsweep grids | optsweep grids quickstart > mine.toml
    """
    import dataclasses
    from pathlib import Path

    from optsweep_tui import gridfile
    from optsweep_tui.resources import shipped

    if name is not None:
        study = gridfile.load(name)
        if json_:
            output.emit_json(dataclasses.asdict(study))
        else:
            path = Path(name) if name.endswith(".toml") else shipped("grids") / f"{name.lower()}.toml"
            print(path.read_text(), end="")
        return
    rows = [_described(entry) for entry in gridfile.names()]
    if json_:
        output.emit_json(rows)
        return
    output.print_table(
        ["grid", "cells", "optimizers", "models", "ratios", "what it asks"],
        [
            (
                row["name"],
                row["cells"],
                " ".join(row["optimizers"]),
                " ".join(row["models"]),
                " ".join(f"{value:g}" for value in row["chinchillas"]),
                row["description"],
            )
            for row in rows
        ],
        left=(0, 2, 3, 4, 5),
    )


def _described(name: str) -> dict[str, Any]:
    from optsweep_tui import gridfile

    study = gridfile.load(name)
    return {
        "name": study.name,
        "description": study.description,
        "baseline": study.baseline,
        "cells": sum(len(cell.optimizer) * len(cell.model) * len(cell.chinchilla) for cell in study.cells),
        "optimizers": sorted({name for cell in study.cells for name in cell.optimizer}),
        "models": list(dict.fromkeys(name for cell in study.cells for name in cell.model)),
        "chinchillas": sorted({value for cell in study.cells for value in cell.chinchilla}),
        "seeds": list(study.seeds),
    }
