"""Learning-rate schedules as plain floats."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsweep_engines.schedules import SCHEDULES, lr_factor, schedule, warmup_steps
from optsweep_engines.spec import Scalar


def factors(steps: int, name: str, **knobs: Scalar) -> list[float]:
    return [lr_factor(step, steps, name, knobs) for step in range(steps)]


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    steps=st.integers(1, 300),
    warmup=st.one_of(st.floats(0, 0.999), st.integers(1, 400)),
    decay=st.one_of(st.none(), st.floats(0, 1)),
    floor=st.floats(0, 1),
)
def test_every_schedule_rises_then_falls_and_never_reaches_zero(
    name: str, steps: int, warmup: float, decay: float | None, floor: float
) -> None:
    values = factors(steps, name, warmup=warmup, decay=decay, min_lr_ratio=floor)
    warm = warmup_steps(steps, warmup)
    assert all(0 < value <= 1 for value in values)
    assert values[:warm] == [(step + 1) / warm for step in range(warm)]
    after = values[warm:]
    assert after == sorted(after, reverse=True)
    if after:
        assert after[0] == 1.0
        assert after[-1] >= floor - 1e-12


def test_warmup_is_steps_from_one_and_a_fraction_below() -> None:
    assert [warmup_steps(100, value) for value in (0, 0.1, 0.999, 1, 20, 500)] == [0, 10, 100, 1, 20, 100]


def test_a_linear_decay_is_a_straight_line_to_the_floor_one_step_after_the_end() -> None:
    assert factors(10, "linear", warmup=0, min_lr_ratio=0) == pytest.approx([1 - step / 10 for step in range(10)])
    assert factors(10, "linear", warmup=2, decay=0.5, min_lr_ratio=0.2) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 0.84, 0.68, 0.52, 0.36]
    )


def test_the_cosine_is_half_way_down_in_the_middle() -> None:
    values = factors(100, "cosine", warmup=0, min_lr_ratio=0.1)
    assert values[50] == pytest.approx(0.55)
    assert values[25] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_wsd_is_stable_until_its_last_fifth() -> None:
    values = factors(100, "wsd", warmup=10)
    assert values[10:81] == [1.0] * 71
    assert values[90] == pytest.approx(0.5)


def test_a_constant_schedule_reads_warmup_only() -> None:
    assert factors(5, "constant", warmup=2, decay=1.0, min_lr_ratio=0.5) == [0.5, 1, 1, 1, 1]
    assert SCHEDULES["constant"].knobs == {"warmup"}


def test_a_frozen_start_is_nothing_and_then_a_cosine_over_the_other_steps() -> None:
    name = "freeze_cosine_with_warmup"
    cosine = factors(90, "cosine", warmup=0.1, min_lr_ratio=0.1)
    for t_freeze in (10, 0.1):
        assert factors(100, name, warmup=0.1, min_lr_ratio=0.1, t_freeze=t_freeze) == [0.0] * 10 + cosine
    assert factors(100, name, t_freeze=0.001)[:2] == [0.0, 1.0]  # never less than one step
    for t_freeze in (100, 500):
        with pytest.raises(ValueError, match="leaves none of 100 steps"):
            factors(100, name, t_freeze=t_freeze)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize(("knob", "value"), [("warmup", 20), ("decay", 0.4), ("min_lr_ratio", 0.3), ("t_freeze", 5)])
def test_a_schedule_reads_the_knobs_it_declares_and_no_others(name: str, knob: str, value: float) -> None:
    changed = factors(50, name, **{knob: value}) != factors(50, name)
    assert changed == (knob in SCHEDULES[name].knobs)


def test_names_are_matched_without_case_and_unknown_ones_are_named() -> None:
    assert schedule("WSD").name == "wsd"
    with pytest.raises(LookupError) as caught:
        schedule("cosin")
    assert caught.value.args == ("cosin",)
