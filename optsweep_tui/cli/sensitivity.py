"""`optsweep sensitivity KNOB`: what a wrong value of one hyperparameter costs, cell by cell."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    knob: Annotated[str, typer.Argument(help="A hyperparameter: lr, weight_decay, batch_size, ...")],
    study: options.Study = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    baseline: options.Baseline = None,
    sigma: options.Sigma = None,
    within: Annotated[float, typer.Option("--within", help="Nats above the best that the width is taken at.")] = 0.02,
    threshold: options.Threshold = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """The curve of best loss against one knob, with its noise band, its width near the best, the cost of 2x and 0.5x.

    Examples: optsweep sensitivity lr | optsweep sensitivity beta2 -o adamw -m 130m --json
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_hyperparameters

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    reference = present.baseline_name(place, frame, baseline)
    name = ask.swept_knob(frame, knob)
    rows = ask.sensitivity(
        present.kept(frame, chosen),
        name,
        baseline=reference,
        sigma=options.checked_sigma(sigma),
        within=within,
        threshold=options.near_best(threshold),
        noise_from=frame,
    )
    rows = numbers.with_filters(rows, chosen)
    if json_:
        output.emit_json(output.records(rows))
    elif len(rows):
        present_hyperparameters.print_sensitivity(rows, name)
        numbers.point_to_why(rows["number_id"])
    else:
        print(f"{name} was swept in none of the selected cells")
