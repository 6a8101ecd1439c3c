"""`optsweep ls`: every run of the workspace, a line each."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    state: Annotated[str | None, typer.Option("--state", help="Only these states, comma separated.")] = None,
    study: Annotated[str | None, typer.Option("--study", help="Only runs of this study.")] = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """List runs with state, progress and loss.

    Examples: optsweep ls | optsweep ls --state running,failed --json
    """
    from optsweep_tui import flow, rundir
    from optsweep_tui.cli import progress
    from optsweep_tui.errors import UnknownName

    place = options.open_workspace(context, workspace)
    lines, broken = flow.listing(place)
    for why in broken.values():
        output.say(f"left alone: {why}")
    if study is not None:
        known = {name for line in lines for name in rundir.studies_of(place.runs / line.run_id)}
        if study not in known:
            raise UnknownName("study", study, known, hint="(optsweep grids lists grids; runs make a study)")
        lines = [line for line in lines if study in rundir.studies_of(place.runs / line.run_id)]
    wanted = options.split(state)
    for name in wanted:
        if name not in rundir.STATES:
            raise UnknownName("state", name, rundir.STATES)
    lines = [line for line in lines if not wanted or line.state in wanted]
    lines.sort(key=lambda line: (line.model, line.optimizer, line.chinchilla, line.lr or 0.0, line.seed or 0))
    if json_:
        print(json.dumps(progress.lines_json(lines), allow_nan=False))  # cleaned once: there may be thousands
        return
    if not lines:
        output.say(f"no runs in {place.root}" + (" with that state" if wanted else ". optsweep quickstart makes some"))
        return
    mixed = len({line.engine for line in lines}) > 1  # two engines: without their names twins look like a repetition
    away = any(line.host not in ("", "local") for line in lines)
    output.print_table(
        [
            "run",
            "state",
            *(["host"] if away else []),
            "optimizer",
            "model",
            *(["engine"] if mixed else []),
            "ratio",
            "lr",
            "seed",
            "try",
            "step",
            "loss nats",
            "tok/s",
            "to go",
        ],
        [
            (
                line.run_id[:8],
                line.state,
                *([line.host or "·"] if away else []),
                line.optimizer,
                line.model,
                *([line.engine or "·"] if mixed else []),
                f"{line.chinchilla:g}",
                output.number(line.lr, 3),
                output.number(line.seed),
                line.attempt if line.host else "·",
                f"{line.step}/{line.steps}" if line.steps else "·",
                output.loss_text(line.loss),
                output.count_text(line.tokens_per_second),
                output.duration_text(line.eta_seconds) if line.eta_seconds is not None else "",
            )
            for line in lines
        ],
        left=tuple(range(4 + mixed + away)),
    )
