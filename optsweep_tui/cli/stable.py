"""`optsweep stable`: which values of a hyperparameter do for every size and budget, and how many are needed where none does."""

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
    """Stable hyperparameters: one value near-best in every cell; else all smallest sets of values that cover the cells.

    Examples: optsweep stable | optsweep stable -o adamw --threshold 0.005 --json
    """
    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_hyperparameters

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    rows = ask.stable(present.answers(place, chosen), threshold=options.near_best(threshold))
    rows = numbers.with_filters(rows, chosen)
    if json_:
        output.emit_json(output.records(rows))
    elif len(rows):
        present_hyperparameters.print_stable(rows)
        numbers.point_to_why(rows["number_id"])
    else:
        print(present_hyperparameters.NOTHING_SWEPT)
