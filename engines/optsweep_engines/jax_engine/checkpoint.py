"""Checkpoints for exact resume: one safetensors file with parameters, optimizer state and the run's progress."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from optsweep_engines.engine import RunLog
from optsweep_engines.jax_engine.optimizer import States
from optsweep_engines.kept import EVALUATED
from optsweep_engines.loop import foreign

FORMAT = "1"
ENGINE = "jax"


def save(
    log: RunLog,
    run_id: str,
    step: int,
    params: Mapping[str, jax.Array],
    states: States,
    progress: Mapping[str, Any],
) -> None:
    """Publish one checkpoint through the log.

    Args:
        progress: what the loop needs to go on beside tensors, as JSON types (seconds, loss history).

    Raises:
        Superseded: a newer attempt exists.
    """
    tensors, metadata = _content(log, run_id, step, params, states, progress)
    log.save_checkpoint(step, lambda path: save_file(tensors, path, metadata))


def keep(
    log: Any,
    run_id: str,
    step: int,
    params: Mapping[str, jax.Array],
    states: States,
    progress: Mapping[str, Any],
    evaluated: Mapping[str, jax.Array],
    parameters_sha256: str,
) -> None:
    """Publish the state for other runs: a checkpoint, and the parameters to evaluate where they are others."""
    tensors, metadata = _content(log, run_id, step, params, states, progress)
    if evaluated is not params:
        tensors |= {EVALUATED + name: on_host(value) for name, value in evaluated.items()}
    metadata["parameters_sha256"] = parameters_sha256
    log.save_kept(step, lambda path: save_file(tensors, path, metadata))


def _content(
    log: RunLog,
    run_id: str,
    step: int,
    params: Mapping[str, jax.Array],
    states: States,
    progress: Mapping[str, Any],
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """Arrays and metadata of a file."""
    tensors = {name: on_host(value) for name, value in named(params, states).items()}
    metadata = {
        "format": FORMAT,
        "engine": ENGINE,
        "run_id": run_id,
        "attempt": str(log.attempt),
        "step": str(step),
        "progress": json.dumps(dict(progress)),
    }
    return tensors, metadata


def restore(
    log: RunLog, run_id: str, params: Mapping[str, jax.Array], states: States
) -> tuple[int, dict[str, Any], dict[str, jax.Array], States] | None:
    """The newest checkpoint that fits: (step, progress, parameters, states), laid out as those given; None without one.

    A file that cannot be read or belongs to another run is passed over, with an event.
    """
    for step, path in log.checkpoints():
        try:
            return step, *load(path, run_id, step, params, states)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            log.event("checkpoint_rejected", file=path.name, error=str(error))
    return None


def load(
    path: Path, run_id: str, step: int, params: Mapping[str, jax.Array], states: States
) -> tuple[dict[str, Any], dict[str, jax.Array], States]:
    """One file: (progress, parameters, states), laid out as those given.

    Raises:
        ValueError, KeyError, SafetensorError: it is not the state of that run and step, or does not fit.
    """
    progress, loaded = _load(path, run_id, step, named(params, states))
    new_states = {bank: {kind: loaded[f"state/{bank}/{kind}"] for kind in held} for bank, held in states.items()}
    return progress, {name: loaded[f"param/{name}"] for name in params}, new_states


def _load(
    path: Path, run_id: str, step: int, targets: Mapping[str, jax.Array]
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        engine = metadata.get("engine", "torch")
        if engine != ENGINE:
            raise ValueError(foreign(engine, ENGINE))
        expected = {"format": FORMAT, "run_id": run_id, "step": str(step)}
        found = {key: metadata.get(key) for key in expected}
        if found != expected:
            raise ValueError(f"holds {found}, expected {expected}")
        if {name for name in file.keys() if not name.startswith(EVALUATED)} != set(targets):  # noqa: SIM118 (no mapping)
            raise ValueError("holds other tensors than this run has")
        loaded = {name: file.get_tensor(name) for name in targets}
        progress: dict[str, Any] = json.loads(metadata["progress"])
    for name, value in loaded.items():
        if value.shape != targets[name].shape or value.dtype != targets[name].dtype:
            raise ValueError(f"{name} is {value.dtype} {value.shape}, not {targets[name].shape}")
    return progress, {name: laid_out(value, targets[name].sharding) for name, value in loaded.items()}


def named(params: Mapping[str, jax.Array], states: States) -> dict[str, jax.Array]:
    """Every array of a checkpoint by its name in the file."""
    return {
        **{f"param/{name}": value for name, value in params.items()},
        **{f"state/{bank}/{kind}": value for bank, held in states.items() for kind, value in held.items()},
    }


def on_host(value: jax.Array) -> np.ndarray[Any, Any]:
    """The whole array, gathered from all processes where it is spread over several."""
    if not value.is_fully_addressable and not value.is_fully_replicated:
        from jax.experimental import multihost_utils  # noqa: PLC0415 (several processes only)

        value = multihost_utils.process_allgather(value, tiled=True)
    return np.ascontiguousarray(np.asarray(value))


def laid_out(value: np.ndarray[Any, Any], sharding: jax.sharding.Sharding) -> jax.Array:
    """A host array that every process holds, spread as asked; a copy of its own, for programs that donate it."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: np.array(value[index]))
