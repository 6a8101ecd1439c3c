"""Names and units of every dataframe column that crosses a module border, a module per kind of answer."""

from __future__ import annotations

from optsweep_tui.analysis.columns.audits import (
    FACTS,
    FAIRNESS,
    FLIPS,
    POWER,
    PROFILE,
    PROJECTION,
    SELECTIONS,
    STOPS,
    TTEST,
)
from optsweep_tui.analysis.columns.crossings import CROSSINGS, CURVES
from optsweep_tui.analysis.columns.drawn import BAND, IN_RUN, STRIP
from optsweep_tui.analysis.columns.hyperparameters import EDGES, HP, SCOPE, SENSITIVITY, STABLE
from optsweep_tui.analysis.columns.results import CELL, GROUP, RESULTS
from optsweep_tui.analysis.columns.verdict import FIT, NOISE, SPEEDUP, TABLE

__all__ = [
    "BAND", "CELL", "CROSSINGS", "CURVES", "EDGES", "FACTS", "FAIRNESS", "FIT", "FLIPS", "GROUP", "HP", "IN_RUN", "NOISE",
    "POWER", "PROFILE", "PROJECTION", "RESULTS", "SCOPE", "SELECTIONS", "SENSITIVITY", "SPEEDUP", "STABLE", "STOPS",
    "STRIP", "TABLE", "TTEST",
]  # fmt: skip
