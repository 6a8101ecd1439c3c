"""The next value beyond a list: ratio, difference, ratio of 1-x, whole numbers, clipped to the range."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsweep_tui.analysis.hyperparameters.scale import LOG, LOG_REST, Knob, Transform, back, forward, rounded
from optsweep_tui.analysis.hyperparameters.spacing import next_beyond

LR = Knob(name="lr", low=1e-7, high=10.0, kind="float", declared_scale="log")
BETA = Knob(name="beta2", low=0.0, high=0.999999, kind="float", declared_scale="linear")
EPS = Knob(name="eps", low=1e-30, high=1.0, kind="float", declared_scale="log")
DECAY = Knob(name="weight_decay", low=0.0, high=10.0, kind="float", declared_scale="log")
SIGNUM = Knob(name="scion_to_signum_lr", low=1e-4, high=100.0, kind="float", declared_scale="log")
WHOLE = Knob(name="ns_steps", low=1.0, high=20.0, kind="int", declared_scale="linear")
BATCH = Knob(name="batch_size")
WARMUP = Knob(name="warmup", low=0.0, high=1e7, kind="float", declared_scale="log")

# By hand, value for value.
CASES = [
    (LR, [0.001, 0.002, 0.004], "high", [0.008], "ratio"),
    (LR, [0.001, 0.002, 0.004], "low", [0.0005], "ratio"),
    (LR, [0.004, 0.008], "low", [0.002], "ratio"),
    (LR, [1.0, 2.0, 4.0, 8.0], "high", [10.0], "ratio"),  # 16, clipped
    (LR, [0.001, 0.00316, 0.01], "high", [0.0316228], "ratio"),  # half decades: one ratio, sqrt(10), written shortly
    (EPS, [1e-25, 1e-15, 1e-10], "low", [1e-30], "ratio"),  # 1e-35 by the outermost pair, clipped
    (EPS, [1e-25, 1e-15, 1e-10], "high", [1e-5], "ratio"),
    (DECAY, [0.0, 0.1, 0.2], "high", [0.3], "difference"),
    (DECAY, [0.0, 1e-6, 1e-5, 1e-4], "high", [1e-3], "ratio"),  # the 0 aside
    (DECAY, [0.4, 0.5, 0.6, 0.7], "low", [0.3], "difference"),
    (DECAY, [0.4, 0.5, 0.6, 0.7], "high", [0.8], "difference"),
    (SIGNUM, [0.1, 0.2, 0.3], "low", [1e-4, 0.05], "difference"),  # 0, clipped; half way on a log scale beside it
    (BETA, [0.9, 0.95, 0.98], "high", [0.992], "ratio of 1-x"),  # .02 x .4
    (BETA, [0.9, 0.95, 0.98], "low", [0.8], "ratio of 1-x"),  # .1 x 2
    (BETA, [0.9, 0.99, 0.999], "high", [0.9999], "ratio of 1-x"),  # one ratio, 10
    (BETA, [0.99, 0.9999], "high", [0.999999], "ratio of 1-x"),  # exactly the end of the range
    (BETA, [0.5, 0.99], "low", [0.0], "ratio of 1-x"),  # 1 - .5 x 50 < 0, clipped
    (BATCH, [128.0, 256.0], "low", [64.0], "integer ratio"),
    (BATCH, [128.0, 256.0], "high", [512.0], "integer ratio"),
    (BATCH, [1.0, 2.0], "low", [], "integer ratio"),  # below 1 nothing is left
    (WHOLE, [4.0, 5.0], "high", [6.0], "integer ratio"),  # 6.25
    (WHOLE, [4.0, 5.0], "low", [3.0], "integer ratio"),  # 3.2
    (WHOLE, [10.0, 11.0], "high", [12.0], "integer ratio"),  # 12.1
    (WHOLE, [18.0, 19.0], "high", [20.0], "integer ratio"),
    (WARMUP, [500.0, 1000.0, 2000.0], "high", [4000.0], "integer ratio"),
    (WARMUP, [0.05, 0.1, 0.2], "low", [0.025], "ratio"),
    (WARMUP, [0.1, 500.0, 2000.0], "high", [], "ratio"),  # a fraction and steps in one list
    (Knob(name="gain"), [-2.0, -1.0, 0.0], "low", [-3.0], "difference"),
    (Knob(name="gain"), [1.5, 3.0], "low", [0.75], "ratio"),
    (Knob(name="own_momentum"), [0.8, 0.9], "high", [0.95], "ratio of 1-x"),  # undeclared: by its name
]


@pytest.mark.parametrize(("knob", "tried", "side", "expected", "spacing"), CASES)
def test_the_next_value_is_the_one_computed_by_hand(
    knob: Knob, tried: list[float], side: str, expected: list[float], spacing: str
) -> None:
    found = next_beyond(tried, side, knob)
    assert list(found.values) == pytest.approx(expected, rel=1e-6)
    assert found.spacing == spacing
    assert found.note
    assert (not found.values) == ("nothing new" in found.note or "two units" in found.note)


@given(
    st.lists(st.floats(1e-9, 1e9).map(lambda value: float(f"{value:.6g}")), min_size=2, max_size=8, unique=True),
    st.sampled_from(["low", "high"]),
    st.sampled_from([LR, BETA, EPS, DECAY, WHOLE, BATCH, Knob(name="x")]),
)
def test_a_proposal_is_new_beyond_its_end_and_inside_the_range(values: list[float], side: str, knob: Knob) -> None:
    tried = sorted(values)
    low, high = knob.bounds(tried)
    if not (tried[0] >= low and tried[-1] <= high):
        return
    for value in next_beyond(tried, side, knob).values:
        assert low <= value <= high
        assert value not in tried
        assert value < tried[0] if side == "low" else value > tried[-1]


@given(st.floats(1e-6, 1e3), st.floats(1.1, 20.0), st.integers(2, 6), st.sampled_from(["low", "high"]))
def test_a_geometric_list_goes_on_by_its_ratio_and_an_arithmetic_one_by_its_difference(
    first: float, step: float, count: int, side: str
) -> None:
    open_knob = Knob(name="x", kind="float", declared_scale="log")
    ratios = [first * step**place for place in range(count)]
    expected = ratios[0] / step if side == "low" else ratios[-1] * step
    assert next_beyond(ratios, side, open_knob).values[0] == pytest.approx(expected, rel=1e-5)
    if count > 2:
        differences = [first + step * place for place in range(count)]
        expected = first - step if side == "low" else differences[-1] + step
        found = next_beyond(
            differences, side, Knob(name="x", low=-1e9, high=1e9, kind="float", declared_scale="linear")
        )
        assert found.values[0] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(st.floats(-10.0, 2.0), st.sampled_from([LOG, LOG_REST]))
def test_scales_are_inverted_by_back(z: float, transform: Transform) -> None:
    value = back(transform, z)
    # 1 - x keeps 16 digits less those of the leading nines.
    assert math.isclose(forward(transform, value), z, rel_tol=1e-9, abs_tol=1e-9)


def test_rounding_near_one_keeps_the_digits_of_the_rest() -> None:
    assert rounded("log(1-x)", 0.9876543, 3) == 0.9877
    assert rounded("log(1-x)", 0.99987654, 2) == 0.99988
    assert rounded("log", 0.0123456, 3) == 0.0123
