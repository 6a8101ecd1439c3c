"""Rank of each optimizer against budget; and inside runs, where it is no verdict."""

from __future__ import annotations

import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Axis, Figure, Panel, Reference, Series
from optsweep_tui.charts.kinds.common import (
    RATIO,
    Row,
    Source,
    by_optimizer,
    grouped,
    ratio_text,
    records,
    sigma_sentence,
)
from optsweep_tui.charts.place import points

IN_RUN = "in-run, not the verdict"


def build(
    cells: pd.DataFrame, in_run: pd.DataFrame, source: Source, *, x: str | None = None, metric: str = "val_loss"
) -> Figure:
    """Panels of rank against budget, and of rank over training where runs have curves at shared steps.

    Args:
        cells: columns of `analysis.columns.TABLE`.
        in_run: columns of IN_RUN.
        source: of the data.
        x: "ratio" or "step"; None = both.
        metric: what the ranks inside runs are of.
    """
    rows = [row for row in records(cells) if row["rank"] is not None]
    inside = records(in_run)
    looks = style.looks([row["optimizer"] for row in [*rows, *inside]])
    panels: list[Panel] = []
    caption: list[str] = []
    refused: list[str] = []
    if x in (None, "step"):
        panels += [_in_run(title, members, looks) for title, members in grouped(inside)]
        if inside:
            what = "validation loss" if metric == "val_loss" else "training loss, averaged over 2 % of the run,"
            caption.append(
                f"Inside runs: ranks by {what} at the steps that all runs share. They change as learning rates decay and "
                f"are no verdict."
            )
        else:
            refused.append("inside runs: no two runs of one model and budget have a loss curve here")
    if x in (None, "ratio"):
        panels += [_budgets(title, members, looks) for title, members in grouped(rows)]
        caption.append("Against budget: rank 1 is the smallest final loss; bars join those that are tied.")
        caption.append(sigma_sentence(rows, intervals=False))
    return Figure(
        kind="rank",
        title="rank of optimizers",
        panels=panels,
        columns=2,
        caption=caption,
        on_paper=["Faint lines only join the points."] if x != "step" else [],
        provenance=source.line,
        refused=refused,
    )


def _ranks(largest: int) -> Axis:
    every = [(float(place), str(place)) for place in range(1, largest + 1)]
    return Axis(label="rank (1 = smallest loss)", ticks=every, inverted=True, limits=(0.7, largest + 0.3))


def _in_run(title: str, members: list[Row], looks: dict[str, style.Look]) -> Panel:
    series = [
        Series(
            x=points([row["step"] for row in own]),
            y=points([float(row["rank"]) for row in own]),
            look=looks[name],
            name=name,
            line="steps",
            marks="none",
            ends=True,
            data={"value": [row["value"] for row in own], "run_id": own[0]["run_id"]},
        )
        for name, own in by_optimizer(members).items()
    ]
    title = f"{title}, ratio {ratio_text(members[0]['chinchilla'])}: {IN_RUN}"
    largest = max(int(row["rank"]) for row in members)
    return Panel(title=title, x=Axis(label="optimizer step"), y=_ranks(largest), series=series)


def _budgets(title: str, members: list[Row], looks: dict[str, style.Look]) -> Panel:
    series = []
    for name, own in by_optimizer(members).items():
        x = points([row["chinchilla"] for row in own])
        y = points([float(row["rank"]) for row in own])
        ties = [row["tie_group"] for row in own]
        series.append(
            Series(
                x=x, y=y, look=looks[name], name=name, data={"tie_group": ties, "loss": [row["loss"] for row in own]}
            )
        )
        series.append(Series(x=x, y=y, look=looks[name], line="guide", marks="none", pale=True))
    ticks = sorted({row["chinchilla"] for row in members})
    largest = max(int(row["rank"]) for row in members)
    return Panel(
        title=title,
        x=Axis(label=RATIO, log=True, ticks=[(value, ratio_text(value)) for value in ticks]),
        y=_ranks(largest),
        series=series,
        references=_ties(members),
    )


def _ties(members: list[Row]) -> list[Reference]:
    """A bar along the ranks of every tie group of two or more at one budget."""
    groups: dict[tuple[float, int], list[int]] = {}
    for row in members:
        if row["tie_group"] is not None:
            groups.setdefault((row["chinchilla"], int(row["tie_group"])), []).append(int(row["rank"]))
    return [
        Reference(x=points([ratio, ratio]), y=points([float(min(ranks)), float(max(ranks))]), text="", bar=True)
        for (ratio, _), ranks in sorted(groups.items())
        if len(ranks) > 1
    ]
