"""`optsweep edges`: best values at the ends of their swept lists, and a grid that tries what lies beyond."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.drafts import Draft, Wanted
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
    propose: Annotated[
        bool, typer.Option("--propose", help="Write the runs that try the next values as a grid, to --out or stdout.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The grid file to write, FILE.toml; never overwritten.")
    ] = None,
    threshold: options.Threshold = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Grid edges: knobs whose best value is the lowest or highest tried, with the next value to try.

    With --propose, a grid with one run per edge: the knobs of the edge's line and the next value.

    Examples: optsweep edges -o adamw | optsweep edges --propose --out more.toml && optsweep run --grid more.toml --dry-run
    """
    from optsweep_tui import ask, drafts
    from optsweep_tui.cli import numbers, present, present_hyperparameters
    from optsweep_tui.errors import OptsweepError

    if out is not None and not propose:
        raise OptsweepError(f"--out {out} is given without --propose: there is no grid to write", "add --propose")
    path = None if out is None else drafts.checked_path(out)
    place = options.open_workspace(context, workspace)
    chosen = options.make_filter(study, models, optimizers, ratios, datasets, engines, where)
    frame = present.answers(place, chosen)
    rows = numbers.with_filters(ask.edges(frame, threshold=options.near_best(threshold)), chosen)
    if not propose:
        if json_:
            output.emit_json(output.records(rows))
        else:
            present_hyperparameters.print_edges(rows)
            numbers.point_to_why(rows["number_id"])
        return
    if path is None and not json_:
        print(_text(_draft(place, frame, rows, "edges")), end="")
        return
    data = output.records(rows)
    if path is not None:
        drafted = _draft(place, frame, rows, path.stem)
        drafts.write(path, _text(drafted))
        output.say(f"{output.runs_text(len(drafted.specs))} in {path}: optsweep run --grid {path} --dry-run")
    if json_:
        output.emit_json(data)


def _draft(place: Workspace, frame: pd.DataFrame, rows: pd.DataFrame, stem: str) -> Draft:
    """The grid of all proposals; what cannot run is said on stderr."""
    from optsweep_tui import ask, drafts
    from optsweep_tui.errors import OptsweepError

    edges = output.records(rows)
    wanted = [_wanted(row, value) for row in edges for value in row["proposed"]]
    if not wanted:
        why = "no proposed value is new and allowed" if edges else "no best value lies at an end that could be crossed"
        raise OptsweepError(f"there is nothing to propose: {why}", "optsweep edges shows the lists")
    # Native results get their new runs in their own study, so that they join the cells; others start one of their own.
    studies = sorted({row["study"] for row in edges})
    native = set(frame["origin"].dropna()) == {"native"}
    name = studies[0] if native and len(studies) == 1 else stem
    drafted = drafts.draft(place, name, ask.baseline_of(place, studies[0]), wanted)
    for position, reason in drafted.left_out:
        item = wanted[position]
        output.say(f"left out: {item.optimizer} {item.model} {item.chinchilla:g}: {reason}")
    silent = sum(not row["proposed"] for row in edges)
    if silent:
        output.say(f"{silent} {'edge has' if silent == 1 else 'edges have'} no next value: optsweep edges says why")
    return drafted


def _wanted(row: dict[str, Any], value: Any) -> Wanted:
    from optsweep_tui.drafts import Wanted

    length = row["seq_len"]
    return Wanted(
        optimizer=row["optimizer"],
        model=row["model"],
        chinchilla=row["chinchilla"],
        tokens=row["tokens"] or None,
        settings={**(row["base"] or {}), "seq_len": None if length is None else int(length), row["knob"]: value},
        validation_set=row["validation_set"],
        engine=row["engine"],
        dataset=row["dataset"],
        seed=row["base_seed"],
    )


def _text(drafted: Draft) -> str:
    return drafted.text(
        "Values beyond the ends of swept lists, one run per edge: written by optsweep edges --propose.\n"
        "Each run repeats the settings of the edge's line and moves one knob to its next value."
    )
