"""Inside the frame of a terminal chart: every point, line, interval and shade of a panel in character cells, by plotext."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import plotext

from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Floats
from optsweep_tui.charts.figure import Panel, Series
from optsweep_tui.charts.place import drawn_x

ARROWS = {"up": "↑", "down": "↓", "left": "←", "right": "→"}
LOST = "x"
SHADE, BAND, REFERENCE, TIE = "·", "░", "┄", "┐│┘"


def circled(letter: str) -> str:
    """The letter in a circle: extrapolated."""
    if "a" <= letter <= "z":
        return chr(0x24D0 + ord(letter) - ord("a"))
    if "A" <= letter <= "Z":
        return chr(0x24B6 + ord(letter) - ord("A"))
    if "1" <= letter <= "9":
        return chr(0x2460 + ord(letter) - ord("1"))
    return "○"


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The character cells inside the frame, and where data lie in them."""

    columns: int
    rows: int
    x: tuple[float, float]
    """Range, as drawn: decades on a log axis."""
    y: tuple[float, float]

    def column(self, x: float) -> int:
        return self._cell(x, self.x, self.columns)

    def row(self, y: float) -> int:
        """Rows count from the bottom."""
        return self._cell(y, self.y, self.rows)

    @staticmethod
    def _cell(value: float, limits: tuple[float, float], cells: int) -> int:
        part = (value - limits[0]) / (limits[1] - limits[0])
        return min(cells - 1, max(0, round(part * (cells - 1))))

    def at(self, column: int, row: int) -> tuple[float, float]:
        """The middle of a cell, as drawn."""
        return tuple(  # type: ignore[return-value]
            low + (high - low) * place / max(1, cells - 1)
            for (low, high), place, cells in ((self.x, column, self.columns), (self.y, row, self.rows))
        )


def scaled(values: Floats, log: bool) -> Floats:
    """plotext's own log axes place ticks by natural logs; ours are drawn on a linear axis of log10."""
    if not log:
        return np.asarray(values, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


class Drawing:
    """Everything inside the frame, from the back to the front."""

    def __init__(self, panel: Panel, cells: Cells, sign: float) -> None:
        self._panel, self._cells, self._sign = panel, cells, sign
        self._taken: set[tuple[int, int]] = set()
        self.moved = False
        """Some letter stands right of its place, because another stands there."""

    def draw(self) -> None:
        self._shades()
        self._bands()
        for line in self._panel.references:
            self._reference(line.x, line.y, line.bar)
        lettered = [one for one in self._panel.series if one.line == "steps" and one.ends]
        behind = [one for one in self._panel.series if one.line in ("curve", "dashed", "steps") and one not in lettered]
        for pale in (True, False):
            for one in reversed(behind):  # the first comes last, on top
                if one.pale is pale:
                    self._line(one)
        places = [(one, self._placed(one)) for one in self._panel.series]
        for one, placed in places:
            self._bars(one, placed)
        for one, placed in places:
            self._points(one, placed)
            if self._panel.y.rows:
                self._words(one, placed)
        for one in lettered:
            self._row_of_letters(one)
        for one in self._panel.series:
            if one.letters:
                self._end(one)

    def _y(self, values: Floats) -> Floats:
        return self._sign * scaled(values, self._panel.y.log)

    def _put(self, cells: Iterable[tuple[int, int]], mark: str, colour: str) -> None:
        """Write a character into cells; plotext clips by the limits, so their middles are handed over."""
        spots = [self._cells.at(column, row) for column, row in cells]
        if spots:
            plotext.scatter([x for x, _ in spots], [y for _, y in spots], marker=mark, color=_rgb(colour))

    def _shades(self) -> None:
        cells = self._cells
        for shade in self._panel.shades:
            log = self._panel.x.log if shade.axis == "x" else self._panel.y.log
            ends = scaled(np.array([shade.low, shade.high]), log)
            found = []
            for column in range(cells.columns):
                for row in range(cells.rows):
                    x, y = cells.at(column, row)
                    value = x if shade.axis == "x" else self._sign * y
                    if ends[0] <= value <= ends[1] and (column + row) % 2 == 0:
                        found.append((column, row))
            self._put(found, SHADE, style.FAINT)

    def _bands(self) -> None:
        """Rows that the band covers at each column; where it is thinner than a row nothing can be seen of it."""
        for band in self._panel.bands:
            x = scaled(band.x, self._panel.x.log)
            low, high = self._y(band.low), self._y(band.high)
            if not np.isfinite(low).all() or not np.isfinite(high).all() or len(x) < 2:
                continue
            found = []
            for column in range(self._cells.columns):
                at = self._cells.at(column, 0)[0]
                if x[0] <= at <= x[-1]:
                    bottom, top = float(np.interp(at, x, low)), float(np.interp(at, x, high))
                    rows = (row for row in range(self._cells.rows) if bottom <= self._cells.at(column, row)[1] <= top)
                    found += [(column, row) for row in rows]
            self._put(found, BAND, band.look.colour)

    def _reference(self, x: Floats, y: Floats, bar: bool) -> None:
        across, along = scaled(x, self._panel.x.log), self._y(y)
        if bar:
            column = self._cells.column(float(across[0]))
            first, last = sorted(self._cells.row(float(value)) for value in along)
            # A bracket beside the letters, so that neighbouring groups stay apart.
            beside = min(column + 1, self._cells.columns - 1)
            self._put([(beside, last)], TIE[0], style.GREY)
            self._put([(beside, row) for row in range(first + 1, last)], TIE[1], style.GREY)
            self._put([(beside, first)], TIE[2], style.GREY)
            return
        found = []
        for column in range(self._cells.columns):
            at = self._cells.at(column, 0)[0]
            if across[0] <= at <= across[-1]:
                value = float(np.interp(at, across, along))
                if self._cells.y[0] <= value <= self._cells.y[1]:
                    found.append((column, self._cells.row(value)))
        self._put(found, REFERENCE if len({row for _, row in found}) == 1 else SHADE, style.GREY)

    def _line(self, one: Series) -> None:
        """Gaps as separate pieces: plotext would draw a line through NaN."""
        x, y = scaled(drawn_x(one, self._panel.x.log), self._panel.x.log), self._y(one.y)
        if one.line == "steps" and len(x):
            x, y = np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]
        good = np.isfinite(x) & np.isfinite(y)
        borders = np.flatnonzero(np.diff(good.astype(np.int8), prepend=0, append=0))
        colour = style.FAINT if one.pale else one.look.colour
        for start, end in zip(borders[::2], borders[1::2], strict=True):
            step = 2 if one.line == "dashed" else 1
            if one.line == "dashed":  # dots: the curve is extrapolated there
                plotext.scatter(
                    x[start:end:step].tolist(), y[start:end:step].tolist(), marker="braille", color=_rgb(colour)
                )
            else:
                plotext.plot(x[start:end].tolist(), y[start:end].tolist(), marker="braille", color=_rgb(colour))

    def _placed(self, one: Series) -> list[tuple[int, int] | None]:
        """A free cell for each point: one that would cover another moves a column to the right."""
        if one.marks == "none" and not one.arrow and one.place == "data":
            return []
        x = scaled(drawn_x(one, self._panel.x.log), self._panel.x.log)
        y = self._y(one.y)
        found: list[tuple[int, int] | None] = []
        for place in range(len(x)):
            if one.place == "top" and math.isfinite(x[place]):
                level = one.levels[place] if one.levels else 0
                cell = (self._cells.column(float(x[place])), max(0, self._cells.rows - 1 - level))
            elif math.isfinite(x[place]) and math.isfinite(y[place]):
                cell = (self._cells.column(float(x[place])), self._cells.row(float(y[place])))
            else:
                found.append(None)
                continue
            if one.marks != "none" or one.place == "top":
                free = self._free(cell)
                self.moved |= free != cell
                cell = free
                self._taken.add(cell)
            found.append(cell)
        return found

    def _free(self, cell: tuple[int, int]) -> tuple[int, int]:
        column, row = cell
        while (column, row) in self._taken and column < self._cells.columns - 1:
            column += 1
        while (column, row) in self._taken and column > 0:
            column -= 1
        return column, row

    def _bars(self, one: Series, placed: Sequence[tuple[int, int] | None]) -> None:
        """The rows that intervals cover, beside those that letters stand in; open ends run to the frame."""
        if one.low is None or one.high is None:
            return
        low, high = self._y(one.low), self._y(one.high)
        if self._sign < 0:
            low, high = high, low
        found = []
        for place, cell in enumerate(placed):
            if cell is None or math.isnan(low[place]) or math.isnan(high[place]):
                continue
            ends = (max(low[place], self._cells.y[0]), min(high[place], self._cells.y[1]))
            first, last = self._cells.row(float(ends[0])), self._cells.row(float(ends[1]))
            found += [(cell[0], row) for row in range(first, last + 1) if (cell[0], row) not in self._taken]
        self._put(found, "│" if one.marks == "solid" else "┊", one.look.colour)

    def _points(self, one: Series, placed: Sequence[tuple[int, int] | None]) -> None:
        cells = [cell for cell in placed if cell is not None]
        letter, colour = one.look.letter, one.look.colour
        if one.arrow and one.marks != "none":
            self._arrows(cells, one)
        if one.place == "top":
            self._put(cells, letter, colour)
            self._put(self._beside(cells), LOST if one.marks == "cross" else ARROWS["up"], colour)
            return
        if one.marks == "none":
            if one.arrow:
                self._arrows(cells, one)
            return
        mark = {"solid": letter, "hollow": circled(letter), "cross": LOST}[one.marks]
        if self._panel.y.rows:  # the row says whose it is, so that the mark can say how good the value was
            mark = {"solid": "◉" if one.large else "●", "hollow": "○", "cross": LOST}[one.marks]
        self._put(cells, mark, colour)

    def _beside(self, cells: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The cells right of these that are free."""
        moved = [(column + 1, row) for column, row in cells]
        return [cell for cell in moved if cell[0] < self._cells.columns and cell not in self._taken]

    def _arrows(self, cells: Iterable[tuple[int, int]], one: Series) -> None:
        across, along = {"up": (0, 1), "down": (0, -1), "left": (-1, 0), "right": (1, 0)}[one.arrow]
        moved = [(column + across, row + along) for column, row in cells]
        columns, rows = self._cells.columns, self._cells.rows
        inside = [cell for cell in moved if 0 <= cell[0] < columns and 0 <= cell[1] < rows and cell not in self._taken]
        self._put(inside, ARROWS[one.arrow], one.look.colour)

    def _words(self, one: Series, placed: Sequence[tuple[int, int] | None]) -> None:
        """The word of each point right of it, where it touches nothing."""
        for cell, word in zip(placed, one.text, strict=False):
            if cell is not None and word:
                spots = [(cell[0] + 1 + place, cell[1]) for place in range(len(word))]
                after = (spots[-1][0] + 1, cell[1])
                if spots[-1][0] < self._cells.columns and not self._taken & {*spots, after}:
                    for spot, letter in zip(spots, word, strict=True):
                        self._put([spot], letter, style.GREY)

    def _row_of_letters(self, one: Series) -> None:
        """A staircase on few levels as its letter all along: lines on top of each other would say nothing without colour."""
        x, y = scaled(drawn_x(one, self._panel.x.log), self._panel.x.log), self._y(one.y)
        found = []
        for column in range(self._cells.columns):
            place = int(np.searchsorted(x, self._cells.at(column, 0)[0], side="right")) - 1
            if place >= 0 and column <= self._cells.column(float(x[-1])) and math.isfinite(y[place]):
                found.append((column, self._cells.row(float(y[place]))))
        self._put(found, one.look.letter, one.look.colour)

    def _end(self, one: Series) -> None:
        """The letter of a curve at its last point."""
        good = np.flatnonzero(np.isfinite(one.y))
        if len(good):
            x = float(scaled(drawn_x(one, self._panel.x.log), self._panel.x.log)[good[-1]])
            cell = (self._cells.column(x), self._cells.row(float(self._y(one.y)[good[-1]])))
            while cell in self._taken and cell[0] > 0:
                cell = (cell[0] - 1, cell[1])
            self._taken.add(cell)
            self._put([cell], one.look.letter, one.look.colour)


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
