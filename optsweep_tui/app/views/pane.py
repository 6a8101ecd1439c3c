"""A pane of rows that scrolls, follows its end, and is searched: which rows are shown, and where the words are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optsweep_tui.app import format as fmt
from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Row, Span


@dataclass
class Pane:
    """Where a pane stands."""

    top: int | None = None
    """First row that is shown; None follows the end."""
    search: str = ""
    found: list[int] = field(default_factory=list)
    """Rows that hold the search."""
    at: int | None = None
    """The one among `found` that was gone to last."""
    _height: int = 10

    @property
    def follows(self) -> bool:
        """New rows scroll in."""
        return self.top is None

    def scroll(self, rows: int, count: int) -> None:
        """Up or down; at the end it follows again."""
        last = max(0, count - self._height)
        top = (last if self.top is None else self.top) + rows
        self.top = None if top >= last and rows > 0 else max(0, min(top, last))

    def follow(self, count: int) -> None:
        """Follow the end, or stand still."""
        self.top = max(0, count - self._height) if self.top is None else None

    def look_for(self, text: str, rows: Sequence[Row]) -> None:
        """Search, from the end: the newest row that fits is gone to."""
        self.search, self.at = text, None
        self.refind(rows)
        if self.found:
            self.go(-1)

    def refind(self, rows: Sequence[Row]) -> None:
        """The rows have changed."""
        wanted = self.search.lower()
        texts = ("".join(span.text for span in row).lower() for row in rows) if wanted else ()
        here = self.found[self.at] if self.at is not None and self.at < len(self.found) else None
        self.found = [place for place, text in enumerate(texts) if wanted in text]
        self.at = self.found.index(here) if here in self.found else None

    def go(self, step: int) -> None:
        """To the next or previous row that fits, around the ends."""
        if self.found:
            start = -1 if step > 0 else 0
            self.at = ((self.at if self.at is not None else start) + step) % len(self.found)
            self.top = max(0, self.found[self.at] - self._height // 2)

    def rows(self, rows: Sequence[Row], width: int, height: int) -> list[Row]:
        """What is shown, with the words of the search reversed."""
        self._height = max(1, height)
        last = max(0, len(rows) - height)
        top = last if self.top is None else min(self.top, last)
        shown = []
        for place in range(top, min(top + height, len(rows))):
            row = rows[place]
            if self.search and place in self.found:
                row = marked(row, self.search)
            shown.append(fmt.cut(row, width))
        return shown

    def rule(self, title: str, count: int, width: int) -> Row:
        """The line above: what it is, where it stands, what was found."""
        left = f" {title}"
        if self.search:
            where = f"{self.at + 1} of {len(self.found)}" if self.at is not None else f"{len(self.found)} rows"
            left += f"   /{self.search}: {where}" if self.found else f"   /{self.search}: not here"
        below = 0 if self.top is None else max(0, count - self.top - self._height)
        right = f" {below:,} below " if below else " follows " if count > self._height else " "
        rule = "─" * max(0, width - len(left) - len(right) - 1)
        return fmt.cut((Span(left + " ", style.GREY), Span(rule, style.FAINT), Span(right, style.GREY)), width)


def marked(row: Row, search: str) -> Row:
    """The row with every place of a text reversed."""
    text = "".join(span.text for span in row)
    low, wanted = text.lower(), search.lower()
    inside = [False] * len(text)
    start = low.find(wanted)
    while start >= 0:
        inside[start : start + len(wanted)] = [True] * len(wanted)
        start = low.find(wanted, start + len(wanted))
    found: list[Span] = []
    place = 0
    for span in row:
        for sign in span.text:
            piece = span._replace(text=sign, reverse=inside[place] or span.reverse)
            if found and found[-1][1:] == piece[1:]:
                found[-1] = piece._replace(text=found[-1].text + sign)
            else:
                found.append(piece)
            place += 1
    return tuple(found)
