"""How many processes a run of the torch engine takes, whose rows are whose, and what is sent together."""

from __future__ import annotations

import pytest
import torch

from optsweep_engines.certify import NoLog, Request
from optsweep_engines.data import PreparedDataset
from optsweep_engines.torch_engine import TorchEngine, ranks
from optsweep_engines.torch_engine.ranks import Ranks, wanted
from tests.numerics.toy import spec


@pytest.mark.parametrize(
    ("mesh", "gpus", "accumulation", "count"),
    [(None, 0, 1, 1), (None, 1, 1, 1), (None, 4, 1, 4), (None, 3, 1, 2), (None, 4, 4, 2), ("data=2", 0, 1, 2),
     ("data=2", 4, 1, 2), ("data=1,fsdp=1", 0, 1, 1), ("fsdp=4", 0, 1, 4), ("data=2,fsdp=2", 4, 1, 4)],
)  # fmt: skip
def test_a_run_takes_as_many_as_divide_its_micro_batch(
    mesh: str | None, gpus: int, accumulation: int, count: int, dataset: PreparedDataset
) -> None:
    assert wanted(spec(dataset, "adamw", batch_size=8, accumulation=accumulation), mesh, gpus) == count


@pytest.mark.parametrize(
    ("mesh", "gpus", "words"),
    [("data=3", 0, "does not divide the batch: 3 devices, 8 sequences"), ("data=4,fsdp=4", 0, "16 devices, 8 sequences"),
     ("data=two", 0, "is not one of data=N"), ("data=0", 0, "is not one of"), ("data=2,data=4", 0, "given twice"),
     ("data=4", 2, "there are 2 GPUs"), ("data=2,fsdp=2", 2, "takes 4 devices, there are 2 GPUs")],
)  # fmt: skip
def test_a_mesh_that_does_not_fit_is_refused(mesh: str, gpus: int, words: str, dataset: PreparedDataset) -> None:
    with pytest.raises(ValueError, match=words):
        wanted(spec(dataset, "adamw", batch_size=8), mesh, gpus)


def test_the_shares_of_all_processes_are_the_micro_batches() -> None:
    rows = torch.arange(12)[:, None].expand(12, 3)  # two micro-batches of six
    shares = [Ranks(index=index, count=3).share(rows, 2)[:, 0].tolist() for index in range(3)]
    assert shares == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert Ranks().share(rows, 2) is rows


def test_small_tensors_are_sent_together_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "BUCKET_NUMBERS", 10)
    tensors = [torch.zeros(size) for size in (4, 6, 1, 20, 3, 3, 5)]
    sizes = [[each.numel() for each in bucket] for bucket in ranks.buckets(tensors)]
    assert sizes == [[4, 6], [1], [20], [3, 3], [5]]


def test_a_trainer_of_one_process_takes_no_mesh_of_several(dataset: PreparedDataset) -> None:
    """A certificate would say that two processes agree, and only one had trained."""
    request = Request(
        engine="torch", spec={}, data_root=str(dataset.folder.parent), device="cpu", steps=0, answer="", mesh="data=2"
    )
    with pytest.raises(ValueError, match='mesh "data=2": the torch engine takes one in a run'):
        TorchEngine().trainer(spec(dataset, "adamw", batch_size=8), NoLog(request))


def test_a_mesh_spreads_parameters_over_as_many_processes_as_have_joined() -> None:
    assert ranks.spread_over("data=2,fsdp=2", 4) == {"data": 2, "fsdp": 2}
    assert ranks.spread_over("data=2", 2) is ranks.spread_over(None, 4) is ranks.spread_over("fsdp=2", 1) is None
    with pytest.raises(ValueError, match='mesh "data=2,fsdp=2" takes 4 processes, 2 have joined'):
        ranks.spread_over("data=2,fsdp=2", 2)
