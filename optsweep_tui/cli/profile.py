"""`optsweep profile`: over all cells, how often an optimizer needs at most tau times the tokens of the best one."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    tau_max: Annotated[float, typer.Option("--tau-max", help="Where the area ends; AlgoPerf uses 4.")] = 4.0,
    study: options.Study = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    baseline: options.Baseline = None,
    max_chinchilla: options.MaxChinchilla = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Performance profiles (Dolan & More; AlgoPerf): share of cells with a cost ratio of at most tau, and the area score.

    -o names the optimizers that compete, -c the cells; the baseline's runs are always read. Exit code 1 without any cell.

    Examples: optsweep profile | optsweep profile -o adamw,muon,soap --tau-max 2 --json
    """
    import dataclasses

    from optsweep_tui import ask, grid
    from optsweep_tui.cli import numbers, present, present_profile

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    reference = present.baseline_name(place, frame, baseline)
    names = sorted(set(frame["optimizer"]))
    among = [name for name in names if any(grid.same_optimizer(name, asked) for asked in chosen.optimizers)]
    rows = ask.profile(
        frame,
        baseline=reference,
        max_chinchilla=max_chinchilla,
        tau_max=tau_max,
        among=among,
        ratios=chosen.chinchillas,
    )
    rows = numbers.with_filters(rows, chosen)
    if json_:
        output.emit_json(output.records(rows))
    else:
        present_profile.print_profile(rows, reference)
        numbers.point_to_why(rows["number_id"])
    if len(rows) == 0:
        raise typer.Exit(1)
