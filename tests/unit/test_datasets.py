"""Datasets that runs name: prepared anew where they are gone, refused where what comes out is something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from optsweep_tui import datasets, settings
from optsweep_tui.errors import OptsweepError
from tests.unit.made_runs import SPEC


def test_a_dataset_that_is_gone_is_prepared_anew_and_another_is_refused(tmp_path: Path) -> None:
    workspace = settings.workspace(tmp_path).ensure()
    facts = datasets.DatasetLookup(workspace, prepare=True)("embedded")
    (shards,) = workspace.data.iterdir()
    shutil.rmtree(shards)
    datasets.require(workspace, [SPEC(dataset="embedded", dataset_hash=facts.sha256)])
    assert (shards / "manifest.json").is_file()
    with pytest.raises(OptsweepError, match="is gone from"):
        datasets.require(workspace, [SPEC(dataset="embedded", dataset_hash="0" * 64)])


def test_a_dataset_of_ones_own_that_is_gone_is_named_with_how_to_make_it_again(tmp_path: Path) -> None:
    workspace = settings.workspace(tmp_path).ensure()
    with pytest.raises(OptsweepError, match=r"which runs here need, is gone from .*data prepare mine --from PATH"):
        datasets.require(workspace, [SPEC(dataset="mine", dataset_hash="0" * 64)])
