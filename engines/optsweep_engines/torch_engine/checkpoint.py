"""Checkpoints for exact resume: one safetensors file with parameters, optimizer state and the run's progress."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from optsweep_engines.engine import RunLog
from optsweep_engines.kept import EVALUATED
from optsweep_engines.loop import foreign
from optsweep_engines.torch_engine.optimizer import Optimizer
from optsweep_engines.torch_engine.ranks import joined
from optsweep_engines.torch_engine.streamed import Entry, Save, publish
from optsweep_engines.torch_engine.user import ClassOptimizer

FORMAT = "1"
ENGINE = "torch"
STATE = "state/"


def keep(
    log: Any,
    run_id: str,
    step: int,
    params: Mapping[str, Tensor],
    optimizer: Optimizer | ClassOptimizer,
    progress: Mapping[str, Any],
    parameters_sha256: str,
) -> None:
    """Publish the state for other runs: a checkpoint, and the parameters to evaluate where they are others."""
    with optimizer.evaluated():
        evaluated = {name: value.detach().clone() for name, value in params.items()}
    if all(torch.equal(value, params[name]) for name, value in evaluated.items()):
        evaluated = {}
    metadata = described(log, run_id, step, progress, optimizer) | {"parameters_sha256": parameters_sha256}
    _publish(log.save_kept, step, params, optimizer, metadata, {EVALUATED + name: v for name, v in evaluated.items()})


def save(
    log: RunLog,
    run_id: str,
    step: int,
    params: Mapping[str, Tensor],
    optimizer: Optimizer | ClassOptimizer,
    progress: Mapping[str, Any],
) -> None:
    """Publish one checkpoint through the log.

    Args:
        progress: what the loop needs to go on beside tensors, as JSON types (seconds, loss history).

    Raises:
        Superseded: a newer attempt exists.
    """
    metadata = described(log, run_id, step, progress, optimizer)
    _publish(log.save_checkpoint, step, params, optimizer, metadata, {})


def _publish(
    save: Save,
    step: int,
    params: Mapping[str, Tensor],
    optimizer: Optimizer | ClassOptimizer,
    metadata: Mapping[str, str],
    further: Mapping[str, Tensor],
) -> None:
    """Write a file, of several processes the first; the others send it what is theirs alone, one tensor at a time."""
    held = {name: value.detach().contiguous() for name, value in {**named(params, optimizer), **further}.items()}
    ranks = joined()
    if ranks.count == 1:
        storages: set[int] = set()
        for name, value in held.items():
            if value.untyped_storage().data_ptr() in storages:  # one number that several banks share; files hold copies
                held[name] = value.clone()
            storages.add(held[name].untyped_storage().data_ptr())
        save(step, lambda path: save_file(held, path, dict(metadata)))
        return
    publish(save, step, [_entry(optimizer, name, own) for name, own in held.items()], metadata, leads=not ranks.index)


def _entry(optimizer: Optimizer | ClassOptimizer, name: str, own: Tensor) -> Entry:
    if isinstance(optimizer, Optimizer) and name.startswith(STATE):
        state = name.removeprefix(STATE)
        whole = functools.partial(optimizer.whole_in_first, state, own)
        return Entry(name=name, shape=optimizer.kind(state, own), dtype=own.dtype, whole=whole)
    return Entry(name=name, shape=tuple(own.shape), dtype=own.dtype, whole=lambda: own)


def described(
    log: RunLog, run_id: str, step: int, progress: Mapping[str, Any], optimizer: object = None
) -> dict[str, str]:
    """What a file says of itself."""
    found = {
        "format": FORMAT,
        "engine": ENGINE,
        "run_id": run_id,
        "attempt": str(log.attempt),
        "step": str(step),
        "progress": json.dumps(dict(progress)),
    }
    if isinstance(optimizer, ClassOptimizer):
        found["optimizer"] = json.dumps(optimizer.notes())
    return found


def require(metadata: Mapping[str, str], run_id: str, step: int) -> None:
    """Refuse the file of something else.

    Raises:
        ValueError: with what it is of.
    """
    expected = {"format": FORMAT, "run_id": run_id, "step": str(step)}
    found = {key: metadata.get(key) for key in expected}
    if metadata.get("engine", ENGINE) != ENGINE:
        raise ValueError(foreign(metadata["engine"], ENGINE))
    if found != expected:
        raise ValueError(f"holds {found}, expected {expected}")


def restore(
    log: RunLog, run_id: str, params: Mapping[str, Tensor], optimizer: Optimizer | ClassOptimizer
) -> tuple[int, dict[str, Any]] | None:
    """Load the newest checkpoint that fits into the tensors, in place: (step, progress); None if there is none.

    A file that cannot be read or belongs to another run is passed over, with an event.
    """
    return newest(log, lambda path, step: load(path, run_id, step, params, optimizer))


def newest(log: RunLog, take: Callable[[Path, int], dict[str, Any]]) -> tuple[int, dict[str, Any]] | None:
    """What the newest checkpoint that can be taken up holds, as `restore`."""
    for step, path in log.checkpoints():
        try:
            progress = take(path, step)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            log.event("checkpoint_rejected", file=path.name, error=str(error))
            continue
        return step, progress
    return None


def load(
    path: Path, run_id: str, step: int, params: Mapping[str, Tensor], optimizer: Optimizer | ClassOptimizer
) -> dict[str, Any]:
    """Load one file into the tensors, in place: the progress that it holds.

    Raises:
        ValueError, KeyError, SafetensorError: it is not the state of that run and step, or does not fit.
    """
    # A class makes its state as it goes: what it held is what the file holds.
    own = isinstance(optimizer, ClassOptimizer)
    targets = named(params, None if own else optimizer)
    with safe_open(path, framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
        require(metadata, run_id, step)
        held = {name for name in file.keys() if not name.startswith(EVALUATED)}  # noqa: SIM118 (no mapping)
        state = {name for name in held if own and name.startswith(STATE)}
        if held - state != set(targets):
            raise ValueError("holds other tensors than this run has")
        loaded = {name: file.get_tensor(name) for name in targets}
        for name, value in loaded.items():  # of several processes each takes up the state that is its own
            if isinstance(optimizer, Optimizer) and name.startswith(STATE):
                loaded[name] = optimizer.own(name.removeprefix(STATE), value)
        made = {name.removeprefix(STATE): file.get_tensor(name) for name in state}
        progress: dict[str, Any] = json.loads(metadata["progress"])
    for name, value in loaded.items():
        if value.shape != targets[name].shape or value.dtype != targets[name].dtype:
            raise ValueError(f"{name} is {value.dtype} {tuple(value.shape)}, not {tuple(targets[name].shape)}")
    with torch.no_grad():
        for name, value in loaded.items():
            targets[name].copy_(value)
    if isinstance(optimizer, ClassOptimizer):
        optimizer.load(json.loads(metadata["optimizer"]), made)
    return progress


def named(params: Mapping[str, Tensor], optimizer: Optimizer | ClassOptimizer | None) -> dict[str, Tensor]:
    """Every tensor that this process has for a checkpoint, by its name in the file."""
    held = optimizer.tensors() if optimizer is not None else {}
    return {
        **{f"param/{name}": value for name, value in params.items()},
        **{STATE + name: value for name, value in held.items()},
    }
