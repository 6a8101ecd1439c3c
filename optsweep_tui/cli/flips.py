"""`optsweep flips`: which pairs of optimizers change their order over budgets, over model sizes and inside training."""

from __future__ import annotations

from typing import Annotated

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
    noise_too: Annotated[bool, typer.Option("--all", help="List noise flips as well.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Rank flips: the order of a pair differs between two points, and both gaps exceed the tie width. Else: noise flips.

    -o with one name shows its pairs, with several the pairs among them. JSON: the counts, and every flip.

    Examples: optsweep flips | optsweep flips -o muon,soap --all | optsweep flips --study speedrun-2024-10
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_flips

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    reference = present.baseline_name(place, frame, baseline)
    pairs = ask.flips(place, frame, baseline=reference, sigma=options.checked_sigma(sigma))
    pairs = numbers.with_filters(present_flips.kept_pairs(pairs, chosen), chosen)
    flipped = pairs[pairs["verdict"].isin(("rank flip", "noise flip", "NO-SIGMA"))]
    if json_:
        output.emit_json({"examined": present_flips.counts(pairs), "flips": output.records(flipped)})
    else:
        present_flips.print_flips(pairs, noise_too)
        numbers.point_to_why(flipped["number_id"])
