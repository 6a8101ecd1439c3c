"""The seam to an importer: `load_importer(name).read(request)` returns runs, and what could not be read with the reason."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import BinaryIO, Protocol

from optsweep_tui.errors import OptsweepError, UnknownName
from optsweep_tui.imported import ImportedRun

ENTRY_POINT_GROUP = "optsweep.importers"

IN_TREE = {
    "csv": "optsweep_tui.importers.rows:CsvImporter",
    "marin": "optsweep_tui.importers.marin:MarinImporter",
    "nanogpt": "optsweep_tui.importers.nanogpt:NanogptImporter",
    "olmo-sweep": "optsweep_tui.importers.olmo_sweep:OlmoSweepImporter",
    "parquet": "optsweep_tui.importers.rows:ParquetImporter",
    "reference": "optsweep_tui.importers.reference:ReferenceImporter",
    "tensorboard": "optsweep_tui.importers.tensorboard:TensorboardImporter",
    "wandb": "optsweep_tui.importers.wandb:WandbImporter",
}
"""Importers that ship with the program; each module is loaded when it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked to import."""

    path: Path | None = None
    """File or folder; None for an importer that needs none."""
    study: str | None = None
    """Study to import into; None for the importer's own choice."""
    mapping: Path | None = None
    """File that says which column means what, for importers that take one."""


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Something that could not be read: where it is, and why."""

    where: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A plan of somebody else's as a grid file of ours."""

    text: str
    """TOML."""
    runs: int
    """Runs that it plans."""


@dataclass(kw_only=True)
class Found:
    """What an importer read."""

    runs: list[ImportedRun] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    grids: dict[str, Draft] = field(default_factory=dict)
    """Study -> its plan, from an importer of plans."""
    baselines: Mapping[str, str] = field(default_factory=dict)
    """Study -> optimizer that its speedups are measured against, where the source says so."""

    def skip(self, where: str, why: str) -> None:
        """List something that could not be read; what a file says of itself must not drive a terminal."""
        self.skipped.append(Skip(where=printable(where), why=printable(" ".join(str(why).split()))[:300]))


def printable(text: str) -> str:
    """The text with a question mark for every control character."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def opened(file: Path) -> BinaryIO:
    """A file of the user's, to be read: regular files only, since a pipe or a device may never end.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")


class Complaints:
    """What is wrong with one file: the first places are listed, the others counted, so that garbage does not fill a screen."""

    MOST = 20

    def __init__(self, found: Found, where: str) -> None:
        self._found, self._where, self._count = found, where, 0

    def add(self, why: str) -> None:
        """One place."""
        self._count += 1
        if self._count <= self.MOST:
            self._found.skip(self._where, why)

    def close(self) -> None:
        """Say how many more there were."""
        if self._count > self.MOST:
            self._found.skip(self._where, f"{self._count - self.MOST} further places of it cannot be read either")


class Importer(Protocol):
    """Reads results that somebody else has published."""

    name: str
    doc: str
    """One line for the list of formats."""

    def read(self, request: Request) -> Found:
        """Everything that can be read; the rest is listed in `skipped`.

        Raises:
            OptsweepError: nothing can be read at all: no such file, a missing path, a mapping that is wrong.
        """


def importer_names() -> list[str]:
    """Every registered importer, sorted."""
    return sorted({*IN_TREE, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def load_importer(name: str) -> Importer:
    """The importer of a name, matched without case.

    Raises:
        UnknownName: no such importer.
    """
    wanted = name.lower()
    if wanted in IN_TREE:
        module, _, attribute = IN_TREE[wanted].partition(":")
        importer: Importer = getattr(import_module(module), attribute)()
        return importer
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name.lower() == wanted:
            found: Importer = point.load()()
            return found
    raise UnknownName("format", name, importer_names(), hint=f"known: {', '.join(importer_names())}")


def required_path(request: Request, name: str) -> Path:
    """The path of a request to an importer that needs one.

    Raises:
        OptsweepError: none was given, or nothing is there.
    """
    if request.path is None:
        raise OptsweepError(f"import {name} needs a path", f"optsweep import {name} PATH")
    if not request.path.exists():
        raise OptsweepError(f"{request.path}: there is no such file or folder", "check the path")
    return request.path
