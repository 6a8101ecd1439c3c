"""Over how many devices of this machine a run is spread: whose measured rates tell its hours."""

from __future__ import annotations

from optsweep_engines import mesh
from optsweep_tui.core import RunSpec
from optsweep_tui.settings import Workspace

SPREADING = ("torch", "jax")
"""Engines that take a mesh."""


def of_run(workspace: Workspace, engine: str, rows: int) -> str | None:
    """The mesh of a run on this machine, in the words of a record; None for one device.

    Args:
        rows: sequences of a micro-batch.
    """
    if workspace.mesh and engine in SPREADING:
        return mesh.words(mesh.parsed(workspace.mesh))
    if engine == "torch" and workspace.gpus_per_run > 1 and workspace.gpus:
        return mesh.words({"data": mesh.dividing(rows, workspace.gpus_per_run)})
    return None


def as_here(workspace: Workspace, spec: RunSpec, mesh_of_record: str | None) -> bool:
    """Whether a finished run was spread as a run of the same spec here would be."""
    if (
        workspace.device == "tpu" and not workspace.mesh
    ):  # JAX takes all chips, along data; how many there are is not known
        return "fsdp" not in (mesh_of_record or "")
    return mesh_of_record == of_run(workspace, spec.engine, spec.batch_size // spec.accumulation)
