"""`optsweep speedup`: how many times fewer tokens, FLOPs or seconds than the baseline, with intervals and states."""

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
    unit: Annotated[str, typer.Option("--unit", help="tokens, flops or time.")] = "tokens",
    ci: Annotated[str, typer.Option("--ci", help="profile or bootstrap.")] = "profile",
    sigma: options.Sigma = None,
    max_chinchilla: options.MaxChinchilla = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Speedups over the baseline: INTERP, EXTRAP (marked) or REFUSE (with the reason).

    -o names the optimizers to be shown; the baseline's runs are always read. Exit code 1 when every row is refused.

    Examples: optsweep speedup | optsweep speedup -o muon --unit flops --json
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import present
    from optsweep_tui.errors import UnknownName

    if unit not in ("tokens", "flops", "time"):
        raise UnknownName("--unit", unit, ("tokens", "flops", "time"))
    if ci not in ("profile", "bootstrap"):
        raise UnknownName("--ci", ci, ("profile", "bootstrap"))
    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    reference = present.baseline_name(place, frame, baseline)
    rows = ask.speedup(
        frame, baseline=reference, unit=unit, ci=ci, sigma=options.checked_sigma(sigma), max_chinchilla=max_chinchilla
    )
    rows = present.kept(rows, chosen)
    if json_:
        output.emit_json(output.records(rows))
    else:
        present.print_speedups(rows, reference, unit)
    if len(rows) == 0 or (rows["state"] == "REFUSE").all():
        raise typer.Exit(1)
