"""Verdicts from finished runs: cell losses, noise, baseline curves, speedups; pure functions from frame to frame.

>>> from optsweep_tui import analysis
>>> analysis.speedup(results)            # results: one row per run, columns of `columns.RESULTS`

The functions load pandas and scipy when they are first asked for, so that `analysis.columns` stays cheap to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optsweep_tui.analysis.curve import fit
    from optsweep_tui.analysis.ledger import noise_ledger
    from optsweep_tui.analysis.speedups import speedup
    from optsweep_tui.analysis.tables import table

__all__ = ["fit", "noise_ledger", "speedup", "table"]

_HOMES = {"fit": "curve", "noise_ledger": "ledger", "speedup": "speedups", "table": "tables"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
