"""A column of a table, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column."""

    title: str
    """With the unit, if there is one."""
    width: int
    right: bool = False
    """Numbers stand on the right."""
    key: str = ""
    """What the column holds, for whoever fills it."""
