"""Number ids as the verbs print them: with the filters that decided which runs were read, and how to ask about one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optsweep_tui.cli import output

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from optsweep_tui.core import Filter


def with_filters(rows: pd.DataFrame, chosen: Filter) -> pd.DataFrame:
    """An answer whose ids carry the filters that decided what was computed: they lead back to the same numbers."""
    if not len(rows):
        return rows
    return rows.assign(number_id=[carrying(name, chosen) for name in rows["number_id"]])


def carrying(number_id: str, chosen: Filter) -> str:
    """One id with the filters of its question."""
    from optsweep_tui.analysis import number_ids

    filters = {
        "optimizer": ",".join(chosen.optimizers),
        "model": ",".join(chosen.models),
        "chinchilla": ",".join(f"{ratio:g}" for ratio in chosen.chinchillas),
        "engine": ",".join(chosen.engines),
        "dataset": ",".join(chosen.datasets),
        "where": chosen.where,
    }
    kind = number_ids.KINDS[number_id.partition("/")[0]]
    wanted = {name: filters[name] or None for name in (*kind.filters, *number_ids.FILTERS)}
    return number_ids.with_options(number_id, **wanted)


def point_to_why(ids: Iterable[str]) -> None:
    """Tell where the runs behind a printed number are to be had."""
    first = next(iter(ids), None)
    if first is not None:
        output.say(f"the runs behind a number: optsweep why '{first}' (ids of all: --json)")
