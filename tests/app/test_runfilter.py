"""The filter language of the run table: what fits, what does not, and what is said of a mistake and where."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optsweep_tui.app import runfilter
from optsweep_tui.app.model import RunRow
from optsweep_tui.app.runfilter import FilterError
from tests.app import made


def run(state: str = "running", loss: float | None = 2.0) -> RunRow:
    row = made.row(made.spec("muon", 0.25, 0.02), state, loss, step=5)
    return RunRow(
        line=row.line, cell=row.cell, studies=("s", "other"), knobs={"lr": 0.02, "beta2": 0.95, "kind": "Wide"}
    )


KNOBS = {"beta2": None, "kind": None}


def fits(text: str, row: RunRow | None = None) -> bool:
    return runfilter.compiled(text, KNOBS)(row or run())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", True),
        ("   ", True),
        ("muon", True),
        ("MUON bench", True),
        ("adamw", False),
        ("-adamw", True),
        ("-muon", False),
        ("opt:muon", True),
        ("opt:mu", False),
        ("opt:mu*", True),
        ("opt:adamw,muon", True),
        ("-opt:adamw,soap", True),
        ("opt!=muon", False),
        ("state:running", True),
        ("state:done", False),
        ("c:1/4", True),
        ("c:0.25", True),
        ("c:0.2", False),
        ("c<=1/4 c>1/5", True),
        ("ratio<1/4", False),
        ("lr:0.02", True),
        ("lr:2e-2", True),
        ("lr=0.01,0.02", True),
        ("lr>0.01", True),
        ("lr>0.02", False),
        ("loss<3.3", True),
        ("loss>=2 loss<=2", True),
        ("tokens>1k tokens<1G", True),
        ("seed:0 model:bench-micro study:s", True),
        ("study:other", True),
        ("study:oth", False),
        ("muon adamw", False),
        ("1/4", True),
        ("beta2:0.95", True),
        ("beta2<0.9", False),
        ("kind:wide", True),
        ('"lr 0.02"', True),
        ('"lr 0.03"', False),
        ("opt:muon lr>0.01 state:running loss<3.3", True),
    ],
)
def test_what_fits(text: str, wanted: bool) -> None:
    assert fits(text) is wanted


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("opt:muon lr:x", 'lr is a number, "x" is none', 12),
        ("c:1/0", "c is a number", 2),
        ("nothing:here", "there is no field nothing", 0),
        ("muon sate:done", "did you mean state?", 5),
        ("-oopt:muon", "did you mean opt?", 1),
        ("lr>", "a value is missing", 3),
        ("lr:0.1,,0.2", "empty entry", 3),
        ("opt>muon", "opt is a text: it has no order", 3),
        ('a "b c', "a quote is open", 2),
        ("loss<nan", "loss is a number", 5),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str, column: int) -> None:
    with pytest.raises(FilterError) as found:
        fits(text)
    assert message in found.value.message
    assert found.value.column == column


def test_a_run_without_a_number_fits_no_comparison_and_no_equality() -> None:
    for loss in (None, math.nan):
        row = run("planned", loss)
        assert not fits("loss<9", row)
        assert not fits("loss>0", row)
        assert not fits("loss:2", row)
        assert fits("-loss<9", row)


def test_the_start_of_an_id_is_enough() -> None:
    row = run()
    assert fits(f"id:{row.run_id[:6]}", row)
    assert not fits("id:zz", row)


def test_the_words_made_ahead_are_the_words_made_on_demand() -> None:
    row = run()
    assert row.labelled().words == row.words
    assert "running" in row.words and "other" in row.words


@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_a_named_mistake_inside_it(text: str) -> None:
    try:
        assert fits(text) in (True, False)
    except FilterError as error:
        assert 0 <= error.column <= len(text)
        assert error.message


@given(st.lists(st.sampled_from(["muon", "opt:muon", "lr>0.01", "-sgd", "state:done", "loss<1"]), max_size=5))
def test_every_word_must_fit(words: list[str]) -> None:
    assert fits(" ".join(words)) is all(fits(word) for word in words)
