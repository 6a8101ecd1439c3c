"""The first steps of one run, loss by loss, for certificates: `python -m optsweep_engines.certify < request.json`.

The request names an engine, a spec and how many steps; the answer is a .npz of losses, final parameters and, for a rule that
starts from an arbitrary basis, that basis, which another engine can then be given. With `ulps` every initial parameter is
moved by one unit in its last place, up or down: how far that takes the losses is what rounding alone does to them.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from optsweep_engines.engine import load_engine
from optsweep_engines.spec import RunSpec

Arrays = dict[str, npt.NDArray[Any]]

# An eigenbasis is free where eigenvalues are equal, as those of a Gram matrix of too few gradients are: any two libraries,
# or one library at two roundings, choose differently. SOAP takes its basis at step 1 and moves no parameter there.
BASIS = re.compile(r"state/[^/]+/q_[lr]\d+")
BASIS_STEP = 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to train."""

    engine: str
    spec: dict[str, Any]
    data_root: str
    device: str
    steps: int
    answer: str
    """File to write."""
    ulps: int = 0
    """1: every initial parameter is moved by one unit in the last place."""
    basis: str | None = None
    """An answer of another engine whose basis is taken up."""
    optimizer_file: str = ""
    mesh: str | None = None
    """For an engine that spreads its work: "data=4,fsdp=2"."""


class NoLog:
    """A RunLog for steps that leave no trace."""

    attempt = 1
    threads = 1

    def __init__(self, request: Request) -> None:
        self.data_root = Path(request.data_root)
        self.device = request.device
        self.mesh = request.mesh
        self.optimizer_file = Path(request.optimizer_file)

    def metric(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def event(self, kind: str, **fields: Any) -> None:
        """Nothing."""

    def stop_requested(self) -> str | None:
        """Never."""
        return None

    def checkpoint_due(self) -> bool:
        """Never."""
        return False

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Nothing."""

    def checkpoints(self) -> Iterator[tuple[int, Path]]:
        """None."""
        return iter(())


def moved_by_an_ulp(arrays: Arrays, seed: int = 0) -> Arrays:
    """Every parameter at its neighbour, up or down by the draw of a seeded generator."""
    stream = np.random.Generator(np.random.PCG64(seed))
    found: Arrays = {}
    for name in sorted(name for name in arrays if name.startswith("param/")):
        value = arrays[name]
        up = stream.random(value.shape) < 0.5
        found[name] = np.nextafter(value, np.where(up, np.float32(np.inf), np.float32(-np.inf)).astype(value.dtype))
    return found


def trained(request: Request) -> tuple[Arrays, dict[str, str]]:
    """The answer and the versions behind it."""
    spec = RunSpec.from_dict({**request.spec, "engine": request.engine})
    trainer = load_engine(request.engine).trainer(spec, NoLog(request))
    if request.ulps:
        trainer.set_arrays(moved_by_an_ulp(trainer.arrays()))
    losses: list[float] = []
    basis: Arrays = {}
    for step in range(request.steps):
        loss, _, _ = trainer.step(step)
        if step + 1 == BASIS_STEP:
            basis = {name: value for name, value in trainer.arrays().items() if BASIS.fullmatch(name)}
            basis = basis if spec.optimizer == "soap" else {}
            if basis and request.basis is not None:
                with np.load(request.basis) as given:
                    basis = {name: given[f"basis/{name}"] for name in basis}
                trainer.set_arrays(basis)
        losses.append(float(loss))
    final = {f"final/{name}": value for name, value in trainer.arrays().items() if name.startswith("param/")}
    arrays = {"losses": np.array(losses), **final, **{f"basis/{name}": value for name, value in basis.items()}}
    return arrays, {**trainer.facts()["versions"], "device": str(trainer.facts()["device"])}


def main() -> int:
    """Read requests, one JSON list; write an answer each; print their versions as JSON lines."""
    for item in json.load(sys.stdin):
        request = Request(**item)
        arrays, versions = trained(request)
        np.savez(request.answer, **cast(Any, arrays))
        print(json.dumps(versions), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
