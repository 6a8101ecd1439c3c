"""Figures on a terminal, drawn by plotext: `text(figure, width=80, height=20)` is ready to print.

A point is the letter of its optimizer; circled where it is extrapolated, with an arrow above or below where it is a bound.
Intervals are bars, dotted where extrapolated. Letters that would cover each other stand side by side.
"""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from collections.abc import Sequence

import numpy as np
import plotext

from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span, ansi, plain
from optsweep_tui.charts.figure import Axis, Figure, Panel
from optsweep_tui.charts.place import covered
from optsweep_tui.charts.static_panel import LOST, Cells, Drawing, circled, scaled
from optsweep_tui.charts.ticks import axis_ticks

_ESCAPES = re.compile(r"\x1b\[([0-9;]*)m")

MOVED = "A letter whose place is taken stands right of it."
LEAST_WIDTH, LEAST_HEIGHT = 40, 8


def text(figure: Figure, *, width: int, height: int, colour: bool = True) -> str:
    """A whole figure: heading, panels one below the other, legend, caption.

    Args:
        figure: panels without anything to draw are left out, with their reasons in the caption.
        width: columns.
        height: rows of one panel, its title and labels included.
        colour: False = no escape sequences at all.
    """
    width, height = max(LEAST_WIDTH, width), max(LEAST_HEIGHT, height)
    rows: list[Row] = [*_wrapped(f"{figure.title}", width, bold=True)]
    for panel in figure.panels:
        if not panel.empty:
            rows += _panel(panel, width, height)
    rows += words_rows(figure, width)
    return ansi(rows) if colour else plain(rows)


def _wrapped(words: str, width: int, *, indent: int = 0, bold: bool = False, colour: str | None = None) -> list[Row]:
    blank = " " * indent
    width = max(width, indent + 8)  # a window that is just being made smaller may have no column left
    lines = textwrap.wrap(words, width, initial_indent=blank, subsequent_indent=blank)
    return [(Span(line, colour, bold=bold),) for line in lines]


# ---------------------------------------------------------------- one panel


def panel_rows(panel: Panel, width: int, height: int) -> list[Row]:
    """One panel in exactly so many rows: for a screen, where the figure's words and `MOVED` stand elsewhere."""
    head = f"{panel.title}   {panel.y.label}" if panel.title and panel.y.label else panel.title or panel.y.label
    return [(Span(head[:width], bold=True),), *_chart(panel, width, height - 1, told=True)][:height]


def words_rows(figure: Figure, width: int) -> list[Row]:
    """What stands below a figure: legend, meaning of the marks, caption, what was refused, where it comes from."""
    rows = [] if figure.empty else _legend(figure, width)
    for sentence in figure.caption if not figure.empty else ():
        rows += _wrapped(sentence, width, indent=1)
    for reason in figure.refused:
        rows += _wrapped(f"not drawn: {reason}", width, indent=1)
    return rows + _wrapped(figure.provenance, width, indent=1, colour=style.GREY)


def _panel(panel: Panel, width: int, height: int) -> list[Row]:
    """Title, the y label, the chart."""
    if panel.y.rows and panel.y.limits is not None:
        height = round(panel.y.limits[1] - panel.y.limits[0]) + 5
    elif panel.y.ticks is not None:  # ranks: a row each
        height = max(height, len(panel.y.ticks) + 6)
    title = panel.title or panel.y.label
    head = f"{panel.title}   {panel.y.label}" if panel.title and panel.y.label else title
    rows = [*_wrapped(head, width), *_chart(panel, width, height - 1)]
    for note in panel.notes:
        rows += _wrapped(note, width, indent=2, colour=style.GREY)
    return rows


def _chart(panel: Panel, width: int, height: int, *, told: bool = False) -> list[Row]:
    """The chart; below it, unless that is told elsewhere, that letters stand beside their places."""
    x_range, y_range = covered(panel, "x"), covered(panel, "y")
    x_ticks, y_ticks = _ticks(panel.x, x_range, width // 12), _ticks(panel.y, y_range, max(2, height // 4))
    sign = -1.0 if panel.y.inverted else 1.0
    labels = max((len(label) for _, label in y_ticks), default=0)
    limits = sorted(sign * value for value in scaled(np.array(y_range), panel.y.log).tolist())
    cells = Cells(
        columns=max(1, width - labels - 2),
        rows=max(1, height - 4),
        x=tuple(scaled(np.array(x_range), panel.x.log).tolist()),
        y=(limits[0], limits[1]),
    )
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(
        False, False
    )  # the room is known here: plotext would ask the terminal, or take 80x24 without one
    plotext.plotsize(width, height)
    plotext.xlim(*cells.x)
    plotext.ylim(*cells.y)
    plotext.xticks(
        [float(scaled(np.array(value), panel.x.log)) for value, _ in x_ticks], _spread(x_ticks, cells, panel.x)
    )
    plotext.yticks(
        [sign * float(scaled(np.array(value), panel.y.log)) for value, _ in y_ticks], [text for _, text in y_ticks]
    )
    plotext.xlabel(panel.x.label)
    drawing = Drawing(panel, cells, sign)
    drawing.draw()
    with contextlib.redirect_stdout(io.StringIO()):  # plotext warns on stdout when the terminal is smaller
        drawn = plotext.build()
    plotext.clear_figure()
    rows = [_parsed(line) for line in drawn.rstrip("\n").split("\n")]
    return rows + (_wrapped(MOVED, width, indent=2, colour=style.GREY) if drawing.moved and not told else [])


def _ticks(axis: Axis, limits: tuple[float, float], count: int) -> list[tuple[float, str]]:
    if axis.ticks is None:
        return axis_ticks(limits[0], limits[1], count, axis.log)
    return [(value, label) for value, label in axis.ticks if limits[0] <= value <= limits[1]]


def _spread(ticks: Sequence[tuple[float, str]], cells: Cells, axis: Axis) -> list[str]:
    """Labels of x without those that would touch the one before."""
    found, free = [], -1
    for value, label in ticks:
        middle = cells.column(float(scaled(np.array(value), axis.log)))
        start = middle - len(label) // 2
        fits = start > free
        found.append(label if fits else "")
        free = start + len(label) if fits else free
    return found


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


# ---------------------------------------------------------------- below the panels


def _legend(figure: Figure, width: int) -> list[Row]:
    """Letters with their names in columns, and what the marks mean."""
    entries = []
    for name, look in figure.names.items():
        own = [one for panel in figure.panels for one in panel.series if one.name == name]
        only_line = all(one.marks == "none" and not one.letters and not one.ends for one in own)
        entries.append(("─" if only_line else look.letter, name, look.colour))
    rows: list[Row] = []
    cell = max((len(name) for _, name, _ in entries), default=0) + 4
    columns = max(1, width // cell)
    for start in range(0, len(entries), columns):
        spans: list[Span] = []
        for mark, name, colour in entries[start : start + columns]:
            spans += [Span(f" {mark} ", colour, bold=True), Span(name[: max(1, width - 3)].ljust(cell - 3))]
        rows.append(tuple(spans))
    listed = any(panel.y.rows for panel in figure.panels)
    letter = next((look.letter for look in figure.names.values()), "a")
    marks = {
        "solid": "●" if listed else letter,
        "hollow": "○" if listed else f"{circled(letter)} with dotted bar",
        "bound": f"{circled(letter)} with arrow",
        "shade": "·",
        "edge": "→",
        "cross": LOST,
    }
    if figure.keys:
        rows += _wrapped("   ".join(f"{marks[key]} {meaning}" for key, meaning in figure.keys), width, indent=1)
    return rows
