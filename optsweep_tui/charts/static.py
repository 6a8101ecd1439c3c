"""Charts for the command line, drawn by plotext: `picture(curves, width=..., height=...)` is text ready to print.

`rasterise` implements the same protocol as `charts.raster`; `picture` chooses round ranges and adds a legend.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotext

from optsweep_tui.charts.chart import Curve, Extent, Row, Span, View, ansi, extent, plain
from optsweep_tui.charts.ticks import SteadyScale, tick_labels, ticks

_ESCAPES = re.compile(r"\x1b\[([0-9;]*)m")


def rasterise(curves: Sequence[Curve], view: View) -> list[Row]:
    """Draw curves with plotext. Clears and uses plotext's one global figure, so one thread at a time.

    Args:
        curves: the first lies on top.
        view: ranges must be rising, and positive on log axes; no crosshair.

    Returns:
        `view.height` rows of at most `view.width` columns.
    """
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(view.width, view.height)
    places = _point_places(curves, view)
    drawn_first = [curve for curve in curves if curve.dim][::-1]
    for curve in [*drawn_first, *[curve for curve in curves if not curve.dim][::-1]]:  # the first comes last, on top
        _add(curve, view, places)
    values = ticks(*view.x_range, view.width // 14, view.x_log)
    plotext.xlim(*(_scaled(value, view.x_log) for value in view.x_range))
    plotext.xticks([_scaled(value, view.x_log) for value in values], tick_labels(values))
    values = ticks(*view.y_range, max(2, view.height // 4), view.y_log)
    plotext.ylim(*(_scaled(value, view.y_log) for value in view.y_range))
    plotext.yticks([_scaled(value, view.y_log) for value in values], tick_labels(values))
    if view.unit:
        plotext.xlabel(view.unit)
    with contextlib.redirect_stdout(io.StringIO()):  # plotext warns on stdout when the terminal is smaller
        text = plotext.build()
    plotext.clear_figure()
    rows = [_parsed(line) for line in text.split("\n")]
    return [*rows, *([()] * view.height)][: view.height]


def _add(curve: Curve, view: View, places: dict[int, list[tuple[float, float]]]) -> None:
    """Hand one curve to plotext, gaps as separate pieces: it would draw a line through NaN."""
    colour = tuple(int(curve.colour[start : start + 2], 16) for start in (1, 3, 5))
    if curve.points:
        for x, y in places[id(curve)]:
            plotext.scatter([x], [y], marker=curve.letter or "•", color=colour)
        return
    good = _visible(curve, view)
    borders = np.flatnonzero(np.diff(good.astype(np.int8), prepend=0, append=0))
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        xs = [_scaled(float(value), view.x_log) for value in curve.x[start:end]]
        ys = [_scaled(float(value), view.y_log) for value in curve.y[start:end]]
        if len(xs) == 1:
            plotext.scatter(xs, ys, marker=curve.letter or "•", color=colour)
        else:
            plotext.plot(xs, ys, marker="braille", color=colour)
    if curve.letter and good.any():
        last = int(np.flatnonzero(good)[-1])
        at = (_scaled(float(curve.x[last]), view.x_log), _scaled(float(curve.y[last]), view.y_log))
        plotext.text(curve.letter, *at, color=colour, alignment="right")


def _visible(curve: Curve, view: View) -> npt.NDArray[np.bool_]:
    good: npt.NDArray[np.bool_] = np.isfinite(curve.y) & (curve.x >= view.x_range[0]) & (curve.x <= view.x_range[1])
    if view.y_log:
        good &= curve.y > 0
    if view.x_log:
        good &= curve.x > 0
    return good


def _point_places(curves: Sequence[Curve], view: View) -> dict[int, list[tuple[float, float]]]:
    """Where the letters of points stand: one that would cover an earlier one moves a column to the right."""
    low_x, high_x = (_scaled(value, view.x_log) for value in view.x_range)
    low_y, high_y = (_scaled(value, view.y_log) for value in view.y_range)
    column, row = (high_x - low_x) / max(1, view.width - 6), (high_y - low_y) / max(1, view.height - 4)
    taken: list[tuple[float, float]] = []
    found: dict[int, list[tuple[float, float]]] = {}
    for curve in curves:
        if curve.points:
            found[id(curve)] = []
            good = _visible(curve, view)
            for x, y in zip(curve.x[good], curve.y[good], strict=True):
                at_x, at_y = _scaled(float(x), view.x_log), _scaled(float(y), view.y_log)
                while any(abs(at_x - other_x) < column and abs(at_y - other_y) < row for other_x, other_y in taken):
                    at_x += column
                taken.append((at_x, at_y))
                found[id(curve)].append((at_x, at_y))
    return found


def _scaled(value: float, log: bool) -> float:
    """plotext's own log axes place ticks by natural logs; ours are drawn on a linear axis of log10."""
    return math.log10(value) if log else value


def _parsed(line: str) -> Row:
    """One line of plotext's output as spans: it knows only resets and 24-bit foreground colours."""
    spans: list[Span] = []
    colour: str | None = None
    for place, piece in enumerate(_ESCAPES.split(line)):
        if place % 2 == 0:
            if piece:
                spans.append(Span(piece, colour))
            continue
        codes = piece.split(";")
        if codes[:2] == ["38", "2"] and len(codes) == 5:
            colour = "#" + "".join(f"{int(code):02x}" for code in codes[2:])
        elif codes in ([""], ["0"]):
            colour = None
    return tuple(spans)


def picture(
    curves: Sequence[Curve],
    *,
    width: int,
    height: int,
    x_log: bool = False,
    y_log: bool = False,
    unit: str = "",
    colour: bool = True,
) -> str:
    """A whole chart as text: axes that fit the data, and a legend of letters and labels below.

    Args:
        curves: the first lies on top; labels must be set for the legend.
        width: columns.
        height: rows, without the legend.
        x_log: logarithmic x.
        y_log: logarithmic y.
        unit: name of x with its unit.
        colour: False = no escape sequences at all.

    Returns:
        Lines without a newline at the end; one sentence where there is nothing to draw.
    """
    found = extent(curves)
    if (
        found.empty
        or (x_log and not math.isfinite(found.positive_x))
        or (y_log and not math.isfinite(found.positive_y))
    ):
        return "no points to draw"
    view = View(
        width=max(30, width),
        height=max(8, height),
        x_range=_x_range(found, x_log, any(curve.points for curve in curves)),
        y_range=SteadyScale().fit(found.positive_y if y_log else found.y[0], found.y[1], y_log),
        x_log=x_log,
        y_log=y_log,
        unit=unit,
    )
    rows = rasterise(curves, view)
    for curve in curves:
        if curve.label:
            mark = curve.letter or "─"
            rows.append((Span(f" {mark} ", curve.colour, bold=True), Span(curve.label[: max(1, width - 3)])))
    return ansi(rows) if colour else plain(rows)


def _x_range(found: Extent, log: bool, points: bool) -> tuple[float, float]:
    """All of the data; points keep a little distance from the borders."""
    low, high = (found.positive_x if log else found.x[0]), found.x[1]
    if high <= low:
        return (low / 2, low * 2) if log else (low - (abs(low) or 1.0), high + (abs(high) or 1.0))
    if log:
        margin = (high / low) ** (0.04 if points else 0.0)
        return low / margin, high * margin
    margin = 0.04 * (high - low) if points else 0.0
    return (low - margin if points else min(low, 0.0)), high + margin
