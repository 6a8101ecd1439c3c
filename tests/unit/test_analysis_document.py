"""docs/reference-study.md says what the program computes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import reference_study
from optsweep_tui.settings import workspace


@pytest.mark.slow
def test_the_tables_of_the_reference_study_are_what_the_program_computes(tmp_path: Path) -> None:
    document = reference_study.DOCUMENT.read_text()
    tables = reference_study.computed(workspace(tmp_path))
    assert re.findall(r"<!-- table (\w+) -->", document) == ["fits", "speedups", "counts", "ties", "moves", "speedrun"]
    assert reference_study.filled(document, tables) == document
