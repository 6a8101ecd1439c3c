"""Results and plans of others into this workspace, what `import` calls: files -> importers -> run folders or grids -> store."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from optsweep_tui import flow
from optsweep_tui import studies as study_files
from optsweep_tui.core import Study
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

if TYPE_CHECKING:
    from optsweep_tui.importers.protocol import Skip


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What one import did."""

    importer: str
    runs: int
    """Runs that were read."""
    studies: dict[str, int]
    """Study -> runs that were read for it."""
    states: dict[str, int]
    new: int
    changed: int
    """Runs that were here already, with another outcome."""
    unchanged: int
    points: int
    """Metric values collected."""
    skipped: list[Skip]
    """What could not be read, and why."""
    seconds: float
    grids: dict[str, str] = field(default_factory=dict)
    """Study -> the grid file that its plan was written to."""
    planned: int = 0
    """Runs that those grids plan."""


def import_formats() -> list[dict[str, str]]:
    """Every importer: its name and what it reads."""
    from optsweep_tui.importers import protocol

    return [{"name": name, "doc": protocol.load_importer(name).doc} for name in protocol.importer_names()]


def import_results(
    workspace: Workspace,
    name: str,
    *,
    path: Path | None = None,
    study: str | None = None,
    mapping: Path | None = None,
    out: Path | None = None,
) -> ImportReport:
    """Results of others into run folders of their own, then into the store; plans of others into grid files. Twice is once.

    Args:
        out: the grid file to write; None for <study>.toml in the workspace's grids.

    Raises:
        OptsweepError: no such importer, nothing that it could read, or the workspace cannot be written.
    """
    import time

    from optsweep_tui import gridfile
    from optsweep_tui.importers import plant, protocol

    started = time.monotonic()
    importer = protocol.load_importer(name)
    if study is not None:
        gridfile.check_name(study, "--study")
    found = importer.read(protocol.Request(path=path, study=study, mapping=mapping))
    for study_name in {run.study for run in found.runs} | found.grids.keys():
        gridfile.check_name(study_name, "--study is not given, and")
    if out is not None and len(found.grids) != 1:
        raise OptsweepError(f"import {importer.name} brings results, no grid", "leave --out out")
    drafts = {study_name: draft for study_name, draft in found.grids.items() if draft.runs}
    if found.runs or not found.grids or out is None:
        workspace.ensure()
    grids = {
        study_name: gridfile.keep(out or workspace.grids / f"{study_name}.toml", draft.text)
        for study_name, draft in drafts.items()
    }
    planted = plant.plant(workspace.runs, found.runs)
    for study_name, baseline in found.baselines.items():
        study_files.remember(workspace.studies, study_files.rules_of(Study(name=study_name, baseline=baseline)), [])
    points = flow.collect(workspace).points if found.runs else 0
    return ImportReport(
        importer=importer.name,
        runs=len(found.runs),
        studies=dict(Counter(run.study for run in found.runs)),
        states=dict(Counter(run.outcome.state for run in found.runs).most_common()),
        new=planted.new,
        changed=planted.changed,
        unchanged=planted.unchanged,
        points=points,
        skipped=found.skipped,
        seconds=time.monotonic() - started,
        grids={study_name: str(path) for study_name, path in grids.items()},
        planned=sum(draft.runs for draft in drafts.values()),
    )
