"""Workspaces for the app's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from optsweep_tui import imports
from optsweep_tui.settings import Workspace
from tests.app import made


@pytest.fixture(scope="session")
def sweep_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A sweep with two running runs, which tests only read."""
    workspace = made.workspace(tmp_path_factory.mktemp("sweep"))
    claims = made.sweep(workspace)
    yield workspace
    for claim in claims:
        os.close(claim)


@pytest.fixture
def empty_workspace(tmp_path: Path) -> Workspace:
    """A workspace without runs."""
    return made.workspace(tmp_path)


@pytest.fixture(scope="session")
def reference_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The published studies, which tests only read."""
    workspace = made.workspace(tmp_path_factory.mktemp("reference"))
    imports.import_results(workspace, "reference")
    return workspace
