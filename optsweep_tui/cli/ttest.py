"""`optsweep ttest --target-loss X`: is the mean loss of a cell's best configuration below a target?"""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    target_loss: Annotated[float, typer.Option("--target-loss", help="Nats per token.", show_default=False)],
    level: Annotated[float, typer.Option("--level", help="p below which the mean counts as below the target.")] = 0.01,
    study: options.Study = None,
    models: options.Models = None,
    optimizers: options.Optimizers = None,
    ratios: options.Ratios = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """One-sided t-test over the replicates of each cell's best configuration, as the NanoGPT speedrun records do.

    The base-seed run that chose the configuration is left out where there are fresh seeds. Refused with fewer than two
    replicates; exit code 1 when every cell is.

    Examples: optsweep ttest --target-loss 3.28 | optsweep ttest --target-loss 2.0 -o adamw --json
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_audits

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    rows = present.kept(ask.ttest(frame, target_loss, level=level), chosen)
    rows = numbers.with_filters(rows, chosen)
    if json_:
        output.emit_json(output.records(rows))
    else:
        present_audits.print_ttest(rows, target_loss, level)
        numbers.point_to_why(rows["number_id"])
    if len(rows) == 0 or (rows["state"] == "REFUSE").all():
        raise typer.Exit(1)
