"""Number ids as the verbs print them: with the filters that decided which runs were read, and how to ask about one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optsweep_tui.cli import output

if TYPE_CHECKING:
    import pandas as pd

    from optsweep_tui.core import Filter


def with_filters(rows: pd.DataFrame, chosen: Filter, *, cut: bool) -> pd.DataFrame:
    """An answer whose ids carry the filters: they lead back to the same numbers.

    Args:
        rows: of `table`, `fit` or `speedup`.
        chosen: the filter of the question.
        cut: optimizers and ratios were left out before anything was computed (`speedup` reads all and leaves out rows).
    """
    from optsweep_tui.analysis import number_ids

    filters: dict[str, str | None] = {
        "engine": ",".join(chosen.engines) or None,
        "dataset": ",".join(chosen.datasets) or None,
        "where": chosen.where,
    }
    if cut:
        filters["optimizer"] = ",".join(chosen.optimizers) or None
        filters["chinchilla"] = ",".join(f"{ratio:g}" for ratio in chosen.chinchillas) or None
    if not any(filters.values()) or not len(rows):
        return rows
    return rows.assign(number_id=[number_ids.with_options(name, **filters) for name in rows["number_id"]])


def point_to_why(rows: pd.DataFrame) -> None:
    """Tell where the runs behind a printed number are to be had."""
    if len(rows):
        output.say(f"the runs behind a number: optsweep why '{rows['number_id'].iloc[0]}' (ids of all: --json)")
