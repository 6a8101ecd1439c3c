"""Which planned runs may share one engine process and program, and where a benchmark found that to pay."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from optsweep_engines import folder
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

ENGINE = "jax"
"""The engine that packs."""
MEASURED = "packs.json"
"""File of the workspace with what `optsweep bench --pack` found."""
GAIN = 1.05
"""Least gain, in tokens per second, at which runs are packed without being asked to: the spread of a measurement."""


def key(spec: RunSpec) -> Any:
    """Runs of one key differ by plain numbers and seeds only; the engine looks at the numbers that steer a rule itself."""
    fixed = tuple(
        (knob, value)
        for knob, value in spec.hyperparameters.items()
        if not isinstance(value, float | int) or isinstance(value, bool)
    )
    return (
        spec.engine, spec.optimizer, spec.optimizer_file_hash, spec.shape, spec.seq_len, spec.batch_size, spec.accumulation,
        spec.dtype, spec.tokens, spec.steps, spec.dataset_hash, spec.validation_tokens, spec.validation_interval,
        spec.validation_set, tuple(spec.validation_sets.items()), fixed,
    )  # fmt: skip


def grouped(specs: Iterable[RunSpec], size: int) -> list[list[str]]:
    """Runs as packs of at most `size`, in the order of the plan; runs that stay alone are left out.

    Raises:
        OptsweepError: the size is none, or no two runs can be packed.
    """
    if not 1 <= size <= folder.LARGEST_PACK:
        raise OptsweepError(f"--pack {size} is not between 1 and {folder.LARGEST_PACK}", "give another number")
    if size == 1:
        return []
    found = list(specs)
    for spec in found:
        if spec.start is not None:
            why = f"run {spec.run_id[:8]} begins with the state of run {spec.start.run_id[:8]} and is trained alone"
            raise OptsweepError(f"--pack {size}: {why}", "leave --pack out")
    others = sorted({spec.engine for spec in found if spec.engine != ENGINE})
    if others:
        raise OptsweepError(f"--pack {size}: engine {others[0]} cannot pack runs", f"use --engine {ENGINE}")
    by_key: dict[Any, list[str]] = {}
    for spec in found:
        by_key.setdefault(key(spec), []).append(spec.run_id)
    packs = [ids[start : start + size] for ids in by_key.values() for start in range(0, len(ids), size)]
    packs = [pack for pack in packs if len(pack) > 1]
    if not packs:
        raise OptsweepError(
            f"--pack {size}: no two of these {len(found)} runs can share a program, their shapes, budgets or optimizers differ",
            "leave --pack out",
        )
    return packs


def remember(workspace: Workspace, entry: dict[str, Any]) -> None:
    """Keep what a benchmark found: {"device", "model", "batch_size", "seq_len", "dtype", "pack", "gain"}."""
    held = [old for old in measured(workspace) if _same(old) != _same(entry)]
    folder.write_json(workspace.ensure().root / MEASURED, [*held, entry])


def measured(workspace: Workspace) -> list[dict[str, Any]]:
    """What benchmarks found here, oldest first."""
    try:
        return list(json.loads((workspace.root / MEASURED).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return []


def _same(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(name) for name in ("device", "model", "batch_size", "seq_len", "dtype", "pack"))


def automatic(workspace: Workspace, specs: Iterable[RunSpec], device: str) -> list[list[str]]:
    """Packs of those runs for which a benchmark on this kind of device found a gain; its best size.

    Args:
        device: "cpu" or "cuda", as the dispatcher names it.
    """
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in measured(workspace):
        place = _same(entry)[1:5]
        if entry.get("device") == device and entry["gain"] > max(GAIN, best.get(place, {"gain": 0.0})["gain"]):
            best[place] = entry
    packs: list[list[str]] = []
    by_size: dict[int, list[RunSpec]] = {}
    for spec in specs:
        found = best.get((spec.model, spec.batch_size, spec.seq_len, spec.dtype))
        if spec.engine == ENGINE and found is not None and spec.start is None:
            by_size.setdefault(int(found["pack"]), []).append(spec)
    for size, chosen in by_size.items():
        try:
            packs += grouped(chosen, size)
        except OptsweepError:
            continue  # nothing in them goes together
    return packs
