"""One knob in every cell, a strip per cell: what was tried, which values come near the best, which best ones are edges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.figure import Arrow, Axis, Figure, Key, Panel, Series
from optsweep_tui.charts.kinds.common import Row, Source, grouped, one_ratio, ratio_text, records
from optsweep_tui.charts.place import points

CROWDED = 0.07
"""Part of an axis that a label needs."""
MOST_DECADES = 1.0
"""Positive values that span more than this stand on a log axis."""


def build(strips: pd.DataFrame, knob: str, source: Source) -> Figure:
    """A panel per model, a row per optimizer and budget.

    Args:
        strips: columns of `analysis.columns.STRIP`, of one knob.
        knob: its name.
        source: of the data.
    """
    rows, caption = one_ratio(records(strips), source.asked_ratios)
    looks = style.looks([row["optimizer"] for row in rows])
    panels = [_panel(title, members, knob, looks) for title, members in grouped(rows)]
    edges = sum(bool(row["edge"]) for row in rows if row["best"])
    strips_drawn = sum(row["best"] for row in rows)
    lost = any(row["loss"] is None and row["state"] != "other line" for row in rows)
    keys: list[tuple[Key, str]] = [("solid", "best, or less than 0.003 nats above it"), ("hollow", "tried, worse")]
    keys += [("cross", "no loss: diverged or missing")] if lost else []
    keys += [("edge", "best value at the end of what was tried")] if edges else []
    caption = [
        f"Each row: the values of {knob} tried in one cell along the line through its best run of that knob; large: the best.",
        f"Numbers: thousandths of a nat above the best. {edges} of {strips_drawn} best values are edges: the optimum may lie "
        f"outside. Losses of one run each: differences below sigma mean nothing.",
        *caption,
    ]
    return Figure(
        kind="strip",
        title=f"{knob} along its strips",
        panels=panels,
        columns=2,
        keys=keys,
        caption=caption,
        provenance=source.line,
    )


def _panel(title: str, members: list[Row], knob: str, looks: dict[str, style.Look]) -> Panel:
    cells = sorted({(row["optimizer"], row["chinchilla"]) for row in members})
    places = {cell: float(place) for place, cell in enumerate(cells)}
    scale = Scale(members)
    series: list[Series] = []
    for cell, y in places.items():
        own = [row for row in members if (row["optimizer"], row["chinchilla"]) == cell]
        series += _strip(own, y, scale, looks[cell[0]])
    ratios = {ratio for _, ratio in cells}
    labels = [(y, name if len(ratios) == 1 else f"{name} {ratio_text(ratio)}") for (name, ratio), y in places.items()]
    shared = f", ratio {ratio_text(next(iter(ratios)))}" if len(ratios) == 1 else ""
    return Panel(
        title=f"{title}{shared}",
        x=Axis(label=f"{knob} (not to scale)" if scale.ordinal else knob, log=scale.log, ticks=scale.ticks),
        y=Axis(label="", ticks=labels, inverted=True, rows=True, limits=(-0.5, len(cells) - 0.5)),
        series=series,
    )


class Scale:
    """Where the values of a knob stand: on a log or linear axis, or one after the other where they are no numbers."""

    def __init__(self, rows: Sequence[Row]) -> None:
        numbers = sorted({row["value"] for row in rows if row["value"] is not None})
        self.texts = sorted({row["text"] for row in rows if row["value"] is None})
        self.ordinal = bool(self.texts) or (bool(numbers) and numbers[0] <= 0)
        self.log = not self.ordinal and numbers[-1] >= numbers[0] * 10**MOST_DECADES
        self.ordinal = self.ordinal or _crowded([math.log(value) for value in numbers] if self.log else numbers)
        self.log = self.log and not self.ordinal
        self.order: list[float | str] = [*numbers, *self.texts]
        self.ticks: list[tuple[float, str]] | None = None
        if self.ordinal:
            self.ticks = [(float(place), _text(value)) for place, value in enumerate(self.order)]
        elif len(numbers) <= 8:
            self.ticks = [(value, f"{value:g}") for value in numbers]

    def at(self, row: Row) -> float:
        """Position of a value on the axis."""
        value = row["text"] if row["value"] is None else row["value"]
        return float(self.order.index(value)) if self.ordinal else float(value)


def _crowded(places: Sequence[float]) -> bool:
    """Two places are so near to each other that their labels would touch: .98, .99 and .995 between .9 and 1."""
    gaps = [high - low for low, high in itertools.pairwise(places)]
    return bool(gaps) and min(gaps) < CROWDED * (places[-1] - places[0])


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _strip(own: Sequence[Row], y: float, scale: Scale, look: style.Look) -> list[Series]:
    """The points of one cell: best, near the best, worse, without a loss; a faint line through all."""
    found = []
    best = [row for row in own if row["best"]]
    parts: tuple[tuple[list[Row], str], ...] = (
        (best, "best"),
        ([row for row in own if row["near_best"] and not row["best"]], "near"),
        ([row for row in own if row["loss"] is not None and not row["near_best"] and not row["best"]], "worse"),
        ([row for row in own if row["loss"] is None and row["state"] != "other line"], "lost"),
    )
    for rows, part in parts:
        if rows:
            found.append(
                Series(
                    x=points([scale.at(row) for row in rows]),
                    y=points([y] * len(rows)),
                    look=look,
                    marks="cross" if part == "lost" else "hollow" if part == "worse" else "solid",
                    large=part == "best",
                    text=[_excess(row) for row in rows],
                    data={
                        "optimizer": rows[0]["optimizer"],
                        "chinchilla": rows[0]["chinchilla"],
                        "role": part,
                        "value": [row["text"] for row in rows],
                        "excess": [row["excess"] for row in rows],
                        "state": [row["state"] for row in rows],
                    },
                )
            )
    for row in best:
        for side in row["edge"].split(" and "):
            if side:
                arrow: Arrow = "left" if side == "low" else "right"
                at = points([scale.at(row)])
                found.append(Series(x=at, y=points([y]), look=look, marks="none", arrow=arrow, data={"edge": side}))
    xs = sorted(scale.at(row) for row in own)
    found.append(Series(x=points(xs), y=points([y] * len(xs)), look=look, line="guide", marks="none", pale=True))
    return found


def _excess(row: Row) -> str:
    """Nats above the best in thousandths, or nothing where there is none."""
    value = row["excess"]
    if value is None or not math.isfinite(value) or row["best"]:
        return ""
    return f"{1000 * value:.0f}" if value >= 0.0095 else f"{1000 * value:.1f}"
