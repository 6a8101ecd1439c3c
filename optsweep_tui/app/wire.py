"""What goes to the terminal: of each update only the characters that differ from those which it shows already.

Textual redraws lines from the left edge of a widget to the last changed column, and whole widgets where they scroll. Over a
slow link that is what one waits for, so the last frame is kept, and a second one like it costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import get_character_cell_size
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate

GAP = 6
"""Equal cells between two changes that are sent again: moving the cursor costs as much."""
BLANKS = 8
"""Blanks at the end of a line from which erasing to its end is shorter, where the terminal erases in colour."""
OFF = "\x1b[0m"
_PLAIN = Style()


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the terminal is told of a style: parameters of SGR (ECMA-48, 8.3.117)."""

    marks: frozenset[str] = frozenset()
    """Bold, reverse and the like."""
    ink: str = ""
    ground: str = ""

    @classmethod
    def of(cls, style: Style, system: ColorSystem) -> Look:
        """Of a style of Rich, in the colours that the terminal has."""
        marks = {number for name, number in MARKS.items() if getattr(style, name)}
        ink, ground = (
            ";".join(colour.downgrade(system).get_ansi_codes(foreground=front)) if colour is not None else ""
            for colour, front in ((style.color, True), (style.bgcolor, False))
        )
        return cls(marks=frozenset(marks), ink=ink, ground=ground)

    def after(self, before: Look) -> str:
        """What turns the one look into this one."""
        if before.marks - self.marks or (before.ink and not self.ink) or (before.ground and not self.ground):
            parts = ["0", *sorted(self.marks), self.ink, self.ground]
        else:
            new = sorted(self.marks - before.marks)
            parts = [*new, self.ink * (self.ink != before.ink), self.ground * (self.ground != before.ground)]
        told = ";".join(part for part in parts if part)
        return f"\x1b[{told}m" if told else ""


MARKS = {
    "bold": "1", "dim": "2", "italic": "3", "underline": "4", "blink": "5", "blink2": "6", "reverse": "7", "conceal": "8",
    "strike": "9", "underline2": "21", "overline": "53",
}  # fmt: skip
"""Attributes of a style and their SGR numbers."""


class Written(CompositorUpdate):
    """An update that is sequences already."""

    def __init__(self, text: str) -> None:
        self.text = text

    def render_segments(self, console: Console) -> str:
        """The sequences."""
        return self.text


class Line:
    """The cells of one line of the terminal; -1 for the style of a cell that nobody has drawn."""

    def __init__(self, width: int) -> None:
        self.signs = [" "] * width
        """A wide character stands in its first cell, with an empty one behind it."""
        self.looks = [-1] * width


class Wire:
    """The terminal as it was drawn last."""

    def __init__(self, erases: bool = False) -> None:
        """
        Args:
            erases: the terminal erases in the colour of the ground (terminfo: bce).
        """
        self._lines: dict[int, Line] = {}
        self._width = 0
        self._erases = erases
        self._system = ColorSystem.TRUECOLOR
        self._numbers: dict[Style, int] = {}
        self._looks: list[Look] = []
        self._turns: dict[tuple[int, int], str] = {}
        self._now = -1
        """The style in which the terminal writes; -1 = none."""

    def forget(self) -> None:
        """The terminal may show anything now: send everything at the next update."""
        self._lines.clear()

    def difference(self, update: CompositorUpdate, width: int, console: Console) -> str | None:
        """The sequences that bring the terminal up to date; None for an update of a kind that is not known here.

        Args:
            width: columns of the terminal.
        """
        if isinstance(update, ChopsUpdate):
            pieces = _chops(update)
        elif isinstance(update, LayoutUpdate):
            pieces = _layout(update)
        else:
            self.forget()
            return None
        if width != self._width:
            self.forget()
            self._width = width
        system = console._color_system or ColorSystem.TRUECOLOR
        if system != self._system:
            self._system = system
            self._numbers.clear()
        found: list[str] = []
        for y, x, first, last, strip in pieces:
            found += self._draw(y, x, max(first, 0), min(last, width), strip)
        if found:
            found.append(OFF)
        self._now = -1
        return "".join(found)

    def _draw(self, y: int, x: int, first: int, last: int, strip: Iterable[Segment]) -> Iterator[str]:
        """Put the columns first..last of a strip that begins at column x on a line; gives what to send for it."""
        line = self._lines.setdefault(y, Line(self._width))
        signs, looks = self._cells(strip)
        first, last = max(first, x), min(last, x + len(signs))
        old_signs, old_looks = line.signs, line.looks
        begin, end = -1, -1  # of the columns that are to be sent
        for column in range(first, last):
            place = column - x
            if signs[place] != old_signs[column] or looks[place] != old_looks[column]:
                if begin >= 0 and column - end > GAP:
                    yield self._run(y, x, begin, end, signs, looks)
                    begin = -1
                begin, end = (column if begin < 0 else begin), column + 1
        if begin >= 0:
            yield self._run(y, x, begin, end, signs, looks)
        old_signs[first:last] = signs[first - x : last - x]
        old_looks[first:last] = looks[first - x : last - x]

    def _run(self, y: int, x: int, begin: int, end: int, signs: Sequence[str], looks: Sequence[int]) -> str:
        """Move there and write the cells begin..end, wide characters whole."""
        while begin > x and not signs[begin - x]:
            begin -= 1
        while end - x < len(signs) and not signs[end - x]:
            end += 1
        start, stop, erase = begin - x, end - x, False
        if self._erases and end == self._width and not self._looks[looks[stop - 1]].marks:
            blank = stop
            while blank > start and signs[blank - 1] == " " and looks[blank - 1] == looks[stop - 1]:
                blank -= 1
            erase, stop = (True, blank) if stop - blank >= BLANKS else (False, stop)
        parts = [f"\x1b[{y + 1};{begin + 1}H"]
        for place in range(start, stop):
            if looks[place] != self._now:
                parts.append(self._turn(looks[place]))
            parts.append(signs[place])
        if erase:
            parts += [self._turn(looks[end - x - 1]), "\x1b[K"]
        return "".join(parts)

    def _turn(self, number: int) -> str:
        """Let the terminal write in another style."""
        key = (self._now, number)
        if key not in self._turns:
            self._turns[key] = self._looks[number].after(self._looks[key[0]] if key[0] >= 0 else Look())
        self._now = number
        return self._turns[key]

    def _cells(self, strip: Iterable[Segment]) -> tuple[list[str], list[int]]:
        """Characters and styles cell by cell."""
        signs: list[str] = []
        looks: list[int] = []
        for text, style, _ in strip:
            number = self._number(style or _PLAIN)
            if text.isascii():
                signs += text
                looks += [number] * len(text)
                continue
            for sign in text:
                width = get_character_cell_size(sign)
                if width:
                    signs += [sign] if width == 1 else [sign, ""]
                    looks += [number] * width
                elif signs:  # an accent belongs to the character before it
                    signs[-1 if signs[-1] else -2] += sign
        return signs, looks

    def _number(self, style: Style) -> int:
        """Styles as small numbers: comparing two of them would take longer than drawing them."""
        known = self._numbers.get(style)
        if known is None:
            known = self._numbers[style] = len(self._looks)
            self._looks.append(Look.of(style, self._system))
        return known


def erases_in_colour() -> bool:
    """The terminal fills what it erases with the colour of the ground, as its description in terminfo says."""
    import curses

    try:
        curses.setupterm()
        return curses.tigetflag("bce") == 1
    except (curses.error, OSError, ValueError):
        return False


Piece = tuple[int, int, int, int, Iterable[Segment]]
"""Line, column where the strip begins, first and end column that are to be drawn, strip."""


def _chops(update: ChopsUpdate) -> Iterator[Piece]:
    for y, first, last in update.spans:
        for end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if strip is not None and x < last and end > first:
                yield y, x, max(x, first), min(end, last), strip


def _layout(update: LayoutUpdate) -> Iterator[Piece]:
    for y, strips in enumerate(update.strips, update.region.y):
        x = update.region.x
        for strip in strips:
            width = strip.cell_length
            yield y, x, x, x + width, strip
            x += width
