"""`optsweep power`: seeds or budgets that bring each speedup's interval to a target width, and what they cost."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    target_ci: Annotated[
        str, typer.Option("--target-ci", help="Half width of the 95 % interval as a share of the speedup: 5% or 0.05.")
    ] = "5%",
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
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """What it takes to know each speedup to a target: seeds everywhere, seeds of the cell alone, or more baseline budgets.

    First order, from the fitted curve as it is. What no plan reaches says why. Exit code 1 when nothing could be computed.

    Examples: optsweep power --target-ci 5% | optsweep power --target-ci 0.02 -o muon --json
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_power

    target = present_power.share(target_ci)
    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    reference = present.baseline_name(place, frame, baseline)
    given = options.checked_sigma(sigma)
    rows = ask.power(frame, target, baseline=reference, sigma=given, max_chinchilla=max_chinchilla)
    rows = numbers.with_filters(present.kept(rows, chosen), chosen)
    if json_:
        output.emit_json(output.records(rows))
    else:
        present_power.print_power(rows, reference, target)
        numbers.point_to_why(rows["number_id"])
    if len(rows) == 0 or (rows["reason"] != "").all():
        raise typer.Exit(1)
