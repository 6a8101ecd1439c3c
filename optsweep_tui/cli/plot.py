"""`optsweep plot loss`: curves as a chart in the terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    kind: Annotated[
        str, typer.Argument(help="loss: loss against tokens; ratio: final loss against budget, with the fit.")
    ] = "loss",
    runs: Annotated[list[str] | None, typer.Argument(help="Run ids [default: the best run of each cell].")] = None,
    study: options.Study = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    log_x: Annotated[bool, typer.Option("--log-x", help="Logarithmic budget axis.")] = False,
    width: Annotated[int | None, typer.Option("--width", help="Columns.")] = None,
    height: Annotated[int, typer.Option("--height", help="Rows.")] = 20,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Draw a chart on the terminal. With --json: the points that it shows.

    Examples: optsweep plot loss | optsweep plot loss 3fa2 77b0 | optsweep plot ratio
    """
    from optsweep_tui.cli import charts
    from optsweep_tui.errors import UnknownName

    if kind not in ("loss", "ratio"):
        raise UnknownName("plot", kind, ("loss", "ratio"))
    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, None, None, None)
    if kind == "loss":
        curves = charts.loss_curves(place, runs, chosen)
    else:
        curves = charts.ratio_curves(place, chosen)
    if json_:
        output.emit_json(charts.as_points(curves))
    else:
        print(charts.draw(curves, kind, width=width, height=height, log_x=log_x))
