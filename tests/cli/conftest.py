"""One real small sweep, trained once, that the command tests ask questions to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import smalldisk
from tests.e2e import workbench


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with a finished study of eight runs, collected."""
    root = tmp_path_factory.mktemp("swept")
    workspace = root / "work"
    workbench.optsweep("run", "--grid", str(workbench.grid_file(root, "0.02, 0.03")), workspace=workspace, timeout=600)
    yield workspace
    workbench.stop_everything(workspace)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    with smalldisk.required(tmp_path / "disk", "8m") as disk:
        yield disk
        workbench.stop_everything(disk)
