"""Names and units of every dataframe column that crosses a module border, a module per kind of answer."""

from __future__ import annotations

from optsweep_tui.analysis.columns.results import CELL, GROUP, RESULTS
from optsweep_tui.analysis.columns.verdict import FIT, NOISE, SPEEDUP, TABLE

__all__ = ["CELL", "FIT", "GROUP", "NOISE", "RESULTS", "SPEEDUP", "TABLE"]
