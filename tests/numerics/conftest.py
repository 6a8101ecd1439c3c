from __future__ import annotations

from pathlib import Path

import pytest
import torch

from optsweep_engines.data import PreparedDataset
from tests.numerics.toy import toy_dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return toy_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data_root(dataset: PreparedDataset) -> Path:
    return dataset.folder.parent


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
