"""The braille rasteriser: equal to a slow reference, spikes kept, gaps left, names and axes where they belong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.charts.chart import Curve, Span, View, ansi, plain
from optsweep_tui.charts.raster import FOOT, GUTTER, MARGIN, BitCache, plot_size, rasterise
from tests.unit.chart_reference import dots_of, expected

SMALL = View(width=GUTTER + MARGIN + 12, height=FOOT + 5, x_range=(0.0, 10.0), y_range=(0.0, 4.0))


def curve(x: list[float], y: list[float], letter: str = "", dim: bool = False, colour: str = "#ffffff") -> Curve:
    return Curve(x=np.array(x, float), y=np.array(y, float), colour=colour, letter=letter, dim=dim)


@st.composite
def drawings(draw: st.DrawFn) -> tuple[Curve, View]:
    values = st.floats(-5, 15, allow_nan=False, width=32) | st.integers(-2, 12).map(float)
    x = sorted(draw(st.lists(values, min_size=1, max_size=30)))
    y = draw(
        st.lists(values | st.sampled_from([np.nan, np.inf, -np.inf]), min_size=len(x), max_size=len(x)),
    )
    x_log, y_log = draw(st.booleans()), draw(st.booleans())
    low = draw(st.floats(0.1, 5)) if x_log else draw(st.floats(-5, 5))
    bottom = draw(st.floats(0.1, 5)) if y_log else draw(st.floats(-5, 5))
    view = View(
        width=GUTTER + MARGIN + draw(st.integers(1, 20)),
        height=FOOT + draw(st.integers(1, 8)),
        x_range=(low, low + draw(st.floats(0.5, 12))),
        y_range=(bottom, bottom + draw(st.floats(0.5, 12))),
        x_log=x_log,
        y_log=y_log,
    )
    return curve(x, y), view


@settings(max_examples=400, deadline=None)
@given(drawings())
def test_every_dot_is_where_the_slow_reference_puts_it(drawing: tuple[Curve, View]) -> None:
    line, view = drawing
    plain_line = dataclasses.replace(line, y=np.where(np.isfinite(line.y), line.y, np.nan))
    # The crosses that mark gaps cover dots: compare a line whose gaps lie outside the view's marks.
    drawn = dots_of(_without_marks(plain_line, view), view)
    must, may = expected(plain_line, view)
    assert must <= drawn <= may


def _without_marks(line: Curve, view: View) -> list[tuple[Span, ...]]:
    """Rows of the line drawn as the pale layer, which carries neither crosses nor letters."""
    return rasterise([dataclasses.replace(line, dim=True)], view)


def test_the_reference_itself_draws_a_diagonal() -> None:
    must, may = expected(curve([0, 10], [0, 4]), SMALL)
    assert (0, 19) in must
    assert (23, 0) in must
    assert (0, 0) not in may


def test_a_spike_of_one_point_among_a_million_is_drawn() -> None:
    y = np.ones(1_000_000)
    y[654_321] = 3.9
    line = Curve(x=np.linspace(0, 10, len(y)), y=y, colour="#ffffff")
    drawn = dots_of(rasterise([line], SMALL), SMALL)
    column = int(6.54321 / 10 * 24)
    assert {row for at, row in drawn if at == column} == set(range(16))


def test_a_nan_is_a_gap_with_a_mark_and_no_line_across_it() -> None:
    line = curve([0, 2, 4, 6, 8, 10], [1, 1, np.nan, np.nan, 1, 1], letter="A")
    rows = rasterise([line], SMALL)
    text = plain(rows)
    assert text.count("×") == 1
    drawn = dots_of(rows, SMALL)
    between = [column for column, _ in drawn if 5 < column < 19]
    assert between == []
    row = next(row for row in text.split("\n") if "×" in row)
    assert row.index("×") - GUTTER == int(4 / 10 * 12)


def test_infinity_is_a_gap_too_and_does_not_reach_the_top() -> None:
    drawn = dots_of(rasterise([curve([0, 5, 10], [1, np.inf, 1])], SMALL), SMALL)
    assert {column for column, _ in drawn} == {0, 23}


def test_a_single_point_is_one_dot() -> None:
    assert len(dots_of(rasterise([curve([5], [2])], SMALL), SMALL)) == 1


def test_nothing_outside_the_range_of_y_is_drawn() -> None:
    assert dots_of(rasterise([curve([0, 10], [9, 12])], SMALL), SMALL) == set()


def test_a_zero_on_a_log_axis_is_a_gap_and_raises_nothing() -> None:
    view = dataclasses.replace(SMALL, x_range=(1.0, 100.0), y_range=(0.1, 10.0), x_log=True, y_log=True)
    line = curve([0, 1, 10, 50, 100], [1, 1, 0, 1, 1])
    with np.errstate(all="raise"):
        drawn = dots_of(rasterise([line], view), view)
    must, may = expected(line, view)
    assert must <= drawn <= may


def test_the_first_curve_lies_on_top_where_two_cross() -> None:
    first, second = curve([0, 10], [2, 2], colour="#111111"), curve([0, 10], [2, 2], colour="#222222")
    colours = {span.colour for row in rasterise([first, second], SMALL) for span in row}
    assert "#111111" in colours
    assert "#222222" not in colours


def test_a_pale_curve_shows_only_in_cells_that_are_free() -> None:
    main, raw = curve([0, 10], [2, 2]), curve([0, 4.9, 5, 5.1, 10], [2, 2, 3.5, 2, 2], dim=True)
    both, alone = rasterise([main, raw], SMALL), rasterise([main], SMALL)
    lines = plot_size(SMALL)[1]
    texts = [["".join(span.text for span in row) for row in rows[:lines]] for rows in (both, alone)]
    assert texts[0] != texts[1]
    assert all(
        after == before for after, before in zip(*texts, strict=True) if any(ord(sign) > 0x2800 for sign in before)
    )


def test_letters_stand_behind_the_ends_and_never_on_each_other() -> None:
    lines = [curve([0, 5], [2 + 0.01 * place, 2], letter=letter) for place, letter in enumerate("ABC")]
    text = plain(rasterise(lines, SMALL))
    assert all(text.count(letter) == 1 for letter in "ABC")
    columns = {row.index(letter) for row in text.split("\n") for letter in "ABC" if letter in row}
    assert columns == {GUTTER + 7}


def test_the_crosshair_stands_behind_the_curves() -> None:
    rows = rasterise([curve([0, 10], [2, 2])], dataclasses.replace(SMALL, crosshair=5.0))
    lines = plot_size(SMALL)[1]
    marks = [row for row, line in enumerate(plain(rows).split("\n")[:lines]) if "┆" in line]
    assert len(marks) == lines - 1


def test_what_another_attempt_has_measured_is_dashed() -> None:
    x = np.arange(0.0, 101.0)
    view = View(width=60, height=10, x_range=(0.0, 100.0), y_range=(0.0, 2.0))

    def columns(curve: Curve) -> list[int]:
        text = plain(rasterise([curve], view)).split("\n")
        width = max(map(len, text))
        return [
            place for place in range(width) if any(0x2800 < ord(line.ljust(width)[place]) < 0x2900 for line in text)
        ]

    solid = columns(Curve(x=x, y=np.ones(101), colour="#ffffff"))
    dashed = columns(Curve(x=x, y=np.ones(101), colour="#ffffff", dashed_to=50.0))
    assert solid == list(range(solid[0], solid[-1] + 1))
    half = len(solid) // 2
    assert set(solid) - set(dashed) == set(solid[2:half:3])


def test_points_are_drawn_as_letters() -> None:
    dotted = Curve(x=np.array([2.0, 8.0]), y=np.array([1.0, 3.0]), colour="#ffffff", letter="m", points=True)
    rows = rasterise([dotted], SMALL)
    assert plain(rows).count("m") == 2
    assert dots_of(rows, SMALL) == set()


def test_a_cached_frame_equals_a_fresh_one_and_a_new_key_is_drawn_anew() -> None:
    cache = BitCache()
    old = dataclasses.replace(curve([0, 10], [1, 3]), key=("run", 1))
    assert rasterise([old], SMALL, cache) == rasterise([old], SMALL, cache) == rasterise([old], SMALL)
    new = dataclasses.replace(curve([0, 10], [3, 1]), key=("run", 2))
    assert rasterise([new], SMALL, cache) == rasterise([new], SMALL)
    moved = dataclasses.replace(SMALL, y_range=(0.0, 8.0))
    assert rasterise([old], moved, cache) == rasterise([old], moved)


@pytest.mark.parametrize(
    ("width", "height"), [(0, 4), (1, 1), (GUTTER, FOOT), (GUTTER + MARGIN + 1, FOOT + 1), (200, 60)]
)
def test_every_size_gives_exactly_that_many_rows_and_columns(width: int, height: int) -> None:
    view = dataclasses.replace(SMALL, width=width, height=height, unit="tokens", crosshair=3.0)
    rows = rasterise([curve([0, 10], [1, np.nan], letter="A")], view)
    assert len(rows) == height
    assert {sum(len(span.text) for span in row) for row in rows} == {width}


def test_the_chart_of_a_known_curve_looks_like_this() -> None:
    x = np.linspace(1_000, 100_000, 400)
    view = View(width=60, height=12, x_range=(0.0, 100_000.0), y_range=(1.0, 3.0), unit="tokens")
    first = Curve(x=x, y=1 + 60 * x**-0.5, colour="#e69f00", letter="A")
    second = Curve(x=x[:200], y=1.2 + 60 * x[:200] ** -0.5, colour="#56b4e9", letter="B")
    assert plain(rasterise([first, second], view)) == GOLDEN


GOLDEN = """\
     3┤⢸
      │⢸
      │⢸⡇
      │⠈⣷
      │ ⢻⢧
     2┤ ⠈⢯⠳⣄⡀
      │  ⠈⠳⣄⡉⠓⠦⠤⣄⣀⡀
      │     ⠉⠓⠦⠤⣄⣀⡉⠉⠉⠙⠒⠒⠒⠒⠒⠦⠤⠤⠤⠤⠤B
      │           ⠉⠉⠉⠙⠒⠒⠒⠒⠒⠦⠤⠤⠤⠤⠤⠤⠤⠤⣄⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀
     1┤                                             ⠈⠉⠉⠉⠉⠉A
      └┬────────────────────────┬────────────────────────┬
       0                       50k                    tokens"""


def test_ansi_and_plain_show_the_same_text() -> None:
    rows = rasterise([curve([0, 10], [1, 3], letter="A", colour="#e69f00")], SMALL)
    import re

    stripped = re.sub(r"\x1b\[[0-9;]*m", "", ansi(rows))
    assert [line.rstrip() for line in stripped.split("\n")] == plain(rows).split("\n")
    assert "\x1b[38;2;230;159;0m" in ansi(rows)
