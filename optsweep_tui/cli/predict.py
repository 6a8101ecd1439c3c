"""`optsweep predict`: the configuration that the rules give at a model size and ratio, as a grid that can be run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.drafts import Draft
    from optsweep_tui.settings import Workspace


def command(
    context: typer.Context,
    optimizer: Annotated[
        str, typer.Option("--optimizer", "-o", help="One optimizer.", autocompletion=options.complete_optimizer)
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="One model, measured or not.", autocompletion=options.complete_model)
    ],
    chinchilla: Annotated[str, typer.Option("--chinchilla", "-c", help="One Chinchilla ratio: 1/4, 8.")],
    study: options.Study = None,
    datasets: options.Datasets = None,
    engines: options.Engines = None,
    where: options.Where = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write it as a grid, FILE.toml; never overwritten.")] = None,
    threshold: options.Threshold = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """The predicted baseline configuration of an optimizer, each knob with its interval and what it rests on.

    Learnt from all cells of the study; a size or ratio outside them is marked EXTRAP. Exit code 1 when refused.

    Examples: optsweep predict -o adamw -m 1.2b -c 8 | optsweep predict -o muon -m 520m -c 4 --out next.toml
    """
    from optsweep_tui import ask, drafts, grid
    from optsweep_tui.cli import numbers, present, present_rules
    from optsweep_tui.errors import OptsweepError

    if len(options.split(optimizer)) != 1:
        raise OptsweepError(f'predict takes one optimizer; "{optimizer}" is not one', "name one with -o")
    path = None if out is None else drafts.checked_path(out)
    place = options.open_workspace(context, workspace)
    wanted_model, ratio = grid.model_name(model), grid.ratio(chinchilla)
    chosen = options.make_filter(study, None, optimizer, None, datasets, engines, where)
    frame = present.answers(place, chosen)
    name = _one_optimizer(sorted(frame["optimizer"].dropna().unique()), optimizer)
    found = ask.predict(
        frame, optimizer=name, model=wanted_model, chinchilla=ratio, threshold=options.near_best(threshold)
    )
    found["number_id"] = numbers.carrying(found["number_id"], chosen)
    refused = found["state"] == "REFUSE"
    if path is not None and not refused:
        drafted = _draft(place, found, path.stem)
        drafts.write(path, _text(drafted, found))
        output.say(f"1 run in {path}: optsweep run --grid {path} --dry-run")
        found = found | {"out": str(path)}
    if json_:
        output.emit_json(found)
    else:
        present_rules.print_prediction(found)
        numbers.point_to_why([found["number_id"]])
    if refused:
        raise typer.Exit(1)


def _one_optimizer(names: list[str], asked: str) -> str:
    from optsweep_tui.errors import OptsweepError

    if len(names) != 1:
        raise OptsweepError(f'"{asked}" is {len(names)} optimizers here: {", ".join(names)}', "name one")
    return names[0]


def _draft(place: Workspace, found: dict[str, Any], stem: str) -> Draft:
    """The grid of the one run.

    Raises:
        OptsweepError: the catalogue does not take the configuration, with its reason.
    """
    from optsweep_tui import drafts

    data = output.clean(found)
    settings = {**data["hyperparameters"], "batch_size": data["batch_size"]}
    settings |= {name: data[name] for name in ("schedule", "dtype", "seq_len")}
    wanted = drafts.Wanted(
        optimizer=data["optimizer"],
        model=data["model"],
        chinchilla=data["chinchilla"],
        settings=settings,
        validation_set=data["validation_set"],
        engine=data["engine"],
        dataset=data["dataset"],
        seed=data["base_seed"],
    )
    return drafts.draft(place, stem, data["optimizer"], [wanted])


def _text(drafted: Draft, found: dict[str, Any]) -> str:
    rests = f"{found['state']}" + (f": {found['reason']}" if found["reason"] else "")
    return drafted.text(
        f"{found['optimizer']} at {found['model']}, ratio {found['chinchilla']:g}: written by optsweep predict.\n"
        f"From {found['n_cells']} swept cells of study {found['study']}, near-best within {found['threshold']:g} nats. {rests}"
    )
