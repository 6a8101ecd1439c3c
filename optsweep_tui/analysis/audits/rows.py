"""Rows of an answer as plain mappings, and the group and cell that each belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from optsweep_tui.analysis.columns import GROUP
from optsweep_tui.analysis.runs import GroupKey


def records(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One mapping per row, values as they are in the frame."""
    names = [str(name) for name in frame.columns]
    for row in frame.itertuples(index=False, name=None):
        yield dict(zip(names, row, strict=True))


def group_key(row: Mapping[str, Any]) -> GroupKey:
    """The key of the comparable group of a row; frames turn None into NaN where a column holds numbers."""
    return tuple(None if row[name] is None or row[name] != row[name] else row[name] for name in GROUP)


def budget(row: Mapping[str, Any]) -> float:
    """Target tokens of a row; 0 = unknown, as in `cells.CellLoss`."""
    tokens = row["tokens"]
    return 0.0 if tokens is None or tokens != tokens else float(tokens)
