"""Engine parity: one spec trained on two engines from the same initialisation and batches, judged against rounding itself.

Two correct programs differ by rounding, and training amplifies that. The control measures by how much: the first engine
again, each of its initial parameters moved by one unit in the last place. A pair of engines is equal when the losses agree to
FIRST_STEP before anything was amplified, and from there on to the larger of LATER and CONTROLS times the control so far.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optsweep_engines.engine import engine_names
from optsweep_engines.mesh import require_divides
from optsweep_tui.certificates import kept
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

# Measured, adamw in fp32 with shared numpy initialisation and batches: 5e-7 to 1.5e-6 nats.
FIRST_STEP = 2e-6
LATER = 1e-5
CONTROLS = 3.0

Losses = npt.NDArray[np.float64]


def tolerances(control: Losses, dtype: str = "fp32") -> Losses:
    """What the losses of two engines may differ by, step by step.

    Args:
        control: |difference| of the first engine to itself, moved by an ulp.
        dtype: compute type; in bf16 the first step, too, may differ by as much as the control says.
    """
    found = np.maximum(LATER, CONTROLS * np.maximum.accumulate(control))
    found[0] = FIRST_STEP if dtype == "fp32" else max(FIRST_STEP, CONTROLS * control[0])
    return np.asarray(found)


def judged(first: Losses, second: Losses, moved: Losses, dtype: str = "fp32") -> dict[str, Any]:
    """The verdict on three series of losses.

    Args:
        first: of the first engine.
        second: of the other.
        moved: of the first engine, moved by an ulp.
        dtype: compute type of all three.
    """
    differences, control = np.abs(first - second), np.abs(first - moved)
    tolerance = tolerances(control, dtype)
    inside = differences <= tolerance  # False for NaN
    outside = [int(step) for step in np.flatnonzero(~inside)]
    return {
        "verdict": "different" if outside else "equal",
        "max_loss_difference": float(differences.max()),
        "first_step_difference": float(differences[0]),
        "control_difference": float(control.max()),
        "tolerance": {
            "first_step": float(tolerance[0]),
            "later": LATER,
            "controls": CONTROLS,
            "at_end": float(tolerance[-1]),
        },
        "steps_outside": outside,
        "by_step": [
            {
                "step": step,
                "loss": float(first[step]),
                "difference": float(differences[step]),
                "control": float(control[step]),
                "tolerance": float(tolerance[step]),
            }
            for step in range(len(first))
        ],
    }


def certified(
    workspace: Workspace,
    spec: RunSpec,
    engines: Sequence[str] = ("torch", "jax"),
    *,
    steps: int,
    device: str = "cpu",
    mesh: str | None = None,
    optimizer_file: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train a spec for some steps on two engines, and on the first one again moved by an ulp; judge, and keep the answer.

    Args:
        engines: the two; the same name twice compares an engine with itself on a mesh.
        mesh: of the second engine.

    Raises:
        OptsweepError: an engine could not train it.
    """
    for name in engines:
        if name not in engine_names():
            raise OptsweepError(f'engine "{name}" is not known', f"known: {', '.join(engine_names())}")
    if not 1 <= steps <= spec.steps:
        raise OptsweepError(f"--steps {steps} is not between 1 and the {spec.steps} steps of the spec", "give fewer")
    if mesh is not None:
        try:
            sizes = require_divides(mesh, spec.batch_size // spec.accumulation)
        except ValueError as error:
            raise OptsweepError(str(error), "write --mesh data=2, or set batch_size") from None
        if engines[1] == "torch" and max(sizes.values()) > 1:
            raise OptsweepError(
                f'mesh "{mesh}": the torch engine takes one in a run, a certificate trains in a single process',
                "leave --mesh out, or write --engine torch,jax",
            )
    with tempfile.TemporaryDirectory(prefix="optsweep-parity-") as place:
        answers = {which: str(Path(place) / f"{which}.npz") for which in ("first", "moved", "second")}
        common = {
            "spec": spec.to_dict(),
            "data_root": str(workspace.data),
            "device": device,
            "steps": steps,
            "optimizer_file": str(optimizer_file or ""),
        }
        first = {**common, "engine": engines[0], "answer": answers["first"]}
        moved = {**first, "answer": answers["moved"], "ulps": 1, "basis": answers["first"]}
        second = {**common, "engine": engines[1], "answer": answers["second"], "basis": answers["first"], "mesh": mesh}
        say(f"training {steps} steps on {engines[0]}, twice: as it is, and moved by an ulp")
        versions = {engines[0]: _ask([first, moved], workspace)[0]}
        say(f"training {steps} steps on {engines[1]}{f' with mesh {mesh}' if mesh else ''}")
        name = engines[1] if engines[1] != engines[0] else f"{engines[1]} {mesh}"
        versions[name] = _ask([second], workspace)[0]
        found = {which: dict(np.load(file)) for which, file in answers.items()}
    one, other, control = (found[which]["losses"] for which in ("first", "second", "moved"))
    verdict = judged(one, other, control, spec.dtype)
    certificate = {
        **verdict,
        "optimizer": spec.optimizer,
        "model": spec.model,
        "engines": list(engines),
        "mesh": mesh,
        "dtype": spec.dtype,
        "lr": spec.hyperparameters["lr"],
        "seed": spec.seed,
        "steps": steps,
        "dataset": spec.dataset,
        "dataset_hash": spec.dataset_hash,
        "parameter_difference": farthest(found["first"], found["second"]),
        "parameter_control": farthest(found["first"], found["moved"]),
        "shared_basis": any(name.startswith("basis/") for name in found["first"]),
        "versions": versions,
        "spec": spec.to_dict(),
    }
    name = f"{''.join(c if c.isalnum() else '_' for c in spec.optimizer)}-{spec.model}"
    return {**certificate, "file": str(kept.keep(workspace, "parity", name, certificate))}


def farthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference of two sets of final parameters, over the largest value of its tensor."""
    worst = 0.0
    for name, value in one.items():
        if name.startswith("final/"):
            distance = float(np.abs(value - other[name]).max() / max(1e-30, float(np.abs(value).max())))
            worst = math.inf if math.isnan(distance) else max(worst, distance)
    return worst


def _ask(requests: list[dict[str, Any]], workspace: Workspace) -> list[dict[str, str]]:
    """Train in a process of its own, as a run would, and take its versions."""
    process = subprocess.run(
        [sys.executable, "-m", "optsweep_engines.certify"],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if process.returncode:
        engine = requests[0]["engine"]
        line = (process.stderr.strip().splitlines() or ["no word"])[-1].removeprefix("ValueError: ")
        if "No module named" in line:
            raise OptsweepError(
                f"engine {engine} cannot run here: {line.split(': ', 1)[-1]}", f"pip install 'optsweep[{engine}]'"
            )
        raise OptsweepError(f"engine {engine} could not train this: {line}", "optsweep doctor says what is here")
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
