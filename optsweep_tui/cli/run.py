"""`optsweep run`: a grid or a selection of cells to runs, dispatched, watched, collected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.flow import Plan
    from optsweep_tui.settings import Workspace

MOST_KNOBS = 7
"""A plan in which more knobs than these vary says what each run changes, in the place of a column per knob."""


def command(
    context: typer.Context,
    grid: Annotated[
        str | None,
        typer.Option("--grid", "-g", help="A shipped grid or a .toml file.", autocompletion=options.complete_grid),
    ] = None,
    optimizers: options.Optimizers = None,
    models: options.Models = None,
    ratios: options.Ratios = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Fix a knob: lr=0.003, adamw.beta2=0.95, batch_size=16.")
    ] = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="Values around each incumbent: lr=0.002,0.004; a product: lr=..*weight_decay=.."),
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="torch or jax [default: the grid's].")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Another dataset than the model's.")] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", help="Where the runs go: names of hosts.toml, a,b,cluster:gpu [default: local]."),
    ] = None,
    accelerator: Annotated[
        str | None, typer.Option("--accelerator", help="Only hosts with this accelerator: h100.")
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Seeds of every configuration: 0,1,2.")] = None,
    around: Annotated[
        str | None, typer.Option("--around", help="incumbent or start: which published values to begin from.")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option("--scale", help="tiny: the plan on 2 layers x 64, 100 steps, bytes, in a study of its own."),
    ] = None,
    pack: Annotated[
        int | None,
        typer.Option(
            "--pack", help="K runs of one shape in one program (jax) [default: where bench --pack found a gain]."
        ),
    ] = None,
    diagnostics: Annotated[
        str | None,
        typer.Option(
            "--diagnostics", help="full: norms, ratios, attention at each line; full,layers; full,./mine.py:name."
        ),
    ] = None,
    simulate_epochs: Annotated[
        int | None,
        typer.Option("--simulate-epochs", help="N times through a fixed part of the dataset, of D/N tokens."),
    ] = None,
    validate: Annotated[
        list[str] | None,
        typer.Option("--validate", help="A further validation set: NAME=DATASET[:train]; may be repeated."),
    ] = None,
    metric_set: Annotated[
        str | None,
        typer.Option("--metric-set", help="The set whose loss is compared [default: the dataset's own]."),
    ] = None,
    from_run: Annotated[
        str | None,
        typer.Option(
            "--from-run", help="ID[@STEP]: begin with that run's weights; with -c alone: decay branches of a wsd trunk."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="Steps whose state other runs will begin with: 300,600,end,c0.5 (a branch's)."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Keep the first N runs.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved runs and their cost; write nothing.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Launch, leave a controller behind, return.")] = False,
    force: Annotated[bool, typer.Option("--force", help="A new attempt of runs that are finished already.")] = False,
    sinks: options.Sinks = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Train cells: optimizers x models x Chinchilla ratios.

    With --grid, -o, -m and -c select from it; without, all three are needed and each cell gets its incumbent.
    Finished runs are not repeated. Ctrl-C detaches: the runs go on.

    Examples: optsweep run --grid quickstart | optsweep run -o adamw,muon -m 130m -c 1,8 --dry-run
    | optsweep run --grid quickstart --host box1,box2 --detach
    """
    from optsweep_tui import diagnosing, flow, keeping, meshes, packs, preview, starting
    from optsweep_tui.cli import progress
    from optsweep_tui.errors import OptsweepError

    asked = diagnosing.parsed(diagnostics)
    place = options.with_sinks(options.open_workspace(context, workspace), sinks)
    hosts = flow.chosen_hosts(place, host, accelerator)
    request = flow.Request(
        grid=grid,
        optimizers=options.split(optimizers),
        models=options.split(models),
        chinchillas=options.split(ratios),
        sets=tuple(sets or ()),
        sweeps=tuple(sweeps or ()),
        seeds=_seeds(seeds),
        engine=engine,
        dataset=dataset,
        around=around,
        scale=scale,
        simulate_epochs=simulate_epochs,
        from_run=from_run,
        validate=tuple(validate or ()),
        metric_set=metric_set,
        limit=limit,
    )
    chosen = flow.plan(place, request, prepare=False)
    if pack is not None:
        packs.grouped(chosen.specs, pack)  # a pack that cannot be made is said before anything is written
    kept = {spec.run_id: starting.keep_steps(spec, keep) for spec in chosen.specs} if keep else None
    keeping.require_places(place, hosts, chosen.specs, keep=bool(kept))
    if pack is not None and pack > 1 and kept:
        raise OptsweepError("--keep and --pack do not go together", "leave one of them out")
    if "local" in hosts:
        meshes.require_fits(place, chosen.specs)
    if dry_run:
        _show_plan(place, chosen, json_, kept, hosts)
        return
    if "local" in hosts:
        flow.require_engines(chosen.specs)
    for note in flow.cautions(chosen.specs):
        output.say(f"note: {note}")
    chosen = flow.plan(place, request, prepare=True)
    kept = {spec.run_id: starting.keep_steps(spec, keep) for spec in chosen.specs} if keep else None
    pack = 1 if kept else pack
    queued = flow.launch(
        place,
        chosen,
        force=force,
        pack=pack,
        hosts=hosts,
        diagnostics=asked,
        keep=kept,
        say=output.say,
        wait=output.say_waiting,
    )
    _say_unkept(place, chosen, queued)
    if detach:
        pid = flow.detach(place)
        output.say(f"{output.runs_text(len(queued))} launched, controller {pid} left behind; optsweep watch shows them")
        if json_:
            output.emit_json(preview.of(place, chosen))
        return
    look = progress.drive(place, chosen.run_ids, title(place, chosen, hosts))
    flow.collect(place, say=output.say)
    failed = progress.report_failures(look.lines)
    if json_:
        output.emit_json(preview.of(place, chosen))
    else:
        from optsweep_tui.cli import present

        present.final_losses(place, chosen.study.name)
    if failed:
        raise typer.Exit(1)


def _seeds(text: str | None) -> tuple[int, ...]:
    from optsweep_tui.errors import OptsweepError

    try:
        seeds = tuple(int(part) for part in options.split(text))
    except ValueError:
        raise OptsweepError(f'--seeds "{text}" is not a list of whole numbers', "write --seeds 0,1,2") from None
    if any(not 0 <= seed < 2**32 for seed in seeds) or len(set(seeds)) != len(seeds):
        raise OptsweepError(f'--seeds "{text}": each once, from 0 to 4294967295', "write --seeds 0,1,2")
    return seeds


def title(workspace: Workspace, chosen: Plan, hosts: tuple[str, ...] = ("local",)) -> str:
    """The head line of a sweep's progress."""
    cells = sorted({spec.chinchilla for spec in chosen.specs})
    names = " ".join(dict.fromkeys(spec.optimizer for spec in chosen.specs))
    models = " ".join(dict.fromkeys(spec.model for spec in chosen.specs))
    engines = " ".join(dict.fromkeys(spec.engine for spec in chosen.specs))
    total = len(chosen.specs) + chosen.fresh_seed_runs
    ratios = " ".join(f"{value:g}" for value in cells)
    head = f"study {chosen.study.name}   {output.runs_text(total)}   {names} x {models} x {ratios}"
    where = f"{workspace.run_slots} slots" if hosts == ("local",) else f"on {', '.join(hosts)}"
    return f"{head}   {engines}, {where}"


def _say_unkept(workspace: Workspace, chosen: Plan, queued: list[str]) -> None:
    """A finished run does not keep what it is asked for now."""
    from optsweep_tui import keeping

    for line in keeping.unkept_lines(workspace, (run_id for run_id in chosen.run_ids if run_id not in queued)):
        output.say(line)


def _show_plan(
    workspace: Workspace,
    chosen: Plan,
    json_: bool,
    kept: dict[str, list[int]] | None = None,
    hosts: tuple[str, ...] = ("local",),
) -> None:
    from optsweep_tui import flow, machines, preview, starting
    from optsweep_tui.core import dataset_key

    data = preview.of(workspace, chosen)
    for run in data["runs"]:
        run["keep"] = (kept or {}).get(run["run_id"], [])
    tasks = machines.tasks(workspace, hosts, chosen.run_ids[0]) if chosen.specs and hosts != ("local",) else {}
    if json_:
        output.emit_json({**data, "tasks": tasks} if tasks else data)
        return
    begun = [starting.begun_with(spec) for spec in chosen.specs]
    knobs = _varying(data["runs"])
    crowded = len(knobs) > MOST_KNOBS
    knobs = ["lr"] if crowded else knobs
    changes = _changes(data["runs"])
    seen = [dataset_key(spec) for spec in chosen.specs]
    repeated = any(spec.simulate_epochs > 1 for spec in chosen.specs)
    started = any(begun)
    output.print_table(
        [
            *("run", "optimizer", "model", "ratio", "tokens", "steps", "batch x seq", "seed"),
            *knobs,
            *(["data"] if repeated else []),
            *(["begins with", "trained steps"] if started else []),
            *(["change"] if crowded else []),
            "state",
        ],
        [
            (
                run["run_id"][:8],
                run["optimizer"],
                run["model"],
                f"{run['chinchilla']:g}",
                output.count_text(run["tokens"]),
                run["steps"],
                f"{run['batch_size']} x {run['seq_len']}",
                run["seed"],
                *(output.number(run["hyperparameters"].get(knob)) for knob in knobs),
                *([what] if repeated else []),
                *([first or "seed", run["trained_steps"]] if started else []),
                *([change] if crowded else []),
                run["state"],
            )
            for run, change, what, first in zip(data["runs"], changes, seen, begun, strict=True)
        ],
        left=(
            *(0, 1, 2, *(8 + len(knobs) + place for place in range(repeated + started))),
            *([8 + len(knobs) + repeated + 2 * started] if crowded else []),
        ),
    )
    totals = data["totals"]
    later = f" + {totals['fresh_seed_runs']} fresh seeds of the best" if totals["fresh_seed_runs"] else ""
    hours = totals["seconds_estimate"]
    guess = (
        f"~{output.duration_text(hours)} on {workspace.run_slots} slots"
        if hours
        else f"no rate measured here with mesh {workspace.mesh}"
        if workspace.mesh
        else "no rate measured here: optsweep bench"
    )
    print(
        f"{output.runs_text(totals['runs'])}{later}   {output.count_text(totals['tokens'])} tokens{_spared(chosen)}   "
        f"{output.count_text(totals['flops'])} FLOPs   {guess}   {totals['bytes_estimate'] / 2**30:.2f} GiB per run"
    )
    for line in [*_held_out(chosen), *_kept_line(kept), *_guessed(data["runs"])]:
        print(line)
    for note in flow.cautions(chosen.specs):
        print(f"note: {note}")
    if any(run["provisional"] for run in data["runs"]):
        print("run ids are provisional: the dataset is not prepared here, so its hash is not known")
    for name, text in tasks.items():
        print(f"\nhost {name}: each run is a managed job of its own; of run {chosen.run_ids[0][:8]}:\n{text}", end="")


def _guessed(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which runs' hours rest on other optimizers or engines."""
    guessed = [run for run in runs if run["seconds_basis"] == "neighbours"]
    if not guessed:
        return []
    names = sorted({run["optimizer"] for run in guessed})
    return [
        f"note: the time of {output.runs_text(len(guessed))} ({', '.join(names)}) is that of other optimizers or engines at "
        "this model and batch: none of theirs was measured here"
    ]


def _held_out(chosen: Plan) -> list[str]:
    """What the losses are measured on, where it is more than the dataset's own held-out split."""
    sets = {name: item for spec in chosen.specs for name, item in spec.validation_sets.items()}
    if not sets:
        return []
    texts = [
        f"{name} ({item.dataset}{' training split' if item.split == 'train' else ''})" for name, item in sets.items()
    ]
    metric = chosen.specs[0].validation_set
    return [f"validation sets: {', '.join(texts)}, beside the dataset's own; compared is the loss on {metric}"]


def _spared(chosen: Plan) -> str:
    """How many tokens the trunk of branches has seen in their place."""
    whole = sum(spec.tokens for spec in chosen.specs if spec.first_step)
    share = sum(spec.trained_steps * spec.tokens_per_step for spec in chosen.specs if spec.first_step)
    return f" to train, {share / whole:.0%} of whole runs," if whole else ""


def _kept_line(kept: dict[str, list[int]] | None) -> list[str]:
    """Which states are kept."""
    lists = list(dict.fromkeys(tuple(steps) for steps in (kept or {}).values()))
    if len(lists) == 1:
        return [f"kept states: of steps {', '.join(map(str, lists[0]))}"]
    return [
        f"kept states: run {run_id[:8]} of steps {', '.join(map(str, steps))}" for run_id, steps in (kept or {}).items()
    ]


def _varying(runs: list[dict[str, Any]]) -> list[str]:
    """lr, and the knobs in which the runs of a plan differ within an optimizer."""
    seen: dict[tuple[str, str], set[Any]] = {}
    for run in runs:
        for knob, value in run["hyperparameters"].items():
            seen.setdefault((run["optimizer"], knob), set()).add(value)
    varying = sorted({knob for (_, knob), values in seen.items() if len(values) > 1 and knob != "lr"})
    return ["lr", *varying]


def _changes(runs: list[dict[str, Any]]) -> list[str]:
    """What each run changes in the first run of its cell, its incumbent."""
    firsts: dict[tuple[Any, ...], dict[str, Any]] = {}
    found = []
    for run in runs:
        values = {**run["hyperparameters"], "batch_size": run["batch_size"], "schedule": run["schedule"]}
        first = firsts.setdefault((run["optimizer"], run["model"], run["tokens"]), values)
        texts = [f"{key} {output.number(value, 6)}" for key, value in values.items() if first.get(key) != value]
        found.append(", ".join(texts) or "incumbent")
    return found
