"""Minimal covers against brute force over all sets of values."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from optsweep_tui.analysis.hyperparameters.covers import MOST_COVERS, minimal_covers

FAMILIES = st.lists(st.sets(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=8)


def brute_force(sets: list[set[int]], values: list[int]) -> set[frozenset[int]]:
    for size in range(1, len(values) + 1):
        found = {
            frozenset(chosen)
            for chosen in itertools.combinations(values, size)
            if all(set(chosen) & each for each in sets)
        }
        if found:
            return found
    raise AssertionError("all values together cover everything")


@settings(max_examples=80, deadline=None)
@given(FAMILIES)
def test_all_smallest_covers_are_found_and_no_other(sets: list[set[int]]) -> None:
    order = sorted(set().union(*sets))
    found = minimal_covers(sets, order)
    assert set(found.sets) == brute_force(sets, order)
    assert len(found.sets) == len(set(found.sets))
    assert found.size == len(found.sets[0])
    assert found.complete and found.exact


def test_a_product_of_choices_is_cut_off_and_said_to_be() -> None:
    sets = [{3 * part, 3 * part + 1, 3 * part + 2} for part in range(40)]
    found = minimal_covers(sets, list(range(120)))
    assert found.size == 40 and found.exact
    assert len(found.sets) == MOST_COVERS and not found.complete
    assert all(all(cover & each for each in sets) for cover in found.sets)


def test_a_search_beyond_its_budget_gives_a_cover_that_is_not_called_minimal() -> None:
    sets = [{(7 * place + step * step) % 60 for step in range(4)} for place in range(60)]
    found = minimal_covers(sets, list(range(60)))
    assert all(any(value in each for value in found.sets[0]) for each in sets)
    assert found.exact or not found.complete
