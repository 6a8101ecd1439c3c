"""Throughput of the engines here: variants trained in turns by a process per engine, overheads and packing gains from that."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from optsweep_engines.engine import engine_names
from optsweep_tui import benches, flow, packs
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.settings import Workspace

TURNS = 5
STEPS = 2000
"""Of the planned run, of which only the first ones are trained."""


def measured(
    workspace: Workspace,
    optimizers: Sequence[str],
    model: str,
    engines: Sequence[str] = (),
    *,
    pack: int | None = None,
    device: str = "cpu",
    seconds: float = 5.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """A row per engine and optimizer; with `pack` one run and K of them in one program, and the gain is remembered.

    Raises:
        OptsweepError: nothing to measure, or an engine could not.
    """
    for name in engines:
        if name not in engine_names():
            raise UnknownName("engine", name, engine_names())
    if pack is not None and pack < 2:
        raise OptsweepError(f"--pack {pack} packs nothing", "give 2 or more")
    if pack is not None and any(name != packs.ENGINE for name in engines):
        raise OptsweepError(f"--pack {pack}: engine {engines[0]} cannot pack runs", f"use --engine {packs.ENGINE}")
    chosen = list(engines) or [name for name in engine_names() if installed(name)]
    rows: list[dict[str, Any]] = []
    for engine in [packs.ENGINE] if pack else chosen:
        request = flow.Request(optimizers=tuple(optimizers), models=(model,), chinchillas=("1",), engine=engine)
        flow.require_engines(flow.plan(workspace, request).specs)
        workspace.ensure()
        specs = [
            dataclasses.replace(spec, tokens=STEPS * spec.tokens_per_step)
            for spec in flow.plan(workspace, request, prepare=True).specs
        ]
        variants: list[dict[str, Any]] = [{"name": spec.optimizer, "spec": spec.to_dict()} for spec in specs]
        if pack:
            variants = [variants[0], {**variants[0], "pack": pack}]
        say(f"{engine}: {', '.join(spec.optimizer for spec in specs)} on {model}, {TURNS} turns each")
        rows += _rows(_asked(engine, workspace, variants, device, seconds), specs)
    benches.remember(workspace, rows)
    if pack:
        _remember(workspace, rows, device)
    return rows


def installed(engine: str) -> bool:
    """Whether its library is here."""
    library = flow.ENGINE_LIBRARY.get(engine)
    return library is None or importlib.util.find_spec(library) is not None


def _asked(
    engine: str, workspace: Workspace, variants: list[dict[str, Any]], device: str, seconds: float
) -> dict[str, Any]:
    request = {
        "engine": engine,
        "device": device,
        "data_root": str(workspace.data),
        "variants": variants,
        "turns": TURNS,
        "turn_seconds": seconds / TURNS,
    }
    process = subprocess.run(
        [sys.executable, "-m", "optsweep_engines.throughput"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if process.returncode:
        line = (process.stderr.strip().splitlines() or ["no word"])[-1]
        raise OptsweepError(f"engine {engine} could not be measured: {line}", "optsweep doctor says what is here")
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def _rows(found: dict[str, Any], specs: Sequence[RunSpec]) -> list[dict[str, Any]]:
    base = found["figures"][0]
    spec = specs[0]
    return [
        {
            "engine": found["engine"],
            "optimizer": figure["variant"],
            "model": spec.model,
            "batch_size": spec.batch_size,
            "seq_len": spec.seq_len,
            "dtype": spec.dtype,
            "device": found["device"],
            "roof_flops": found["roof_flops"],
            "versions": found["versions"],
            **{key: value for key, value in figure.items() if key not in ("variant", "turns")},
            "overhead": figure["step_seconds"] / base["step_seconds"] - 1
            if figure["pack"] == 1 and figure is not base
            else None,
            "pack_gain": statistics.median(
                figure["pack"] * alone / together
                for alone, together in zip(base["turns"], figure["turns"], strict=True)
            )
            if figure["pack"] > 1
            else None,
        }
        for figure in found["figures"]
    ]


def _remember(workspace: Workspace, rows: list[dict[str, Any]], device: str) -> None:
    """Keep the gain of the last row, and say in it whether runs will be packed."""
    row = rows[-1]
    kind = {"auto": row["device"].split(" ")[0], "gpu": "cuda"}.get(device, device.partition(":")[0])
    entry = {name: row[name] for name in ("model", "batch_size", "seq_len", "dtype", "pack")}
    packs.remember(workspace, {**entry, "device": kind, "gain": row["pack_gain"], "versions": row["versions"]})
    row["packs"] = row["pack_gain"] > packs.GAIN
