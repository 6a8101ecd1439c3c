"""`optsweep reproduce BUNDLE`: train the run of a bundle again, and say whether it came out as its author says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.bundle.rerun import Rerun


def command(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A file that optsweep export bundle wrote.")],
    sigma: options.Sigma = None,
    optimizer: Annotated[
        Path | None, typer.Option("--optimizer", help="Your copy of the run's own optimizer file, if it has one.")
    ] = None,
    other_data: Annotated[
        bool,
        typer.Option("--other-data", help="Train on what is prepared here where the original's data cannot be had."),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Train anew although an earlier rerun is over.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the bundle and what it meets here; train nothing.")
    ] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Rerun a bundle and compare: identical, within noise, different, or cannot say. Exit code 0 for the first two, else 1.

    The bundle is data: the engines that are installed here train its spec, nothing in it is executed. Every difference in
    code, data, libraries and device is stated.

    Examples: optsweep reproduce 3fa2c1d4e5f6.bundle.zip | optsweep reproduce run.bundle.zip --sigma 0.002 --json
    """
    from optsweep_tui import exchange, flow
    from optsweep_tui.cli import progress

    place = options.open_workspace(context, workspace)
    options.checked_sigma(sigma)
    ready = exchange.rerun(place, bundle, optimizer=optimizer, other_data=other_data, again=again, check_only=dry_run)
    if not json_:
        _introduce(ready)
    if dry_run:
        if json_:
            output.emit_json(_checked(ready))
        return
    if ready.done:
        output.say(f"it was rerun before, in {ready.place.root}; --again trains it anew")
    else:
        plan = exchange.plan_of(ready)
        flow.require_engines(plan.specs)
        flow.launch(ready.place, plan)
        progress.drive(ready.place, plan.run_ids, f"{ready.study}   {ready.spec.steps} steps in {ready.place.root}")
        flow.collect(ready.place)
    found = exchange.judge(ready, sigma)
    if json_:
        output.emit_json(found)
    else:
        _report(found)
    if found["verdict"] not in ("identical", "within noise"):
        raise typer.Exit(1)


def _checked(ready: Rerun) -> dict[str, Any]:
    return {
        "bundle": str(ready.bundle.path),
        "run_id": ready.bundle.run_id,
        "optimizer": ready.spec.optimizer,
        "model": ready.spec.model,
        "chinchilla": ready.spec.chinchilla,
        "steps": ready.spec.steps,
        "verdict": None,
        "differences": list(ready.differences),
        "workspace": str(ready.place.root),
    }


def _introduce(ready: Rerun) -> None:
    spec, record = ready.bundle.spec, ready.bundle.record
    print(f"{ready.bundle.path.name}   {spec.optimizer} {spec.model} {spec.chinchilla:g}   seed {spec.seed}   {spec.engine}   "
          f"{spec.steps} steps   a sound bundle of run {spec.run_id[:12]}")  # fmt: skip
    print(f" original  {record.status}   loss {output.number(record.val_loss, 8)}   {record.device}")
    for line in ready.differences:
        print(f" differs   {line}")


def _report(found: dict[str, Any]) -> None:
    first, second = found["original"], found["rerun"]
    print(f" rerun     {second['status']}   loss {output.number(second['val_loss'], 8)}   {second['device']}")
    for line in found["differences"]:
        if line.partition(":")[0] not in ("code", "data", "numerics"):
            print(f" differs   {line}")
    if found["difference"] is not None:
        noise = "no run-to-run sigma is known"
        if found["sigma"] is not None:
            dof = f", {found['dof']:.3g} dof" if found["dof"] is not None else ""
            noise = (
                f"noise explains {found['tie_width']:.3g} (sigma {found['sigma']:.3g}, {found['sigma_source']}{dof})"
            )
        print(f" losses    differ by {found['difference']:+.3g} nats; {noise}")
    hashes = [str(each["parameters_sha256"] or "none")[:12] for each in (first, second)]
    print(f" parameters  {hashes[0]} there, {hashes[1]} here")
    print(f"verdict: {found['verdict']}: {found['reason']}")
