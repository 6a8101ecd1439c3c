"""`optsweep parity`: one spec on both engines, loss by loss, with a verdict against what rounding alone does."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optsweep_tui.cli import options, output

SHOWN_STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def command(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(help="A run of the workspace: its spec is taken.")] = None,
    optimizer: Annotated[
        str, typer.Option("--optimizer", "-o", help="One optimizer.", autocompletion=options.complete_optimizer)
    ] = "adamw",
    model: Annotated[
        str, typer.Option("--model", "-m", help="One model.", autocompletion=options.complete_model)
    ] = "bench-micro",
    steps: Annotated[int, typer.Option("--steps", help="How many steps are compared.")] = 51,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Fix a knob: lr=0.001, batch_size=4.")] = None,
    engines: Annotated[
        str, typer.Option("--engine", help="The two, comma separated; the first one has the control.")
    ] = "torch,jax",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, tpu.")] = "cpu",
    mesh: Annotated[
        str | None, typer.Option("--mesh", help="Mesh of the second engine: data=4,fsdp=2. See docs/jax.md.")
    ] = None,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Train the same steps on two engines and certify that they are equal, or not.

    Equal: the losses agree to 2e-6 nats at step 0 (in bf16 to 3 times the control), and later to the larger of 1e-5 and
    3 times the control, which is the first engine against itself with every initial parameter moved by one unit in the
    last place. Without a run, the schedule is that of a run of exactly these steps. The certificate is kept in the
    workspace. Exit code 1: different.

    Examples: optsweep parity | optsweep parity -o muon -m bench-tiny --set lr=0.01 | optsweep parity -o soap --json
    """
    from optsweep_tui.certificates import parity
    from optsweep_tui.cli import certify
    from optsweep_tui.errors import OptsweepError

    place = options.open_workspace(context, workspace)
    pair = options.split(engines)
    if len(pair) != 2:
        raise OptsweepError(f'--engine "{engines}" does not name two engines', "write --engine torch,jax")
    spec, file = certify.spec_of(place, run, optimizer, model, sets, pair[0], None if run else steps)
    found = parity.certified(
        place, spec, pair, steps=min(steps, spec.steps), device=device, mesh=mesh, optimizer_file=file, say=output.say
    )
    if json_:
        output.emit_json(found)
    else:
        _show(found)
    if found["verdict"] != "equal":
        raise typer.Exit(1)


def _show(found: dict[str, Any]) -> None:
    one, other = found["versions"]
    print(
        f"parity of {one} and {other}: {found['optimizer']} on {found['model']}, lr {output.number(found['lr'])}, "
        f"{found['dtype']}, seed {found['seed']}, {found['steps']} steps\n"
    )
    last = len(found["by_step"]) - 1
    chosen = [row for row in found["by_step"] if row["step"] in SHOWN_STEPS or row["step"] == last]
    output.print_table(
        ["step", f"loss {one}", "difference", "control", "allowed"],
        [
            (
                row["step"],
                f"{row['loss']:.6f}",
                *(f"{row[name]:.1e}" for name in ("difference", "control", "tolerance")),
            )
            for row in chosen
        ],
    )
    print(f"\nlargest difference {found['max_loss_difference']:.1e} nats, control {found['control_difference']:.1e}")
    print(
        f"final parameters: {found['parameter_difference']:.1e} of the largest value, "
        f"control {found['parameter_control']:.1e}"
    )
    if found["shared_basis"]:
        print("all started from one eigenbasis: that of a first Gram matrix is free where its eigenvalues are equal")
    for name, versions in found["versions"].items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in versions.items() if key != 'code')}")
    why = (
        f": {len(found['steps_outside'])} steps outside, the first is {found['steps_outside'][0]}"
        if found["steps_outside"]
        else ""
    )
    print(f"\nverdict: {found['verdict']}{why}\nkept in {found['file']}")
