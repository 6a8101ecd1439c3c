"""Smallest loss after k runs of a sweep: how soon each optimizer was tuned. Only where the order of the runs is known."""

from __future__ import annotations

import math

import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Axis, Figure, Panel, Series
from optsweep_tui.charts.kinds.common import Row, Source, by_optimizer, grouped, one_ratio, ratio_text, records
from optsweep_tui.charts.place import points


def build(efforts: pd.DataFrame, source: Source) -> Figure:
    """A panel per model and budget, a falling staircase per optimizer.

    Args:
        efforts: columns of `analysis.columns.FAIRNESS`.
        source: of the data.
    """
    rows = records(efforts)
    known = [row for row in rows if row["best_after"] and any(_finite(value) for value in row["best_after"])]
    refused = []
    unknown = [row for row in rows if not row["best_after"]]
    if unknown:
        cells = ", ".join(f"{row['optimizer']} {row['model']} {ratio_text(row['chinchilla'])}" for row in unknown[:3])
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        refused.append(
            f"{cells}{more}: the order in which the runs were made is not known; imported results do not carry it"
        )
    known, note = one_ratio(known, source.asked_ratios)
    looks = style.looks([row["optimizer"] for row in known])
    panels = []
    for title, members in grouped(known):
        for ratio in sorted({row["chinchilla"] for row in members}):
            own = [row for row in members if row["chinchilla"] == ratio]
            panels.append(_panel(f"{title}, ratio {ratio_text(ratio)}", own, looks))
    caption = [
        "Smallest final loss among the first k configurations of the base seed, in the order in which they were planned; "
        "diverged ones count as tries.",
        "The minimum of more runs is lower by chance alone: compare at equal k.",
        *note,
    ]
    return Figure(
        kind="best-after-k",
        title="smallest loss after k runs",
        panels=panels,
        columns=2,
        caption=caption,
        provenance=source.line,
        refused=refused,
    )


def _panel(title: str, members: list[Row], looks: dict[str, style.Look]) -> Panel:
    series = []
    for name, own in by_optimizer(members).items():
        values = [value if _finite(value) else math.nan for value in own[0]["best_after"]]
        x = points([float(place) for place in range(1, len(values) + 1)])
        series.append(Series(x=x, y=points(values), look=looks[name], name=name, line="steps"))
    most = max(len(row["best_after"]) for row in members)
    every = max(1, math.ceil(most / 8))
    ticks = [(float(place), str(place)) for place in range(1, most + 1, every)]
    return Panel(
        title=title,
        x=Axis(label="k, runs", ticks=ticks, limits=(0.7, most + 0.3)),
        y=Axis(label="smallest final loss so far, nats/token"),
        series=series,
    )


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
