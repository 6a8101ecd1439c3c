"""`examine(workspace)`: what `optsweep doctor` says about this machine and this workspace."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import optsweep_tui
from optsweep_engines.engine import ENTRY_POINT_GROUP
from optsweep_engines.spec import RunRecord, RunSpec
from optsweep_tui import benches, rundir, settings
from optsweep_tui.dispatch import hostsfile, links
from optsweep_tui.dispatch.lines import spec_of
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace
from optsweep_tui.store import whole
from optsweep_tui.store.connect import interruptible, open_store


def store_problem(path: Path) -> str | None:
    """What is wrong with a store, read to its end, and what to do; None when it is fine."""
    try:
        with open_store(path) as connection:
            whole.require_whole(path, connection)
            interruptible(connection, lambda: whole.read_through(connection))
    except OptsweepError as error:
        return str(error)
    return None


def examine(workspace: Workspace, libraries: Mapping[str, str]) -> dict[str, Any]:
    """Versions, devices, engines, store and runs, and what to do about what is wrong."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    todo = []
    engines = []
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        library = libraries.get(entry.name)
        present = installed(library) if library else None
        engines.append({"engine": entry.name, "library": library, "version": present, "usable": present is not None})
    if not any(entry["usable"] for entry in engines):
        todo.append("no engine can run: pip install 'optsweep[torch]'")
    writable = os.access(workspace.root if workspace.root.exists() else workspace.root.parent, os.W_OK)
    if not writable:
        todo.append(f"workspace {workspace.root} cannot be written: use --workspace DIR")
    free = workspace.free_bytes
    if free < 1 << 30:
        todo.append(f"only {free / 2**20:.0f} MiB free on the disk of the workspace")
    store: dict[str, Any] = {"path": str(workspace.store), "exists": workspace.store.exists(), "problem": None}
    if workspace.store.exists():
        store["problem"] = store_problem(workspace.store)
        if store["problem"]:
            todo.append(store["problem"])
    counts: dict[str, int] = {}
    finished: list[tuple[RunSpec, RunRecord]] = []
    for run_id in rundir.run_ids(workspace.runs):
        run = rundir.state_of(workspace.runs / run_id)
        counts[run.state] = counts.get(run.state, 0) + 1
        if run.record is not None and run.state == "done":
            with contextlib.suppress(OptsweepError):  # an imported one has no spec of ours
                finished.append((spec_of(workspace, run_id), run.record))
    if counts.get("orphan") or counts.get("lost"):
        todo.append("some runs were interrupted: optsweep resume")
    hosts: list[dict[str, Any]] = []
    try:
        for host in hostsfile.read(workspace).values():
            link = links.read_link(workspace, host.name)
            state = "drained" if host.drained else link.state if link else "never asked"
            slots = host.slots or (link.slots if link else None)
            hosts.append({"name": host.name, "slots": slots, "backend": host.backend, "state": state})
            if link is not None and link.fresh and (link.error or link.held):
                todo.append(link.error or link.held)
    except OptsweepError as error:
        todo.append(str(error))
    return {
        "optsweep": optsweep_tui.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {
            name: installed(name) for name in ("numpy", "pandas", "scipy", "duckdb", "textual", "torch", "jax")
        },
        "engines": engines,
        "cores": settings.usable_cores(),
        "gpus": settings.visible_gpus(),
        "hosts": [{"name": "local", "slots": workspace.run_slots}, *hosts],
        "workspace": {"path": str(workspace.root), "writable": writable, "free_bytes": free},
        "store": store,
        "runs": counts,
        "prediction": benches.prediction_error(workspace, finished),
        "todo": todo,
    }
