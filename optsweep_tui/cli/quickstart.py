"""`optsweep quickstart`: a true optimizer comparison on this machine, from nothing to a speedup, in one command."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.flow import Plan
    from optsweep_tui.settings import Workspace

GRID = "quickstart"


def command(context: typer.Context, workspace: options.WorkspaceDir = None, json_: options.Json = False) -> None:
    """Train the quickstart sweep (two to three minutes on two CPU cores), collect it, and report.

    A second call trains nothing and prints the same report. The sweep is `optsweep grids quickstart`.

    Example: optsweep quickstart
    """
    from optsweep_tui import flow, rundir
    from optsweep_tui.cli import progress, run

    started = time.monotonic()
    place = options.open_workspace(context, workspace)
    request = flow.Request(grid=GRID)
    flow.require_engines(flow.plan(place, request).specs)
    chosen = flow.plan(place, request, prepare=True)
    waiting = [run_id for run_id in chosen.run_ids if not rundir.state_of(place.runs / run_id).finished]
    if waiting:
        output.say(estimate(place, chosen))
    flow.launch(place, chosen)
    look = progress.drive(place, chosen.run_ids, run.title(place, chosen), quiet=not waiting)
    flow.collect(place)
    failed = progress.report_failures(look.lines)
    report(place, chosen, time.monotonic() - started, len(waiting), json_)
    if failed:
        raise typer.Exit(1)


def estimate(workspace: Workspace, chosen: Plan) -> str:
    """One line before training starts: what will be trained, and how long it took where it was measured."""
    from optsweep_tui import cost, flow

    rates = flow.rates(workspace)
    seconds = cost.total_seconds(
        (cost.predicted(spec, rates).seconds_estimate for spec in chosen.specs), workspace.run_slots
    )
    if seconds is None:
        rate = flow.probe_rate()
        seconds = sum(spec.flops for spec in chosen.specs) / rate / workspace.run_slots
    more = 1.0 + chosen.fresh_seed_runs / len(chosen.specs)
    tokens = sum(spec.steps * spec.tokens_per_step for spec in chosen.specs)
    return (
        f"training {len(chosen.specs)} runs + {chosen.fresh_seed_runs} fresh seeds, {output.count_text(tokens)} tokens, "
        f"about {output.duration_text(seconds * more)} on {workspace.run_slots} slots; Ctrl-C detaches, nothing is lost"
    )


def report(workspace: Workspace, chosen: Plan, seconds: float, trained: int, json_: bool) -> None:
    """Final losses, the noise, the baseline's curve, the speedups, a chart, and what to try next."""
    from optsweep_tui import ask, flow
    from optsweep_tui.cli import charts, present, present_curves, present_speedups
    from optsweep_tui.core import Filter

    study = chosen.study
    frame = ask.results(workspace, Filter(study=study.name))
    cells = ask.table(frame, baseline=study.baseline)
    curves = ask.fit(frame, baseline=study.baseline)
    rows = ask.speedup(frame, baseline=study.baseline)
    if json_:
        document: dict[str, Any] = {
            "runs": flow.run_lines(workspace, chosen.run_ids),
            "table": output.records(cells),
            "fit": output.records(curves),
            "speedups": output.records(rows),
            "seconds": seconds,
            "trained": trained,
        }
        output.emit_json(document)
        return
    present.print_matrix(cells)
    present.print_noise(ask.noise(frame, study.baseline))
    print()
    present_curves.print_curves(curves, study.baseline, brief=True)
    print()
    present_speedups.print_speedups(rows, study.baseline, "tokens", brief=True)
    print()
    picture = charts.figure(workspace, Filter(study=study.name), charts.Asked(kind="ratio", baseline=study.baseline))
    # The curve and its noise are printed above: the chart stands without its caption.
    picture = dataclasses.replace(picture, panels=picture.panels[:1], caption=(), provenance="")
    print(charts.draw(picture, width=None, height=16))
    print()
    print(f"{len(frame)} runs, {seconds:.0f} s. next:")
    print("  optsweep tui                       the sweep, live curves and SQL in the terminal")
    print("  optsweep sql --examples            questions to the results")
    print("  optsweep table | fit | speedup     the same answers one by one, with --json")
    print("  optsweep grids quickstart > my.toml && optsweep run --grid my.toml --dry-run")
