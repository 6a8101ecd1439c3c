"""`optsweep plot KIND`: a figure on the terminal, or as a PDF, SVG or PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.charts.figure import Figure


def command(
    context: typer.Context,
    kind: Annotated[
        str, typer.Argument(help="What to draw, see above.", autocompletion=options.complete_kind)
    ] = "loss",
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]... | KNOB", help="loss: run ids [default: the best run of each]; strip: the knob."
        ),
    ] = None,
    study: options.Study = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    baseline: options.Baseline = None,
    sigma: options.Sigma = None,
    max_chinchilla: options.MaxChinchilla = None,
    unit: Annotated[str, typer.Option("--unit", help="speedup: tokens, flops or time.")] = "tokens",
    x: Annotated[
        str | None,
        typer.Option("--x", help="loss: step, tokens, minutes; speedup: size, ratio; rank: step, ratio."),
    ] = None,
    log_x: Annotated[bool, typer.Option("--log-x", help="loss: logarithmic x axis.")] = False,
    smooth: Annotated[
        float | None,
        typer.Option("--smooth", help="loss: average over so many steps; 0 = as logged [default: 2 % of a noisy run]."),
    ] = None,
    out: Annotated[
        list[Path] | None, typer.Option("--out", help="File to write: .pdf, .svg or .png; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
    width: Annotated[int | None, typer.Option("--width", help="Columns on the terminal.")] = None,
    height: Annotated[int, typer.Option("--height", help="Rows of a panel on the terminal.")] = 20,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Draw a figure: on the terminal, or with --out as a file (pip install 'optsweep[plots]').

    \b
    loss          loss inside runs, against step, tokens or minutes
    ratio         final loss against budget, the baseline's fit with its 95 % band
    deff          tokens that the baseline needs for the same loss, against D
    speedup       speedup against model size, or against budget
    lr            final loss against learning rate, raw and aligned at the best
    strip KNOB    one knob in every cell: tried, near the best, at an edge
    rank          rank against budget, and inside runs against step
    overhead      time per step, FLOPs and state memory against gain
    best-after-k  smallest loss after k runs of each optimizer's sweep

    Extrapolated points are hollow, bounds have arrows; sigma and its source are in the caption. Exit code 1 when there is
    nothing to draw. With --json: the paths, or without --out everything that is drawn.

    Examples: optsweep plot ratio | optsweep plot speedup -m 130m,1.2b --x ratio --out speedup.pdf |
    optsweep plot strip weight_decay --study reference | optsweep plot loss 3fa2 77b0 --x minutes
    """
    from optsweep_tui.charts import kinds
    from optsweep_tui.cli import charts
    from optsweep_tui.errors import OptsweepError, UnknownName

    kind = kinds.checked_kind(kind)
    kinds.checked_x(kind, x)
    if unit not in ("tokens", "flops", "time"):
        raise UnknownName("--unit", unit, ("tokens", "flops", "time"))
    belongs = (
        (what if kind != "strip" else None, "RUN", "loss"),
        (log_x or None, "--log-x", "loss"),
        (smooth, "--smooth", "loss"),
        (unit if unit != "tokens" else None, "--unit", "speedup"),
    )
    for given, option, only in belongs:
        if given is not None and kind != only:
            raise OptsweepError(f"plot {kind} has no {option}", f"it belongs to: optsweep plot {only}")
    if smooth is not None and not 0 <= smooth < float("inf"):
        raise OptsweepError(f"--smooth {smooth:g} is no number of steps", "give 0 or more")
    charts.check_files(out or [], overwrite=overwrite)
    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    if kind == "loss":
        figure = charts.loss_figure(place, what, chosen, x=x, log_x=log_x, smooth=smooth)
    else:
        asked = charts.Asked(
            kind=kind,
            baseline=baseline,
            sigma=options.checked_sigma(sigma),
            max_chinchilla=max_chinchilla,
            unit=unit,
            x=x,
            knob=charts.one_knob(what) if kind == "strip" else None,
        )
        figure = charts.figure(place, chosen, asked)
    _show(figure, out or [], overwrite=overwrite, width=width, height=height, json_=json_)


def _show(figure: Figure, out: list[Path], *, overwrite: bool, width: int | None, height: int, json_: bool) -> None:
    """Files and their paths, or the terminal's picture; exit code 1 where there is nothing to draw."""
    from optsweep_tui.charts.figure import as_data
    from optsweep_tui.cli import charts

    paths = [] if figure.empty else charts.write(figure, out, overwrite=overwrite)
    if json_:
        found = {"kind": figure.kind, "refused": figure.refused}
        output.emit_json(found | {"paths": paths} if out else as_data(figure))
    elif not out:
        print(charts.draw(figure, width=width, height=height))
    for path in paths if not json_ else ():
        print(path)
    if out:
        for reason in figure.refused:
            output.say(f"not drawn: {reason}")
    if figure.empty:
        raise typer.Exit(1)
