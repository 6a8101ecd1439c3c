"""docs/python.md keeps its word: every function and column is in it as the code has it, and its example runs."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optsweep_tui import analysis
from optsweep_tui.analysis import columns

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python.md"

ANSWERS = {
    "table": "TABLE",
    "fit": "FIT",
    "speedup": "SPEEDUP",
    "noise_ledger": "NOISE",
    "in_run_crossings": "CROSSINGS",
    "stable": "STABLE",
    "grid_edges": "EDGES",
    "sensitivity": "SENSITIVITY",
    "scaling_rules": "HP",
    "fairness_audit": "FAIRNESS",
    "flips": "FLIPS",
    "power": "POWER",
    "stop_audit": "STOPS",
    "performance_profile": "PROFILE",
    "target_test": "TTEST",
    "joint_law": "PROJECTION",
}
"""Function of `analysis` -> the columns that it returns."""
BESIDE = {"predict", "crossing_runs", "swept_knobs"}
"""Functions that return no frame."""


def expected() -> str:
    """The reference part of the page."""
    parts = ["### What goes in\n", listed("RESULTS")]
    for function, name in ANSWERS.items():
        doc = inspect.getdoc(getattr(analysis, function)) or ""
        sentence = " ".join(doc.split("\n\n")[0].split())
        parts.append(f"### `analysis.{function}`\n\n{sentence}\n\n{listed(name)}")
    return "\n".join(parts)


def listed(name: str) -> str:
    rows = "\n".join(
        f"| `{column}` | {text.replace('|', chr(92) + '|')} |" for column, text in getattr(columns, name).items()
    )
    return f"| column of `columns.{name}` | meaning |\n|---|---|\n{rows}\n"


def test_every_function_of_the_analysis_is_on_the_page() -> None:
    assert set(ANSWERS) | BESIDE == set(analysis.__all__)


def test_the_page_lists_the_columns_as_the_code_declares_them() -> None:
    assert expected() in PAGE.read_text(), "python -m tests.unit.test_python_docs writes the page's reference part"


@pytest.mark.slow
def test_the_example_runs_from_top_to_bottom(tmp_path: Path) -> None:
    optsweep = [sys.executable, "-m", "optsweep_tui"]
    subprocess.run(
        [*optsweep, "import", "reference", "-w", str(tmp_path)], check=True, capture_output=True, timeout=120
    )
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "example_analysis.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    assert result.returncode == 0, result.stderr
    assert "muon" in result.stdout and "INTERP" in result.stdout


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index("### What goes in\n")] + expected())
