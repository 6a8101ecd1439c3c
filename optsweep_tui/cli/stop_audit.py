"""`optsweep stop-audit`: a stopping rule replayed on finished runs: what it saves, and which good runs it kills."""

from __future__ import annotations

from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    rule: Annotated[
        str, typer.Option("--rule", help="divergence (what is stopped by default) or median (Vizier's).")
    ] = "divergence",
    after: Annotated[
        float, typer.Option("--after", help="Median: stop nothing before this share of a run's steps.")
    ] = 0.0,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Nats from the best of its cell within which a run counts as good.")
    ] = 3e-3,
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
    """Replay an early-stopping rule on the curves of finished runs and report wrong kills and tokens saved.

    A run that was stopped in fact is censored: nobody knows its final loss, so it is counted and not judged.

    Examples: optsweep stop-audit | optsweep stop-audit --rule median --after 0.3 --json
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_stops

    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=(), chinchillas=()))
    audit, cells = ask.stop_audit(place, frame, rule=present_stops.rule(rule), threshold=threshold, after=after)
    audit, cells = numbers.with_filters(audit, chosen), numbers.with_filters(cells, chosen)
    summary = present_stops.summary(
        present.kept(frame, chosen), present.kept(audit, chosen), present.kept(cells, chosen)
    )
    if json_:
        output.emit_json(summary)
    else:
        present_stops.print_stops(summary)
        listed = [*summary["kills"], *summary["misses"], *summary["cells"]]
        numbers.point_to_why(row["number_id"] for row in listed)
    if summary["judged"] == 0:
        raise typer.Exit(1)
