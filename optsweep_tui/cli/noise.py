"""`optsweep noise`: where the run-to-run sigma comes from, and the one that intervals use."""

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
    """The noise ledger: every replicate group with its sigma, degrees of freedom and source, and what is used.

    Examples: optsweep noise | optsweep noise --study reference --json
    """
    import dataclasses

    import pandas as pd

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_audits

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    reference = present.baseline_name(place, frame, baseline)
    given = options.checked_sigma(sigma)
    ledger = ask.noise(frame, reference, sigma=given, max_chinchilla=max_chinchilla)
    of_group = ledger["optimizer"].isna()  # a prior, a given sigma or none: of every optimizer
    ledger = pd.concat([present.kept(ledger[~of_group], chosen), ledger[of_group]])
    ledger = numbers.with_filters(ledger, chosen)
    if json_:
        output.emit_json(output.records(ledger))
    else:
        present_audits.print_ledger(ledger, reference)
        numbers.point_to_why(ledger["number_id"])
