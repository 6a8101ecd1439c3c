"""Checkpoints of parameters that are spread over processes: the files of one process, gathered and read a bank at a time."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch import distributed as dist

from optsweep_engines.engine import RunLog
from optsweep_engines.kept import EVALUATED, PARAMETER
from optsweep_engines.torch_engine.checkpoint import STATE, described, newest, require
from optsweep_engines.torch_engine.kinds import Kind
from optsweep_engines.torch_engine.spread import Spread
from optsweep_engines.torch_engine.spread_optimizer import SpreadOptimizer
from optsweep_engines.torch_engine.streamed import Entry, publish


def save(
    log: RunLog, run_id: str, step: int, spread: Spread, optimizer: SpreadOptimizer, progress: Mapping[str, Any]
) -> None:
    """Publish one checkpoint through the log; all processes call it.

    Raises:
        Superseded: a newer attempt exists.
    """
    metadata = described(log, run_id, step, progress)
    publish(log.save_checkpoint, step, entries(spread, optimizer), metadata, leads=not dist.get_rank())


def keep(
    log: Any,
    run_id: str,
    step: int,
    spread: Spread,
    optimizer: SpreadOptimizer,
    progress: Mapping[str, Any],
    parameters_sha256: str,
) -> None:
    """Publish the state for other runs, as `checkpoint.keep`."""
    held = entries(spread, optimizer)
    with optimizer.evaluated():
        evaluated = {bank: [part.clone() for part in parts] for bank, parts in spread.parts.items()}
    other = any(
        not torch.equal(part, value)
        for bank, parts in spread.parts.items()
        for part, value in zip(parts, evaluated[bank], strict=True)
    )
    if spread.axes.in_any(other):
        held += [_parameter(spread, EVALUATED, bank, parts) for bank, parts in evaluated.items()]
    metadata = described(log, run_id, step, progress) | {"parameters_sha256": parameters_sha256}
    publish(log.save_kept, step, held, metadata, leads=not dist.get_rank())


def _parameter(spread: Spread, prefix: str, bank: str, parts: list[Tensor]) -> Entry:
    whole = functools.partial(spread.whole_in_first, bank, parts)
    return Entry(name=prefix + bank, shape=spread.items[bank].shape, dtype=torch.float32, whole=whole)


def entries(spread: Spread, optimizer: SpreadOptimizer) -> list[Entry]:
    """Every tensor of a checkpoint."""
    found = [_parameter(spread, PARAMETER, bank, parts) for bank, parts in spread.parts.items()]
    for bank, kinds in optimizer.kinds.items():
        for entry, (shape, dtype) in kinds.items():
            whole = functools.partial(optimizer.whole_in_first, bank, entry)
            found.append(Entry(name=f"{STATE}{bank}/{entry}", shape=shape, dtype=dtype, whole=whole))
    return found


def restore(log: RunLog, run_id: str, spread: Spread, optimizer: SpreadOptimizer) -> tuple[int, dict[str, Any]] | None:
    """Load the newest checkpoint that fits, as `checkpoint.restore`."""
    return newest(log, lambda path, step: load(path, run_id, step, spread, optimizer))


def load(path: Path, run_id: str, step: int, spread: Spread, optimizer: SpreadOptimizer) -> dict[str, Any]:
    """Take this process' part out of a file, tensor by tensor: the progress that it holds.

    Raises:
        ValueError, KeyError, SafetensorError: it is not the state of that run and step, or does not fit.
    """
    kinds: dict[str, Kind] = {PARAMETER + name: (item.shape, torch.float32) for name, item in spread.items.items()}
    kinds |= {f"{STATE}{bank}/{entry}": kind for bank, own in optimizer.kinds.items() for entry, kind in own.items()}
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        require(metadata, run_id, step)
        if {name for name in file.keys() if not name.startswith(EVALUATED)} != set(kinds):  # noqa: SIM118 (no mapping)
            raise ValueError("holds other tensors than this run has")
        progress: dict[str, Any] = json.loads(metadata["progress"])
        for name, (shape, dtype) in kinds.items():  # before anything is overwritten
            value = file.get_tensor(name)
            if value.shape != shape or value.dtype != dtype:
                raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, not {tuple(shape)}")
        with torch.no_grad():
            for name in kinds:
                value = file.get_tensor(name)
                if name.startswith(PARAMETER):
                    spread.put(name.removeprefix(PARAMETER), value)
                else:
                    bank, _, entry = name.removeprefix(STATE).rpartition("/")
                    optimizer.take(bank, entry, value)
    return progress
