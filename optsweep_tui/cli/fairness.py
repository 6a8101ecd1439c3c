"""`optsweep fairness`: how much tuning each optimizer got in each cell, and whether it was equal enough to compare."""

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
    """Audit tuning budgets: runs, tokens, swept values and seeds per cell; FAIL where they differ by more than 1.25x.

    Examples: optsweep fairness | optsweep fairness -m 300m -c 2 | optsweep fairness --baseline muon --json
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_audits

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    reference = present.baseline_name(place, frame, baseline)
    facts = ask.run_facts(place, str(frame["study"].iloc[0]))
    rows = ask.fairness(frame, facts, baseline=reference, sigma=options.checked_sigma(sigma))
    rows = numbers.with_filters(present.kept(rows, chosen), chosen)
    if json_:
        output.emit_json(output.records(rows))
    else:
        present_audits.print_fairness(rows, reference)
        numbers.point_to_why(rows["number_id"])
