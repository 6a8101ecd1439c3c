"""Figures on a terminal: readable at 80 columns without colour, states by shape, nothing hidden behind anything."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from optsweep_tui import drawings
from optsweep_tui.charts import static, style
from optsweep_tui.charts.figure import Axis, Figure, Panel, Reference, Series, Shade
from tests.unit.analysis_frames import curve, frame

X = np.linspace(0, 100, 200)
LOOK = style.look_of("muon")
LINE = Series(
    x=X, y=np.full(200, 2.0), look=LOOK._replace(letter="A"), name="muon 1/4", line="curve", marks="none", letters=True
)
PANEL = Panel(title="", x=Axis(label="tokens"), y=Axis(label="loss, nats/token"), series=[LINE])
FIGURE = Figure(kind="loss", title="loss", panels=[PANEL], caption=["A sentence."], provenance="study s")


def plain(figure: Figure, width: int = 60, height: int = 14) -> str:
    return static.text(figure, width=width, height=height, colour=False)


def with_series(*series: Series, log: bool = False) -> Figure:
    panel = dataclasses.replace(PANEL, series=series, x=Axis(label="tokens", log=log), y=Axis(label="loss", log=log))
    return dataclasses.replace(FIGURE, panels=[panel])


def test_a_nan_is_a_gap() -> None:
    y = np.full(200, 2.0)
    y[80:120] = np.nan
    text = plain(with_series(dataclasses.replace(LINE, y=y, letters=False)))
    line = next(row for row in text.split("\n") if any(0x2800 < ord(sign) <= 0x28FF for sign in row))
    assert "      " in line.strip("│ ┤2.0")


def test_without_colour_there_are_no_escapes_and_a_legend_names_the_letters() -> None:
    text = plain(FIGURE)
    assert "\x1b" not in text
    assert "A muon 1/4" in text and "tokens" in text and "loss, nats/token" in text
    assert "A sentence." in text and text.endswith("study s")


def test_with_colour_the_optimizer_has_its_own() -> None:
    assert "38;2;86;180;233" in static.text(FIGURE, width=60, height=14)


def test_letters_that_would_cover_each_other_stand_side_by_side_and_that_is_said() -> None:
    at = np.array([1.0, 50.0])
    first = Series(x=at, y=np.array([2.0, 1.8]), look=style.look_of("adamw"), name="adamw")
    second = Series(x=at, y=np.array([2.001, 1.5]), look=LOOK, name="muon")
    text = plain(with_series(first, second))
    assert any("am" in line for line in text.split("\n"))
    assert static.MOVED in text
    assert static.MOVED not in plain(with_series(first))


def test_states_differ_by_shape_alone() -> None:
    def one(x: float, **look: object) -> Series:
        numbers = np.array([x])
        made = Series(x=numbers, y=np.array([1.5]), low=np.array([1.1]), high=np.array([1.9]), look=LOOK, name="muon")
        return dataclasses.replace(made, **look)  # type: ignore[arg-type]

    bound = Series(x=np.array([3.0]), y=np.array([1.5]), look=LOOK, marks="hollow", arrow="up")
    text = plain(with_series(one(1.0), one(2.0, marks="hollow"), bound))
    rows = text.split("\n")
    place = next(number for number, row in enumerate(rows) if "m" in row and "ⓜ" in row)
    solid, hollow = rows[place].index("m"), rows[place].index("ⓜ")
    assert rows[place - 1][solid] == "│" and rows[place - 1][hollow] == "┊"
    assert rows[place - 1][rows[place].rindex("ⓜ")] == "↑"


@pytest.mark.parametrize(("letter", "expected"), [("a", "ⓐ"), ("z", "ⓩ"), ("A", "Ⓐ"), ("3", "③"), ("·", "○")])
def test_extrapolated_letters_are_circled(letter: str, expected: str) -> None:
    from optsweep_tui.charts.static_panel import circled

    assert circled(letter) == expected


def test_shades_and_references_are_behind_the_points() -> None:
    panel = dataclasses.replace(
        PANEL,
        series=[Series(x=np.array([50.0]), y=np.array([1.0]), look=LOOK, name="muon")],
        shades=[Shade(low=40.0, high=60.0)],
        references=[Reference(x=np.array([0.0, 100.0]), y=np.array([1.0, 1.0]), text="")],
        x=Axis(label="x", limits=(0.0, 100.0)),
        y=Axis(label="y", limits=(0.0, 2.0)),
    )
    text = plain(dataclasses.replace(FIGURE, panels=[panel]))
    row = next(line for line in text.split("\n") if "┄" in line)
    assert "m" in row
    assert sum(line.count("·") for line in text.split("\n")) > 20


def test_ranks_have_a_row_each_with_the_best_on_top_and_ties_in_brackets() -> None:
    results = frame(
        curve((1, 2, 4))
        + curve((1, 2, 4), optimizer="muon", speedup=1.3)
        + curve((1, 2, 4), optimizer="soap", speedup=1.301)
    )
    text = plain(drawings.drawing(results, drawings.Choice(kind="rank")), width=80)
    rows = [line for line in text.split("\n") if re.match(r" *[123]┤", line)]
    assert [row.strip()[0] for row in rows] == ["1", "2", "3"]
    assert rows[0].count("s┐") == rows[1].count("m┘") == 3 and rows[2].count("a") == 3


def test_one_row_per_strip_with_thousandths_of_a_nat() -> None:
    from tests.unit.test_figures_kinds import swept

    text = plain(drawings.drawing(swept(), drawings.Choice(kind="strip", knob="lr")), width=80)
    assert re.search(r"adamw┤.*○50.*◉.*●2\.0.*x", text)
    assert re.search(r"muon┤.*○20.*○10.*◉→", text)


def test_the_figure_of_a_known_law_looks_like_this() -> None:
    rows = curve((1, 2, 4, 8))
    for name, gain in (("soap", 1.2), ("muon", 1.7), ("sgd", 0.4)):
        rows += curve((1, 2, 4, 8), optimizer=name, speedup=gain)
    text = plain(drawings.drawing(frame(rows), drawings.Choice(kind="speedup")), width=64, height=16)
    assert text[: text.index(" study s")].split("\n")[:-1] == GOLDEN.split("\n")


GOLDEN = """\
speedup over adamw, tokens, against budget
300m   speedup over adamw, tokens
   ┌───────────────────────────────────────────────────────────┐
   │                                  │                        │
   │        m            m            m            ↑           │
1.5┤                                               ⓜ           │
   │                                                           │
   │           s            s            s            ⓢ        │
   │                                     │            ┊        │
1.0┤   ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄   │
   │                                                           │
   │         ⓖ                                                 │
0.5┤         ↓            ⓖ             g            g         │
   │                      ┊             │            │         │
   └─────────┬────────────┬─────────────┬────────────┬─────────┘
             1            2             4            8
                   Chinchilla ratio, D / (20 N)
 m muon  g sgd   s soap
 m INTERP   ⓜ with dotted bar EXTRAP: the fit is believed, not
 measured   ⓜ with arrow REFUSE: only a bound is known
 How many times fewer tokens than adamw for the same final loss.
 Points of one budget stand side by side.
 Bars: 95 % intervals; sigma 0.0013 nats (prior).
 Points: 12 of 12 rest on one seed (a smallest of several losses
 is biased low, and a speedup from it high); 12 of 12 compare a
 single configuration (UNSWEPT: nothing was tuned)."""


def test_nothing_to_draw_is_said_in_words() -> None:
    empty = Figure(kind="loss", title="loss", panels=[], refused=["muon 1: it has no loss"], provenance="study s")
    assert plain(empty) == "loss\n not drawn: muon 1: it has no loss\n study s"


@pytest.mark.parametrize(("width", "height"), [(10, 3), (40, 8), (200, 60)])
def test_any_size_draws_within_its_width(width: int, height: int) -> None:
    text = plain(FIGURE, width, height)
    assert "A" in text
    assert max(map(len, text.split("\n"))) <= max(width, static.LEAST_WIDTH)


def test_a_single_point_and_a_log_axis_draw() -> None:
    one = Series(x=np.array([5.0]), y=np.array([2.0]), look=LOOK, name="muon")
    assert "m" in plain(with_series(one))
    assert "m" in plain(with_series(one, log=True))
