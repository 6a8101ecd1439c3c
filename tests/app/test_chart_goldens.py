"""Live charts as text: one with crosshair, spike and gap, one on log axes, four on one x axis; looked at once, held since."""

from __future__ import annotations

import numpy as np
import pytest

from optsweep_tui.app.views import grid
from optsweep_tui.app.views.chart import ChartModel, Line, shared_x
from optsweep_tui.charts.chart import Floats, plain
from optsweep_tui.live.runstore import Series

STEPS: Floats = np.arange(1.0, 41.0)
A_VALUES: Floats = np.asarray(1.5 + 3 * STEPS**-0.5, np.float64)
B_VALUES: Floats = np.asarray(1.7 + 3 * STEPS**-0.6, np.float64)


def line(letter: str, y: Floats, spike: float | None = None) -> Line:
    """A run of 4,000 of 4,100 steps of 512 tokens, a point every 100."""
    steps: Floats = np.asarray(100.0 * STEPS, np.float64)
    series = Series(x=512 * steps, y=y, steps=steps, version=1)
    colour = {"A": "#e69f00", "B": "#56b4e9"}[letter]
    spikes = None if spike is None else np.array([spike])
    return Line(run_id=letter, series=series, colour=colour, letter=letter, end=512 * 4100.0, spikes=spikes)


A = line("A", np.where(STEPS == 21, np.nan, A_VALUES), spike=1000.0)
B = line("B", B_VALUES)


def frame(model: ChartModel) -> str:
    model.frame([A, B], 64, 14)  # the first frame finds the ranges on which the crosshair stands
    return plain(model.frame([A, B], 64, 14))


CROSSED = """\
   3.0┤     ⠹⡄                    ┆
      │      ⢳⡀                   ┆
      │       ⠳⡄                  ┆
      │        ⠙⢦⡀                ┆
      │          ⠳⢤⡀              ┆
   2.5┤            ⠙▲⣄⡀           ┆
      │              ⠈⠙⠳⢦⣄⣀       ┆
      │                  ⠈⠉⠛⠷⢶⣤⣤⣀⣀┆
      │                        ⠈⠉⠙⠉×⠲⢶⣲⣤⣤⢤⣀⣀⣀⣀
      │                           ┆     ⠈⠉⠉⠙⠒⠚⠻⠭⠭⠽⢶⣒⣒⣒⣒⡦⠤⠤⠤⠤⠤B
   2.0┤                           ┆                    ⠉⠉⠉⠉⠉⠙A
      │                           ┆
      └┬─────────────────────────┬─────────────────────────┬──
       0                        1M                        2M"""


def test_one_chart_with_crosshair_spike_and_gap() -> None:
    model = ChartModel(metric="train_loss", crosshair=0.5)
    assert frame(model) == CROSSED
    at = model.crosshair_x()
    assert at is not None
    assert at == pytest.approx(512 * 4100 / 2, rel=0.01)
    assert model.value_at(A, at) == pytest.approx(1.5 + 3 * 20**-0.5)
    assert model.value_at(B, at) == pytest.approx(1.7 + 3 * 20**-0.6)


LOGARITHMIC = """\
      │⡲⣄⡀
      │⠉⠓⠿⣶⢤⡀
     4┤   ⠈⠙⠻⢷⣤⣀
      │       ⠈⠛⠷⣦⣄
      │           ⠉⠛⠶⣤⣀
      │               ⠉⠛⠶⢤⣀
     3┤                   ⠈⠙⠲⠦⣄⡀
      │                        ⠉⠙⠲⠤⣄⡀
      │                             ⠉⠙⠒⠦⢤▲⡀
      │                                  ⠈⠉⠙⠒⠶⢤⣄⣀⡀
      │                                         ⠉⠉⠛⠓×⢦⣤⣤⣀⣀⡀   B
     2┤                                                ⠈⠉⠙⠛⠛⠿⠶A
      └─────────┬──────────┬────────────┬──────────┬─────────┬
              100k       200k         500k        1M        2M"""


def test_a_power_law_is_straight_on_log_axes() -> None:
    assert frame(ChartModel(metric="train_loss", x_log=True, y_log=True)) == LOGARITHMIC


FOUR = """\
 train_loss  A 2.171  B 2.197            val_loss  B 2.197
     3┤  ⠈⢧           ┆                    3.0┤   ⢧           ┆
      │   ⠈⢧          ┆                       │   ⠘⣆          ┆
      │    ⠈⠳⣄        ┆                       │    ⠘⢦         ┆
      │      ⠈▲⢦⣄⡀    ┆                    2.5┤     ⠈⠳⣄⡀      ┆
      │         ⠈⠉⠛⠶⠦⣤×⣀⣀                     │        ⠙⠲⣄⣀   ┆
     2┤               ┆⠉⠉⠛⠛⠛⠷⠶⠶⢶⣦⣤⣤⣤⡄A        │           ⠈⠙⠒⠦⠤⣄⣀⡀
      │               ┆              B     2.0┤               ┆  ⠉⠉⠉⠓⠒⠒⠲⠤⠤⠤⠤⣄⡀B
      └┬───────────────────────────┬─         └┬────────────────────────────┬─
       0                          2M           0                           2M
 grad_norm  A 2.171                      lr
     3┤  ⠈⢧           ┆                    1.0┤               ┆
      │   ⠈⢧          ┆                       │               ┆
      │    ⠈⠳⣄        ┆                       │               ┆
      │      ⠈▲⢦⣀     ┆                    0.5┤               ┆
      │         ⠈⠉⠓⠦⠤⣄×                       │               ┆
     2┤               ┆⠉⠉⠓⠒⠒⠦⠤⠤⢤⣀⣀⣀⣀⡀A        │               ┆
      │               ┆                    0.0┤               ┆
      └┬───────────────────────────┬─         └┬────────────────────────────┬─
       0                          2M           0                           2M"""


def test_four_charts_stand_on_one_x_axis_under_their_titles() -> None:
    models = [ChartModel(metric=name, crosshair=0.5) for name in ("train_loss", "val_loss", "grad_norm", "lr")]
    lines = [[A, B], [B], [A], []]
    full = shared_x(zip(models, lines, strict=True))
    parts = []
    for place, model, own in zip(grid.places(4, 80, 20), models, lines, strict=True):
        model.frame(own, place.width, place.height - 1, full)
        rows = model.frame(own, place.width, place.height - 1, full)
        head = grid.title(model, model.metric, own, place.width, focused=model is models[0])
        parts.append((place, [head, *rows]))
    assert plain(grid.joined(parts)) == FOUR
