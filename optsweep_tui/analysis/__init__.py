"""Verdicts from finished runs: cell losses, noise, baseline curves, speedups; pure functions from frame to frame.

>>> from optsweep_tui import analysis
>>> analysis.speedup(results)            # results: one row per run, columns of `columns.RESULTS`

The functions load pandas and scipy when they are first asked for, so that `analysis.columns` stays cheap to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optsweep_tui.analysis.audits.fairness_audit import fairness_audit
    from optsweep_tui.analysis.audits.flips import flips
    from optsweep_tui.analysis.audits.joint_law import joint_law
    from optsweep_tui.analysis.audits.power import power
    from optsweep_tui.analysis.audits.profiles import performance_profile
    from optsweep_tui.analysis.audits.stops import stop_audit
    from optsweep_tui.analysis.audits.ttest import target_test
    from optsweep_tui.analysis.crossings import crossing_runs, in_run_crossings
    from optsweep_tui.analysis.curve import fit
    from optsweep_tui.analysis.hyperparameters.prediction import predict
    from optsweep_tui.analysis.hyperparameters.proposals import grid_edges
    from optsweep_tui.analysis.hyperparameters.scaling import scaling_rules
    from optsweep_tui.analysis.hyperparameters.stable import stable
    from optsweep_tui.analysis.hyperparameters.strip import sensitivity
    from optsweep_tui.analysis.hyperparameters.tuned import swept_knobs
    from optsweep_tui.analysis.ledger import noise_ledger
    from optsweep_tui.analysis.speedups import speedup
    from optsweep_tui.analysis.tables import table

__all__ = [
    "crossing_runs", "fairness_audit", "fit", "flips", "grid_edges", "in_run_crossings", "joint_law", "noise_ledger",
    "performance_profile", "power", "predict", "scaling_rules", "sensitivity", "speedup", "stable", "stop_audit",
    "swept_knobs", "table", "target_test",
]  # fmt: skip

_HOMES = {
    "grid_edges": "hyperparameters.proposals",
    "predict": "hyperparameters.prediction",
    "scaling_rules": "hyperparameters.scaling",
    "sensitivity": "hyperparameters.strip",
    "stable": "hyperparameters.stable",
    "swept_knobs": "hyperparameters.tuned",
    "crossing_runs": "crossings",
    "fairness_audit": "audits.fairness_audit",
    "fit": "curve",
    "flips": "audits.flips",
    "in_run_crossings": "crossings",
    "joint_law": "audits.joint_law",
    "noise_ledger": "ledger",
    "performance_profile": "audits.profiles",
    "power": "audits.power",
    "speedup": "speedups",
    "stop_audit": "audits.stops",
    "table": "tables",
    "target_test": "audits.ttest",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
