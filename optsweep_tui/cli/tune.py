"""`optsweep tune`: find the best configuration of a cell by coordinate descent, and prove it with fresh seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.settings import Workspace
    from optsweep_tui.tune.asked import Request
    from optsweep_tui.tune.tuning import Tuning


def command(
    context: typer.Context,
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid",
            "-g",
            help="Starts and lists of a shipped grid or a .toml file.",
            autocompletion=options.complete_grid,
        ),
    ] = None,
    optimizers: options.Optimizers = None,
    models: options.Models = None,
    ratios: options.Ratios = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Fix a knob of the start: lr=0.003.")] = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="List of a knob: lr=0.002,0.004; without --grid only these knobs are tuned."),
    ] = None,
    knobs: Annotated[str | None, typer.Option("--knobs", help="Tune these knobs only, in this order.")] = None,
    phases: Annotated[
        str | None,
        typer.Option("--phases", help="A study in three phases: small cells, sensitive knobs, predicted large cells."),
    ] = None,
    around: Annotated[
        str | None, typer.Option("--around", help="incumbent or start: which published values to begin from.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Nats that a move must gain [default: 0.003, or the noise].")
    ] = None,
    sigma: options.Sigma = None,
    max_runs: Annotated[
        int | None, typer.Option("--max-runs", help="Most configurations per cell; fresh seeds come on top.")
    ] = None,
    max_extensions: Annotated[
        int, typer.Option("--max-extensions", help="Most new values beyond each end of a list.")
    ] = 6,
    block: Annotated[
        str, typer.Option("--block", help="Two knobs for the closing 3 x 3 block, or none.")
    ] = "lr,weight_decay",
    fresh_seeds: Annotated[
        int | None, typer.Option("--fresh-seeds", help="New seeds for the winner [default: the grid's, 3].")
    ] = None,
    seeds_for_start: Annotated[
        bool, typer.Option("--seeds-for-start", help="The start gets them too, first: it measures the noise.")
    ] = False,
    equal_budget: Annotated[
        bool, typer.Option("--equal-budget", help="Every optimizer of a cell spends as many configurations.")
    ] = False,
    sampler: Annotated[str, typer.Option("--sampler", help="descent, or optuna (TPE, needs --max-runs).")] = "descent",
    study: Annotated[str | None, typer.Option("--study", help="Name of the tuning [default: from its cells].")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="torch or jax [default: the grid's].")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Another dataset than the model's.")] = None,
    host: Annotated[str, typer.Option("--host", help="Where the runs go.")] = "local",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was asked before; takes --study.")] = False,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Failed or cancelled runs count as values without a loss.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the rules, the lists and the first runs; write nothing.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave a controller behind that tunes, return.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Tune cells: one knob at a time around the incumbent, beyond a list's end where that is best, a block, fresh seeds.

    The same command goes on after a kill, a reboot or Ctrl-C, and trains nothing twice. Without lists of a grid or of
    --sweep it takes the published ones of the optimizer.

    Examples: optsweep tune -o adamw -m bench-micro -c 0.1 --sweep lr=0.001,0.002 | optsweep tune --grid quickstart
    -o adamw,muon -c 0.1 --equal-budget | optsweep tune --phases quickstart --dry-run | optsweep tune --resume
    """
    from optsweep_tui.errors import UnknownName
    from optsweep_tui.tune import asked, kept
    from optsweep_tui.tune.problem import Rules

    if host != "local":
        raise UnknownName("host", host, ["local"], hint="(optsweep doctor lists the hosts)")
    _no_features([*(sets or []), *(sweeps or [])])
    place = options.open_workspace(context, workspace)
    typed = {"grid": grid, "-o": optimizers, "-m": models, "-c": ratios, "--set": sets, "--sweep": sweeps}
    typed |= {"--knobs": knobs, "--phases": phases}
    if resume:
        _nothing_else(typed)
        tuning = kept.the_only(place, study)
        _go(place, tuning, True, skip_failed, dry_run, detach, json_)
        return
    rules = Rules(
        threshold=threshold,
        sigma=options.checked_sigma(sigma),
        sigma_source="none" if sigma is None else "given",
        max_runs=max_runs,
        max_extensions=max_extensions,
        block=_pair(block),
        seeds_for_start=seeds_for_start,
        sampler=sampler.lower(),
    )
    request = asked.Request(
        grid=_one_grid(grid, phases),
        phased=phases is not None,
        optimizers=options.split(optimizers),
        models=options.split(models),
        chinchillas=options.split(ratios),
        sets=tuple(sets or ()),
        sweeps=tuple(sweeps or ()),
        knobs=options.split(knobs),
        engine=engine,
        dataset=dataset,
        around=around,
        study=study,
        equal_budget=equal_budget,
        fresh_seeds=fresh_seeds,
        rules=rules,
    )
    tuning, known = kept.agreed(place, _tuning(place, request))
    _go(place, tuning, known, skip_failed, dry_run, detach, json_)


def _tuning(workspace: Workspace, request: Request) -> Tuning:
    from optsweep_tui.datasets import DatasetLookup
    from optsweep_tui.tune import asked

    return asked.tuning_of(request, DatasetLookup(workspace, prepare=False), workspace.grids)


def _no_features(assignments: list[str]) -> None:
    """A tuning is of one model: a shape with a feature changed is another, and has a name."""
    from optsweep_tui import grid
    from optsweep_tui.errors import OptsweepError

    for text in (part for assignment in assignments for part in assignment.split("*")):
        feature = text.partition("=")[0].strip().rpartition(".")[2]
        if feature in grid.FEATURES:
            line = f'"{text.strip()}" is of another model, and a tuning is of one'
            raise OptsweepError(line, f"name it: -m MODEL+{feature}=VALUE")


def _nothing_else(typed: dict[str, Any]) -> None:
    from optsweep_tui.errors import OptsweepError

    given = [option for option, value in typed.items() if value]
    if given:
        raise OptsweepError(
            f"--resume goes on with what was asked before, {', '.join(given)} cannot change it",
            "leave --resume out, or the others",
        )


def _one_grid(grid: str | None, phases: str | None) -> str | None:
    from optsweep_tui.errors import OptsweepError

    if grid is not None and phases is not None:
        raise OptsweepError("--grid and --phases both name a study", "give --phases STUDY alone")
    return phases or grid


def _pair(text: str) -> tuple[str, str] | None:
    from optsweep_tui.errors import OptsweepError

    names = options.split(text)
    if names == ("none",):
        return None
    if len(names) != 2:
        raise OptsweepError(f'--block "{text}" does not name two knobs', "write --block lr,weight_decay, or none")
    return names[0], names[1]


def _go(
    workspace: Workspace, tuning: Tuning, known: bool, skip_failed: bool, dry_run: bool, detach: bool, json_: bool
) -> None:
    """Run a tuning to its end, or show what it would do."""
    import dataclasses

    from optsweep_tui import flow
    from optsweep_tui.cli import present_tune, present_tuned, progress
    from optsweep_tui.tune import kept, session

    if skip_failed:
        tuning = dataclasses.replace(tuning, rules=dataclasses.replace(tuning.rules, skip_failed=True))
    if dry_run:
        present_tune.plan(session.begun(workspace, tuning, known, prepare=False), json_)
        return
    begun = session.begun(workspace, tuning, known, prepare=True)
    flow.require_engines([begun.start_spec(cell) for cell in begun.tuning.cells])
    kept.keep(workspace.ensure(), begun.tuning)
    again = ("tune", "--resume", "--study", tuning.name)
    if detach:
        pid = flow.detach(workspace, *again)
        output.say(f"tuning {tuning.name} goes on in controller {pid}; optsweep {' '.join(again)} shows how it ends")
        if json_:
            output.emit_json({"study": tuning.name, "controller": pid, **present_tuned.document(begun)})
        return
    present_tune.say_rules(begun)
    title = [begun.title(begun.places())]

    def looks() -> Any:
        for look in begun.drive(present_tune.say_step):
            title[0] = look.title
            yield look.progress

    progress.followed(workspace, lambda: progress.drawn(looks(), lambda: title[0]), [], *again)
    flow.collect(workspace)
    if json_:
        output.emit_json(present_tuned.document(begun))
    else:
        present_tuned.found(begun)
    if any(not entry.ended for entry in begun.places()):
        raise typer.Exit(1)
