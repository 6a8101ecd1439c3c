"""`optsweep hp`: scaling rules of hyperparameters over model size and ratio, each held against a constant."""

from __future__ import annotations

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    study: options.Study = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    threshold: options.Threshold = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Scaling rules log h = a + b log N + d log c of each knob's best value, or that there is no trend.

    Best values come from grids, so each cell gives an interval; betas are fitted as log(1 - beta).

    Examples: optsweep hp | optsweep hp -o adamw,muon --json
    """
    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_hyperparameters, present_rules

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    rows = ask.scaling_rules(present.answers(place, chosen), threshold=options.near_best(threshold))
    rows = numbers.with_filters(rows, chosen)
    if json_:
        output.emit_json(output.records(rows))
    elif len(rows):
        present_rules.print_rules(rows)
        numbers.point_to_why(rows["number_id"])
    else:
        print(present_hyperparameters.NOTHING_SWEPT)
