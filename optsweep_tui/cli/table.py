"""`optsweep table`: final losses per cell with n, gap to the baseline, rank and tie group."""

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
    baseline: options.Baseline = None,
    sigma: options.Sigma = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Final validation losses: mean over fresh seeds of each cell's best configuration.

    Examples: optsweep table | optsweep table --model 130m --json
    """
    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, chosen)
    reference = present.baseline_name(place, frame, baseline)
    cells = ask.table(frame, baseline=reference, sigma=options.checked_sigma(sigma))
    cells = numbers.with_filters(cells, chosen)
    if json_:
        output.emit_json(output.records(cells))
    else:
        present.print_cells(cells)
        numbers.point_to_why(cells["number_id"])
