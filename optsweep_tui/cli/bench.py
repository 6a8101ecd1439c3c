"""`optsweep bench`: training throughput here, by engine and optimizer, and whether packing runs into one program pays."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from optsweep_tui.cli import options, output


def command(
    context: typer.Context,
    optimizers: Annotated[
        str, typer.Option("--optimizer", "-o", help="Optimizers, comma separated; overheads are over the first.")
    ] = "adamw,muon,soap",
    model: Annotated[
        str, typer.Option("--model", "-m", help="One model.", autocompletion=options.complete_model)
    ] = "bench-micro",
    engines: Annotated[
        str | None, typer.Option("--engine", help="Engines, comma separated [default: those installed].")
    ] = None,
    pack: Annotated[
        int | None, typer.Option("--pack", help="Time K runs in one program beside one (jax), and remember the gain.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, tpu.")] = "cpu",
    seconds: Annotated[float, typer.Option("--seconds", help="About so long per variant, beside the compiling.")] = 5.0,
    workspace: options.WorkspaceDir = None,
    json_: options.Json = False,
) -> None:
    """Measure tokens per second, the share of a plain matrix product's rate (MFU), and the overhead of each optimizer.

    The variants of an engine take turns in one process. With --pack K the first optimizer is timed alone and with K runs
    in one program; the gain is kept in packs.json of the workspace, and runs are packed by themselves where it exceeds 5 %.

    Examples: optsweep bench | optsweep bench -m bench-tiny -o adamw,kron --engine jax | optsweep bench --pack 8
    """
    from optsweep_tui import benching

    place = options.open_workspace(context, workspace)
    names = options.split(optimizers)
    chosen = options.split(engines)
    rows = benching.measured(
        place, names[:1] if pack else names, model, chosen, pack=pack, device=device, seconds=seconds, say=output.say
    )
    if json_:
        output.emit_json(rows)
        return
    _show(rows, pack)


def _show(rows: list[dict[str, Any]], pack: int | None) -> None:
    first = rows[0]
    print(f"{first['model']}, batch {first['batch_size']} x {first['seq_len']}, {first['dtype']}, {first['device']}\n")
    output.print_table(
        ["engine", "optimizer", "pack", "tok/s", "tok/cpu-s", "ms/step", "of the roof", "over the first", "start s"],
        [
            (
                row["engine"],
                row["optimizer"],
                row["pack"],
                output.count_text(row["tokens_per_second"]),
                output.count_text(row["tokens_per_cpu_second"]),
                f"{1000 * row['step_seconds']:.1f}",
                f"{row['mfu']:.0%}",
                "·" if row["overhead"] is None else f"{row['overhead']:+.0%}",
                f"{row['start_seconds']:.1f}",
            )
            for row in rows
        ],
        left=(0, 1),
    )
    for engine, roof in {row["engine"]: row["roof_flops"] for row in rows}.items():
        print(f"roof of {engine}: {roof / 1e9:.0f} GFLOP/s, a plain matrix product in fp32")
    if pack:
        gain = rows[-1]["pack_gain"]
        verdict = "such runs are packed by themselves from now on" if rows[-1]["packs"] else "not worth it here"
        print(f"{pack} runs in one program: {gain:.2f}x the tokens per second of one after the other; {verdict}")
