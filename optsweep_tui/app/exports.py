"""Files that a screen writes: into the workspace's `exports` folder, under a new name each time, never over another."""

from __future__ import annotations

import re
from pathlib import Path

from optsweep_tui.charts.figure import Figure
from optsweep_tui.errors import OptsweepError
from optsweep_tui.settings import Workspace

FORMATS = {"svg": "SVG, for papers and pages", "png": "PNG, for slides", "csv": "CSV, the numbers"}
"""Suffix and what it is good for."""


def folder_of(workspace: Workspace) -> Path:
    """Where exports go."""
    return workspace.root / "exports"


def write(workspace: Workspace, stem: str, suffix: str, content: bytes) -> Path:
    """Write a new file stem.suffix, stem-2.suffix, ...; returns its path.

    Raises:
        OptsweepError: the workspace cannot be written.
    """
    where = folder_of(workspace)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "export"
    try:
        where.mkdir(exist_ok=True)
        for number in range(1, 100_000):
            path = where / (f"{stem}.{suffix}" if number == 1 else f"{stem}-{number}.{suffix}")
            try:
                with open(path, "xb") as target:
                    target.write(content)
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise OptsweepError(
            f"{where} cannot be written: {error.strerror}", "free some room or mend its rights"
        ) from None
    raise OptsweepError(f"{where} holds too many files of that name", "move some away")


def drawn(figure: Figure, suffix: str) -> bytes:
    """The figure as the bytes of an SVG or PNG file.

    Raises:
        OptsweepError: matplotlib is not installed, or there is nothing to draw.
    """
    from optsweep_tui.charts import files

    return files.drawn(figure, suffix)


def short(path: Path) -> str:
    """The path as one would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
