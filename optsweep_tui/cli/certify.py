"""`optsweep certify resume`: a run killed again and again must end at the same bits as one that was left alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.core import RunSpec
    from optsweep_tui.settings import Workspace

LR = {"adamw": "lr=0.001"}
"""Where no lr is named: that of the published parity figures."""


def command(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="The word resume.")],
    run: Annotated[str | None, typer.Argument(help="A run of the workspace: its spec is taken.")] = None,
    optimizer: Annotated[
        str, typer.Option("--optimizer", "-o", help="One optimizer.", autocompletion=options.complete_optimizer)
    ] = "adamw",
    model: Annotated[
        str, typer.Option("--model", "-m", help="One model.", autocompletion=options.complete_model)
    ] = "bench-micro",
    steps: Annotated[int, typer.Option("--steps", help="Steps of the run, where none is named.")] = 200,
    kills: Annotated[int, typer.Option("--kills", help="How often it is killed.")] = 2,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Fix a knob: lr=0.001, batch_size=4.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="torch or jax [default: the run's, torch].")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, tpu.")] = "cpu",
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Train a spec straight, then again under kill -9 at random moments, resumed each time; compare hash and every loss.

    The run folders lie apart from those of the workspace and go again; the certificate is kept in the workspace. Exit code
    1: something differs, or the run was over before a kill reached it (unproven; give it more --steps).

    Examples: optsweep certify resume --engine jax | optsweep certify resume -o muon --kills 20 --steps 2000 | optsweep
    certify resume 3fa2c1 --json
    """
    from optsweep_tui.certificates import resume
    from optsweep_tui.errors import OptsweepError, UnknownName

    if what != "resume":
        raise UnknownName("certificate", what, ("resume",), hint="optsweep parity compares two engines")
    if kills < 1:
        raise OptsweepError(f"--kills {kills} proves nothing", "give 1 or more")
    place = options.open_workspace(context, workspace)
    spec, file = spec_of(place, run, optimizer, model, sets, engine, None if run else steps)
    found = resume.certified(place, spec, kills=kills, device=device, optimizer_file=file, say=output.say)
    if json_:
        output.emit_json(found)
    else:
        _show(found)
    if found["verdict"] != "equal":
        raise typer.Exit(1)


def spec_of(
    workspace: Workspace,
    run: str | None,
    optimizer: str,
    model: str,
    sets: list[str] | None,
    engine: str | None,
    steps: int | None,
) -> tuple[RunSpec, Path | None]:
    """The spec that is certified, and the copy of its optimizer file where it has one.

    Args:
        run: id of a run of the workspace, or its first digits; None: a run is planned from the other arguments.
        steps: of the planned run.
    """
    from optsweep_engines import folder
    from optsweep_tui import flow, rundir
    from optsweep_tui.errors import OptsweepError

    if run is not None:
        if sets:
            raise OptsweepError("--set changes the spec of a run", "leave out the run or --set")
        run_id = rundir.find_run(workspace.runs, run)
        if rundir.is_imported(workspace.runs / run_id):
            raise OptsweepError(f"run {run_id[:8]} was imported: it has no spec to train", "name a run of your own")
        spec = flow.spec_of(workspace, run_id)
        if spec.start is not None:
            what = f"run {run_id[:8]} begins with the state of run {spec.start.run_id[:8]}"
            raise OptsweepError(f"{what}: certificates are of whole runs", "name that run")
        file = workspace.runs / run_id / folder.OPTIMIZER
        flow.require_engines([spec.replace(engine=engine or spec.engine)])
        return spec.replace(engine=engine or spec.engine), file if file.exists() else None
    if steps is not None and steps < 1:
        raise OptsweepError(f"--steps {steps} leaves nothing to train", "give a positive number")
    given = tuple(sets or ())
    if optimizer in LR and not any(text.partition("=")[0] in ("lr", f"{optimizer}.lr") for text in given):
        given = (*given, LR[optimizer])
    request = flow.Request(
        optimizers=(optimizer,), models=(model,), chinchillas=("1",), sets=given, engine=engine or "torch", limit=1
    )
    flow.require_engines(flow.plan(workspace, request).specs)
    workspace.ensure()
    [spec] = flow.plan(workspace, request, prepare=True).specs
    spec = spec.replace(tokens=(steps or 1) * spec.tokens_per_step)
    return spec, _optimizer_file(workspace, spec)


def _optimizer_file(workspace: Workspace, spec: RunSpec) -> Path | None:
    """A user's own optimizer, written where a planned run would find it."""
    from optsweep_engines.optimizers import user_plan
    from optsweep_tui import rundir

    if spec.optimizer_file_hash is None:
        return None
    rundir.keep_optimizers(workspace.runs, user_plan.sources([spec]))
    return next(workspace.optimizers.glob(f"*{spec.optimizer_file_hash}*"), None)


def _show(found: dict[str, Any]) -> None:
    print(
        f"resume of {found['optimizer']} on {found['model']} by engine {found['engine']}: {found['steps']} steps, "
        f"{found['kills']} kills, the last resumed at step {found['resumed_from_step']}\n"
    )
    print(f"straight  {found['straight_sha256']}\nresumed   {found['resumed_sha256']}")
    wrong = [name for name, same in found["same"].items() if not same]
    if wrong:
        print(f"differs: {', '.join(wrong)}")
    if found["differing_steps"]:
        print(f"another loss at {len(found['differing_steps'])} steps, the first is {found['differing_steps'][0]}")
    print(", ".join(f"{key} {value}" for key, value in found["versions"].items() if key != "code"))
    print(found["device"])
    note = ": the run was over before a kill reached it; give it more --steps" if found["verdict"] == "unproven" else ""
    print(f"\nverdict: {found['verdict']}{note}\nkept in {found['file']}")
