"""Over how many devices of this machine a run is spread: whose measured rates tell its hours, and what cannot be spread so."""

from __future__ import annotations

from collections.abc import Iterable

from optsweep_engines import mesh
from optsweep_engines.models import parameter_table
from optsweep_engines.optimizers import catalogue, spreadable
from optsweep_engines.optimizers.user_plan import OwnEntry
from optsweep_tui import rundir
from optsweep_tui.core import RunSpec
from optsweep_tui.errors import OptsweepError
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


def require_fits(workspace: Workspace, specs: Iterable[RunSpec]) -> None:
    """Refuse runs that the mesh of this workspace cannot be: each would end with that line when its engine has started.

    Raises:
        OptsweepError: of the first one that is not over, with the reason.
    """
    if not workspace.mesh:
        return
    looked: set[object] = set()
    for spec in specs:
        knobs = tuple(sorted(spec.hyperparameters.items()))
        kind = (spec.engine, spec.optimizer, knobs, spec.shape, spec.batch_size // spec.accumulation)
        if kind in looked or rundir.state_of(workspace.runs / spec.run_id).finished:
            continue
        looked.add(kind)
        try:
            _require_fits(workspace, workspace.mesh, spec)
        except ValueError as error:
            raise OptsweepError(f"{spec.optimizer} {spec.model}: {error}", "mend mesh in optsweep.toml") from None


def _require_fits(workspace: Workspace, text: str, spec: RunSpec) -> None:
    rows = spec.batch_size // spec.accumulation
    if spec.engine == "jax":  # how many devices it finds only it knows
        mesh.require_divides(text, rows)
    if spec.engine != "torch":
        return
    mesh.devices_of(text, rows, workspace.gpus_per_run if workspace.gpus else 0)
    if mesh.parsed(text)["fsdp"] == 1:
        return
    try:
        entry = catalogue.optimizer(spec.optimizer)
    except LookupError:
        return  # a user's own, of a run that another program planned
    if isinstance(entry, OwnEntry):
        if entry.kind == "class":  # of a user's rules only the code itself can tell
            label, name = (entry.source.label, "name") if entry.source else (spec.optimizer, "package")
            raise spreadable.refused_class(label, str(entry.request[name]))
        return
    spreadable.rules_of(entry, spec.hyperparameters, parameter_table(spec.shape))
