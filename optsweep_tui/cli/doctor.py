"""`optsweep doctor`: versions, devices, engines, store, and what to do about what is wrong."""

from __future__ import annotations

from typing import Any

import typer

from optsweep_tui.cli import options, output


def command(context: typer.Context, workspace: options.WorkspaceDir = None, json_: options.Json = False) -> None:
    """Look at this machine and this workspace.

    Example: optsweep doctor
    """
    from optsweep_tui import flow

    data = flow.doctor(options.open_workspace(context, workspace))
    if json_:
        output.emit_json(data)
    else:
        print(f"optsweep   {data['optsweep']}   python {data['python']}   {data['platform']}")
        print(f"versions   {'  '.join(f'{name} {value}' for name, value in data['versions'].items() if value)}")
        for engine in data["engines"]:
            print(f"engine     {engine['engine']}: {engine['version'] or 'not installed'}")
        print(f"devices    {data['cores']} cores, {len(data['gpus'])} GPUs; {data['hosts'][0]['slots']} slots")
        for host in data["hosts"][1:]:
            print(f"host       {host['name']} ({host['backend']}): {host['state']}")
        free = data["workspace"]["free_bytes"] / 2**30
        print(f"workspace  {data['workspace']['path']}   {free:.1f} GiB free")
        print(f"store      {data['store']['problem'] or ('fine' if data['store']['exists'] else 'none yet')}")
        print(
            f"runs       {', '.join(f'{count} {state}' for state, count in sorted(data['runs'].items())) or 'none yet'}"
        )
        print(f"prediction {predicted(data['prediction'])}")
        for entry in data["todo"]:
            print(f"to do      {entry}")
    if data["todo"]:
        raise typer.Exit(1)


def predicted(found: dict[str, Any]) -> str:
    """How true the cost of runs was."""
    if not found["benches"]:
        return "no bench of this machine is kept here: optsweep bench -m MODEL"
    if not found["runs"]:
        return f"{found['benches']} rates of optsweep bench, no finished run to compare with"
    return (
        f"{output.runs_text(found['runs'])} took {found['median']:.2f} times as long as benches say "
        f"({found['low']:.2f} to {found['high']:.2f})"
    )
