"""What an exporter is: `load_exporter(name).write(runs, target)` writes what `import` of the same name reads back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol

from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.exporters.runs import ExportedRun

IN_TREE = {
    "marin": "optsweep_tui.exporters.marin:MarinExporter",
    "wandb": "optsweep_tui.exporters.wandb:WandbExporter",
}
"""Exporters of runs, by name; tables of runs (csv, parquet) need no run folder and are written by `flow` itself."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Something that the format has no place for: what, and why."""

    where: str
    why: str


@dataclass(kw_only=True)
class Written:
    """What an exporter wrote."""

    runs: int = 0
    files: int = 0
    skipped: list[LeftOut] = field(default_factory=list)

    def skip(self, where: str, why: str) -> None:
        """List something that has no place in the format."""
        self.skipped.append(LeftOut(where=where, why=" ".join(why.split())[:300]))


class Exporter(Protocol):
    """Writes runs in another program's format."""

    name: str
    doc: str
    """One line for the list of formats."""
    one_study: bool
    """The format has one place for a cell: runs of several studies do not fit."""

    def write(self, runs: Sequence[ExportedRun], target: Path) -> Written:
        """Write the runs into a folder that is new or empty.

        Raises:
            OSError: it cannot be written.
        """


def load_exporter(name: str) -> Exporter:
    """The exporter of a name, matched without case.

    Raises:
        UnknownName: no such exporter.
    """
    wanted = name.lower()
    if wanted not in IN_TREE:
        raise UnknownName("format", name, IN_TREE)
    module, _, attribute = IN_TREE[wanted].partition(":")
    exporter: Exporter = getattr(import_module(module), attribute)()
    return exporter


def new_folder(target: Path) -> None:
    """Make the folder that an export goes into.

    Raises:
        OptsweepError: something is there already, or it cannot be made.
    """
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OptsweepError(f"{target} exists already and is not empty", "name a new folder")
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptsweepError(f"{target} cannot be written: {error.strerror}", "name another folder") from None
