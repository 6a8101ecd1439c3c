"""A slow rasteriser in plain Python, segment by segment, to compare the fast one with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from optsweep_tui.charts.chart import Curve, Row, View
from optsweep_tui.charts.raster import BRAILLE, GUTTER, plot_size

EPSILON = 1e-6
"""Dots: a line this close to a border may fall on either side of it."""

Dots = set[tuple[int, int]]


def dots_of(rows: Sequence[Row], view: View) -> Dots:
    """(column, row) of every braille dot that was drawn."""
    columns, lines = plot_size(view)
    bits = {
        0x01: (0, 0),
        0x02: (0, 1),
        0x04: (0, 2),
        0x40: (0, 3),
        0x08: (1, 0),
        0x10: (1, 1),
        0x20: (1, 2),
        0x80: (1, 3),
    }
    found = set()
    for y, row in enumerate(rows[:lines]):
        text = "".join(span.text for span in row)[GUTTER : GUTTER + columns]
        for x, character in enumerate(text):
            code = ord(character) - BRAILLE
            if 0 <= code < 256:
                found |= {(2 * x + dx, 4 * y + dy) for bit, (dx, dy) in bits.items() if code & bit}
    return found


def expected(curve: Curve, view: View) -> tuple[Dots, Dots]:
    """Dots that must be drawn for one line, and those that may be: they differ where it runs along a border."""
    must: Dots = set()
    may: Dots = set()
    for column in range(2 * plot_size(view)[0]):
        inner = _range(curve, view, column + EPSILON, column + 1 - EPSILON)
        outer = _range(curve, view, column - EPSILON, column + 1 + EPSILON)
        if inner is not None:
            must |= _rows(inner, view, column, -EPSILON)
        if outer is not None:
            may |= _rows(outer, view, column, EPSILON)
    return must, may


def _place(x: float, y: float, view: View) -> tuple[float, float] | None:
    """A point in dots from the upper left corner; None for one that cannot be drawn."""
    columns, lines = plot_size(view)
    if not math.isfinite(y) or (view.y_log and y <= 0) or (view.x_log and x <= 0):
        return None

    def part(value: float, ends: tuple[float, float], log: bool) -> float:
        if log:
            return (math.log10(value) - math.log10(ends[0])) / (math.log10(ends[1]) - math.log10(ends[0]))
        return (value - ends[0]) / (ends[1] - ends[0])

    return part(x, view.x_range, view.x_log) * 2 * columns, (1 - part(y, view.y_range, view.y_log)) * 4 * lines


def _range(curve: Curve, view: View, left: float, right: float) -> tuple[float, float] | None:
    """Smallest and largest row that the line reaches between two dot columns."""
    places = [_place(float(x), float(y), view) for x, y in zip(curve.x, curve.y, strict=True)]
    if view.x_log:
        places = [place for place, x in zip(places, curve.x, strict=True) if x > 0]
    rows = [place[1] for place in places if place is not None and left <= place[0] <= right]
    for start, end in itertools.pairwise(places):
        if start is None or end is None or end[0] <= start[0]:
            continue
        for edge in (left, right):
            if start[0] <= edge <= end[0]:
                rows.append(start[1] + (end[1] - start[1]) * (edge - start[0]) / (end[0] - start[0]))
    return (min(rows), max(rows)) if rows else None


def _rows(reach: tuple[float, float], view: View, column: int, slack: float) -> Dots:
    dots = 4 * plot_size(view)[1]
    top, bottom = reach[0] - slack, reach[1] + slack
    if bottom < slack or top > dots - slack:
        return set()
    if slack < 0 and (reach[1] < -slack or reach[0] > dots + slack):
        return set()
    first, last = max(0, math.floor(top)), min(dots - 1, math.floor(bottom))
    return {(column, row) for row in range(first, last + 1)}
