"""The static charts of the command line: same protocol, gaps kept, no escapes where colour is off."""

from __future__ import annotations

import dataclasses

import numpy as np

from optsweep_tui.charts import raster, static
from optsweep_tui.charts.chart import Curve, Rasterise, View, plain

VIEW = View(width=60, height=12, x_range=(0.0, 100.0), y_range=(0.0, 4.0), unit="tokens")
LINE = Curve(x=np.linspace(0, 100, 200), y=np.full(200, 2.0), colour="#e69f00", letter="A", label="adamw 1/4")


def test_both_rasterisers_keep_one_protocol() -> None:
    rasterisers: list[Rasterise] = [raster.rasterise, static.rasterise]
    for rasterise in rasterisers:
        rows = rasterise([LINE], VIEW)
        assert len(rows) == VIEW.height
        assert all(sum(len(span.text) for span in row) <= VIEW.width for row in rows)
        assert "A" in plain(rows)
        assert any(span.colour == "#e69f00" for row in rows for span in row)


def test_a_nan_is_a_gap() -> None:
    y = np.full(200, 2.0)
    y[80:120] = np.nan
    text = plain(static.rasterise([dataclasses.replace(LINE, y=y, letter="")], VIEW))
    line = next(row for row in text.split("\n") if any(0x2800 < ord(sign) <= 0x28FF for sign in row))
    inside = line.strip("│ ┤2.0")
    assert "      " in inside


def test_a_picture_without_colour_holds_no_escapes_and_has_a_legend() -> None:
    text = static.picture([LINE], width=60, height=12, unit="tokens", colour=False)
    assert "\x1b" not in text
    assert "A adamw 1/4" in text
    assert "tokens" in text


def test_a_picture_with_colour_has_the_optimizers_colour() -> None:
    assert "38;2;230;159;0" in static.picture([LINE], width=60, height=12)


def test_points_and_a_fitted_curve_share_a_log_axis() -> None:
    ratios = np.array([0.05, 0.08, 0.13, 0.22, 0.36])
    fine = np.geomspace(0.05, 0.36, 100)
    points = Curve(x=ratios, y=0.3 * ratios**-0.5 + 1.4, colour="#e69f00", letter="a", label="adamw", points=True)
    fit = Curve(x=fine, y=0.3 * fine**-0.5 + 1.4, colour="#e69f00", label="adamw fitted", dim=True)
    text = static.picture([points, fit], width=70, height=14, x_log=True, unit="Chinchilla ratio", colour=False)
    assert text.split("\n a adamw")[0].count("a") >= 5
    assert "─ adamw fitted" in text
    assert "0.10" in text


def test_points_that_would_cover_each_other_stand_side_by_side() -> None:
    ratios = np.array([0.05, 0.2])
    first = Curve(x=ratios, y=np.array([2.0, 1.8]), colour="#e69f00", letter="a", points=True)
    second = Curve(x=ratios, y=np.array([2.001, 1.5]), colour="#56b4e9", letter="m", points=True)
    lines = static.picture([first, second], width=60, height=12, colour=False).split("\n")
    assert sum(line.count("a") for line in lines) == 2
    assert sum(line.count("m") for line in lines) == 2
    assert any("am" in line for line in lines)


def test_the_picture_of_a_known_curve_looks_like_this() -> None:
    x = np.linspace(1, 100, 60)
    line = Curve(x=x, y=1 + 2 * x**-0.5, colour="#e69f00", letter="A", label="adamw 1/4 lr 0.003")
    assert static.picture([line], width=50, height=10, unit="tokens", colour=False) == GOLDEN


GOLDEN = """\
 ┌───────────────────────────────────────────────┐
3┤⢸                                              │
 │⢸                                              │
2┤⠈⢆                                             │
 │  ⠑⢄⣀                                          │
 │     ⠑⠒⠒⠤⠤⠤⠤⣀⣀⣀⣀⣀⣀⣀⣀⡀                         A│
1┤                    ⠈⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠒⠒⠒⠒⠒⠒⠒⠒│
 └┬──────────────────────┬──────────────────────┬┘
  0                     50                    100
                      tokens
 A adamw 1/4 lr 0.003"""


def test_nothing_to_draw_is_said_in_words() -> None:
    empty = Curve(x=np.array([]), y=np.array([]), colour="#ffffff")
    assert static.picture([empty], width=60, height=12) == "no points to draw"
    assert static.picture([], width=60, height=12) == "no points to draw"
    negative = Curve(x=np.array([1.0, 2.0]), y=np.array([-1.0, -2.0]), colour="#ffffff")
    assert static.picture([negative], width=60, height=12, y_log=True) == "no points to draw"


def test_a_single_point_and_a_tiny_width_still_draw() -> None:
    one = Curve(x=np.array([5.0]), y=np.array([2.0]), colour="#ffffff", letter="A", label="one")
    assert "A" in static.picture([one], width=10, height=3, colour=False)
