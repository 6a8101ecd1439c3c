"""Pure Python packages that came with a staged engine, for a machine that lacks them: what is installed there goes first."""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "spare"
"""Beside the package in a staged archive; an installed one has no such folder."""


def use() -> None:
    """Look there after everywhere else."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
