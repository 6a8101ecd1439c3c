"""The rasteriser of live curves: 2 x 4 braille dots per character cell, exact min-max per dot column, numpy only.

    rows = rasterise(curves, view)

Between its points a curve is the straight line on the screen (also on log axes). Each dot column shows everything the
line passes in it, so a spike of one point is never lost. Earlier curves lie on top; dim ones lie behind all others.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Curve, Floats, Row, Span, View
from optsweep_tui.charts.reduce import column_extents
from optsweep_tui.charts.ticks import tick_labels, ticks

GUTTER = 7
"""Columns left of the plot: tick labels and the axis."""
MARGIN = 2
"""Columns right of the plot, for the letters at the ends of curves."""
FOOT = 2
"""Rows below the plot: the axis and its labels."""

Codes: TypeAlias = npt.NDArray[np.uint32]
Bits: TypeAlias = npt.NDArray[np.uint8]
Owners: TypeAlias = npt.NDArray[np.int32]

BRAILLE = 0x2800
_DOTS = np.array([[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]], dtype=np.uint8)


def _dot_table() -> Bits:
    """[side, first, end] -> the bits of dot rows first..end-1 of one side of a cell."""
    table = np.zeros((2, 5, 5), dtype=np.uint8)
    for side in range(2):
        for first in range(5):
            for end in range(first, 5):
                table[side, first, end] = _DOTS[side, first:end].sum()
    return table


_TABLE = _dot_table().reshape(2, 25)


class BitCache:
    """The dots of curves that have not changed since the last frame."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, Bits] = OrderedDict()

    def get(self, key: Hashable) -> Bits | None:
        """The dots under this key, if they are still known."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        return None

    def put(self, key: Hashable, bits: Bits) -> None:
        """Keep these; the oldest leave."""
        self._kept[key] = bits
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)


def plot_size(view: View) -> tuple[int, int]:
    """Columns and rows of character cells that are left for the curves."""
    return max(1, view.width - GUTTER - MARGIN), max(1, view.height - FOOT)


def rasterise(curves: Sequence[Curve], view: View, cache: BitCache | None = None) -> list[Row]:
    """Draw curves and axes.

    Args:
        curves: the first lies on top.
        view: ranges must be rising, and positive on log axes.
        cache: keeps what was reduced for curves that have a key.

    Returns:
        `view.height` rows of `view.width` columns.
    """
    columns, rows = plot_size(view)
    canvas = _Canvas(view)
    edges = _edges(view, 2 * columns)
    for pale in (False, True):
        for place, curve in enumerate(curves):
            if curve.dim is pale and not curve.points:
                canvas.lay(_curve_bits(curve, view, edges, rows, cache), place)
        canvas.close_layer()
    canvas.write_dots()
    if view.crosshair is not None:
        canvas.crosshair(view.crosshair)
    for place, curve in enumerate(curves):
        if curve.points:
            canvas.points(curve, place)
        elif not curve.dim:
            canvas.gaps(curve, place)
    taken: set[tuple[int, int]] = set()
    for place, curve in enumerate(curves):
        if curve.letter and not curve.dim and not curve.points:
            canvas.name(curve, place, taken)
    canvas.axes()
    return canvas.rows(curves)


def _edges(view: View, dot_columns: int) -> Floats:
    """Borders of the dot columns, in units of x, shape [dot_columns + 1]."""
    parts = np.arange(dot_columns + 1) / dot_columns
    low, high = view.x_range
    if not view.x_log:
        return np.asarray(low + (high - low) * parts)
    return np.asarray(10.0 ** (np.log10(low) + (np.log10(high) - np.log10(low)) * parts))


def _curve_bits(curve: Curve, view: View, edges: Floats, rows: int, cache: BitCache | None) -> Bits:
    if cache is None or curve.key is None:
        return _drawn(curve, view, edges, rows)
    key = (curve.key, view.x_range, view.y_range, view.x_log, view.y_log, len(edges), rows)
    known = cache.get(key)
    if known is None:
        known = _drawn(curve, view, edges, rows)
        cache.put(key, known)
    return known


def _drawn(curve: Curve, view: View, edges: Floats, rows: int) -> Bits:
    """The dots of the line, without every third column where it is dashed."""
    bits = _bits(*_line_columns(curve, view, edges), view, rows)
    dashed = int(np.searchsorted(edges[2::2], curve.dashed_to, side="right"))
    bits[:, 2:dashed:3] = 0
    return bits


def _line_columns(curve: Curve, view: View, edges: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest position of the line in each dot column, on the (log) scale of y; NaN where it is not."""
    x, y = curve.x, curve.y
    if view.x_log:
        start = int(np.searchsorted(x, 0.0, side="right"))
        x, y = x[start:], y[start:]
    bad = ~np.isfinite(y) | (y <= 0) if view.y_log else ~np.isfinite(y)
    if bad.any():
        y = np.where(bad, np.nan, y)
    if not len(x):
        nothing = np.full(len(edges) - 1, np.nan)
        return nothing, nothing
    low, high = column_extents(x, y, edges)
    entering = _at_edges(x, y, edges[:-1], view, "right")
    leaving = _at_edges(x, y, edges[1:], view, "left")
    if view.y_log:
        low, high = np.log10(low), np.log10(high)
    low = np.fmin(np.fmin(low, entering), leaving)
    high = np.fmax(np.fmax(high, entering), leaving)
    return low, high


def _at_edges(x: Floats, y: Floats, edges: Floats, view: View, side: Literal["left", "right"]) -> Floats:
    """Position of the line at borders of columns, coming from the left or the right; NaN outside data and in gaps."""
    before = np.searchsorted(x, edges, side=side) - 1
    after = before + 1
    inside = (before >= 0) & (after < len(x))
    before, after = before[inside], after[inside]
    x0, x1, at = x[before], x[after], edges[inside]
    y0, y1 = y[before], y[after]
    if view.x_log:
        x0, x1, at = np.log10(x0), np.log10(x1), np.log10(at)
    if view.y_log:
        y0, y1 = np.log10(y0), np.log10(y1)
    position = np.full(len(edges), np.nan)
    position[inside] = y0 + (y1 - y0) * ((at - x0) / (x1 - x0))
    return position


def _limits(view: View) -> tuple[float, float]:
    low, high = view.y_range
    return (float(np.log10(low)), float(np.log10(high))) if view.y_log else (low, high)


def _bits(low: Floats, high: Floats, view: View, rows: int) -> Bits:
    """Braille bits of one line, shape [rows, columns]."""
    bottom_value, top_value = _limits(view)
    dots = 4 * rows
    scale = dots / (top_value - bottom_value)
    with np.errstate(invalid="ignore"):
        visible = (high >= bottom_value) & (low <= top_value)
        top = np.minimum(np.maximum(np.floor((top_value - high) * scale), 0), dots - 1)
        end = np.minimum(np.maximum(np.floor((top_value - low) * scale), 0), dots - 1) + 1
    first_dot = np.arange(0, dots, 4, dtype=np.int16)[:, None]
    firsts = np.minimum(np.maximum(np.where(visible, top, dots).astype(np.int16) - first_dot, 0), 4)
    ends = np.maximum(np.minimum(np.where(visible, end, 0).astype(np.int16) - first_dot, 4), firsts)
    spots = firsts * 5 + ends
    return np.asarray(_TABLE[0].take(spots[:, 0::2]) | _TABLE[1].take(spots[:, 1::2]))


class _Canvas:
    """Characters and their owners; owner = place of the curve, or one of the negative ones below."""

    AXIS, LABEL, CROSS = -1, -2, -3

    def __init__(self, view: View) -> None:
        self.view = view
        self.columns, self.lines = plot_size(view)
        shape = (max(view.height, self.lines), max(view.width, self.columns))
        self.codes: Codes = np.full(shape, ord(" "), dtype=np.uint32)
        self.owners: Owners = np.full(shape, self.AXIS, dtype=np.int32)
        self.loud = np.zeros(shape, dtype=bool)
        self._dots: Bits = np.zeros((self.lines, self.columns), dtype=np.uint8)
        self._dot_owners: Owners = np.full((self.lines, self.columns), self.AXIS, dtype=np.int32)
        left = min(GUTTER, max(0, view.width - self.columns))
        self._closed: npt.NDArray[np.bool_] | None = None
        self._plot = np.s_[: self.lines, left : left + self.columns]
        self._left = left

    def lay(self, bits: Bits, place: int) -> None:
        """Put a line under those of its layer: shared cells show both, in the colour of the upper one."""
        free = (self._dots == 0) & (bits != 0)
        self._dot_owners[free] = place
        self._dots |= bits if self._closed is None else np.where(self._closed, 0, bits).astype(np.uint8)

    def close_layer(self) -> None:
        """Cells that are drawn now show nothing of the layers behind."""
        self._closed = self._dots != 0

    def write_dots(self) -> None:
        """Turn dots into characters."""
        drawn = self._dots != 0
        self.codes[self._plot][drawn] = self._dots[drawn].astype(np.uint32) + BRAILLE
        self.owners[self._plot][drawn] = self._dot_owners[drawn]

    def column_of(self, x: float) -> int | None:
        """Character column of a value of x inside the plot; None outside the range."""
        low, high = self.view.x_range
        if self.view.x_log:
            if x <= 0:
                return None
            low, high, x = np.log10(low), np.log10(high), np.log10(x)
        part = (x - low) / (high - low)
        return None if not -1e-9 <= part <= 1 + 1e-9 else min(self.columns - 1, max(0, int(part * self.columns)))

    def row_of(self, y: float, clip: bool = False) -> int | None:
        """Character row of a value of y; None outside the range unless it is clipped to it."""
        low, high = _limits(self.view)
        if self.view.y_log:
            if y <= 0:
                return None
            y = float(np.log10(y))
        part = (high - y) / (high - low)
        if not clip and not -1e-9 <= part <= 1 + 1e-9:
            return None
        return int(min(self.lines - 1, max(0, int(part * self.lines))))

    def put(self, row: int, column: int, text: str, owner: int, loud: bool = False) -> None:
        """Write text at a place of the whole view, cut at its borders."""
        for offset, character in enumerate(text):
            if 0 <= row < self.codes.shape[0] and 0 <= column + offset < self.codes.shape[1]:
                self.codes[row, column + offset] = ord(character)
                self.owners[row, column + offset] = owner
                self.loud[row, column + offset] = loud

    def crosshair(self, x: float) -> None:
        """A vertical line behind the curves."""
        column = self.column_of(x)
        if column is not None:
            column += self._left
            empty = self.codes[: self.lines, column] == ord(" ")
            self.codes[: self.lines, column][empty] = ord("┆")
            self.owners[: self.lines, column][empty] = self.CROSS

    def points(self, curve: Curve, place: int) -> None:
        """The curve's letter at each of its points."""
        for x, y in zip(curve.x, curve.y, strict=True):
            if np.isfinite(y):
                column, row = self.column_of(float(x)), self.row_of(float(y))
                if column is not None and row is not None:
                    self.put(row, self._left + column, curve.letter or "•", place, loud=True)

    def gaps(self, curve: Curve, place: int) -> None:
        """A cross where a gap begins: at the last height that was a number."""
        bad = ~np.isfinite(curve.y)
        if not bad.any():
            return
        finite = np.flatnonzero(~bad)
        for start in np.flatnonzero(bad & ~np.concatenate(([False], bad[:-1]))):
            column = self.column_of(float(curve.x[start]))
            place_before = int(np.searchsorted(finite, start)) - 1
            if column is None or not finite.size:
                continue
            row = self.row_of(float(curve.y[finite[max(0, place_before)]]), clip=True)
            if row is not None:
                self.put(row, self._left + column, "×", place, loud=True)

    def name(self, curve: Curve, place: int, taken: set[tuple[int, int]]) -> None:
        """The curve's letter just after its last visible point, moved up or down where another one stands."""
        first = int(np.searchsorted(curve.x, self.view.x_range[0], side="left"))
        end = int(np.searchsorted(curve.x, self.view.x_range[1], side="right"))
        last = next((index for index in range(end - 1, first - 1, -1) if np.isfinite(curve.y[index])), None)
        if last is None:
            return
        column, row = self.column_of(float(curve.x[last])), self.row_of(float(curve.y[last]))
        if column is None or row is None:
            return
        for shift in (0, 1, -1, 2, -2, 3, -3):
            spot = (row + shift, self._left + column + 1)
            if 0 <= spot[0] < self.lines and spot not in taken:
                taken.add(spot)
                self.put(*spot, curve.letter, place, loud=True)
                return

    def axes(self) -> None:
        """Tick labels, the two axis lines, and the unit."""
        view, axis = self.view, self._left - 1
        for row in range(self.lines):
            self.put(row, axis, "│", self.AXIS)
        values = ticks(*view.y_range, max(2, self.lines // 4), view.y_log)
        for value, label in zip(values, tick_labels(values), strict=True):
            row_or_none = self.row_of(value)
            if row_or_none is not None and axis >= 0:
                self.put(row_or_none, axis, "┤", self.AXIS)
                label = label[-axis:] if axis else ""
                self.put(row_or_none, axis - len(label), label, self.LABEL)
        self.put(self.lines, axis, "└" + "─" * self.columns, self.AXIS)
        values = ticks(*view.x_range, max(2, self.columns // 12), view.x_log)
        free_from = 0
        end = view.width - (len(view.unit) + 1 if view.unit else 0)
        for value, label in zip(values, tick_labels(values), strict=True):
            column = self.column_of(value)
            if column is None:
                continue
            self.put(self.lines, self._left + column, "┬", self.AXIS)
            start = self._left + column - len(label) // 2
            if start >= free_from and start + len(label) <= end:
                self.put(self.lines + 1, start, label, self.LABEL)
                free_from = start + len(label) + 2
        if view.unit:
            self.put(self.lines + 1, view.width - len(view.unit), view.unit, self.LABEL)

    def rows(self, curves: Sequence[Curve]) -> list[Row]:
        """The finished view as rows of spans, as few as there are changes of style."""
        height, width = self.view.height, self.view.width
        if width <= 0:  # a window that is being made small
            return [()] * height
        own = {self.AXIS: style.FAINT, self.LABEL: style.GREY, self.CROSS: style.GREY}
        looks: list[tuple[str, bool]] = [*((curve.colour, curve.dim) for curve in curves)]
        looks += [(own[owner], False) for owner in (self.CROSS, self.LABEL, self.AXIS)]  # in reach of negative indices
        distinct = {look: place for place, look in enumerate(dict.fromkeys(looks))}
        known = list(distinct)
        marks = (
            np.array([distinct[look] for look in looks])[self.owners[:height, :width]] * 2 + self.loud[:height, :width]
        )
        borders = marks[:, 1:] != marks[:, :-1]
        found: list[Row] = []
        for codes, line, border in zip(self.codes[:height, :width], marks, borders, strict=True):
            text = codes.tobytes().decode("utf-32-le")
            starts = [0, *(np.flatnonzero(border) + 1).tolist(), width]
            spans = []
            for start, end in itertools.pairwise(starts):
                mark = int(line[start])
                spans.append(Span(text[start:end], *known[mark // 2], bool(mark % 2)))
            found.append(tuple(spans))
        return found
