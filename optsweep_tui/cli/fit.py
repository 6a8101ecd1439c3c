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
    shared_exponent: options.SharedExponent = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Fit L(c) = alpha c^-B + beta to the baseline's final losses, per model.

    Exit code 1 when every curve is refused.

    Examples: optsweep fit | optsweep fit --baseline muon --json | optsweep fit --shared-exponent --max-chinchilla 8
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_curves

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    # A shared exponent is that of all models, also where some are shown.
    frame = present.answers(place, dataclasses.replace(chosen, models=()) if shared_exponent else chosen)
    reference = present.baseline_name(place, frame, baseline)
    curves = ask.fit(
        frame,
        baseline=reference,
        sigma=options.checked_sigma(sigma),
        max_chinchilla=max_chinchilla,
        shared_exponent=shared_exponent,
    )
    names = {name.lower() for name in chosen.models}
    if names:
        curves = curves[curves["model"].str.lower().isin(names)].reset_index(drop=True)
    curves = numbers.with_filters(curves, chosen)
    if json_:
        output.emit_json(output.records(curves))
    else:
        present_curves.print_curves(curves, reference)
        numbers.point_to_why(curves["number_id"])
    if not present.any_fitted(curves):
        raise typer.Exit(1)
