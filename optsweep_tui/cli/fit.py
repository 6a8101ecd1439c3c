"""`optsweep fit`: the baseline's loss curve over budgets, with how well it is known."""

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
    max_chinchilla: options.MaxChinchilla = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Fit L(c) = alpha c^-B + beta to the baseline's final losses, per model.

    Examples: optsweep fit | optsweep fit --baseline muon --json
    """
    from optsweep_tui import ask
    from optsweep_tui.cli import present

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, chosen)
    reference = present.baseline_name(place, frame, baseline)
    curves = ask.fit(frame, baseline=reference, sigma=options.checked_sigma(sigma), max_chinchilla=max_chinchilla)
    if json_:
        output.emit_json(output.records(curves))
    else:
        present.print_curves(curves, reference)
    if not present.any_fitted(curves):
        raise typer.Exit(1)
