"""What a report is made of: the answers as frames, the pictures, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure of a report."""

    name: str
    """Short name, unique in the report: the kind of `optsweep plot`."""
    caption: str
    """What is seen and in which unit; one sentence or two."""
    svg: str = ""
    """The drawing; empty where no drawing library is installed."""
    text: str = ""
    """The same as a terminal chart, for Markdown."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that a report says; nothing in it is computed later."""

    study: str
    baseline: str
    version: str
    """Of optsweep."""
    date: str
    """Day on which the report was made, ISO."""
    command: str
    """The command line that makes this report again."""
    runs: pd.DataFrame
    """`analysis.columns.RESULTS`: one row per run."""
    cells: pd.DataFrame
    """`analysis.table`."""
    curves: pd.DataFrame
    """`analysis.fit`."""
    speedups: Mapping[str, pd.DataFrame]
    """Unit -> `analysis.speedup`; "tokens" is always there."""
    noise: pd.DataFrame
    """`analysis.noise_ledger`."""
    audits: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Verb -> its rows: fairness, edges, stable, flips, hp, profile, ..."""
    provenance: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What runs rest on: code, data and device, a row per combination with its number of runs."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Flag -> its meaning, for those that occur."""
    pictures: tuple[Picture, ...] = ()
