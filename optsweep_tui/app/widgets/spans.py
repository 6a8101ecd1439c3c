"""A widget that shows rows of spans and, when they change, redraws only the columns that differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from optsweep_tui.charts.chart import Row, Span

_PLAIN = Span(" ")[1:]
"""How a span without colour looks."""
_translate: list[Callable[[str], str]] = [lambda colour: colour]


def use_colours(translate: Callable[[str], str]) -> None:
    """From now on show the colours of the views through this; who has drawn draws again."""
    _translate[0] = translate
    style_of.cache_clear()


@lru_cache(maxsize=1024)
def style_of(colour: str | None, dim: bool, bold: bool, reverse: bool) -> Style:
    """The terminal style of a span; never None, which Textual's NO_COLOR filter cannot take."""
    shown = None if colour is None else _translate[0](colour)
    return Style(color=shown, dim=dim or None, bold=bold or None, reverse=reverse or None)


def _printable(text: str) -> str:
    """Control characters as dots: what came from files and hosts must not drive the terminal."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "·" for sign in text)


def strip_of(row: Row, width: int) -> Strip:
    """One row as a strip of exactly `width` columns; neighbours of one style are one: each would cost 20 bytes on the line."""
    segments = []
    text, looks = "", _PLAIN
    for span in row:
        if span[1:] == looks:
            text += span.text
        else:
            if text:
                segments.append(Segment(_printable(text), style_of(*looks)))
            text, looks = span.text, span[1:]
    if text:
        segments.append(Segment(_printable(text), style_of(*looks)))
    return Strip(segments).adjust_cell_length(width, Style())


class SpanView(Widget):
    """Rows in, lines out. The rows may be more or fewer than the widget is high."""

    DEFAULT_CSS = """
    SpanView { height: 1fr; width: 1fr; }
    """

    class Resized(Message):
        """The widget has another size: whoever fills it should do so anew."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._rows: list[Row] = []
        self._height: int | str | None = None
        self._base: Style | None = None

    def set_height(self, height: int | str | None) -> None:
        """Rows, "1fr", or None for what the style sheet says; the same height again costs no layout."""
        if height != self._height:
            self._height = height
            self.styles.height = height

    @property
    def rows(self) -> list[Row]:
        """What is shown."""
        return self._rows

    def show(self, rows: list[Row]) -> None:
        """Show these rows; what did not change is not sent to the terminal again."""
        before, self._rows = self._rows, rows
        width, height = self.size
        regions = []
        for y in range(min(height, max(len(before), len(rows)))):
            old = before[y] if y < len(before) else ()
            new = rows[y] if y < len(rows) else ()
            changed = changed_columns(old, new, width)
            if changed is not None:
                regions.append(Region(changed[0], y, changed[1] - changed[0], 1))
        if regions:
            self.refresh(*regions)

    def on_resize(self) -> None:
        """Ask for rows of the new size."""
        self.post_message(self.Resized())

    def render_line(self, y: int) -> Strip:
        """One line for Textual's compositor."""
        row = self._rows[y] if y < len(self._rows) else ()
        if self._base is None:
            self._base = self.rich_style  # found by a walk up the tree: 0.1 ms, too much for every line
        return strip_of(row, self.size.width).apply_style(self._base)

    def notify_style_update(self) -> None:
        """The colours around may have changed."""
        super().notify_style_update()
        self._base = None


def changed_columns(old: Row, new: Row, width: int) -> tuple[int, int] | None:
    """First and end column that differ between two rows, in text or style; None when none does."""
    if old == new:
        return None
    before, before_styles = _cells(old, width)
    after, after_styles = _cells(new, width)
    first, last = 0, width
    while first < last and before[first] == after[first] and before_styles[first] == after_styles[first]:
        first += 1
    while first < last and before[last - 1] == after[last - 1] and before_styles[last - 1] == after_styles[last - 1]:
        last -= 1
    return (first, last) if first < last else None


def _cells(row: Row, width: int) -> tuple[str, list[tuple[object, ...]]]:
    """Characters and styles of a row, column by column."""
    text = "".join([span.text for span in row]).ljust(width)
    styles: list[tuple[object, ...]] = []
    for span in row:
        styles += [span[1:]] * len(span.text)
    return text, styles + [_PLAIN] * (width - len(styles))
