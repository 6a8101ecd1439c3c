"""Figures as files: `write(figure, path)` draws a `charts.figure.Figure` with matplotlib as PDF, SVG or PNG.

Same data, same bytes: no dates, fixed ids, matplotlib's own settings in place of the user's.
"""

from __future__ import annotations

import importlib.util
import io
import os
from pathlib import Path
from typing import Any

from optsweep_tui.charts.figure import Figure
from optsweep_tui.errors import OptsweepError

SUFFIXES = ("pdf", "svg", "png")
PNG_DPI = 300
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"Creator": "optsweep", "Producer": None, "CreationDate": None},
    "svg": {"Creator": "optsweep", "Date": None},
    "png": {"Software": "optsweep"},
}


def write(figure: Figure, path: Path, *, overwrite: bool = False) -> Path:
    """Draw a figure into a file; the suffix says which kind.

    Raises:
        OptsweepError: matplotlib is not installed, the suffix is none of `SUFFIXES`, the file exists, or it cannot be
            written.
    """
    check(path, overwrite=overwrite)
    data = drawn(figure, path.suffix[1:].lower())
    part = path.with_name(f".{path.name}.{os.getpid()}.part") if overwrite else path
    try:
        with open(part, "wb" if overwrite else "xb") as handle:  # x: somebody may have made the file meanwhile
            handle.write(data)
        if overwrite:  # moved over the old figure when it is whole: a full disk costs neither
            part.replace(path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OptsweepError(f"{path} cannot be written: {error.strerror}", "name another file with --out") from None
    return path


def check(path: Path, *, overwrite: bool) -> None:
    """Everything that can be known to be wrong with a file before anything is computed.

    Raises:
        OptsweepError: as `write`.
    """
    suffix = path.suffix[1:].lower()
    if suffix not in SUFFIXES:
        ending = f'"{path.suffix}"' if path.suffix else "no suffix"
        raise OptsweepError(f"--out {path}: {ending} names no kind of figure", "use .pdf, .svg or .png")
    require()
    if path.is_dir():
        raise OptsweepError(f"{path} is a folder", "name a file with --out")
    if not path.parent.is_dir():
        raise OptsweepError(f"{path} cannot be written: {path.parent} is no folder", f"mkdir -p {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OptsweepError(f"{path} cannot be written: {path.parent} is read-only", "name another file with --out")
    if path.exists() and not overwrite:
        raise _exists(path)


def require() -> None:
    """Raise one clear line where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise OptsweepError(
            "figure files need matplotlib, which is not installed here", "pip install 'optsweep[plots]'"
        )


def _exists(path: Path) -> OptsweepError:
    return OptsweepError(f"{path} exists already", "name another file, or add --overwrite")


def svg_text(figure: Figure) -> str:
    """A figure as an SVG document, for pages that hold it inline.

    Raises:
        OptsweepError: matplotlib is not installed, or the figure is empty (`figure.refused` says why).
    """
    return drawn(figure, "svg").decode()


def drawn(figure: Figure, suffix: str) -> bytes:
    """The bytes of a figure file of one kind.

    Raises:
        OptsweepError: matplotlib is not installed, or the figure is empty.
    """
    require()
    if figure.empty:
        raise OptsweepError(f"plot {figure.kind}: nothing to draw", "; ".join(figure.refused))
    from optsweep_tui.charts import paper

    target = io.BytesIO()
    with paper.settings():
        title = {} if suffix == "png" else {"Title": f"{figure.title} ({figure.provenance})"}
        paper.sheet(figure).savefig(target, format=suffix, dpi=PNG_DPI, metadata=_METADATA[suffix] | title)
    return target.getvalue()
