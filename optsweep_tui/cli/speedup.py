"""`optsweep speedup`: how many times fewer tokens, FLOPs or seconds than the baseline, with intervals and states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.core import Filter
    from optsweep_tui.settings import Workspace


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
    shared_exponent: options.SharedExponent = False,
    target_loss: Annotated[
        str | None,
        typer.Option("--target-loss", help="In-run crossings of these validation losses instead, comma separated."),
    ] = None,
    x: Annotated[str | None, typer.Option("--x", help="With --target-loss: steps or time [default: steps].")] = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Speedups over the baseline: INTERP, EXTRAP (marked) or REFUSE (with the reason).

    -o names the optimizers to be shown; the baseline's runs are always read. Exit code 1 when every row is refused.
    With --target-loss: the steps or seconds to a loss inside each run, labelled "in-run, biased low".

    Examples: optsweep speedup | optsweep speedup -o muon --unit flops --json |
    optsweep speedup --study speedrun-2024-10 --target-loss 3.35,3.30 --x time
    """
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_speedups
    from optsweep_tui.errors import OptsweepError, UnknownName

    if unit not in ("tokens", "flops", "time"):
        raise UnknownName("--unit", unit, ("tokens", "flops", "time"))
    if ci not in ("profile", "bootstrap"):
        raise UnknownName("--ci", ci, ("profile", "bootstrap"))
    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    noise = options.checked_sigma(sigma)
    if target_loss is not None:
        if (unit, ci, max_chinchilla, shared_exponent) != ("tokens", "profile", None, False):
            raise OptsweepError(
                "--target-loss reads crossings inside runs and fits no curve",
                "leave out all but --x, --sigma, --baseline",
            )
        _crossings(place, chosen, target_loss, x or "steps", baseline, noise, json_)
        return
    if x is not None:
        raise OptsweepError(f"--x {x} belongs to --target-loss", "add --target-loss LOSS, or use --unit")
    # A shared exponent is that of all models, also where some are shown.
    read = dataclasses.replace(chosen, optimizers=(), chinchillas=(), models=() if shared_exponent else chosen.models)
    frame = present.answers(place, read)
    reference = present.baseline_name(place, frame, baseline)
    rows = ask.speedup(
        frame,
        baseline=reference,
        unit=unit,
        ci=ci,
        sigma=noise,
        max_chinchilla=max_chinchilla,
        shared_exponent=shared_exponent,
    )
    rows = numbers.with_filters(present.kept(rows, chosen), chosen)
    if json_:
        output.emit_json(output.records(rows))
    else:
        present_speedups.print_speedups(rows, reference, unit)
        numbers.point_to_why(rows["number_id"])
    _require_an_answer(rows)


def _crossings(
    place: Workspace,
    chosen: Filter,
    target_loss: str,
    x: str,
    baseline: str | None,
    sigma: float | None,
    json_: bool,
) -> None:
    """The in-run crossings of one call."""
    import dataclasses

    from optsweep_tui import ask
    from optsweep_tui.cli import numbers, present, present_speedups
    from optsweep_tui.errors import UnknownName

    if x not in ("steps", "time"):
        raise UnknownName("--x", x, ("steps", "time"))
    targets = _losses(target_loss)
    frame = present.answers(place, dataclasses.replace(chosen, optimizers=()))
    reference = present.baseline_name(place, frame, baseline)
    rows = ask.crossings(place, frame, targets=targets, x=x, baseline=reference, sigma=sigma)
    rows = numbers.with_filters(present.kept(rows, chosen), chosen)
    if json_:
        output.emit_json(output.records(rows))
    else:
        present_speedups.print_crossings(rows, reference, x)
        numbers.point_to_why(rows["number_id"])
    _require_an_answer(rows)


def _losses(text: str) -> list[float]:
    """The losses of --target-loss."""
    from optsweep_tui.errors import OptsweepError

    found = []
    for part in options.split(text):
        try:
            value = float(part)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise OptsweepError(
                f'--target-loss "{part}" is not a positive number of nats', "e.g. --target-loss 3.35,3.30"
            )
        found.append(value)
    if not found:
        raise OptsweepError("--target-loss names no loss", "e.g. --target-loss 3.35,3.30")
    return found


def _require_an_answer(rows: pd.DataFrame) -> None:
    """Exit code 1 when all that was asked was refused."""
    if len(rows) == 0 or (rows["state"] == "REFUSE").all():
        raise typer.Exit(1)
