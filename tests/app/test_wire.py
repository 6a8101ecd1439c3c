"""What is sent to the terminal: played back on a terminal of a few lines, it shows each frame, and never costs a cell twice."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import get_character_cell_size
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region
from textual.strip import Strip

from optsweep_tui.app.wire import Wire

WIDTH, HEIGHT = 24, 3
CONSOLE = Console(color_system="truecolor", force_terminal=True)
GROUND = "#101216"
STYLES = [
    Style(color=colour, bgcolor=GROUND, bold=bold, reverse=reverse)
    for colour in ("#ff0000", "#00ff00", None)
    for bold in (True, None)
    for reverse in (True, None)
] + [Style()]
Cell = tuple[str, frozenset[str], str, str]
"""Character, attributes, ink, ground."""


class Screen:
    """A terminal that knows moving, SGR and erasing to the end of a line, and nothing else."""

    def __init__(self) -> None:
        blank: Cell = ("?", frozenset(), "", "")
        self.cells = [[blank] * WIDTH for _ in range(HEIGHT)]
        self.x = self.y = 0
        self.look: tuple[frozenset[str], str, str] = (frozenset(), "", "")

    def play(self, text: str) -> int:
        """Obey some sequences; returns how many cells were written."""
        count = 0
        for sequence, sign in re.findall(r"(\x1b\[[0-9;]*[A-Za-z])|(.)", text, re.DOTALL):
            if not sequence:
                wide = get_character_cell_size(sign)
                self.cells[self.y][self.x] = (sign, *self.look)
                if wide == 2:
                    self.cells[self.y][self.x + 1] = ("", *self.look)
                self.x += wide
                count += wide
            elif sequence[-1] == "H":
                self.y, self.x = (int(part) - 1 for part in sequence[2:-1].split(";"))
            elif sequence[-1] == "K":
                self.cells[self.y][self.x :] = [(" ", frozenset(), "", self.look[2])] * (WIDTH - self.x)
            else:
                assert sequence[-1] == "m"
                self.turn(sequence[2:-1].split(";"))
        return count

    def turn(self, parts: list[str]) -> None:
        """Parameters of SGR."""
        marks, ink, ground = self.look
        while parts:
            part = parts.pop(0)
            if part in ("0", ""):
                marks, ink, ground = frozenset(), "", ""
            elif part in ("38", "48"):
                colour = ";".join(parts[:4])
                del parts[:4]
                ink, ground = (colour, ground) if part == "38" else (ink, colour)
            else:
                marks |= {part}
        self.look = (marks, ink, ground)

    def shown(self) -> list[list[Cell]]:
        """What one sees: the ink of a blank is not seen unless it is reversed."""
        return [[seen(cell) for cell in line] for line in self.cells]


def seen(cell: Cell) -> Cell:
    sign, marks, _, ground = cell
    return cell if sign != " " or "7" in marks else (sign, frozenset(), "", ground)


def whole(frame: list[list[tuple[str, Style]]]) -> list[list[Cell]]:
    """The frame as a terminal shows it that gets all of it by Textual's own rendering."""
    screen = Screen()
    for y, line in enumerate(frame):
        strip = Strip([Segment(text, style) for text, style in line]).adjust_cell_length(WIDTH, Style())
        screen.play(f"\x1b[{y + 1};1H" + strip.render(CONSOLE))
    return screen.shown()


Frames = st.lists(
    st.lists(
        st.lists(st.tuples(st.text("ab  ⡀世", max_size=9), st.sampled_from(STYLES)), max_size=4),
        min_size=HEIGHT,
        max_size=HEIGHT,
    ),
    min_size=1,
    max_size=4,
)


def update(frame: list[list[tuple[str, Style]]], partial: bool) -> ChopsUpdate | LayoutUpdate:
    strips = [Strip([Segment(*part) for part in line]).adjust_cell_length(WIDTH, Style()) for line in frame]
    if not partial:
        return LayoutUpdate([[strip] for strip in strips], Region(0, 0, WIDTH, HEIGHT))
    spans = [(y, 0, WIDTH) for y in range(HEIGHT)]
    return ChopsUpdate([{0: strip} for strip in strips], spans, [[WIDTH]] * HEIGHT)


@given(Frames, st.booleans(), st.booleans())
def test_the_terminal_shows_each_frame(
    frames: list[list[list[tuple[str, Style]]]], erases: bool, partial: bool
) -> None:
    wire, screen = Wire(erases), Screen()
    for number, frame in enumerate(frames):
        found = wire.difference(update(frame, partial and number > 0), WIDTH, CONSOLE)
        assert found is not None
        screen.play(found)
        assert screen.shown() == whole(frame)
    assert wire.difference(update(frames[-1], partial), WIDTH, CONSOLE) == ""


def test_one_changed_character_costs_a_move_its_colours_and_itself() -> None:
    style = Style(color="#ff0000", bgcolor=GROUND)
    wire = Wire()
    before = [[("x" * WIDTH, style)]] * HEIGHT
    wire.difference(update(before, False), WIDTH, CONSOLE)
    after = [[("x" * 7 + "y" + "x" * (WIDTH - 8), style)], *before[1:]]
    found = wire.difference(update(after, True), WIDTH, CONSOLE)
    assert found == "\x1b[1;8H\x1b[38;2;255;0;0;48;2;16;18;22my\x1b[0m"
    wire.forget()
    assert len(wire.difference(update(after, True), WIDTH, CONSOLE) or "") > WIDTH * HEIGHT


def test_a_terminal_of_another_width_gets_everything() -> None:
    wire = Wire()
    frame = [[("abc", STYLES[0])]] * HEIGHT
    first = wire.difference(update(frame, False), WIDTH, CONSOLE)
    assert wire.difference(update(frame, False), WIDTH + 1, CONSOLE) == first
