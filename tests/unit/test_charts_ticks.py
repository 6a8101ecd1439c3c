"""Ticks are round and inside, labels have equal decimals, and the axis stays put while data wiggle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsweep_tui.charts import style
from optsweep_tui.charts.ticks import SteadyScale, linear_ticks, log_ticks, tick_labels


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_linear_ticks_lie_inside_and_are_not_too_many(low: float, span: float, count: int) -> None:
    found = linear_ticks(low, low + span, count)
    assert len(found) <= count + 1
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in found)


@given(st.floats(1e-6, 1e6), st.floats(1.5, 1e9), st.integers(2, 12))
def test_log_ticks_lie_inside(low: float, factor: float, count: int) -> None:
    assert all(low * 0.999 <= tick <= low * factor * 1.001 for tick in log_ticks(low, low * factor, count))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1.5, 2.0, 2.5], ["1.5", "2.0", "2.5"]),
        ([0.0, 100_000.0, 200_000.0], ["0", "100k", "200k"]),
        ([1_000.0, 10_000.0, 1_000_000.0], ["1k", "10k", "1M"]),
        ([1_500.0, 2_500_000.0], ["1.5k", "2.5M"]),
        ([0.05, 0.1, 0.2], ["0.05", "0.10", "0.20"]),
        ([0.0], ["0"]),
        ([1e-5, 2e-5], ["1e-5", "2e-5"]),
        ([], []),
    ],
)
def test_labels_are_short_and_have_equal_decimals(values: list[float], labels: list[str]) -> None:
    assert tick_labels(values) == labels


def test_a_scale_stays_put_while_new_data_fit_and_grows_when_they_do_not() -> None:
    scale = SteadyScale()
    first = scale.fit(1.93, 2.91)
    assert first[0] <= 1.93
    assert first[1] >= 2.91
    assert scale.fit(1.91, 2.9) == first
    assert scale.fit(1.905, 2.65) == first
    grown = scale.fit(1.5, 2.6)
    assert grown != first
    assert grown[0] <= 1.5


def test_a_scale_tightens_only_when_most_of_it_is_empty() -> None:
    scale = SteadyScale()
    wide = scale.fit(0.0, 10.0)
    assert scale.fit(0.0, 7.0) == wide
    assert scale.fit(0.0, 5.0)[1] < 10.0


def test_equal_data_still_get_a_range() -> None:
    low, high = SteadyScale().fit(2.0, 2.0)
    assert low < 2.0 < high
    low, high = SteadyScale().fit(2.0, 2.0, log=True)
    assert 0 < low < 2.0 < high


def test_known_optimizers_have_different_colours_and_letters() -> None:
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)
    assert len(set(style.LETTERS.values())) == len(style.LETTERS)
    assert style.COLOURS.keys() == style.LETTERS.keys()


def test_an_unknown_optimizer_always_gets_the_same_colour() -> None:
    assert style.colour_of("mine.py:Fancy") == style.colour_of("other/path.py:Fancy")
    assert style.letter_of("mine.py:Fancy") == "f"
    assert style.colour_of("SOAPe") == style.colour_of("soap")


def test_curves_of_one_optimizer_are_shades_and_a_lone_one_keeps_its_colour() -> None:
    found = style.shades(["adamw", "muon", "adamw"])
    assert found[1] == style.colour_of("muon")
    assert len(set(found)) == 3


def test_a_constant_with_rounding_in_it_has_an_axis_and_labels() -> None:
    low = float(np.float32(0.003))
    high = float(np.nextafter(low, 1))
    for log in (False, True):
        scale = SteadyScale().fit(low, high, log)
        assert scale[0] < low < scale[1]
        assert scale[1] - scale[0] > 1e-5
    assert tick_labels([low, high, high]) == ["0.003000"] * 3
