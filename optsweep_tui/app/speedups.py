"""The speedup panel's data: one short read of the store, then the analysis, in a worker thread."""

from __future__ import annotations

import math
from typing import Any

from optsweep_tui import ask
from optsweep_tui.app import answers
from optsweep_tui.app.views.speedups import SpeedupRow, Speedups
from optsweep_tui.core import Filter
from optsweep_tui.settings import Workspace


def stamp(workspace: Workspace) -> int | None:
    """Changes whenever the store was collected; None while there is no store."""
    try:
        return workspace.store.stat().st_mtime_ns
    except OSError:
        return None


def load(workspace: Workspace, study: str | None, baseline: str | None = None) -> Speedups:
    """Speedups of a study over a baseline; None = the one that the study declares.

    Raises:
        OptsweepError: the store is locked, newer than this program, or garbage.
    """
    baseline = baseline or ask.baseline_of(workspace, study)
    if stamp(workspace) is None:
        return Speedups(baseline=baseline, study=study, message="no results collected yet: x on screen 1 collects")
    frame = ask.results(workspace, Filter(study=study), wait_seconds=answers.STORE_SECONDS)
    found = ask.speedup(frame, baseline=baseline)
    rows = [_row(record, found.to_dict("records")) for record in found.to_dict("records")]
    message = "" if rows else f"no cell of another optimizer than {baseline} has a final loss in the store"
    collected = int((frame["state"] == "done").sum())
    return Speedups(baseline=baseline, study=study, rows=tuple(rows), message=message, collected=collected)


def _row(record: dict[Any, Any], everything: list[dict[Any, Any]]) -> SpeedupRow:
    flags = [str(flag) for flag in record.get("flags", ())]
    group = _number(record.get("tie_group"))
    tied = [
        str(other["optimizer"])
        for other in everything
        if _number(other.get("tie_group")) == group
        and other["optimizer"] != record["optimizer"]
        and (other["model"], other["chinchilla"]) == (record["model"], record["chinchilla"])
    ]
    return SpeedupRow(
        optimizer=str(record["optimizer"]),
        model=str(record["model"]),
        chinchilla=float(record["chinchilla"]),
        speedup=_number(record.get("speedup")),
        low=_number(record.get("low")),
        high=_number(record.get("high")),
        state=str(record["state"]),
        reason=str(record.get("reason") or ""),
        bound=str(record.get("bound") or ""),
        tied_with=", ".join(tied),
        untuned="UNTUNED" in flags,
        selected=any(flag.startswith("selected-min") for flag in flags),
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
