"""The parameters that a run begins with where they are those of another run, of either engine; numpy arrays by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from optsweep_engines.kept import EVALUATED, PARAMETER, start_of
from optsweep_engines.models import parameter_table
from optsweep_engines.spec import WEIGHTS, RunSpec


def initial(spec: RunSpec, runs_root: Path) -> Mapping[str, Any] | None:
    """numpy arrays of the parameters that a run begins with, by name; None where they come from the seed, or with a trunk's
    whole state.

    Raises:
        ValueError: as `start_of`, or they do not fit the model.
    """
    if spec.start is None or spec.start.mode != WEIGHTS:
        return None
    return dict(one_by_one(spec, runs_root))


def one_by_one(spec: RunSpec, runs_root: Path) -> Iterator[tuple[str, Any]]:
    """The same of a run that begins with weights, one array at a time.

    Raises:
        ValueError: as `initial`.
    """
    found = start_of(spec, runs_root)
    with safe_open(found.path, framework="np") as file:
        names = set(file.keys())
        for item in parameter_table(spec.shape):
            name = EVALUATED + item.name if EVALUATED + item.name in names else PARAMETER + item.name
            if name not in names:
                raise ValueError(f"{found.path} holds no {item.name}: it is of another model")
            value = file.get_tensor(name)
            if tuple(value.shape) != tuple(item.shape):
                raise ValueError(f"{found.path}: {item.name} is {value.shape}, this model's is {item.shape}")
            yield item.name, value
