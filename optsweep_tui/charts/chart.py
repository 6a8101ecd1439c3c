"""What a live chart is made of: curves in, a view on them, rows of coloured text out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One line of a chart."""

    x: Floats
    """Finite, not decreasing, shape [points]."""
    y: Floats
    """Shape [points]; NaN and infinities are gaps, never values."""
    colour: str
    """`#rrggbb`."""
    letter: str = ""
    """Names the curve at its end, without colour; empty = unnamed."""
    label: str = ""
    """Name in a legend."""
    dim: bool = False
    """Drawn behind the others and paler: the raw data behind a smoothed curve."""
    points: bool = False
    """Draw `letter` at every point instead of a line."""
    dashed_to: float = -np.inf
    """x up to which the line is dashed."""
    key: Hashable = None
    """Changes whenever x or y change; None = never cached."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What part of the data is shown, and on how many character cells."""

    width: int
    """Columns, axis labels included."""
    height: int
    """Rows, axis labels included."""
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_log: bool = False
    y_log: bool = False
    crosshair: float | None = None
    """Position of a vertical line, in units of x."""
    unit: str = ""
    """Unit of x, put at the end of the axis if there is room."""


class Span(NamedTuple):
    """A piece of a row in one style."""

    text: str
    colour: str | None = None
    dim: bool = False
    bold: bool = False
    reverse: bool = False


Row: TypeAlias = tuple[Span, ...]


def plain(rows: Sequence[Row]) -> str:
    """The rows without colours, one line each."""
    return "\n".join("".join(span.text for span in row).rstrip() for row in rows)


def ansi(rows: Sequence[Row]) -> str:
    """The rows with 24-bit ANSI colours."""
    return "\n".join("".join(_ansi(span) for span in row).rstrip() for row in rows)


def _ansi(span: Span) -> str:
    codes = [code for code, wanted in (("1", span.bold), ("2", span.dim), ("7", span.reverse)) if wanted]
    if span.colour:
        codes.append("38;2;" + ";".join(str(int(span.colour[start : start + 2], 16)) for start in (1, 3, 5)))
    return f"\x1b[{';'.join(codes)}m{span.text}\x1b[0m" if codes and span.text.strip() else span.text


@dataclass(kw_only=True)
class Extent:
    """The finite data of several curves: smallest and largest x and y, and the smallest positive ones for log axes."""

    x: tuple[float, float] = field(default=(np.inf, -np.inf))
    y: tuple[float, float] = field(default=(np.inf, -np.inf))
    positive_x: float = np.inf
    positive_y: float = np.inf

    @property
    def empty(self) -> bool:
        return self.x[0] > self.x[1] or self.y[0] > self.y[1]


def extent(curves: Sequence[Curve], x_range: tuple[float, float] | None = None) -> Extent:
    """What the curves cover, within a range of x if one is given."""
    found = Extent()
    for curve in curves:
        x, y = curve.x, curve.y
        if x_range is not None:
            first, last = np.searchsorted(x, x_range[0], "left"), np.searchsorted(x, x_range[1], "right")
            x, y = x[first:last], y[first:last]
        if not x.size:
            continue
        if not np.isfinite(y).all():
            y = y[np.isfinite(y)]
        above = x[np.searchsorted(x, 0.0, "right") :]
        found.x = (min(found.x[0], float(x[0])), max(found.x[1], float(x[-1])))
        if above.size:
            found.positive_x = min(found.positive_x, float(above[0]))
        if y.size:
            low = float(y.min())
            found.y = (min(found.y[0], low), max(found.y[1], float(y.max())))
            if low > 0:
                found.positive_y = min(found.positive_y, low)
            elif (y > 0).any():
                found.positive_y = min(found.positive_y, float(y[y > 0].min()))
    return found
