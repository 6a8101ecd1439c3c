"""Whose rows and tensors are whose where parameters are spread over processes, and which rules cannot be."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optsweep_engines.data import PreparedDataset
from optsweep_engines.models import parameter_table
from optsweep_engines.optimizers.catalogue import optimizer as entry_of_name
from optsweep_engines.optimizers.catalogue import optimizers, resolve_knobs
from optsweep_engines.optimizers.spreadable import rules_of
from optsweep_engines.torch_engine.spread import Rows
from optsweep_engines.torch_engine.spread_optimizer import owners
from optsweep_engines.torch_engine.spread_train import require_spreadable
from tests.numerics.toy import shape, spec


@pytest.mark.parametrize(
    ("name", "words"),
    [("prodigy", "sums over all tensors"), ("adalayer", "sums over all tensors"), ("sophia_h", "differentiates twice")],
)
def test_what_cannot_be_spread_is_refused_with_the_reason(name: str, words: str, dataset: PreparedDataset) -> None:
    with pytest.raises(ValueError, match=f"{words}.*cannot be spread over processes, take fsdp=1"):
        require_spreadable(spec(dataset, name), None)


def test_every_other_rule_of_the_catalogue_is_spread() -> None:
    refused = []
    for name in optimizers():
        try:
            rules_of(entry_of_name(name), resolve_knobs(name, {}), parameter_table(shape()))
        except ValueError:
            refused.append(name)
    assert set(refused) == {"prodigy", "adalayer", "adalayer_frozen", "sophia_h"}


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 50), st.booleans()), min_size=1, max_size=9), st.integers(1, 8)
)
def test_every_tensor_has_one_owner_and_every_process_works_on_every_bank_that_is_large_enough(
    banks: list[tuple[int, int, bool]], count: int
) -> None:
    found = owners(banks, count)
    loads = [0] * count
    for (tensors, numbers, apart), bounds in zip(banks, found, strict=True):
        assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])] and bounds[-1][1] == tensors
        many = [stop - start for start, stop in bounds]
        assert max(many) - min(many) <= 1 if apart else sorted(many)[-1] == tensors
        loads = [load + own * numbers for load, own in zip(loads, many, strict=True)]
    largest = max(numbers if apart else tensors * numbers for tensors, numbers, apart in banks)
    assert max(loads) - min(loads) <= largest


@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from([(), (2,)]), st.integers(1, 5))
def test_rows_that_are_cut_are_joined_again(tensors: int, rows: int, rest: tuple[int, ...], count: int) -> None:
    item = dataclasses.replace(parameter_table(shape())[0], shape=(tensors, rows, *rest), stacked=True)
    cut = Rows(item, count)
    whole = torch.arange(float(tensors * rows * max(1, sum(rest)))).view(tensors, rows, *rest)
    parts = [cut.cut(whole, index) for index in range(count)]
    chunks = list(torch.chunk(whole[0], count))
    assert [len(part) for part in parts] == [tensors * len(chunk.flatten()) for chunk in chunks] + [0] * (
        count - len(chunks)
    ), "as torch shards"
    assert torch.equal(cut.joined(parts), whole)
