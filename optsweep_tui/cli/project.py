"""`optsweep project -m M -c C`: the loss to expect at another size and budget, to plan with and for nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.core import Filter


def command(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", "-m", help="Size asked for.", autocompletion=options.complete_model)],
    ratio: Annotated[str, typer.Option("--chinchilla", "-c", help="Chinchilla ratio asked for.")],
    study: options.Study = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            "--optimizer",
            "-o",
            help="Whose cells are fitted [default: the baseline].",
            autocompletion=options.complete_optimizer,
        ),
    ] = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    baseline: options.Baseline = None,
    sigma: options.Sigma = None,
    loss: Annotated[str, typer.Option("--loss", help="squares, or huber (robust, no interval).")] = "squares",
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Predict a loss from the joint law L(N, D) = E + A/N^a + B/D^b through one optimizer's cells. Planning only.

    Speedups never rest on it. Exit code 1 when it is refused.

    Examples: optsweep project -m 1.2b -c 16 | optsweep project -m olmo-1.2b -c 1 -o muon --loss huber --json
    """
    from optsweep_tui import ask, grid
    from optsweep_tui.cli import numbers, present, present_projection
    from optsweep_tui.errors import OptsweepError

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, None, None, None, datasets, engines, where)
    frame = present.answers(place, chosen)
    reference = present.baseline_name(place, frame, baseline)
    if optimizer is not None and not present.kept(frame, _only(optimizer)).size:
        raise OptsweepError(f"{optimizer} has no runs here", "optsweep table lists what has")
    name = present.baseline_name(place, frame, optimizer) if optimizer else reference
    label, params = ask.model_size(frame, model)
    rows = ask.project(
        frame,
        optimizer=name,
        model=label,
        params=params,
        chinchilla=grid.ratio(ratio, "--chinchilla"),
        baseline=reference,
        sigma=options.checked_sigma(sigma),
        loss=loss,
    )
    rows = numbers.with_filters(rows, chosen)
    if len(rows) == 0:
        raise OptsweepError(f"{name} has no final loss here", "optsweep table lists what has")
    if json_:
        output.emit_json(output.records(rows))
    else:
        present_projection.print_projection(rows)
        numbers.point_to_why(rows["number_id"])
    if (rows["state"] == "REFUSE").all():
        raise typer.Exit(1)


def _only(optimizer: str) -> Filter:
    from optsweep_tui import grid
    from optsweep_tui.core import Filter

    return Filter(optimizers=(grid.result_name(optimizer),))
