"""Final loss against learning rate: as it is, and aligned at the best one, where curves of all optimizers can be compared."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from optsweep_tui.charts import style
from optsweep_tui.charts.chart import Floats
from optsweep_tui.charts.figure import Arrow, Axis, Figure, Key, Panel, Reference, Series
from optsweep_tui.charts.kinds.common import LOSS, Row, Source, grouped, one_ratio, ratio_text, records
from optsweep_tui.charts.place import points


def build(strips: pd.DataFrame, source: Source) -> Figure:
    """Two panels per model and budget: loss against lr, and loss above the best against log2(lr / best lr).

    Args:
        strips: columns of `analysis.columns.STRIP` of the knob lr.
        source: of the data.
    """
    tried = [row for row in records(strips) if row["value"] is not None]
    lost_best = [row for row in tried if row["best"] and row["value"] <= 0]
    rows = [row for row in tried if row["value"] > 0]
    refused = [
        f"{row['optimizer']} {row['model']} {ratio_text(row['chinchilla'])}: its best lr is {row['value']:g}, and nothing can "
        f"be aligned with that"
        for row in lost_best
    ]
    if len(rows) < len(tried):
        refused.append(f"{len(tried) - len(rows)} values of lr that are not positive: a log axis has no place for them")
    rows, note = one_ratio(rows, source.asked_ratios)
    looks = style.looks([row["optimizer"] for row in rows])
    panels = []
    for title, members in grouped(rows):
        for ratio in sorted({row["chinchilla"] for row in members}):
            own = [row for row in members if row["chinchilla"] == ratio]
            panels += _pair(f"{title}, ratio {ratio_text(ratio)}", own, looks)
    keys: list[tuple[Key, str]] = []
    if any(row["loss"] is None and row["state"] != "other line" for row in rows):
        keys.append(("cross", "no loss: diverged or missing"))
    edges = sum(bool(row["edge"]) for row in rows if row["best"])
    if edges:
        keys.append(("edge", "best lr at the end of what was tried: the optimum may lie outside"))
    caption = [
        "Runs that differ in lr alone, one each.",
        "Aligned: nats above the best of the same curve against doublings of lr from there.",
        "Differences below sigma mean nothing.",
        *note,
    ]
    if any(one.arrow == "up" for panel in panels for one in panel.series):
        caption.append("Arrows up: out of scale, with the loss.")
    return Figure(
        kind="lr",
        title="final loss against learning rate",
        panels=panels,
        columns=2,
        keys=keys,
        caption=caption,
        on_paper=["Faint lines only join the points."],
        provenance=source.line,
        refused=refused,
    )


def _pair(title: str, rows: list[Row], looks: dict[str, style.Look]) -> list[Panel]:
    raw: list[Series] = []
    aligned: list[Series] = []
    raw_levels, aligned_levels = Levels(), Levels()
    height = _height(rows)
    top = max((row["loss"] for row in rows if row["best"]), default=0.0) + height
    for name in sorted({row["optimizer"] for row in rows}):
        own = sorted((row for row in rows if row["optimizer"] == name), key=lambda row: row["value"])
        best = next((row for row in own if row["best"]), None)
        if best is None:  # lr 0 was best: nothing can be aligned with it
            continue
        lr = points([row["value"] for row in own])
        raw += _curve(own, lr, points([row["loss"] for row in own]), name, looks[name], top, raw_levels)
        with np.errstate(divide="ignore"):
            doublings = np.log2(lr / best["value"])
        aligned += _curve(
            own, doublings, points([row["excess"] for row in own]), name, looks[name], height, aligned_levels
        )
    known = [value for one in aligned for value in one.x.tolist()]
    span = np.array([min(known, default=-1.0), max(known, default=1.0)])
    return [
        Panel(title=title, x=Axis(label="peak learning rate", log=True), y=Axis(label=LOSS, top=top), series=raw),
        Panel(
            title=f"{title}, aligned",
            x=Axis(label="log2(lr / best lr)"),
            y=Axis(label="nats/token above the best", top=height),
            series=aligned,
            references=[Reference(x=span, y=np.zeros(2), text="")],
        ),
    ]


def _height(rows: list[Row]) -> float:
    """Nats above the best that are shown: what leaves one value in five of the worse ones out of scale, at most."""
    above = sorted(row["excess"] for row in rows if row["excess"] is not None and not row["best"])
    if not above:
        return 1.0
    usual = above[math.ceil(0.8 * len(above)) - 1]
    return float(min(above[-1], 1.5 * usual))


def _curve(
    rows: list[Row], x: Floats, y: Floats, name: str, look: style.Look, top: float, levels: Levels
) -> list[Series]:
    """One optimizer's curve: measured points joined, crosses where a value has no loss, an arrow where the best is an edge.

    Args:
        rows: by rising lr.
        x: positions.
        y: losses; NaN without one.
        name: for the legend.
        look: of the optimizer.
        top: points above it stand at the top with their loss beside them.
        levels: what stands at the top already.
    """
    known = np.isfinite(y)
    above = known & (y > top * (1 + 1e-12))
    shown = known & ~above
    found = [Series(x=x[shown], y=y[shown], look=look, name=name, data={"state": "done"})]
    found.append(Series(x=x[known], y=y[known], look=look, line="guide", marks="none", pale=True))
    lost = np.array([row["loss"] is None and row["state"] != "other line" for row in rows])
    for part, marks in ((above, "none"), (lost, "cross")):
        if part.any():
            words = [
                f"{row['loss']:.2f}" if marks == "none" else "" for row, here in zip(rows, part, strict=True) if here
            ]
            found.append(
                Series(
                    x=x[part],
                    y=y[part],
                    look=look,
                    name=name,
                    marks="cross" if marks == "cross" else "none",
                    arrow="" if marks == "cross" else "up",
                    place="top",
                    levels=[levels.next_at(value) for value in x[part].tolist()],
                    text=words,
                    data={"state": [row["state"] for row, here in zip(rows, part, strict=True) if here]},
                )
            )
    for place, row in enumerate(rows):
        for side in row["edge"].split(" and ") if row["best"] and row["edge"] else ():
            arrow: Arrow = "left" if side == "low" else "right"
            at = slice(place, place + 1)
            found.append(Series(x=x[at], y=y[at], look=look, marks="none", arrow=arrow, data={"edge": side}))
    return found


class Levels:
    """Counts the points at the top of a panel at each x."""

    def __init__(self) -> None:
        self._taken: dict[float, int] = {}

    def next_at(self, x: float) -> int:
        """The highest free row at this x."""
        place = float(f"{x:.6g}")
        self._taken[place] = self._taken.get(place, -1) + 1
        return self._taken[place]
