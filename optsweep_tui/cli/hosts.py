"""`optsweep hosts add|check|ls|drain|rm`: the machines that runs may go to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optsweep_tui.cli import options, output

if TYPE_CHECKING:
    from optsweep_tui.dispatch.hostsfile import HostEntry
    from optsweep_tui.settings import Workspace

ACTIONS = ("add", "check", "ls", "drain", "rm")


def command(
    context: typer.Context,
    action: Annotated[str, typer.Argument(help="add, check, ls, drain or rm.")],
    name: Annotated[str | None, typer.Argument(help="Name of the host here.")] = None,
    ssh: Annotated[str | None, typer.Option("--ssh", help="add: any name of your ssh config, or USER@HOST.")] = None,
    workers: Annotated[
        list[str] | None,
        typer.Option("--worker", help="add: a further machine that trains each run with the first; repeat."),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option("--coordinator", help="add --worker: ADDRESS[:FIRST-LAST] of the first for the others."),
    ] = None,
    mesh: Annotated[str | None, typer.Option("--mesh", help="add: data=N,fsdp=N over the devices for a run.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="add: a Slurm cluster; --ssh names its login node.")] = False,
    partitions: Annotated[
        list[str] | None, typer.Option("--partition", help="add --slurm: may be used; repeat.")
    ] = None,
    skypilot: Annotated[
        bool, typer.Option("--skypilot", help="add: managed jobs of SkyPilot in a cloud (docs/cloud.md).")
    ] = False,
    storage: Annotated[
        str, typer.Option("--storage", help="add --skypilot: bucket of this machine and the nodes: s3://B/optsweep.")
    ] = "",
    infra: Annotated[str | None, typer.Option("--infra", help="add --skypilot: CLOUD or CLOUD/REGION.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="add --skypilot: machines that may be taken away.")] = False,
    python: Annotated[str, typer.Option("--python", help="add: interpreter there that has torch or jax.")] = "python3",
    slots: Annotated[int | None, typer.Option("--slots", help="add: runs at a time [default: GPUs, or cores].")] = None,
    device: Annotated[str, typer.Option("--device", help="add: auto, cpu, cuda or tpu.")] = "auto",
    accelerator: Annotated[str, typer.Option("--accelerator", help="add: what run --accelerator asks for: h100.")] = "",
    root: Annotated[str, typer.Option("--root", help="add: folder there.")] = "~/.optsweep",
    yes: Annotated[bool, typer.Option("--yes", help="add: accept the host key that is shown.")] = False,
    off: Annotated[bool, typer.Option("--off", help="drain: let it start runs again.")] = False,
    lost: Annotated[bool, typer.Option("--lost", help="rm: the machine is gone for good; give its runs back.")] = False,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Add, prove, list, drain or remove the machines that runs may go to (hosts.toml).

    Examples: optsweep hosts add box --ssh me@box | optsweep hosts check box | optsweep hosts drain box | optsweep hosts ls
    """
    from optsweep_tui.errors import OptsweepError, UnknownName

    if action not in ACTIONS:
        raise UnknownName("hosts", action, ACTIONS)
    place = options.open_workspace(context, workspace)
    if name is None and action not in ("check", "ls"):
        raise OptsweepError(f"hosts {action} needs the name of a host", f"optsweep hosts {action} NAME")
    if action == "add":
        from optsweep_tui.dispatch import hostsfile
        from optsweep_tui.dispatch.sky_options import SkyOptions

        entry = hostsfile.HostEntry(
            name=str(name),
            backend="skypilot" if skypilot else "slurm" if slurm else "ssh",
            ssh=ssh,
            python=python,
            slots=slots,
            device=device,
            accelerator="" if skypilot else accelerator,
            root=root,
            workers=tuple(workers or ()),
            coordinator=coordinator,
            mesh=mesh,
            partitions=tuple(partitions or ()),
            sky=SkyOptions(
                storage=storage,
                accelerators=accelerator if accelerator and skypilot else None,
                infra=infra,
                use_spot=spot or None,
            ),
        )
        _add(place, entry, yes, json_)
    elif action == "check":
        _check(place, name, json_)
    elif action == "ls":
        _list(place, json_)
    elif action == "drain":
        _drain(place, str(name), not off, json_)
    else:
        _remove(place, str(name), lost, json_)


def _add(place: Workspace, entry: HostEntry, yes: bool, json_: bool) -> None:
    from optsweep_tui import machines
    from optsweep_tui.errors import OptsweepError

    machines.check_new(place, entry)
    keys: list[Any] = []
    unknown = []
    for target in (entry.ssh, *entry.workers) if entry.ssh is not None else ():
        address, known, shown = machines.keys(str(target))
        keys += shown
        unknown += [] if known else [(address, shown)]
        for key in shown:
            output.say(f"{address.lookup} {'is known as' if known else 'shows the key'} {key.fingerprint}")
        if known or yes or not sys.stdin.isatty():
            continue
        output.say("Is that the fingerprint that its owner names? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise OptsweepError(f"host {entry.name} was not added", "ask its owner for ssh-keygen -lf on its host key")
    if unknown and not yes and not sys.stdin.isatty():
        names = ", ".join(address.lookup for address, _ in unknown)
        raise OptsweepError(f"the key of {names} is not known here", "compare the fingerprint, then give --yes")
    for address, shown in unknown:
        output.say(f"key taken into {machines.accept_keys(address, shown)}")
    problem = machines.add(place, entry)
    row = {
        "name": entry.name, "backend": entry.backend, "ssh": entry.ssh,
        "fingerprints": [key.fingerprint for key in keys], "problem": problem or None,
    }  # fmt: skip
    if json_:
        output.emit_json([row])
    else:
        print(f"host {entry.name} added. optsweep hosts check {entry.name} proves it")
    if problem:
        output.say(f"note: {problem}")
        raise typer.Exit(1)


def _check(place: Workspace, name: str | None, json_: bool) -> None:
    from optsweep_tui import machines

    rows = []
    for finding in machines.check(place, name):
        rows.append(finding)
        if not json_:
            print(f"{finding.host:12} {finding.check:16} {finding.state:5} {finding.found}", flush=True)
            if finding.next_step:
                print(f"{'':36}{finding.next_step}", flush=True)
    if json_:
        output.emit_json([*output.clean(rows)])
    elif not rows:
        output.say("no hosts in hosts.toml. optsweep hosts add NAME --ssh TARGET adds one")
    if any(row.state == "bad" for row in rows):
        raise typer.Exit(1)


def _list(place: Workspace, json_: bool) -> None:
    from optsweep_tui import machines

    looks = machines.looks(place)()
    if json_:
        output.emit_json([{"name": look.host.name, **output.clean(look)} for look in looks])
        return
    rows = [
        (
            look.host.name,
            look.host.backend,
            look.host.address or "here",
            f"{look.busy}/{look.host.slots}" if look.host.slots else "·",
            look.queued,
            " ".join(look.engines) or "·",
            "drained" if look.drained else "",
            "now"
            if not look.contact_seconds
            else f"{output.duration_text(look.contact_seconds)} ago"
            if look.contact_seconds is not None
            else "never",
        )
        for look in looks
    ]
    rows = [row if looks[index].contact_seconds is not None else (*row[:7], "never") for index, row in enumerate(rows)]
    output.print_table(
        ["host", "kind", "address", "busy", "queued", "engines", "", "heard"], rows, left=(0, 1, 2, 5, 6, 7)
    )
    for look in looks:
        if look.problem:
            output.say(f"{look.host.name}: {look.problem}")


def _drain(place: Workspace, name: str, on: bool, json_: bool) -> None:
    from optsweep_tui import machines

    problem = machines.drain(place, name, on=on)
    if json_:
        output.emit_json([{"name": name, "drained": on, "problem": problem or None}])
    else:
        print(f"host {name} {'finishes what it runs and starts nothing more' if on else 'starts runs again'}")
    if problem:
        output.say(f"note: {problem}; it is told at the next connection")


def _remove(place: Workspace, name: str, lost: bool, json_: bool) -> None:
    from optsweep_tui import machines

    back = machines.remove(place, name, lost=lost)
    if json_:
        output.emit_json([{"name": name, "given_back": [run_id for run_id, _ in back]}])
        return
    print(f"host {name} is out of hosts.toml")
    if back:
        output.say(f"{output.runs_text(len(back))} given back. optsweep resume --host OTHER goes on with them")
